"""The operations on the CPU: BLAS and LAPACK for the products, Numba for what is between them.

Work goes in blocks of rows, so that extra memory is bounded whatever n and k. BLAS uses the threads that its
owner allows; nothing here sets a thread count. Block sizes depend on shapes alone, so equal input gives equal bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from . import loops
from .flats import Eigenspaces, Flats, Layout, complement, layout_of
from .groups import Groups
from .moments import Moments, traces
from .moments import measure_objective as measure_objective

PRODUCTS = 1 << 18  # projections of one block of rows stay in cache ...
ASSIGN_ROWS = (256, 4096)  # ... the block being of this many rows at least and at most ...
ASSIGN_DIRECTIONS = 4096  # ... and this many directions at a time
BLOCK_BYTES = 8 << 20  # rows gathered at a time
LONG_ROW = 1 << 10  # bytes of a row beyond which rows are read fastest as they stand
JACOBI_REACH = 8  # columns up to which Jacobi's turns take less time than LAPACK's preparations
FEW_PRODUCTS = 1 << 17  # multiplications below which a product of matrices costs less than its preparation ...
FEW_SQUARES = 1 << 14  # ... and below which, a cluster, its second moments do


def assign(
    X: np.ndarray,
    flats: Flats,
    penalty: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    *,
    residuals: bool = True,
    kept: dict[Any, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    n = len(X)
    labels = np.zeros(n, dtype=np.int32)
    nearest = np.zeros(n, dtype=X.dtype)
    penalties = np.zeros(flats.k, dtype=X.dtype) if penalty is None else np.array(penalty, dtype=X.dtype)
    if _is_small(X, flats):
        w = np.ones(n, dtype=X.dtype) if weights is None else np.array(weights, dtype=X.dtype)
        loops.nearest_directly(*_plain(X, flats), penalties, w, labels, nearest)
        return labels, nearest
    for rows, groups in _projections(X, flats):
        m = rows.stop - rows.start
        cost = np.full(m, np.inf, dtype=X.dtype)
        w = np.ones(m, dtype=X.dtype) if weights is None else np.ascontiguousarray(weights[rows], dtype=X.dtype)
        for clusters, projected, group, energy in groups:
            loops.nearest(
                projected,
                group.starts,
                group.shifts,
                group.exact,
                energy,
                clusters.start,
                penalties[clusters],
                w,
                cost,
                labels[rows],
                nearest[rows],
            )
    return labels, nearest


def sqdistances(X: np.ndarray, flats: Flats) -> np.ndarray:
    if _is_small(X, flats):
        distances = np.empty((len(X), flats.k), dtype=X.dtype)
        loops.distances_directly(*_plain(X, flats), distances)
        return distances
    distances = np.empty((flats.k, len(X)), dtype=X.dtype)
    for rows, groups in _projections(X, flats):
        for clusters, projected, group, energy in groups:
            out = np.empty((clusters.stop - clusters.start, rows.stop - rows.start), dtype=X.dtype)
            loops.distances(projected, group.starts, group.shifts, group.exact, energy, out)
            distances[clusters, rows] = out
    return distances.T


def _is_small(X: np.ndarray, flats: Flats) -> bool:
    return X.size * (flats.k + flats.layout.total) <= FEW_PRODUCTS


def _plain(X: np.ndarray, flats: Flats) -> tuple[np.ndarray, ...]:
    """Rows, directions of all flats, where those of each start, whether they are complements, and offsets; (0, d) if
    none.

    Copies, for each loop is compiled once per dtype.
    """
    offsets = np.empty((0, X.shape[1])) if flats.offsets is None else np.array(flats.offsets, np.float64, order="C")
    directions = np.array(flats.directions, np.float64, order="C")
    return np.array(X, order="C"), directions, flats.direction_layout.starts, flats.exact, offsets


class _Group(NamedTuple):
    """Some of the flats, as far as shapes tell: which, which directions are theirs, and whose each of these is.

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
    """Rows whose squared products with x are summed, for a group of flats, and what their offsets add."""

    def __init__(self, flats: Flats, group: _Group, centre: np.ndarray | None, dtype: np.dtype) -> None:
        rows = flats.directions[group.rows]
        self.matrix = np.ascontiguousarray(rows, dtype=dtype)
        self.starts, self.exact = group.starts, group.exact
        self.offsets: np.ndarray | None = None
        if centre is None or flats.offsets is None:
            self.shifts = np.zeros(len(rows), dtype=dtype)
            return
        offsets = np.asarray(flats.offsets[group.clusters], dtype=np.float64) - centre
        self.shifts = np.einsum("ij,ij->i", rows.astype(np.float64, copy=False), offsets[group.owners]).astype(dtype)
        self.offsets = np.ascontiguousarray(offsets, dtype=dtype)
        self.offset_energy = np.einsum("ij,ij->i", offsets, offsets).astype(dtype)[:, None]

    def energy(self, A: np.ndarray) -> np.ndarray:
        """|x - mu_c|^2, (k, m), or |x|^2, (1, m), without offsets; zeros when only complements are in use."""
        if self.exact.all():
            return np.zeros((1, len(A)), dtype=A.dtype)
        energy = np.einsum("ij,ij->i", A, A)[None, :]
        if self.offsets is None:
            return energy
        cross = self.offsets @ A.T
        cross *= -2
        cross += energy
        cross += self.offset_energy
        return cross


