"""Eigenspaces on the CPU: LAPACK, Jacobi's turns where matrices are tiny, power steps where they are many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from . import loops
from .flats import Eigenspaces, Layout, complement, layout_of
from .moments import traces

BLOCK_BYTES = 8 << 20  # of matrices at a time
JACOBI_REACH = 8  # columns up to which Jacobi's turns take less time than LAPACK's preparations
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
    layout, size = layout_of(d, tuple(dims)), max(1, BLOCK_BYTES // (d * d * 8))
    if not exact and start is not None and dtype == np.float32 and k >= MANY and layout.width <= NARROW * d:
        return _power_steps(S, layout, dtype, start)
    if layout.total == 0:
        scales = _scales(S)
        values = np.linalg.eigvalsh((S / scales).astype(dtype, copy=False))[:, ::-1] * scales[:, 0]
        return Eigenspaces(layout, np.empty((0, d), dtype), np.maximum(values, 0), None)
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


def _eigh(S: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (k, d), float64, descending and not negative, and eigenvectors (k, d, d), as rows, in the dtype."""
    k, d = S.shape[:2]
    if d <= JACOBI_REACH:
        values, vectors = np.empty((k, d)), np.empty((k, d, d), dtype)
        loops.jacobi(np.ascontiguousarray(S, dtype=np.float64), values, vectors)
        return values, vectors
    scales = _scales(S)
    # Divide and conquer on the whole matrix costs no more than a block power step where flats are wide. NumPy's, not
    # SciPy's: theirs is another BLAS, whose threads go on spinning on the cores that the next product needs.
    ascending, vectors = np.linalg.eigh((S / scales).astype(dtype, copy=False))
    return np.maximum(ascending[:, ::-1] * scales[:, 0], 0), vectors.transpose(0, 2, 1)[:, ::-1]


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
