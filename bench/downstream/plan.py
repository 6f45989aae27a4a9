"""What the downstream benchmark measures, and on which sentences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..lib import encoder, texts
from ..lib.units import cache_folder
from .methods import METHODS
from .models import Vocabulary


@dataclass(frozen=True)
class Plan:
    """How much is measured; `train`, `tune` and `test` are numbers of sentences, all there are where None."""

    name: str
    methods: tuple[str, ...] = tuple(METHODS)
    ratios: tuple[float, ...] = (0.4, 0.6, 0.8)
    seeds: tuple[int, ...] = (0, 1)
    partitions: int = 3
    epochs: int = 3
    train: int | None = None
    tune: int | None = None
    test: int | None = None
    probe: int = encoder.SENTENCES

    @property
    def folder(self) -> Path:
        """Of its units, whose names say the rest; a plan that trains or measures on other sentences has another."""
        sentences = (self.epochs, self.train, self.tune, self.test, self.probe)
        digest = hashlib.sha256(json.dumps(sentences).encode()).hexdigest()[:8]
        return cache_folder("downstream", f"{self.name}-{digest}")

    def partitions_of(self, method: str) -> range:
        """One where chance plays no part."""
        return range(self.partitions if METHODS[method].clustered else 1)


FULL = Plan("full", tune=4000, test=3000)
QUICK = Plan(
    "quick",
    methods=("svd", "svd-exact", "messi-5", "ours-counts"),
    ratios=(0.6,),
    seeds=(0,),
    partitions=1,
    epochs=1,
    train=3000,
    tune=1000,
    test=1500,
    probe=500,
)


@dataclass(frozen=True)
class Labelled:
    """Sentences in the vocabulary's numbers, and the scores that people gave them."""

    ids: list[encoder.Ids]
    scores: np.ndarray


@dataclass(frozen=True)
class Data:
    """Sentences with a clear sentiment.

    `train` is for the first fine-tuning, reviews and editorials; `tune` for the epoch after it, `test` to measure on:
    movie reviews both.
    """

    vocabulary: Vocabulary
    train: Labelled
    tune: Labelled
    test: Labelled


@cache
def data_of(plan: Plan) -> Data:
    """The sentences of a plan, read once by each process."""
    sentences = [sentence for sentence in texts.load_all() if sentence.clear]
    train, held_out = texts.training(sentences), texts.held_out(sentences)
    chosen = [_some(train, plan.train), _some(_movies(train), plan.tune), _some(_movies(held_out), plan.test)]
    ids = [encoder.encode(part) for part in chosen]
    vocabulary = Vocabulary([sentence for part in ids for sentence in part])
    scores = [np.array([sentence.score for sentence in part]) for part in chosen]
    return Data(vocabulary, *map(Labelled, map(vocabulary.renumber, ids), scores))


def _movies(sentences: Sequence[texts.Sentence]) -> list[texts.Sentence]:
    return [sentence for sentence in sentences if sentence.source == "movies"]


def _some(sentences: Sequence[texts.Sentence], most: int | None) -> list[texts.Sentence]:
    return [sentences[i] for i in np.random.default_rng(0).permutation(len(sentences))[:most]]
