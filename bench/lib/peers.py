"""What ksubspaces is measured against, each behind one function that returns a `PeerFit`.

`authors` rewrites the algorithm published with "Deep Learning Meets Projective Clustering" (ICLR 2021) in plain
NumPy, from its description and its published code. Kept as they are there: the random partition; one full SVD of a
cluster's rows per step, in the dtype of X, and bases kept in float64; `scipy.linalg.null_space` of every basis per
step, and norms of the rows' products with it; a fixed number of steps; the best of several starts. Two things differ
on purpose: the starts are seeded, and a cluster with fewer rows than `j` gets a basis that contains them, where the
published code raises. Like there, a cluster that lost all its rows keeps its last basis.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import null_space, svdvals

from ksubspaces import Subspaces

from .data import random_partition

CHUNK = 4096
Distances = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class PeerFit:
    """One peer's result.

    Attributes
    ----------
    objective : float
        Sum of squared distances, recomputed in float64 by `exact_objective` whatever the peer itself reports.
    labels : ndarray of shape (n,)
    seconds : float
        Wall-clock time of the fit, without that recomputation.
    steps : int or None
        Steps taken (in the best start, where there are several); None when the peer does not tell.
    history : tuple of float
        The objective of the flats that each step began with, then that of the final ones.
    step_seconds : tuple of float
        Wall-clock time of every step, of every start.
    """

    objective: float
    labels: np.ndarray
    seconds: float
    steps: int | None
    history: tuple[float, ...] = ()
    step_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Flats:
    """Flats and labels that a fit found, and the objective and steps that it tells, if it does."""

    bases: Sequence[np.ndarray]
    offsets: Sequence[np.ndarray] | None
    labels: Any
    steps: int | None = None
    objective: float | None = None

    @classmethod
    def of(cls, fit: Subspaces) -> Flats:
        """Those of our fit."""
        return cls(fit.bases, fit.offsets, fit.labels, fit.n_iter, fit.objective)


def exact_objective(
    X: np.ndarray, bases: Sequence[np.ndarray], labels: np.ndarray, offsets: Sequence[np.ndarray] | None = None
) -> float:
    """Sum of squared distances of the rows to their own flats, from float64 residuals x - mu - V^T V (x - mu)."""
    total = 0.0
    for start in range(0, len(X), CHUNK):
        block, own = X[start : start + CHUNK].astype(np.float64), labels[start : start + CHUNK]
        for c in np.unique(own):
            rows = block[own == c] - (0.0 if offsets is None else np.asarray(offsets[c], dtype=np.float64))
            V = np.asarray(bases[c], dtype=np.float64)
            total += float(np.square(rows - (rows @ V.T) @ V).sum())
    return total


# --- the authors' algorithm, and the same alternation with cheaper distances ---


def authors(
    X: np.ndarray,
    k: int,
    j: int,
    *,
    starts: int = 10,
    steps: int = 10,
    seed: int = 0,
    labels: np.ndarray | None = None,
) -> PeerFit:
    """The published algorithm: full SVD refits, null-space distances, the best of several random partitions.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    k, j : int
    starts, steps : int
        Starts, and steps of each; 10 and 10 are the published defaults.
    seed : int
        Start s partitions the rows with seed + s.
    labels : ndarray of shape (n,), optional
        One start from these labels, in place of the random ones.

    Returns
    -------
    PeerFit
    """
    begin = time.perf_counter()
    runs = [
        _alternate(X, k, j, part, steps, _nullspace_distances, np.float64)
        for part in ([labels] if labels is not None else (random_partition(len(X), k, seed + s) for s in range(starts)))
    ]
    seconds = time.perf_counter() - begin
    fit, bases = min(runs, key=lambda run: run[0].objective)
    return replace(
        fit,
        objective=exact_objective(X, bases, fit.labels),
        seconds=seconds,
        step_seconds=tuple(s for run, _ in runs for s in run.step_seconds),
    )


def projections(X: np.ndarray, k: int, j: int, labels: np.ndarray, *, steps: int = 10) -> PeerFit:
    """The same alternation and full SVDs, with the distances |x|^2 - |V x|^2, all in X's own dtype."""
    begin = time.perf_counter()
    energy = np.einsum("ij,ij->i", X, X)

    def distances(X: np.ndarray, V: np.ndarray) -> np.ndarray:
        return np.maximum(energy - np.square(X @ V.T).sum(axis=1), 0.0)

    fit, bases = _alternate(X, k, j, labels, steps, distances, X.dtype)
    return replace(fit, seconds=time.perf_counter() - begin, objective=exact_objective(X, bases, fit.labels))


def _nullspace_distances(X: np.ndarray, V: np.ndarray) -> np.ndarray:
    return np.square(np.linalg.norm(X @ null_space(V), axis=1))


def _alternate(
    X: np.ndarray, k: int, j: int, labels: np.ndarray, steps: int, distances: Distances, dtype: type | np.dtype
) -> tuple[PeerFit, np.ndarray]:
    """Refit, then (assign, refit) `steps` times, then assign: the published order. Returns the bases too."""
    bases = np.zeros((k, j, X.shape[1]), dtype=dtype)
    bases[:] = np.eye(j, X.shape[1])  # what a cluster empty from the start is left with
    history, seconds = [], []

    def refit(labels: np.ndarray) -> None:
        for c in np.unique(labels):
            rows = X[labels == c]
            bases[c] = np.linalg.svd(rows, full_matrices=len(rows) < j)[2][:j]

    def assign() -> np.ndarray:
        costs = np.empty((len(X), k))
        for c in range(k):
            costs[:, c] = distances(X, bases[c])
        history.append(float(costs.min(axis=1).sum()))
        return costs.argmin(axis=1)

    refit(labels)
    for _ in range(steps):
        begin = time.perf_counter()
        refit(assign())
        seconds.append(time.perf_counter() - begin)
    labels = assign()
    return PeerFit(history[-1], labels, sum(seconds), steps, tuple(history), tuple(seconds)), bases


