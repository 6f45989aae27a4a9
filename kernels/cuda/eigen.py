"""Eigenspaces on a GPU: one-sided Jacobi for batches of small matrices, cuSOLVER above."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Eigenspaces, Kept, layout_of, wants_complement
from ..moments import traces
from . import cusolver, loader
from .power import ROUNDS, power_steps


class Layout(NamedTuple):
    """How the Jacobi kernel spreads a matrix over a block, see ``eigen.cu``; it reaches to d = 32 ``rows``.

    Attributes
    ----------
    rows, columns : int
        Rows of each lane, columns of each warp.
    blocks : int
        Blocks that a multiprocessor's registers must have room for.
    """

    rows: int
    columns: int
    blocks: int


# At most 64 numbers of each lane are the matrix's, so that all else finds registers as well.
LAYOUTS: dict[np.dtype, list[Layout]] = {
    np.dtype(np.float32): [Layout(1, 32, 16), Layout(2, 32, 6), Layout(4, 16, 2)],
    np.dtype(np.float64): [Layout(1, 16, 8), Layout(2, 16, 3), Layout(4, 16, 1)],
}

# (largest d, fewest matrices, solver): the first line that fits decides. "jacobi" is the kernel here, "batched" and
# "each" are of cusolver.py. Measured on an H100 in float32: 64 x 256 "batched" 3.8 ms (syevjBatched 23), 16 x 384
# "batched" 29 and "each" 35, 5 x 384 "each" 12 and "batched" 23, 5 x 768 "each" 29 and "batched" 57 (one after another
# 40). So at 384 "each" takes about 2.2 ms a matrix, "batched" 20 and .6 a matrix. In float64 "each" took as long as in
# float32 on an H200, 30 ms for 5 x 768. Above 1024 nothing was measured.
CROSSINGS: list[tuple[float, int, str]] = [
    (128, 0, "jacobi"),
    (256, 4, "batched"),
    (1024, 13, "batched"),
    (np.inf, 0, "each"),
]

BATCH_BYTES = 128 << 20
"""Of the matrices that are given to cuSOLVER at a time; solving and checking takes some six times as much."""

UNSOUND = 16
"""In units of rounding and sqrt(d): how far from orthonormal or from eigenvectors a solver's vectors may be. cuSOLVER's
come within 1 where they are right; syevjBatched has been off by 130 for an identity of d = 384."""

PROBES = 16
"""Rows of signs. Wrong vectors would have to pass with each of them."""


def _defines(dtype: np.dtype, layout: Layout) -> loader.Defines:
    real = "float" if dtype == np.float32 else "double"
    return {"REAL": real, "ROWS": layout.rows, "COLUMNS": layout.columns, "BLOCKS": layout.blocks}


VARIANTS: list[loader.Variant] = [
    ("eigen", _defines(dtype, layout)) for dtype, layouts in LAYOUTS.items() for layout in layouts
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    if _solver(d, 1) != "jacobi":
        return []
    return [("eigen", _defines(real, _layout(real, d))) for real in {dtype, np.dtype(np.float64)}]


def _layout(dtype: np.dtype, d: int) -> Layout:
    return next(layout for layout in LAYOUTS[dtype] if d <= 32 * layout.rows)


def top_eigenspaces(
    S: Array,
    dims: Sequence[int],
    dtype: DTypeLike | None = None,
    start: Array | None = None,
    exact: bool = True,
    kept: Kept | None = None,
    nearly: bool = False,
) -> Eigenspaces:
    dtype, layout = np.dtype(S.dtype if dtype is None else dtype), layout_of(S.shape[1], tuple(dims))
    if dtype not in LAYOUTS:
        raise TypeError(f"eigenvectors can be computed in float32 or float64, not in {dtype}")
    jacobi = _solver(*S.shape[1::-1]) == "jacobi"
    if not exact and not (jacobi and layout.has_wide):
        return power_steps(S, layout, dtype, start, kept)
    if nearly and not jacobi and start is not None:
        return power_steps(S, layout, dtype, start, kept, ROUNDS)
    ok = None
    if not jacobi:
        values, vectors = eigh(S, dtype)
    else:
        values, vectors, sweeps = _jacobi(S, dtype)
        if not exact:  # steps lag behind for wide flats, and complements are worth having
            ok, xp = sweeps > 0, loader.namespace(S)
            vectors = xp.where(ok[:, None, None], vectors, xp.eye(layout.d, dtype=dtype))
    bases, complements = layout.leading(vectors)
    if jacobi and exact:
        _raise_unless_converged(sweeps)  # when all else is under way
    return Eigenspaces(layout, bases, values, complements, ok=ok)


def _solver(d: int, k: int) -> str:
    return next(name for largest, fewest, name in CROSSINGS if d <= largest and k >= fewest)


def eigh(S: Array, dtype: np.dtype) -> tuple[Array, Array]:
    """All eigenvalues (k, d), float64, descending and not negative, and eigenvectors (k, d, d), as rows."""
    xp, (k, d) = loader.namespace(S), S.shape[:2]
    solver = _solver(d, k)
    if solver == "jacobi":
        values, vectors, sweeps = _jacobi(S, dtype)
        _raise_unless_converged(sweeps)
        return values, vectors
    solve = cusolver.eigh_batched if solver == "batched" else cusolver.eigh_each
    at_once = max(1, BATCH_BYTES // (d * d * dtype.itemsize))
    if 0 < k <= at_once:
        values, vectors, sound = _solved(S, dtype, solve)
    else:
        values, vectors, sound = xp.empty((k, d)), xp.empty((k, d, d), dtype), xp.empty(k, bool)
        for start in range(0, k, at_once):
            part = slice(start, start + at_once)
            values[part], vectors[part], sound[part] = _solved(S[part], dtype, solve)
    failed = []
    for c in [c for c, is_sound in enumerate(sound.tolist()) if not is_sound]:  # the host waits
        one = slice(c, c + 1)
        values[one], vectors[one], mended = _solved(S[one], np.dtype(np.float64), cusolver.eigh_each)
        failed += [] if bool(mended) else [c]
    if failed:
        raise _not_converged(failed, k)
    return values, vectors


def _solved(S: Array, dtype: np.dtype, solve: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array, Array]:
    """Eigenvalues, descending, and eigenvectors, and for which of the matrices they are right, (k,) bool.

    Sound vectors are orthonormal and S turns them by their eigenvalues, for solvers give wrong vectors now and then and
    say nothing of it (as in cupy#4847).
    """
    xp, d = loader.namespace(S), S.shape[-1]
    # Scaled, for second moments of tame float32 rows can leave float32's range.
    scale = traces(S)[:, None]
    scale = xp.where(scale > 0, scale, 1)
    scaled = (S / scale[:, :, None]).astype(dtype)
    w, V = solve(scaled)
    # Probed by some rows of signs, which takes a small part of the time that whole products take.
    signs = xp.asarray(_signs(d).astype(dtype))
    rows = signs @ V
    off, rest = rows @ xp.swapaxes(V, 1, 2) - signs, rows @ scaled - (signs * w[:, None, :]) @ V
    tolerance, largest = UNSOUND * np.sqrt(d) * float(np.finfo(dtype).eps), xp.abs(w).max(axis=1)[:, None, None]
    sound = (xp.abs(off) <= tolerance).all(axis=(1, 2)) & (xp.abs(rest) <= tolerance * largest).all(axis=(1, 2))
    return xp.maximum(w[:, ::-1] * scale, 0), V[:, ::-1], sound  # NaN is not sound


@functools.lru_cache(maxsize=16)
def _signs(d: int) -> np.ndarray:
    """Rows of ones and minus ones. Two errors of one size may cancel in one row, but not in the next."""
    return np.random.default_rng(d).choice([-1, 1], (PROBES, d))


def _jacobi(S: Array, dtype: np.dtype) -> tuple[Array, Array, Array]:
    """Eigenvalues, eigenvectors, and how many sweeps it took, 0 for a matrix that did not converge."""
    xp, (k, d) = loader.namespace(S), S.shape[:2]
    layout = _layout(dtype, d)
    values, vectors, sweeps = xp.empty((k, d)), xp.empty((k, d, d), dtype), xp.empty(k, np.int32)
    tolerance = np.finfo(dtype).eps * np.sqrt(d)
    # A sweep with cosines and sines of at most s leaves cosines of at most 2 d s^2.
    settled = np.sqrt(tolerance / (2 * d))
    threads, limits = 32 * -(-d // layout.columns), (dtype.type(tolerance), dtype.type(settled))
    args = (xp.ascontiguousarray(S, dtype=np.float64), np.int32(d), *limits, values, vectors, sweeps)
    loader.kernel("eigen", "eigen", _defines(dtype, layout))((k,), (threads,), args)
    return values, vectors, sweeps


def _raise_unless_converged(sweeps: Array) -> None:
    """An error if the Jacobi kernel failed; the host waits."""
    counts = sweeps.tolist()
    if 0 in counts:
        raise _not_converged([c for c, count in enumerate(counts) if count == 0], len(counts))


def _not_converged(failed: Sequence[int], k: int) -> RuntimeError:
    return RuntimeError(
        f"the eigenvectors of {len(failed)} of {k} matrices did not converge, the first being number {failed[0]}: its "
        "second moments are not finite, or not positive semidefinite; check X and the weights for NaN, infinity and "
        "numbers whose squares overflow"
    )


def batched_svd(blocks: Sequence[Array], rank: Sequence[int] | int) -> Eigenspaces:
    """Leading right singular subspaces of blocks A (n_c, d), by way of the smaller of A A^T and A^T A in float64.

    With A A^T = L L^T the block is L Q, Q with orthonormal rows, so that the Jacobi kernel's turns of the columns of L
    are a one-sided Jacobi of the block itself, at its smaller side. Squares of float32 lose nothing in float64;
    of float64 blocks, singular values below 1e-8 of the largest are lost, and their directions then arbitrary: 1e-16
    of the block's sum of squares.
    """
    xp, dtype, d = loader.namespace(blocks[0]), blocks[0].dtype, blocks[0].shape[1]
    exact = [block.astype(np.float64) for block in blocks]
    sides = [min(A.shape) for A in exact]
    grams = xp.zeros((len(blocks), max(1, *sides), max(1, *sides)))
    for gram, A, side in zip(grams, exact, sides, strict=True):
        gram[:side, :side] = A @ A.T if side < d else A.T @ A
    values, vectors = eigh(grams, np.dtype(np.float64))
    if min(sides) < values.shape[1]:
        values *= xp.asarray(np.arange(values.shape[1]) < np.asarray(sides)[:, None])

    layout = layout_of(d, (rank,) * len(blocks) if isinstance(rank, int) else tuple(rank))
    bases = xp.empty((layout.total, d), dtype)
    complements = xp.empty((layout.complements.total, d), dtype) if layout.has_wide else None
    for c, (A, U, side, j) in enumerate(zip(exact, vectors, sides, layout.dims, strict=True)):
        rows = U if side == d else _completed(xp, U[:, :side][: min(side, j)] @ A, j)
        bases[layout.rows(c)] = rows[:j]
        if complements is not None and layout.wide[c]:
            complements[layout.complements.rows(c)] = rows[j:]
    return Eigenspaces(layout, bases, values, complements)


def _completed(xp: ModuleType, rows: Array, j: int) -> Array:
    """j orthonormal rows, or all d if a complement is wanted; the first of them span what ``rows`` (up to j, d) do.

    Householder's QR makes up what is missing where rows are few, dependent or zero.
    """
    count, d = rows.shape
    if wants_complement(j, d):
        return xp.linalg.qr(rows.T, mode="complete")[0].T
    if count < j:
        rows = xp.concatenate([rows, xp.zeros((j - count, d))])
    return xp.linalg.qr(rows.T)[0].T
