"""Refits that do not wait: block power steps ``V <- orth(V S)``, and what flats leave of second moments.

For positive semidefinite S a step captures at least what the basis before it did, ``tr(V' S V'^T) >= tr(V S V^T)``, so
that it is a valid refit while labels still move. Up to d = 128 a kernel takes all steps of all matrices in one launch.

Above, products of the library do. There a Chebyshev filter follows a step, for the time that another step would take:
descents from random labels then went as exact refits do (words of MiniLM, k=5 j=215, objective after 5 steps: exact
.12936, two steps a refit .12974, eight .12929, a step and the filter .12926). Of a filter nothing is promised, but in
trials it never captured less. Rows are made orthonormal by Cholesky-QR in one launch: Cholesky factors of the library
took five times as long, most of it on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from types import ModuleType
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Eigenspaces, Flats, Kept, Layout
from ..moments import Moments
from . import loader
from .memory import contiguous, keep, or_null

CHEAP_STEPS = 4
"""Of a refit by the kernel: one lags behind exact refits, and more than two bring little."""

ROUNDS = 3
"""Of steps and filters that stand for an exact refit, which settles what steps have settled on. In trials with NumPy
descents of 14 problems (k=5 to 10, d=64 to 136) ended as those with eigenvectors did, within .0002 of the objective."""

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


def power_steps(
    S: Array, layout: Layout, dtype: np.dtype, start: Array | None = None, kept: Kept | None = None, rounds: int = 1
) -> Eigenspaces:
    """Power steps for S (k, d, d) from the stacked bases ``start``, or from any. The host does not wait.

    By products there are ``rounds`` times as many.

    Neither eigenvalues nor complements come with it. Where ``ok`` is false S is not finite, or a Cholesky factor has
    failed; the basis is then what it started from.
    """
    if layout.total == 0:
        return Eigenspaces(layout, loader.namespace(S).empty((0, layout.d), dtype), None, None, exact=False)
    if start is not None:
        start = contiguous(start, dtype)
    xp = loader.namespace(S)
    bases, ok = xp.empty((layout.total, layout.d), dtype), xp.empty(layout.k, bool)
    if _has_room(layout, lambda: _shared_memory(layout, dtype)):
        _by_kernel(S, layout, start, bases, ok)
    else:
        work = keep(kept, (Products, layout), lambda: Products(layout, S))
        work.step(S, start, bases, ok, rounds, current=None if kept is None else kept.get(Moments))
    return Eigenspaces(layout, bases, None, None, exact=False, ok=ok)


def _has_room(layout: Layout, needed: Callable[[], int]) -> bool:
    """Whether a block's shared memory takes what the kernels need."""
    return layout.d <= REACH and needed() <= loader.limits().shared_memory


