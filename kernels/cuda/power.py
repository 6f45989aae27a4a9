"""Refits that do not wait: block power steps ``V <- orth(V S)``, and what flats leave of second moments.

For positive semidefinite S a step captures at least what the basis before it did, ``tr(V' S V'^T) >= tr(V S V^T)``, so
that it is a valid refit while labels still move. Up to d = 128 a kernel takes all steps of all matrices in one launch.

Above, products of the library do. There a Chebyshev filter follows a step, for the time that another step would take:
descents from random labels then went as exact refits do (words of MiniLM, k=5 j=215, objective after 5 steps: exact
.12936, two steps a refit .12974, eight .12929, a step and the filter .12926). Of a filter nothing is promised, but in
trials it never captured less. Rows are made orthonormal by Cholesky-QR, panel by panel, in one launch each: Cholesky
factors of the library took five times as long, most of it on the host.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Eigenspaces, Flats, Layout
from ..moments import Moments
from . import loader
from .memory import or_null

CHEAP_STEPS = 4
"""Of a refit by the kernel: one lags behind exact refits, and more than two bring little."""

FIRST_STEPS, FIRST = 8, (2, 3)
"""Where there is no basis to start from: of the kernel, and steps and filters by products, which then get further."""

REACH = 128
"""Largest d of the kernels. Above it, few blocks would have much to do."""

THREADS, PANEL, PIECES = 256, 32, 32  # as in the sources


def _defines(dtype: DTypeLike) -> loader.Defines:
    return {"REAL": "float" if dtype == np.float32 else "double"}


VARIANTS: list[loader.Variant] = [
    ("subspace", {}),
    *(("power", _defines(dtype)) for dtype in (np.float32, np.float64)),
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return [("power", _defines(dtype))] if d <= REACH else [("subspace", {})]


def power_steps(S: Array, layout: Layout, dtype: np.dtype, start: Array | None = None) -> Eigenspaces:
    """Power steps for S (k, d, d) from the stacked bases ``start``, or from any. The host does not wait.

    Neither eigenvalues nor complements come with it. Where ``ok`` is false S is not finite, or a Cholesky factor has
    failed; the basis is then what it started from.
    """
    if layout.total == 0:
        return Eigenspaces(layout, loader.namespace(S).empty((0, layout.d), dtype), None, None, exact=False)
    if start is not None:
        start = start.astype(dtype, copy=False)
    xp = loader.namespace(S)
    bases, ok = xp.empty((layout.total, layout.d), dtype), xp.empty(layout.k, bool)
    by = _by_kernel if _shared_memory(layout, dtype) <= _room(layout) else _by_products
    by(S, layout, start, bases, ok)
    return Eigenspaces(layout, bases, None, None, exact=False, ok=ok)


def _room(layout: Layout) -> int:
    return loader.limits().shared_memory if layout.d <= REACH else 0


def _pitch(layout: Layout) -> int:
    """Numbers from one column of a basis to the next: an odd multiple of four, so that lanes use different banks."""
    return 4 * (-(-layout.width // 4) | 1)


def _shared_memory(layout: Layout, dtype: np.dtype) -> int:
    pitch, d = _pitch(layout), layout.d
    return 8 * pitch * (pitch + 1) + dtype.itemsize * d * (d + 2 * pitch)


def _by_kernel(S: Array, layout: Layout, start: Array | None, bases: Array, ok: Array) -> None:
    S = loader.namespace(S).ascontiguousarray(S, dtype=np.float64)
    shape = np.int32(layout.d), layout.sent(S, "starts"), np.int32(_pitch(layout))
    steps = np.int32(FIRST_STEPS if start is None else CHEAP_STEPS)
    threads = THREADS if layout.d * layout.width > 2 * THREADS else THREADS // 2
    run, shared = loader.kernel("power", "power", _defines(bases.dtype)), _shared_memory(layout, bases.dtype)
    run((layout.k,), (threads,), (S, *shape, steps, or_null(start), bases, ok), shared_mem=shared)


def _by_products(S: Array, layout: Layout, start: Array | None, bases: Array, ok: Array) -> None:
    """In float64 whatever the dtype: one direction may have a thousand times the share of others, as the mean of word
    vectors has, and rows are then too much alike for a factor in float32."""
    xp, single = loader.namespace(S), np.int32(bases.dtype == np.float32)
    M, V, ones = xp.empty(S.shape), xp.empty((layout.k, layout.width, layout.d)), _ones(xp, layout, S)
    shape, where = (np.int32(layout.d), layout.sent(S, "starts"), np.int32(layout.width)), (or_null(start), single)
    S = xp.ascontiguousarray(S, dtype=np.float64)
    _launch("begin", layout.k * PIECES, S, *shape, *where, M, V, ok)
    steps, filters = FIRST if start is None else (1, 1)
    for _ in range(steps):  # what one loses the next makes good
        V = _orthonormal(xp, V @ M, ones)
    for left in reversed(range(filters)):
        V = _orthonormal(xp, _filtered(xp, layout, M, V), ones, None if left else ok)
    if bases.dtype == np.float64:
        V = _orthonormal(xp, V, ones)  # for the digits that the condition of the rows has cost
    _launch("end", layout.k * PIECES, V, *shape, *where, ok, bases)


def _launch(name: str, blocks: int, *args: loader.Argument) -> None:
    loader.kernel("subspace", name)((blocks,), (THREADS,), args)


def _filtered(xp: ModuleType, layout: Layout, S: Array, V: Array) -> Array:
    """Rows of V (k, width, d) times a Chebyshev polynomial of S, small below the eigenvalues that V has reached."""
    k, width, d = V.shape
    H, along, starts = V @ S, xp.empty((k, width)), layout.sent(S, "starts")
    _launch("rayleigh", -(-k * width // (THREADS // 32)), V, H, np.int64(k * width), np.int32(d), along)

    def turn(X: Array, Y: Array | None, last: bool = False) -> Array:
        out, rows = xp.empty_like(X), X.shape[1]
        shape = np.int32(rows), np.int32(d), np.bool_(last)
        _launch("filter", k * -(-rows * d // THREADS), along, starts, np.int32(width), X, or_null(Y), *shape, out)
        return out

    return turn(turn(H, V) @ turn(S, None), V, last=True)


def _ones(xp: ModuleType, layout: Layout, like: Array) -> Array | None:
    """Ones for the diagonals of Gram matrices (k, width, width) where rows of zeros fill bases up."""
    if layout.uniform:
        return None
    filled = xp.arange(layout.width) >= layout.sent(like, "sizes")[:, None]
    return filled[:, :, None] * xp.eye(layout.width)


def _orthonormal(xp: ModuleType, Y: Array, ones: Array | None, ok: Array | None = None) -> Array:
    """Orthonormal rows in place of those of Y (k, j, d), by Cholesky-QR; anything where ``ok`` becomes false.

    Of the lengths of the rows, which differ most, neither the factor nor the substitution takes notice.
    """
    k, j, d = Y.shape
    gram = Y @ xp.swapaxes(Y, 1, 2)
    if ones is not None:
        gram += ones
    for first in range(0, j, PANEL):
        strips = -(-(j - first) // PANEL) - 1 + -(-d // PANEL)
        _launch("eliminate", k * strips, gram, np.int32(j), Y, np.int32(d), np.int32(first), or_null(ok))
    return Y


def complements(layout: Layout, bases: Array) -> Array:
    """Orthonormal rows spanning what the wide flats leave, stacked, by products alone."""
    xp, left = loader.namespace(bases), layout.complements
    V, W, ones = layout.pad(bases).astype(np.float64), xp.empty((left.k, left.width, left.d)), _ones(xp, left, bases)
    shape = np.int32(left.d), left.sent(bases, "starts"), np.int32(left.width)
    _launch("begin", left.k * PIECES, loader.NULL, *shape, loader.NULL, np.int32(0), loader.NULL, W, loader.NULL)
    for _ in range(2):
        W = _orthonormal(xp, W - (W @ xp.swapaxes(V, 1, 2)) @ V, ones)
    return left.pack(W).astype(bases.dtype)


def measure_objective(moments: Moments, flats: Flats) -> Array:
    layout, d, raw, shifts = flats.layout, flats.layout.d, moments.known_raw, moments.shifts(flats)
    xp, defines, V = loader.namespace(raw), _defines(flats.bases.dtype), flats.bases
    starts, shared = layout.sent(raw, "starts"), 8 * d * _pitch(layout)
    if shared <= _room(layout):
        left = xp.empty(layout.k)
        means = or_null(moments.first), or_null(moments.mass), np.int32(d), or_null(shifts)
        loader.kernel("power", "leave", defines)(
            (layout.k,), (THREADS,), (raw, *means, starts, np.int32(_pitch(layout)), V, left), shared_mem=shared
        )
        return left
    S, V = moments.about(shifts), layout.pad(V).astype(np.float64)
    pieces, left = xp.empty(layout.k * PIECES), xp.empty(layout.k)
    _launch("weigh", len(pieces), S, np.int32(d), np.int32(layout.width), V, V @ S, pieces)
    loader.kernel("subspace", "add_pieces")((layout.k,), (PIECES,), (pieces, left))
    return left
