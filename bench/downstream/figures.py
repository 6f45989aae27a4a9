"""What a compressed classifier loses, with standard errors from the differences on each sentence.

A figure of one run (correlation, accuracy) is known only as well as its few thousand sentences allow; the difference of
two runs on the same sentences is known far better, since most sentences count alike in both. So every difference
carries the standard error of its mean over sentences and, where there are several partitions, that of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Runs = Mapping[int, Sequence[np.ndarray]]
"""Logits (n,) of the same sentences: for each fine-tuned model (by seed) those of each partition of its table."""

Figure = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""From logits and scores: a value, and what each sentence contributes to its deviation (mean 0)."""


@dataclass(frozen=True)
class Difference:
    """A difference of two methods and its standard error."""

    value: float
    error: float

    @property
    def separates(self) -> bool:
        """Whether it is more than two standard errors from 0."""
        return abs(self.value) > 2 * self.error


def correlation(logits: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Pearson's r, and its influence function (the infinitesimal jackknife)."""
    x, y = ((v - v.mean()) / v.std() for v in (logits.astype(np.float64), scores))
    r = float((x * y).mean())
    return r, x * y - r * (x * x + y * y) / 2


def accuracy(logits: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Share of the sentences whose sign is right."""
    right = ((logits > 0) == (scores > 0)).astype(np.float64)
    return float(right.mean()), right - right.mean()


def mean_value(figure: Figure, runs: Runs, scores: np.ndarray) -> float:
    """A figure, averaged over partitions and models."""
    return float(np.mean([np.mean([figure(run, scores)[0] for run in partitions]) for partitions in runs.values()]))


def difference(figure: Figure, first: Runs, second: Runs, scores: np.ndarray) -> Difference:
    """How much the first method's figure exceeds the second's, for the same fine-tuned models."""
    value = 0.0
    contributions = np.zeros(len(scores))
    partition_variance = 0.0
    models = len(first)
    for model in first:
        for runs, sign in ((first[model], 1), (second[model], -1)):
            figures = [figure(run, scores) for run in runs]
            values = [found for found, _ in figures]
            value += sign * float(np.mean(values)) / models
            contributions += sign * np.mean([each for _, each in figures], axis=0) / models
            if len(runs) > 1:
                partition_variance += float(np.var(values, ddof=1)) / len(runs) / models**2
    sentence_variance = float(contributions.var(ddof=1)) / len(scores)
    return Difference(value, float(np.sqrt(sentence_variance + partition_variance)))


def agreement(runs: Runs, original: Runs) -> float:
    """Share of the sentences to which the compressed model gives the sign that its original gives."""
    shares = [
        np.mean([(run > 0) == (original[model][0] > 0) for run in partitions]) for model, partitions in runs.items()
    ]
    return float(np.mean(shares))