def _pitch(layout: Layout) -> int:
    """Numbers from one column of a basis to the next: an odd multiple of four, so that lanes use different banks."""
    return 4 * (-(-layout.width // 4) | 1)


def _shared_memory(layout: Layout, dtype: np.dtype) -> int:
    pitch, d = _pitch(layout), layout.d
    return 8 * pitch * (pitch + 1) + dtype.itemsize * d * (d + 2 * pitch)


def _by_kernel(S: Array, layout: Layout, start: Array | None, bases: Array, ok: Array) -> None:
    S = contiguous(S, np.float64)
    shape = np.int32(layout.d), layout.sent(S, "starts"), np.int32(_pitch(layout))
    steps = np.int32(FIRST_STEPS if start is None else CHEAP_STEPS)
    threads = THREADS if layout.d * layout.width > 2 * THREADS else THREADS // 2
    run, shared = loader.kernel("power", "power", _defines(bases.dtype)), _shared_memory(layout, bases.dtype)
    run((layout.k,), (threads,), (S, *shape, steps, or_null(start), bases, ok), shared_mem=shared)


class Products:
    """Steps and filters by products of the library: memory that they take, and launches.

    All is in float64 whatever the dtype: one direction may have a thousand times the share of others, as the mean of
    word vectors has, and rows are then too much alike for a factor in float32.

    Attributes
    ----------
    bases : array or None
        Those that the last step led to, or whose objective was measured last; V has them in float64.
    measured : Moments or None
        Those of that objective; ``other`` is then the product of V and their ``raw``.
    """

    measured: Moments | None = None

    def __init__(self, layout: Layout, like: Array) -> None:
        self.xp, self.layout, self.bases = loader.namespace(like), layout, cast("Array | None", None)
        xp, k, width, d = self.xp, layout.k, layout.width, layout.d
        self.V, self.other = xp.empty((k, width, d)), xp.empty((k, width, d))
        self.d, self.width, self.starts = np.int32(d), np.int32(width), layout.sent(like, "starts")
        self.rows, pieces, of_filter = np.int64(k * width), k * PIECES, -(-width * d // THREADS) - (-d * d // THREADS)
        rayleigh = -(-k * width // (THREADS // 32))
        self.run = _launches(begin=pieces, end=pieces, weigh=pieces, rayleigh=rayleigh, filter=k * of_filter)

    @cached_property
    def of_steps(self) -> tuple[Array, Array, Array]:
        """S over its trace, the right factor of a filter, and Rayleigh quotients."""
        k, width, d = self.V.shape
        return self.xp.empty((k, d, d)), self.xp.empty((k, d, d)), self.xp.empty((k, width))

    @cached_property
    def orthonormal(self) -> Orthonormal:
        """Makes rows orthonormal."""
        return Orthonormal(self.layout, self.V)

    @cached_property
    def of_sums(self) -> tuple[Array, Array, Array]:
        """Parts of what flats leave, counters of parts, and the sums."""
        k = self.layout.k
        return self.xp.empty(k * PIECES), self.xp.zeros(k, np.uint32), self.xp.empty(k)

    def step(
        self, S: Array, start: Array | None, bases: Array, ok: Array, rounds: int, current: Moments | None
    ) -> None:
        """Steps for S. If it is that of the ``current`` moments, which were measured last, a product is at hand."""
        known = start is not None and start is self.bases
        known = known and current is not None and current is self.measured and current.raw is S
        self.measured = None
        S, single = contiguous(S, np.float64), np.int32(bases.dtype == np.float32)
        shape, where, (M, right, along) = (self.d, self.starts, self.width), (or_null(start), single), self.of_steps
        self.run["begin"]((S, *shape, *where, self.other if known else loader.NULL, M, self.V, ok))
        steps, filters = FIRST if start is None else (1, 1)
        for _ in range(rounds):
            for _ in range(steps):  # what one loses the next makes good
                if not known:
                    self.V, self.other = self.xp.matmul(self.V, M, out=self.other), self.V
                known = False
                self.orthonormal(self.V)
            for left in reversed(range(filters)):
                self._filter(M, right, along)
                self.orthonormal(self.V, None if left else ok)
        if not single:
            self.orthonormal(self.V)  # for the digits that the condition of the rows has cost
        self.run["end"]((self.V, *shape, *where, ok, bases))
        self.bases = bases

    def _filter(self, M: Array, right: Array, along: Array) -> None:
        """Rows of V become themselves times a Chebyshev polynomial of S, small below the eigenvalues they have reached.

        It is a product of two factors.
        """
        H = self.xp.matmul(self.V, M, out=self.other)
        self.run["rayleigh"]((self.V, H, self.rows, self.d, along))
        self.run["filter"]((along, self.starts, self.width, H, self.V, M, self.d, right))
        self.V, self.other = self.xp.matmul(H, right, out=self.V), H

    def measure(self, moments: Moments, flats: Flats) -> Array:
        """What flats leave of second moments."""
        S = moments.about(moments.shifts(flats))
        if flats.bases is not self.bases:
            self.V, self.bases = self.layout.pad(flats.bases).astype(np.float64), flats.bases
        H, (pieces, ended, left) = self.xp.matmul(self.V, S, out=self.other), self.of_sums
        self.measured = moments if S is moments.raw else None
        self.run["weigh"]((S, self.d, self.width, self.V, H, pieces, ended, left))
        return left


class Orthonormal:
    """Orthonormal rows in place of those of Y (k, width, d), by Cholesky-QR; anything where ``ok`` becomes false.

    Of the lengths of the rows, which differ most, neither the factor nor the substitution takes notice.
    """

    def __init__(self, layout: Layout, like: Array) -> None:
        self.xp, (k, width, d) = loader.namespace(like), (layout.k, layout.width, layout.d)
        self.ones = _ones(self.xp, layout, like)
        panels = -(-width // PANEL)
        self.gram, self.turns = self.xp.empty((k, width, width)), self.xp.zeros(2 + k * panels, np.uint32)
        self.width, self.d = np.int32(width), np.int32(d)
        self.eliminate = _launches(eliminate=k * (panels - 1 - (-d // PANEL)))["eliminate"]

    def __call__(self, Y: Array, ok: Array | None = None) -> None:
        self.xp.matmul(Y, Y.swapaxes(1, 2), out=self.gram)
        if self.ones is not None:
            self.gram += self.ones
        self.eliminate((self.gram, self.width, Y, self.d, or_null(ok), self.turns))


def _launches(**blocks: int) -> dict[str, Callable[..., None]]:
    """Kernels of subspace.cu by name, with the blocks that each takes; arguments are left."""
    return {name: partial(loader.kernel("subspace", name), (most,), (THREADS,)) for name, most in blocks.items()}


def _ones(xp: ModuleType, layout: Layout, like: Array) -> Array | None:
    """Ones for the diagonals of Gram matrices (k, width, width) where rows of zeros fill bases up."""
    if layout.uniform:
        return None
    filled = xp.arange(layout.width) >= layout.sent(like, "sizes")[:, None]
    return filled[:, :, None] * xp.eye(layout.width)


def complements(layout: Layout, bases: Array) -> Array:
    """Orthonormal rows spanning what the wide flats leave, stacked, by products alone."""
    xp, left = loader.namespace(bases), layout.complements
    V, W = layout.pad(bases).astype(np.float64), xp.empty((left.k, left.width, left.d))
    shape = np.int32(left.d), left.sent(bases, "starts"), np.int32(left.width)
    begin, null = _launches(begin=left.k * PIECES)["begin"], loader.NULL
    begin((null, *shape, null, np.int32(0), null, null, W, null))
    orthonormal = Orthonormal(left, bases)
    for _ in range(2):
        W -= (W @ xp.swapaxes(V, 1, 2)) @ V
        orthonormal(W)
    return left.pack(W).astype(bases.dtype)


def measure_objective(moments: Moments, flats: Flats, kept: Kept | None = None) -> Array:
    layout, d, raw = flats.layout, flats.layout.d, moments.known_raw
    if not _has_room(layout, lambda: 8 * d * _pitch(layout)):
        return keep(kept, (Products, layout), lambda: Products(layout, raw)).measure(moments, flats)
    left, starts, V = loader.namespace(raw).empty(layout.k), layout.sent(raw, "starts"), flats.bases
    means = or_null(moments.first), or_null(moments.mass), np.int32(d), or_null(moments.shifts(flats))
    pitch = _pitch(layout)
    args = (raw, *means, starts, np.int32(pitch), V, left)
    loader.kernel("power", "leave", _defines(V.dtype))((layout.k,), (THREADS,), args, shared_mem=8 * d * pitch)
    return left
