"""The operations of the solver. Each device has its own; where the array lives decides which one runs.

=================== ==========================================================================
``assign``          nearest flat of each row, and the squared distance to it
``sqdistances``     squared distance of each row to every flat
``two_nearest``     the two nearest flats of each row, and both squared distances
``group_rows``      row numbers by label, which the next four take
``residuals``       float64 squared distance of each row to the flat of its group
``second_moments``  weighted first and second moments of each group (``update_moments``: of the rows that moved)
``coefficients``    of each row in the flat of its group, and what they leave of it
``measure_objective`` sum of squared distances of each flat's rows to it, from the moments of its cluster
``top_eigenspaces`` leading eigenvectors of a batch of symmetric matrices (``batched_svd``: of a batch of row blocks)
``sample_rows``     distinct rows, with probability proportional to a weight
``lower_distances`` distances to the nearest flat if one more is added, and their weighted sums
``seed``            labels of a greedy start, where a device has it as one operation (``seed_directions``: by direction)
``largest``         rows of the largest costs
``changed_rows``    rows whose label differs
``label_counts``    rows of each label
``lookup``          decoded rows of a factorization
``decode``          decoded rows of packed bits
``fetch``           a few small arrays, on the host
=================== ==========================================================================

:mod:`ksubspaces.kernels.reference` says in plain NumPy what each of them means. X is an array or :class:`Rows` of one,
which keep what a device prepares of them; or :class:`Streamed` rows, kept in host memory and brought to the device in
blocks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TypeVar, cast, overload

import numpy as np
from numpy.typing import DTypeLike

from .devices import kernels_for
from .factors import Factors
from .flats import Array, Eigenspaces, Flats, Kept, Layout, complement, layout_of
from .groups import Groups
from .moments import Moments, combined
from .packed import PackedRows
from .rows import Rows, Streamed, as_rows

__all__ = [
    "Eigenspaces",
    "Flats",
    "Groups",
    "Kept",
    "Layout",
    "Moments",
    "Rows",
    "Streamed",
    "assign",
    "batched_svd",
    "changed_rows",
    "coefficients",
    "complement",
    "decode",
    "fetch",
    "group_rows",
    "label_counts",
    "largest",
    "layout_of",
    "lookup",
    "lower_distances",
    "measure_objective",
    "prepare",
    "residuals",
    "sample_rows",
    "second_moments",
    "seed",
    "seed_directions",
    "spanned_by",
    "sqdistances",
    "top_eigenspaces",
    "two_nearest",
    "update_moments",
]


Parts = TypeVar("Parts", bound=tuple["Array | None", ...])


def _in_blocks(X: Array | Rows, work: Callable[[Array, slice], Parts]) -> Parts:
    """Results for all rows of an operation that takes one block of rows after another."""
    rows, whole = as_rows(X), None
    for span, block in rows.blocks():
        parts = work(block, span)
        if len(block) == len(rows):
            return parts
        if whole is None:
            whole = tuple(p if p is None else rows.xp.empty((len(rows), *p.shape[1:]), p.dtype) for p in parts)
        for result, part in zip(whole, parts, strict=True):
            if result is not None:
                result[span] = part
    return cast("Parts", whole)


def prepare(X: Array | Rows) -> None:
    """Begin to compile the kernels that a fit of these rows needs. The caller does not wait."""
    if X.ndim == 2 and as_rows(X).xp is not np:
        importlib.import_module("ksubspaces.kernels.cuda.ahead").prepare(X.dtype, X.shape[1])


@overload
def assign(
    X: Array | Rows, flats: Flats, penalty: Array | None = None, weights: Array | None = None
) -> tuple[Array, Array]: ...
@overload
def assign(
    X: Array | Rows, flats: Flats, penalty: Array | None = None, weights: Array | None = None, *, residuals: bool
) -> tuple[Array, Array | None]: ...
def assign(
    X: Array | Rows,
    flats: Flats,
    penalty: Array | None = None,
    weights: Array | None = None,
    *,
    residuals: bool = True,
) -> tuple[Array, Array | None]:
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
    rows = as_rows(X)

    def work(block: Array, span: slice) -> tuple[Array, Array | None]:
        part = None if weights is None else weights[span]
        return kernels_for(block).assign(block, flats, penalty, part, residuals=residuals, kept=rows.kept)

    return _in_blocks(rows, work)


def sqdistances(X: Array | Rows, flats: Flats) -> Array:
    """Squared distances (n, k) of the rows of X (n, d) to every flat, in X's dtype."""
    return _in_blocks(X, lambda block, _: (kernels_for(block).sqdistances(block, flats),))[0]