# --- one subspace ---


def parameter_count(counts: Sequence[int], dims: Sequence[int], d: int) -> int:
    """Numbers that a (k, j) factorization stores: coefficients, bases, and one label per row."""
    return int(sum(n * j for n, j in zip(counts, dims, strict=True)) + d * sum(dims) + sum(counts))


def svd_error(X: np.ndarray, parameters: float) -> float:
    """Squared error of the truncated SVD with that many parameters, relative to the energy of X.

    Rank r costs r (n + d) numbers, so the rank that `parameters` buys is seldom whole; the error between two ranks is
    taken on the straight line through both.
    """
    n, d = X.shape
    energies = np.square(svdvals(X.astype(np.float64)))
    rank = min(parameters / (n + d), len(energies))
    whole = int(rank)
    rest = energies[whole:].sum() - (rank - whole) * (energies[whole] if whole < len(energies) else 0.0)
    return float(max(rest, 0.0) / energies.sum())


def truncated_svd(X: np.ndarray, rank: int) -> PeerFit:
    """One subspace of dimension `rank`, from the full thin SVD of X."""
    begin = time.perf_counter()
    V = np.linalg.svd(X, full_matrices=False)[2][:rank]
    seconds = time.perf_counter() - begin
    labels = np.zeros(len(X), dtype=np.int32)
    return PeerFit(exact_objective(X, [V], labels), labels, seconds, 1)


# --- other packages ---


def kmeans(X: np.ndarray, centres: np.ndarray, *, max_iter: int = 100, tol: float = 1e-4) -> PeerFit:
    """scikit-learn's KMeans (Lloyd) from given centres: flats of dimension 0 with an offset."""
    from sklearn.cluster import KMeans

    model = KMeans(len(centres), init=centres, n_init=1, max_iter=max_iter, tol=tol, algorithm="lloyd")
    begin = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - begin
    empty = [np.empty((0, X.shape[1]))] * len(centres)
    value = exact_objective(X, empty, model.labels_, list(model.cluster_centers_))
    return PeerFit(value, model.labels_, seconds, int(model.n_iter_))


def raced_kmeans(X: np.ndarray, k: int, seed: int) -> PeerFit:
    """scikit-learn's KMeans with ``n_init=10``."""
    from sklearn.cluster import KMeans

    return _points(KMeans(k, n_init=10, random_state=seed), X)


def breathing_kmeans(X: np.ndarray, k: int, seed: int) -> PeerFit:
    """bkmeans (PyPI), the breathing k-means of its author, with his defaults."""
    from bkmeans import BKMeans

    return _points(BKMeans(n_clusters=k, random_state=seed), X)


def _points(model: Any, X: np.ndarray) -> PeerFit:
    begin = time.perf_counter()
    model.fit(X)
    seconds = time.perf_counter() - begin
    centres = model.cluster_centers_
    labels = ((centres * centres).sum(axis=1) - 2 * X @ centres.T).argmin(axis=1)
    empty = [np.empty((0, X.shape[1]))] * len(centres)
    return PeerFit(exact_objective(X, empty, labels, list(centres)), labels, seconds, None)


def minibatch_pca(X: np.ndarray, k: int, j: int) -> Flats:
    """scikit-learn's MiniBatchKMeans with its defaults, then its PCA of each cluster: affine flats."""
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    model = MiniBatchKMeans(k, random_state=0)
    labels = model.fit_predict(X)
    parts = [PCA(j, random_state=0).fit(X[labels == c]) for c in range(k)]
    return Flats([part.components_ for part in parts], [part.mean_ for part in parts], labels, int(model.n_iter_))


def kspaces(X: np.ndarray, k: int, j: int, labels: np.ndarray, *, max_iter: int = 50, tol: float = 5e-2) -> PeerFit:
    """kspaces (PyPI), affine flats, each row to the closest one, from the flats that fit the given labels.

    It draws from NumPy's global generator and prints; the generator is put back and the text dropped.
    """
    from kspaces import fit_single_space, run_EM

    with _own_global_random_state(), contextlib.redirect_stdout(io.StringIO()):
        begin = time.perf_counter()
        spaces = [fit_single_space(X[labels == c], j) for c in range(k)]
        for space in spaces:
            space.prior = 1 / k
        spaces, shares = run_EM(
            X, [], "closest", max_iter=max_iter, tol=tol, initializations=1, init_spaces=spaces, silent=True
        )
        seconds = time.perf_counter() - begin
    own = shares.argmax(axis=1)
    bases = [np.reshape(space.vectors, (j, X.shape[1])) for space in spaces]
    value = exact_objective(X, bases, own, [space.translation for space in spaces])
    return PeerFit(value, own, seconds, None)


@contextlib.contextmanager
def _own_global_random_state() -> Iterator[None]:
    state = np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
