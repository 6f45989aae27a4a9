"""Operations of each row with its own cluster on the CPU: rows of a cluster are gathered in blocks, and multiplied."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import DTypeLike

from . import loops
from .factors import Factors
from .flats import Flats
from .groups import Groups
from .moments import Moments
from .products import gram, multiply, side_by_side

BLOCK_BYTES = 2 << 20  # rows gathered at a time, by each thread
LONG_ROW = 1 << 10  # bytes of a row beyond which rows are read fastest as they stand
SUMMED_ROWS = 1 << 14  # whose sums without squares are taken at a time ...
SUMMED_COST = 16  # ... each number in the time of so many multiplications
FEW_SQUARES = 1 << 14  # multiplications, a cluster, below which a loop takes its second moments sooner than a product


def group_rows(labels: np.ndarray, k: int, before: np.ndarray | None = None) -> Groups:
    order, starts = loops.group_by_label(np.ascontiguousarray(labels, dtype=np.int32), k)
    moved = None if before is None else np.asarray((labels != before).sum())
    return Groups(order, starts, moved=moved, whole=True)


def residuals(X: np.ndarray, groups: Groups, flats: Flats) -> np.ndarray:
    result = np.zeros(len(X))

    def work(block: tuple[int, np.ndarray]) -> None:
        c, rows = block
        V = np.asarray(flats.basis(c), dtype=np.float64)
        A = X[rows].astype(np.float64)
        if flats.offsets is not None:
            A -= flats.offsets[c]
        result[rows] = _leave(A, V, np.empty((len(rows), len(V))))

    blocks = groups.blocks(_block_rows(X.shape[1] * 8))
    for _ in side_by_side(work, blocks, X.size * flats.layout.width):
        pass
    return result


def coefficients(
    X: np.ndarray, groups: Groups, flats: Flats, residuals: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    sizes = np.array(flats.layout.dims, np.int64)
    ends = np.cumsum(groups.counts * sizes)
    packed, left = np.empty(int(ends[-1]), X.dtype), np.zeros(len(X)) if residuals else None

    def work(block: tuple[int, int, np.ndarray]) -> None:
        c, start, rows = block
        A, V = X[rows], flats.basis(c).astype(X.dtype, copy=False)
        if flats.offsets is not None:
            A -= flats.offsets[c]
        part = packed[start : start + len(rows) * len(V)].reshape(len(rows), len(V))
        found = _leave(A, V, part)
        if left is not None:
            left[rows] = found

    def blocks() -> Iterator[tuple[int, int, np.ndarray]]:
        start = 0
        for c, rows in groups.blocks(_block_rows(X.shape[1] * X.itemsize)):
            yield c, start, rows
            start += len(rows) * flats.layout.dims[c]

    for _ in side_by_side(work, blocks(), X.size * flats.layout.width):
        pass
    return packed, left


def _leave(A: np.ndarray, V: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Coefficients of rows A (m, d) in V (j, d), into an array; squared norms of what they leave. A is lost."""
    A -= multiply(multiply(A, V, coefficients), V.T, np.empty_like(A))
    return np.einsum("ij,ij->i", A, A, dtype=np.float64)


def second_moments(
    X: np.ndarray,
    groups: Groups,
    weights: np.ndarray | None = None,
    center: bool = False,
    products: bool = True,
    dtype: DTypeLike | None = None,
) -> Moments:
    (k, d), sums = (groups.k, X.shape[1]), center or not products
    moments = Moments(
        raw=np.zeros((k, d, d)) if products else None,
        first=np.zeros((k, d)) if sums else None,
        mass=np.zeros(k) if sums else None,
        counts=np.zeros(k, dtype=np.int64),
        origins=np.zeros((k, d)) if sums else None,
        center=center,
    )
    if center and products:
        # Any origin near the mean will do: what it misses is in ``first`` and corrected exactly.
        means = second_moments(X, groups, weights, products=False).means
        assert means is not None
        moments.origins = means.astype(X.dtype).astype(np.float64)
    _accumulate(moments, X, groups, weights, 1, X.dtype if dtype is None else np.dtype(dtype))
    return moments