def two_nearest(X: Array | Rows, flats: Flats) -> tuple[Array, Array]:
    """The nearest and the second nearest flat of each row; the lower number first where they are equally far.

    Returns
    -------
    labels : (n, 2) int32
        With one flat alone, the second label is that flat again.
    residuals : (n, 2) array of X's dtype
        Squared distances to these, never negative; infinite where there is no second flat.
    """
    return _in_blocks(X, lambda block, _: kernels_for(block).two_nearest(block, flats))


def _keeping(kept: Kept | None, **others: bool) -> dict[str, Kept | bool]:
    """Arguments of cards: memory and launches for one call after another. Each overwrites what the last one gave."""
    return {} if kept is None else {"kept": kept, **others}


def group_rows(labels: Array, k: int, before: Array | None = None, kept: Kept | None = None) -> Groups:
    """Row numbers grouped by label (n,), int32 in [0, k), in each group ascending.

    With the labels ``before`` (n,), ``moved`` of the result tells how many are different now.
    """
    return kernels_for(labels).group_rows(labels, k, before, **_keeping(kept))


def residuals(X: Array | Rows, groups: Groups, flats: Flats) -> Array:
    """Squared distance of each row to the flat of its group, (n,), from float64 differences x - mu - V^T V (x - mu).

    Rows without a group have 0.
    """
    rows = as_rows(X)
    result = rows.xp.zeros(len(rows))
    for numbers, block, part in rows.grouped(groups):
        found = kernels_for(block).residuals(block, part, flats)
        if len(block) == len(rows):
            return found
        result[numbers] = found
    return result


def coefficients(
    X: Array | Rows, groups: Groups, flats: Flats, *, residuals: bool = False
) -> tuple[Array, Array | None]:
    """Coefficients ``(x - mu_c) V_c^T`` of each row in the flat of its group, and what they leave.

    Returns
    -------
    packed : array of X's dtype
        (n_c, j_c) numbers of one group after another; in host memory if the rows are streamed.
    residuals : (n,) float64 array, if asked for
        Squared distance of each row to what its coefficients stand for; 0 for rows without a group.
    """
    rows, parts = as_rows(X), []
    left = rows.xp.zeros(len(rows)) if residuals else None
    for numbers, block, part in rows.ordered(groups):
        packed, found = kernels_for(block).coefficients(block, part, flats, residuals)
        parts.append(rows.back(packed))
        if left is not None:
            left[numbers] = found
    return parts[0] if len(parts) == 1 else np.concatenate(parts), left


def second_moments(
    X: Array | Rows,
    groups: Groups,
    weights: Array | None = None,
    center: bool = False,
    products: bool = True,
    dtype: DTypeLike | None = None,
    kept: Kept | None = None,
) -> Moments:
    """First and second moments of the rows of each group, accumulated in float64.

    Parameters
    ----------
    X : (n, d) array, float32 or float64
    groups : Groups
    weights : (n,) array of nonnegative numbers, optional
    center : bool
        Take the second moments about the weighted means.
    products : bool
        ``False`` computes the sums and means alone, which else come with ``center`` only.
    dtype : dtype, optional
        Precision of the products; default that of X.
    kept : dict, optional
        What a card takes up again in the next call for the same rows, which overwrites what this one gave.
    """
    rows, given = as_rows(X), (center, products, dtype)
    keeping = _keeping(None if isinstance(rows, Streamed) else kept)
    total = combined(
        kernels_for(block).second_moments(block, part, None if weights is None else weights[numbers], *given, **keeping)
        for numbers, block, part in rows.grouped(groups)
    )
    assert total is not None
    return total


def update_moments(
    moments: Moments, X: Array | Rows, rows: Array, old: Array, new: Array, weights: Array | None = None
) -> None:
    """Move ``rows`` (m,) of X from clusters ``old`` (m,) to ``new`` (m,), in place. It costs less where few rows
    moved; errors of rounding add up, so start afresh now and then."""
    for span, numbers, block, local in as_rows(X).gathered(rows):
        part = None if weights is None else weights[numbers]
        kernels_for(block).update_moments(moments, block, local, old[span], new[span], part)


def measure_objective(moments: Moments, flats: Flats, kept: Kept | None = None) -> Array:
    """Weighted sum of the squared distances of each flat's rows to it, (k,) float64, never negative.

    From the moments of the clusters alone, ``tr S_c - tr V_c S_c V_c^T`` with S_c about the flat's offset: no row is
    read and the host does not wait. Errs by the rounding of bases and moments, a share of the sum of traces.
    """
    return kernels_for(moments.counts).measure_objective(moments, flats, **_keeping(kept))


