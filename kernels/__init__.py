"""The operations of the solver, each once per device, chosen by where the array lives.

=================== ==========================================================================
``assign``          nearest flat of each row, and the squared distance to it
``sqdistances``     squared distance of each row to every flat
``residuals``       float64 squared distance of each row to one given flat
``second_moments``  weighted first and second moments of each cluster (``update_moments``: of the rows that moved)
``top_eigenspaces`` leading eigenvectors of a batch of symmetric matrices (``batched_svd``: of a batch of row blocks)
``sample_rows``     distinct rows, with probability proportional to a weight
``lower_distances`` distances to the nearest flat if one more is added, and their weighted sums
``largest``         rows of the largest costs
``changed_rows``    rows whose label differs
``label_counts``    rows of each label
``lookup``          decoded rows of a factorization
=================== ==========================================================================

:mod:`ksubspaces.kernels.reference` says in plain NumPy what each of them means. Rows may be :class:`Streamed`: kept
in host memory and brought to the device in blocks.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from .flats import Array, Eigenspaces, Flats, Layout, complement, layout_of
from .moments import Moments
from .rows import Streamed

__all__ = [
    "Eigenspaces",
    "Flats",
    "Layout",
    "Moments",
    "Streamed",
    "assign",
    "batched_svd",
    "changed_rows",
    "complement",
    "label_counts",
    "largest",
    "layout_of",
    "lookup",
    "lower_distances",
    "residuals",
    "sample_rows",
    "second_moments",
    "sqdistances",
    "top_eigenspaces",
    "update_moments",
]


def _device(array: Array) -> ModuleType:
    """The module whose kernels run where ``array`` lives."""
    return _device_of(type(array))  # type: ignore[arg-type]


@functools.cache
def _device_of(kind: Any) -> ModuleType:
    """Imported on first use, for it compiles code."""
    if issubclass(kind, np.ndarray):
        return importlib.import_module("ksubspaces.kernels.cpu")
    if kind.__module__.partition(".")[0] == "cupy":
        return importlib.import_module("ksubspaces.kernels.cuda")
    if issubclass(kind, Streamed):
        return importlib.import_module("ksubspaces.kernels.streamed")
    raise TypeError(f"kernels take NumPy or CuPy arrays, got {kind.__module__}.{kind.__qualname__}")


def assign(
    X: Array, flats: Flats, penalty: Array | None = None, weights: Array | None = None, *, residuals: bool = True
) -> tuple[Array, Any]:
    """Assign each row to its nearest flat.

    Parameters
    ----------
    X : (n, d) array, float32 or float64
    flats : Flats
    penalty : (k,) array, optional
        Added to the cost of each flat (``lambda * j_c`` in a budget).
    weights : (n,) array, optional
        Multiplies each row's residual in the cost; matters only beside a penalty.
    residuals : bool
        ``False`` if labels are enough: they alone are cheaper on a card.

    Returns
    -------
    labels : (n,) int32
        ``argmin_c weights_i * r_c(x_i) + penalty_c``; the lowest c on a tie.
    residuals : (n,) array of X's dtype
        Squared distance r to the flat of the label, never negative; maybe ``None`` if they were not asked for.
    """
    return _device(X).assign(X, flats, penalty, weights, residuals=residuals)


def sqdistances(X: Array, flats: Flats) -> Array:
    """Squared distances (n, k) of the rows of X (n, d) to every flat, in X's dtype."""
    return _device(X).sqdistances(X, flats)


def residuals(X: Array, labels: Array, flats: Flats) -> Array:
    """Squared distance of each row to the flat of its label, (n,), from float64 differences x - mu - V^T V (x - mu)."""
    return _device(X).residuals(X, labels, flats)