def update_moments(
    moments: Moments,
    X: np.ndarray,
    rows: np.ndarray,
    old: np.ndarray,
    new: np.ndarray,
    weights: np.ndarray | None = None,
) -> None:
    for labels, sign in ((old, -1), (new, 1)):
        _accumulate(moments, X, group_rows(labels, len(moments.counts)).among(rows), weights, sign, X.dtype)


def _accumulate(
    moments: Moments, X: np.ndarray, groups: Groups, weights: np.ndarray | None, sign: int, dtype: np.dtype
) -> None:
    """Add (or take away) the moments of the groups, multiplied in a precision."""
    k, d = groups.k, X.shape[1]
    if moments.raw is None or len(groups.order) * d * d <= FEW_SQUARES * k:
        _accumulate_directly(moments, X, groups, weights, sign)
        return
    moments.counts += sign * groups.counts
    origins = moments.known_sums[2] if moments.center else None

    def work(block: tuple[int, np.ndarray]) -> tuple[int, np.ndarray, float, np.ndarray | None]:
        c, rows = block
        A, mass, first = X[rows].astype(dtype, copy=False), float(len(rows)), None
        if origins is not None:
            A -= origins[c].astype(dtype)
        root = np.ones(len(rows), dtype)
        if weights is not None:
            root = np.sqrt(weights[rows]).astype(dtype)
            A *= root[:, None]
            mass = weights[rows].sum(dtype=np.float64)
        if moments.first is not None:
            first = root @ A
        return c, gram(A), mass, first

    blocks = groups.blocks(_block_rows(d * dtype.itemsize))
    for c, product, mass, first in side_by_side(work, blocks, len(groups.order) * d * d):
        if first is not None and moments.first is not None and moments.mass is not None:
            moments.mass[c] += sign * mass
            moments.first[c] += sign * first
        if sign > 0:
            moments.raw[c] += product
        else:
            moments.raw[c] -= product


def _accumulate_directly(
    moments: Moments, X: np.ndarray, groups: Groups, weights: np.ndarray | None, sign: int
) -> None:
    """The same in one loop over the rows, in float64; those of each group in their order there."""
    d = X.shape[1]
    order, owners = groups.order, groups.owners
    if groups.whole and (moments.raw is None or d * X.itemsize >= LONG_ROW):
        order, owners = np.arange(len(X)), groups.labels
    w = np.ones(len(order)) if weights is None else np.array(weights[order], np.float64)
    raw = np.empty((0, d, d)) if moments.raw is None else moments.raw
    if moments.first is None:
        first, mass, origins = np.empty((0, d)), np.empty(0), np.empty((0, d))
    else:
        first, mass, origins = moments.known_sums
    sums = raw, first, mass, moments.counts
    plain = X.flags.c_contiguous and X.flags.writeable
    size = SUMMED_ROWS if moments.raw is None else len(order) if plain else _block_rows(d * X.itemsize)

    def work(span: slice) -> tuple[np.ndarray, ...]:
        """Sums over some of the rows; over all of them where there are no more."""
        parts = tuple(map(np.zeros_like, sums)) if size < len(order) else sums
        A, rows = (X, order[span]) if plain else (np.ascontiguousarray(X[order[span]]), np.arange(len(order[span])))
        loops.add_moments(A, rows, owners[span], w[span], sign, origins, *parts)
        return parts

    spans = (slice(start, start + size) for start in range(0, len(order), max(size, 1)))
    for parts in side_by_side(work, spans, len(order) * d * SUMMED_COST):
        for total, part in zip(sums, parts, strict=True):
            if part is not total:
                total += part


def _block_rows(row_bytes: int) -> int:
    """How many rows are gathered at a time."""
    return max(64, BLOCK_BYTES // row_bytes)


def label_counts(labels: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(labels, minlength=k)


def lookup(rows: np.ndarray, factorization: Factors) -> np.ndarray:
    bases, offsets = factorization.bases, factorization.offsets
    labels, positions = factorization.labels[rows], factorization.positions[rows]
    decoded = np.empty((len(rows), bases[0].shape[1]), dtype=bases[0].dtype)
    groups = group_rows(labels, len(bases))
    for c, chosen in groups.blocks(_block_rows(decoded.shape[1] * decoded.itemsize)):
        block = factorization.blocks[c][positions[chosen]] @ bases[c]
        decoded[chosen] = block if offsets is None else block + offsets[c]
    return decoded
