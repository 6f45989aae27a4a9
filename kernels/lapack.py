"""Eigenspaces on the CPU: one matrix a thread, LAPACK for all at once, Jacobi's turns or power steps, by size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike

from . import loops, symmetric
from .flats import Eigenspaces, Layout, complement, layout_of
from .moments import traces
from .products import side_by_side

BLOCK_BYTES = 8 << 20  # of matrices at a time
JACOBI_REACH = 8  # columns up to which Jacobi's turns take less time than LAPACK's preparations
SHARED = 80  # columns beyond which BLAS shares LAPACK's products among its threads
MANY = 8  # matrices from which power steps take the place of eigenvectors while labels move ...
NARROW = 0.25  # ... for flats of up to this share of the columns


def top_eigenspaces(
    S: np.ndarray,
    dims: Sequence[int],
    dtype: DTypeLike | None = None,
    start: np.ndarray | None = None,
    exact: bool = True,
) -> Eigenspaces:
    dtype, (k, d) = S.dtype if dtype is None else np.dtype(dtype), S.shape[:2]
    layout = layout_of(d, tuple(dims))
    if not exact and start is not None and dtype == np.float32 and k >= MANY and layout.width <= NARROW * d:
        return _power_steps(S, layout, dtype, start)
    values, bases = np.empty((k, d)), np.empty((layout.total, d), dtype)
    complements = np.empty((layout.complements.total, d), dtype) if layout.has_wide else None
    for first, (own, vectors) in _solve(S, dtype, layout.total > 0):
        end = first + len(own)
        values[first:end] = own
        if vectors is None:
            continue
        spans, rest = layout_of(d, layout.dims[first:end]).leading(vectors)
        bases[layout.starts[first] : layout.starts[end]] = spans
        if complements is not None and rest is not None:
            complements[layout.complements.starts[first] : layout.complements.starts[end]] = rest
    return Eigenspaces(layout, bases, values, complements)


def _solve(
    S: np.ndarray, dtype: np.dtype, with_vectors: bool
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray | None]]]:
    """Eigenvalues, descending and not negative, and eigenvectors if asked for, of blocks of the matrices S (k, d, d),
    and the number of the first of each: where matrices are large one at a time, side by side."""
    k, d = S.shape[:2]
    size = 1 if d > SHARED else max(1, BLOCK_BYTES // (d * d * 8))
    starts = range(0, k, size)

    def work(first: int) -> tuple[np.ndarray, np.ndarray | None]:
        return _eigh(S[first : first + size], dtype, with_vectors)

    return zip(starts, side_by_side(work, starts, 4 * k * d**3 * (size == 1)), strict=True)


def _power_steps(S: np.ndarray, layout: Layout, dtype: np.dtype, start: np.ndarray) -> Eigenspaces:
    """Four block power steps for all matrices at a time, which take a fourth of the time of all eigenvectors."""
    scaled = (S / _scales(S)).astype(dtype)
    V = layout.pad(start).transpose(0, 2, 1)
    for _ in range(2):
        V = np.linalg.qr(scaled @ (scaled @ V))[0]
    return Eigenspaces(layout, layout.pack(V.transpose(0, 2, 1)), None, None, exact=False)


def _scales(S: np.ndarray) -> np.ndarray:
    """What to divide S by, (k, 1, 1): second moments of tame float32 rows can leave float32's range."""
    scale = traces(S)[:, None, None]
    return np.where(scale > 0, scale, 1)


def _eigh(S: np.ndarray, dtype: np.dtype, with_vectors: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Eigenvalues (k, d), float64, descending and not negative, and eigenvectors (k, d, d), as rows, in the dtype."""
    k, d = S.shape[:2]
    if d <= JACOBI_REACH:
        values, vectors = np.empty((k, d)), np.empty((k, d, d), dtype)
        loops.jacobi(np.ascontiguousarray(S, dtype=np.float64), values, vectors)
        return values, vectors
    scales = _scales(S)
    scaled, rows = (S / scales).astype(dtype, copy=False), None
    if d > SHARED:
        ascending, rows = symmetric.eigenpairs(scaled[0]) if with_vectors else (symmetric.eigenvalues(scaled[0]), None)
        ascending, rows = ascending[None], None if rows is None else rows[None]
    elif with_vectors:
        ascending, columns = np.linalg.eigh(scaled)
        rows = columns.transpose(0, 2, 1)
    else:
        ascending = np.linalg.eigvalsh(scaled)
    values = np.maximum(ascending[:, ::-1] * scales[:, 0], 0)
    return values, None if rows is None else rows[:, ::-1]


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
