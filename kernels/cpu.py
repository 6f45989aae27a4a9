"""The operations on the CPU: products by BLAS and LAPACK, loops between them by Numba.

Work goes in blocks of rows, side by side, so that extra memory is bounded whatever n and k. Block sizes depend on
shapes alone, so equal input gives equal bits, on however many threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from threading import get_ident
from typing import NamedTuple, TypeAlias

import numpy as np

from . import loops
from .cpu_grouped import coefficients as coefficients
from .cpu_grouped import group_rows as group_rows
from .cpu_grouped import label_counts as label_counts
from .cpu_grouped import lookup as lookup
from .cpu_grouped import residuals as residuals
from .cpu_grouped import second_moments as second_moments
from .cpu_grouped import update_moments as update_moments
from .cpu_packed import decode as decode
from .flats import Flats, Kept, Layout
from .lapack import batched_svd as batched_svd
from .lapack import top_eigenspaces as top_eigenspaces
from .moments import measure_objective as measure_objective
from .products import ROWS, multiply, side_by_side

PRODUCTS = 1 << 18  # projections of one block of rows stay in cache ...
ASSIGN_ROWS = (256, 4096)  # ... the block being of this many rows at least and at most ...
ASSIGN_DIRECTIONS = 4096  # ... and this many directions at a time
FEW_PRODUCTS = 1 << 17  # multiplications below which a product of matrices costs less than its preparation


def assign(
    X: np.ndarray,
    flats: Flats,
    penalty: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    residuals: bool = True,
    kept: Kept | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(X)
    labels = np.zeros(n, dtype=np.int32)
    nearest = np.zeros(n, dtype=X.dtype)
    penalties = np.zeros(flats.k, dtype=X.dtype) if penalty is None else np.array(penalty, dtype=X.dtype)
    if _is_small(X, flats):
        w = np.ones(n, dtype=X.dtype) if weights is None else np.array(weights, dtype=X.dtype)
        loops.nearest_directly(*_plain(X, flats), penalties, w, labels, nearest)
        return labels, nearest

    def work(rows: slice, parts: Iterator[Part]) -> None:
        m = rows.stop - rows.start
        cost = np.full(m, np.inf, dtype=X.dtype)
        w = np.ones(m, dtype=X.dtype) if weights is None else np.ascontiguousarray(weights[rows], dtype=X.dtype)
        for clusters, *measured in parts:
            own = clusters.start, penalties[clusters], w, cost, labels[rows], nearest[rows]
            loops.nearest(*measured, *own)

    _project(X, flats, work)
    return labels, nearest


def sqdistances(X: np.ndarray, flats: Flats) -> np.ndarray:
    if _is_small(X, flats):
        distances = np.empty((len(X), flats.k), dtype=X.dtype)
        loops.distances_directly(*_plain(X, flats), distances)
        return distances
    distances = np.empty((flats.k, len(X)), dtype=X.dtype)

    def work(rows: slice, parts: Iterator[Part]) -> None:
        for clusters, *measured in parts:
            out = np.empty((clusters.stop - clusters.start, rows.stop - rows.start), dtype=X.dtype)
            loops.distances(*measured, out)
            distances[clusters, rows] = out

    _project(X, flats, work)
    return distances.T


def two_nearest(X: np.ndarray, flats: Flats) -> tuple[np.ndarray, np.ndarray]:
    labels, nearest = np.zeros((2, len(X)), np.int32), np.full((2, len(X)), np.inf, X.dtype)

    def work(rows: slice, parts: Iterator[Part]) -> None:
        for clusters, *measured in parts:
            loops.two_nearest(*measured, clusters.start, labels[:, rows], nearest[:, rows])

    _project(X, flats, work)
    return labels.T, nearest.T


def _is_small(X: np.ndarray, flats: Flats) -> bool:
    return X.size * (flats.k + flats.layout.total) <= FEW_PRODUCTS


def _plain(X: np.ndarray, flats: Flats) -> tuple[np.ndarray, ...]:
    """Rows; directions, where each flat's begin, and whether they are complements; offsets, (0, d) if none.

    Copies, for each loop is compiled once per dtype.
    """
    offsets = np.empty((0, X.shape[1])) if flats.offsets is None else np.array(flats.offsets, np.float64, order="C")
    directions = np.array(flats.directions, np.float64, order="C")
    return np.array(X, order="C"), directions, flats.direction_layout.starts, flats.exact, offsets


class _Group(NamedTuple):
    """Some of the flats: their numbers, the rows of their directions, the flat of each direction.

    ``starts`` and ``exact`` are those of the group alone.
    """

    clusters: slice
    rows: slice
    owners: np.ndarray
    starts: np.ndarray
    exact: np.ndarray


@lru_cache(maxsize=64)
def _groups(layout: Layout, along_complements: bool, most: int) -> list[_Group]:
    """The flats in groups of at most so many directions, of one flat at least."""
    directions, exact = (layout.shorter, layout.wide) if along_complements else (layout, layout.narrow)
    bounds, total = [0], 0
    for c, size in enumerate(directions.dims):
        if c > bounds[-1] and total + size > most:
            bounds.append(c)
            total = 0
        total += size
    groups = []
    for first, end in zip(bounds, [*bounds[1:], directions.k], strict=True):
        starts = directions.starts[first : end + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        owners = directions.owners[rows] - first
        groups.append(_Group(slice(first, end), rows, owners, starts - starts[0], exact[first:end].copy()))
    return groups


class _Directions:
    """Directions of a group of flats, whose squared products with x are summed, and what offsets add to the sums.

    ``matrix`` has the ``count`` directions and then, where a residual is what squares leave of |x - mu_c|^2, -2 mu_c.
    """

    def __init__(self, flats: Flats, group: _Group, centre: np.ndarray | None, dtype: np.dtype) -> None:
        rows = flats.directions[group.rows]
        self.matrix, self.count = np.ascontiguousarray(rows, dtype=dtype), len(rows)
        self.starts, self.exact = group.starts, group.exact
        self.shifts, self.added = np.zeros(len(rows), dtype=dtype), np.zeros(0, dtype)
        if centre is None or flats.offsets is None:
            return
        offsets = np.asarray(flats.offsets[group.clusters], dtype=np.float64) - centre
        self.shifts = np.einsum("ij,ij->i", rows.astype(np.float64, copy=False), offsets[group.owners]).astype(dtype)
        if not self.exact.all():
            self.matrix = np.concatenate([self.matrix, -2 * offsets.astype(dtype)])
            self.added = np.einsum("ij,ij->i", offsets, offsets).astype(dtype)


Part: TypeAlias = "tuple[slice, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]"
"""Some of the flats; products of their directions with rows, where those of each start, what the offsets take from
them, and whether they are complements; |x|^2 of the rows, -2 x mu_c, (k, m) or none, and |mu_c|^2."""


def _project(X: np.ndarray, flats: Flats, work: Callable[[slice, Iterator[Part]], None]) -> None:
    """Call ``work`` for each block of rows, with its products with directions of one group of flats after another."""
    dtype = X.dtype
    centre = None if flats.centre is None else flats.centre.astype(dtype)
    shapes = _groups(flats.layout, flats.complements is not None, ASSIGN_DIRECTIONS)
    groups = [(group.clusters, _Directions(flats, group, centre, dtype)) for group in shapes]
    widest = max(len(group.matrix) for _, group in groups)
    size = int(np.clip(PRODUCTS // max(widest, flats.k), *ASSIGN_ROWS)) // ROWS * ROWS
    measured = not flats.exact.all()

    buffers: dict[int, np.ndarray] = {}  # of each thread: fresh memory costs as much as the products

    def parts(A: np.ndarray) -> Iterator[Part]:
        m, lengths = len(A), np.einsum("ij,ij->i", A, A) if measured else np.zeros(len(A), dtype)
        buffer = buffers.get(get_ident())
        if buffer is None:
            buffer = buffers[get_ident()] = np.empty(widest * size, dtype)
        for clusters, group in groups:
            # Products stand (direction, row): summing squares down a column is one SIMD loop, however small j.
            out = multiply(group.matrix, A, buffer[: len(group.matrix) * m].reshape(-1, m))
            projected, crossed = out[: group.count], out[group.count :]
            yield clusters, projected, group.starts, group.shifts, group.exact, lengths, crossed, group.added

    def block(start: int) -> None:
        rows = slice(start, min(start + size, len(X)))
        A = np.ascontiguousarray(X[rows])
        work(rows, parts(A if centre is None else A - centre))

    for _ in side_by_side(block, range(0, len(X), size), X.size * sum(len(group.matrix) for _, group in groups)):
        pass


def sample_rows(weights: np.ndarray, m: int, rng: np.random.Generator) -> np.ndarray:
    weights = np.array(weights, dtype=np.float64)
    m = min(m, int(np.count_nonzero(weights)))
    found: list[int] = []
    # Those drawn twice are drawn again, as in rng.choice, which takes longer to look at its input.
    while len(found) < m:
        weights[found] = 0
        ends = (weights / weights.max()).cumsum()  # their sum cannot overflow, nor are small ones zero to the last
        ends /= ends[-1]
        found += dict.fromkeys(ends.searchsorted(rng.random(m - len(found)), side="right").tolist())
    return np.array(found, dtype=np.int64)


def lower_distances(distances: np.ndarray, trials: np.ndarray, weights: np.ndarray) -> np.ndarray:
    lowered = np.ascontiguousarray(trials.T)
    potentials = loops.lower(np.array(distances, lowered.dtype), lowered, np.array(weights, np.float64))
    if not np.may_share_memory(lowered, trials):
        trials[...] = lowered.T
    return potentials


def largest(costs: np.ndarray, m: int) -> np.ndarray:
    rows = np.flatnonzero(costs > 0)
    return rows[np.argsort(-costs[rows], kind="stable")[:m]]


def changed_rows(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.flatnonzero(old != new)