def _projections(
    X: np.ndarray, flats: Flats
) -> Iterator[tuple[slice, Iterator[tuple[slice, np.ndarray, _Directions, Any]]]]:
    """Blocks of rows, and for each the products with the directions of one group of flats after another."""
    dtype = X.dtype
    centre = None if flats.centre is None else flats.centre.astype(dtype)
    shapes = _groups(flats.layout, flats.complements is not None, ASSIGN_DIRECTIONS)
    groups = [(group.clusters, _Directions(flats, group, centre, dtype)) for group in shapes]
    widest = max(len(group.matrix) for _, group in groups)
    size = int(np.clip(PRODUCTS // max(widest, flats.k), *ASSIGN_ROWS))
    buffer = np.empty((widest, size), dtype=dtype)

    def products(A: np.ndarray) -> Iterator[tuple[slice, np.ndarray, _Directions, Any]]:
        for clusters, group in groups:
            out = buffer[: len(group.matrix)] if len(A) == size else np.empty((len(group.matrix), len(A)), dtype)
            # Products stand (direction, row): summing squares down a column is one SIMD loop, however small j.
            yield clusters, np.matmul(group.matrix, A.T, out=out), group, group.energy(A)

    for start in range(0, len(X), size):
        rows = slice(start, min(start + size, len(X)))
        A = np.ascontiguousarray(X[rows])
        if centre is not None:
            A = A - centre
        yield rows, products(A)


def group_rows(labels: np.ndarray, k: int) -> Groups:
    order, starts = loops.group_by_label(np.ascontiguousarray(labels, dtype=np.int32), k)
    return Groups(order, starts, whole=True)


def residuals(X: np.ndarray, groups: Groups, flats: Flats) -> np.ndarray:
    result = np.zeros(len(X))
    for c, rows in groups.blocks(_block_rows(X.shape[1] * 8)):
        V = np.asarray(flats.basis(c), dtype=np.float64)
        A = X[rows].astype(np.float64)
        if flats.offsets is not None:
            A -= flats.offsets[c]
        A -= (A @ V.T) @ V
        result[rows] = np.einsum("ij,ij->i", A, A)
    return result


def coefficients(
    X: np.ndarray, groups: Groups, flats: Flats, residuals: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    packed, end = np.empty(int(groups.counts @ np.array(flats.layout.dims)), X.dtype), 0
    left = np.zeros(len(X)) if residuals else None
    for c, rows in groups.blocks(_block_rows(X.shape[1] * X.itemsize)):
        A, V = X[rows], flats.basis(c).astype(X.dtype, copy=False)
        if flats.offsets is not None:
            A -= flats.offsets[c]
        start, end = end, end + len(rows) * len(V)
        part = packed[start:end].reshape(len(rows), len(V))
        np.matmul(A, V.T, out=part)
        if left is not None:
            A -= part @ V
            left[rows] = np.einsum("ij,ij->i", A, A, dtype=np.float64)
    return packed, left


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
    if center:
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
    product = np.empty((d, d), dtype)
    for c, rows in groups.blocks(_block_rows(d * dtype.itemsize)):
        A = X[rows].astype(dtype, copy=False)
        if moments.center:
            A -= moments.known_sums[2][c].astype(dtype)
        root = np.ones(len(rows), dtype)
        if weights is not None:
            root = np.sqrt(weights[rows]).astype(dtype)
            A *= root[:, None]
        if moments.first is not None and moments.mass is not None:
            mass = len(rows) if weights is None else weights[rows].sum(dtype=np.float64)
            moments.mass[c] += sign * mass
            moments.first[c] += sign * (root @ A)
        np.matmul(A.T, A, out=product)  # NumPy calls the symmetric product: half the work
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
    if groups.whole and d * X.itemsize >= LONG_ROW:
        order, owners = np.arange(len(X)), groups.labels
    w = np.ones(len(order)) if weights is None else np.array(weights[order], np.float64)
    raw = np.empty((0, d, d)) if moments.raw is None else moments.raw
    if moments.first is None:
        first, mass, origins = np.empty((0, d)), np.empty(0), np.empty((0, d))
    else:
        first, mass, origins = moments.known_sums
    sums = origins, raw, first, mass, moments.counts
    if X.flags.c_contiguous and X.flags.writeable:
        loops.add_moments(X, order, owners, w, sign, *sums)
        return
    size = _block_rows(d * X.itemsize)
    for start in range(0, len(order), size):
        span = slice(start, start + size)
        A = np.ascontiguousarray(X[order[span]])
        loops.add_moments(A, np.arange(len(A)), owners[span], w[span], sign, *sums)


def _block_rows(row_bytes: int) -> int:
    """How many rows are gathered at a time."""
    return max(64, BLOCK_BYTES // row_bytes)


def top_eigenspaces(
    S: np.ndarray,
    dims: Sequence[int],
    dtype: DTypeLike | None = None,
    start: np.ndarray | None = None,
    exact: bool = True,
) -> Eigenspaces:
    # ``start`` goes unused: LAPACK is fast enough here to be exact in every step, see bench/.
    dtype, (k, d) = S.dtype if dtype is None else np.dtype(dtype), S.shape[:2]
    layout, size = layout_of(d, tuple(dims)), max(1, BLOCK_BYTES // (d * d * 8))
    if k <= size:
        values, vectors = _eigh(S, dtype)
        bases, complements = layout.leading(vectors)
        return Eigenspaces(layout, bases, values, complements)
    values, bases = np.empty((k, d)), np.empty((layout.total, d), dtype)
    complements = np.empty((layout.complements.total, d), dtype) if layout.has_wide else None
    for first in range(0, k, size):
        end = min(first + size, k)
        part = layout_of(d, layout.dims[first:end])
        values[first:end], vectors = _eigh(S[first:end], dtype)
        spans, rest = part.leading(vectors)
        bases[layout.starts[first] : layout.starts[end]] = spans
        if complements is not None and rest is not None:
            complements[layout.complements.starts[first] : layout.complements.starts[end]] = rest
    return Eigenspaces(layout, bases, values, complements)


def _eigh(S: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (k, d), float64, descending and not negative, and eigenvectors (k, d, d), as rows, in the dtype."""
    k, d = S.shape[:2]
    if d <= JACOBI_REACH:
        values, vectors = np.empty((k, d)), np.empty((k, d, d), dtype)
        loops.jacobi(np.ascontiguousarray(S, dtype=np.float64), values, vectors)
        return values, vectors
    scale = traces(S)[:, None]  # second moments of tame float32 rows can leave float32's range
    scale[scale == 0] = 1
    # Divide and conquer on the whole matrix costs no more than a block power step here, see bench/. NumPy's, not
    # SciPy's: theirs is another BLAS, whose threads go on spinning on the cores that the next product needs.
    ascending, vectors = np.linalg.eigh((S / scale[:, :, None]).astype(dtype, copy=False))
    return np.maximum(ascending[:, ::-1] * scale, 0), vectors.transpose(0, 2, 1)[:, ::-1]


def batched_svd(blocks: Sequence[np.ndarray], rank: Sequence[int] | int) -> Eigenspaces:
    d, dtype = blocks[0].shape[1], blocks[0].dtype
    layout = layout_of(d, (rank,) * len(blocks) if isinstance(rank, int) else tuple(rank))
    bases = np.empty((layout.total, d), dtype)
    complements = np.empty((layout.complements.total, d), dtype) if layout.has_wide else None
    eigenvalues = np.zeros((len(blocks), max(min(block.shape) for block in blocks)))
    for c, block in enumerate(blocks):
        s, Vt = np.zeros(0, dtype), np.zeros((0, d), dtype)
        if len(block):
            _, s, Vt = np.linalg.svd(block, full_matrices=False)
        j = layout.dims[c]
        if len(Vt) < j or layout.wide[c]:
            Vt = np.concatenate([Vt, complement(Vt)])
        bases[layout.rows(c)] = Vt[:j]
        eigenvalues[c, : len(s)] = s.astype(np.float64) ** 2
        if complements is not None and layout.wide[c]:
            complements[layout.complements.rows(c)] = Vt[j:]
    return Eigenspaces(layout, bases, eigenvalues, complements)


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


def label_counts(labels: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(labels, minlength=k)


def lookup(rows: np.ndarray, factorization: Any) -> np.ndarray:
    bases, offsets = factorization.bases, factorization.offsets
    labels, positions = factorization.labels[rows], factorization.positions[rows]
    decoded = np.empty((len(rows), bases[0].shape[1]), dtype=bases[0].dtype)
    groups = group_rows(labels, len(bases))
    for c, chosen in groups.blocks(_block_rows(decoded.shape[1] * decoded.itemsize)):
        block = factorization.blocks[c][positions[chosen]] @ bases[c]
        decoded[chosen] = block if offsets is None else block + offsets[c]
    return decoded