def second_moments(
    X: Array,
    labels: Array,
    k: int,
    weights: Array | None = None,
    center: bool = False,
    products: bool = True,
    rows: Array | None = None,
) -> Moments:
    """First and second moments of the rows of each cluster, accumulated in float64.

    Parameters
    ----------
    X : (n, d) array, float32 or float64
    labels : (n,) int32 array, values in [0, k)
        Cluster of each row; with ``rows``, (m,) and of those rows.
    k : int
    weights : (n,) array, optional
        Nonnegative.
    center : bool
        Take the second moments about the weighted means.
    products : bool
        ``False`` computes the means alone.
    rows : (m,) int64 array, optional
        Only these rows of X count; default all.
    """
    return _device(X).second_moments(X, labels, k, weights, center, products, rows)


def update_moments(
    moments: Moments, X: Array, rows: Array, old: Array, new: Array, weights: Array | None = None
) -> None:
    """Move ``rows`` (m,) of X from clusters ``old`` (m,) to clusters ``new`` (m,), in place.

    Cheaper than new moments when few rows moved; errors of rounding add up, so start afresh now and then.
    """
    _device(X).update_moments(moments, X, rows, old, new, weights)


def top_eigenspaces(S: Array, dims: Sequence[int], dtype: Any = None, start: Array | None = None) -> Eigenspaces:
    """Leading eigenspaces of symmetric matrices, or one step towards them.

    Parameters
    ----------
    S : (k, d, d) array
        Symmetric positive semidefinite.
    dims : sequence of k ints
        How many eigenvectors of each.
    dtype : dtype, optional
        Precision of the computation and the result; default that of S.
    start : (sum j_c, d) array, optional
        Orthonormal bases to improve on, stacked. Where eigenvectors are dear, what comes back is one block power step
        from them, which captures at least as much of each S_c, and its ``exact`` is ``False``.
    """
    return _device(S).top_eigenspaces(S, dims, dtype, start)


def batched_svd(blocks: Sequence[Array], rank: Sequence[int] | int) -> Eigenspaces:
    """Leading right singular subspaces of blocks of rows (n_c, d); the eigenvalues are the squared singular values.

    A block with fewer rows than ``rank`` has its basis completed by arbitrary, repeatable orthonormal rows.
    """
    return _device(blocks[0]).batched_svd(blocks, rank)


def sample_rows(weights: Array, m: int, rng: np.random.Generator) -> Array:
    """Draw up to m distinct row numbers, one after another, with probability proportional to the weights left.

    Rows of weight zero are never drawn, so fewer than m come back when fewer have a positive weight.
    """
    return _device(weights).sample_rows(weights, m, rng)


def lower_distances(distances: Array, trials: Array, weights: Array) -> Array:
    """Lower each column of trials to at most the distances, in place, and add it up.

    Parameters
    ----------
    distances : (n,) array
        Squared distance of each row to the nearest of the flats so far; infinite where there are none.
    trials : (n, p) array
        Squared distances to further flats, in any order of memory. On return: to the nearest, were that flat added.
    weights : (n,) array

    Returns
    -------
    potentials : (p,) float64
        Weighted sum of each column.
    """
    return _device(trials).lower_distances(distances, trials, weights)


def largest(costs: Array, m: int) -> Array:
    """Rows (int64) of the m largest positive costs (n,): largest first, the lower row first where they are equal.

    Fewer come back when fewer costs are positive.
    """
    return _device(costs).largest(costs, m)


def changed_rows(old: Array, new: Array) -> Array:
    """Rows (int64, ascending) at which the labels ``old`` (n,) and ``new`` (n,) differ."""
    return _device(new).changed_rows(old, new)


def label_counts(labels: Array, k: int) -> Array:
    """How many of the labels (n,), int32 in [0, k), are 0, 1, ..., k - 1; (k,) int64."""
    return _device(labels).label_counts(labels, k)


def lookup(rows: Array, factorization: Any) -> Array:
    """Decode rows (b,) of a factorization to (b, d)."""
    return _device(factorization.bases[0]).lookup(rows, factorization)