def top_eigenspaces(
    S: Array,
    dims: Sequence[int],
    dtype: DTypeLike | None = None,
    start: Array | None = None,
    exact: bool = True,
    kept: Kept | None = None,
    nearly: bool = False,
) -> Eigenspaces:
    """Leading eigenspaces of symmetric matrices, or bases on the way to them.

    Parameters
    ----------
    S : (k, d, d) array
        Symmetric positive semidefinite.
    dims : sequence of k ints
        How many eigenvectors of each.
    dtype : dtype, optional
        Precision of the computation and the result; default that of S.
    start : (sum j_c, d) array, optional
        Orthonormal bases to improve on, stacked.
    exact, nearly : bool
        If not ``exact``, what comes back where eigenvectors are dear is a few steps of an iteration from ``start``, or
        from any bases: what they capture of each S_c comes close to the most. The host does not wait, and what failed
        is in the result's ``ok``; an exact result has no failures, for they are raised. If exact but ``nearly``, so
        many steps from ``start`` will do that what they capture is the most but for little.
    """
    return kernels_for(S).top_eigenspaces(S, dims, dtype, start, exact, **_keeping(kept, nearly=nearly))


def batched_svd(blocks: Sequence[Array], rank: Sequence[int] | int) -> Eigenspaces:
    """Leading right singular subspaces of blocks of rows (n_c, d); the eigenvalues are the squared singular values.

    A block with fewer rows than ``rank`` has its basis completed by arbitrary, repeatable orthonormal rows.
    """
    return kernels_for(blocks[0]).batched_svd(blocks, rank)


def sample_rows(weights: Array, m: int, rng: np.random.Generator) -> Array:
    """Draw up to m distinct row numbers, one after another, with probability proportional to the weights left.

    Rows of weight zero are never drawn, so fewer than m come back when fewer have a positive weight.
    """
    return kernels_for(weights).sample_rows(weights, m, rng)


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
    return kernels_for(trials).lower_distances(distances, trials, weights)


def seed(X: Array | Rows, dims: Sequence[int], weights: Array | None, rng: np.random.Generator) -> Array | None:
    """Labels (n,) of a greedy start of flats through the origin. ``None`` if a device lacks it as one operation.

    The flats have the given dimensions, and the largest comes first. A row is drawn by its cost, a few flats are fitted
    to rows close to such rows in direction, and the best one is kept. The operations above do the same in turn.
    """
    return _at_once("seed", X, dims, weights, rng)


def seed_directions(X: Array | Rows, k: int, weights: Array | None, rng: np.random.Generator) -> Array | None:
    """Labels (n,): the nearest of k directions, which are rows drawn by ``1 - cos``. ``None`` if a device lacks it."""
    return _at_once("seed_directions", X, k, weights, rng)


def spanned_by(layout: Layout, bases: Array, offsets: Array | None = None) -> Flats:
    """Flats from stacked bases alone, by products where a device takes its complements so."""
    by_products = getattr(kernels_for(bases), "complements", None)
    if by_products is None or not layout.has_wide:
        return Flats.spanned_by(layout, bases, offsets)
    return Flats(layout, bases, offsets, by_products(layout, bases))


def _at_once(name: str, X: Array | Rows, *args: object) -> Array | None:
    """The result of an operation that some devices lack; ``None`` there."""
    rows = as_rows(X)
    operation = None if isinstance(rows, Streamed) else getattr(kernels_for(rows.array), name, None)
    return None if operation is None else operation(rows.array, *args, kept=rows.kept)


def largest(costs: Array, m: int) -> Array:
    """Rows (int64) of the m largest positive costs (n,): largest first, the lower row first where they are equal.

    Fewer come back when fewer costs are positive.
    """
    return kernels_for(costs).largest(costs, m)


def changed_rows(old: Array, new: Array) -> Array:
    """Rows (int64, ascending) at which the labels ``old`` (n,) and ``new`` (n,) differ."""
    return kernels_for(new).changed_rows(old, new)


def label_counts(labels: Array, k: int) -> Array:
    """How many of the labels (n,), int32 in [0, k), are 0, 1, ..., k - 1; (k,) int64."""
    return kernels_for(labels).label_counts(labels, k)


def fetch(arrays: Sequence[Array]) -> list[np.ndarray]:
    """Up to four small arrays as float64 on the host, for which a device is waited for once."""
    if isinstance(arrays[0], (np.ndarray, np.generic)):
        return [np.asarray(array, np.float64) for array in arrays]
    return kernels_for(arrays[0]).fetch(arrays)


def lookup(rows: Array, factorization: Factors) -> Array:
    """Decode rows (b,) of a factorization to (b, d)."""
    return kernels_for(factorization.bases[0]).lookup(rows, factorization)


def decode(rows: Array, packed: PackedRows) -> Array:
    """Decode rows (b,) of packed bits to (b, d) float32. A row has the same bits alone as among others."""
    return kernels_for(packed.codes).decode(rows, packed)
