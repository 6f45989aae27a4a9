"""Second moments on a GPU: rows grouped by cluster, multiplied slot by slot, and summed in a fixed order.

Partial sums of a slot of ``CHUNK`` rows are in X's dtype (float32: three TF32 products on tensor cores, as accurate as
float32), everything beyond a slot is float64. Extra memory is at most ``WORKSPACE`` and O(n + k d).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Kept
from ..groups import Groups
from ..moments import Moments, combined
from . import loader
from .groups import CHUNK, Slots, cut, group_rows
from .memory import contiguous, or_null, pieces

DEPTH = 16
STAGES = 3
PATCH = 32
WORKSPACE = 256 << 20  # bytes of partial products at a time


def _of_sums(dtype: DTypeLike) -> loader.Defines:
    return {"REAL": "float" if dtype == np.float32 else "double", "CHUNK": CHUNK}


def _of_products(dtype: DTypeLike, tile: int, piece: int) -> loader.Defines:
    return {**_of_sums(dtype), "TILE": tile, "PIECE": piece, "DEPTH": DEPTH, "STAGES": STAGES}


VARIANTS: list[loader.Variant] = [
    *(("sums", _of_sums(dtype)) for dtype in (np.float32, np.float64)),
    *(
        ("moments", _of_products(dtype, tile, piece))
        for dtype, tile, large in ((np.float32, 64, 4), (np.float32, 128, 4), (np.float64, 64, 2))
        for piece in (1, large)
    ),
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    products = [_of_products(real, _tile(real, d), pieces(real, d)) for real in {dtype, np.dtype(np.float64)}]
    return [("sums", _of_sums(dtype)), *(("moments", defines) for defines in products)]


def _tile(dtype: DTypeLike, d: int) -> int:
    return 128 if d > 64 and dtype == np.float32 else 64


def second_moments(
    X: Array,
    groups: Groups,
    weights: Array | None = None,
    center: bool = False,
    products: bool = True,
    dtype: DTypeLike | None = None,
    kept: Kept | None = None,
) -> Moments:
    d = X.shape[1]
    if dtype is not None and X.dtype != dtype:
        total = combined(
            second_moments(X[rows].astype(dtype), part, None if weights is None else weights[rows], center, products)
            for rows, part in groups.parts(max(1, WORKSPACE // (8 * d)))
        )
        assert total is not None
        return total
    given = contiguous(X, X.dtype), cut(groups, CHUNK), _float64(weights)
    key, kept = (_Work, center, products), {} if kept is None else kept
    if key not in kept or not kept[key].is_of(*given):
        kept[key] = _Work(*given, center, products)
    work: _Work = kept[key]
    moments = kept[Moments] = work.moments(groups)  # the numbers of all before are gone
    return moments


class _Work:
    """Moments of groups of the same rows, in the same memory each time, and the launches that lead to them."""

    def __init__(self, X: Array, slots: Slots, weights: Array | None, center: bool, products: bool) -> None:
        xp, k, d = loader.namespace(X), slots.groups.k, X.shape[1]
        self.X, self.owners, self.weights, self.center = X, slots.owners, weights, center
        self.raw, self.first, self.mass, self.origins, means = (None,) * 5
        self.launches: list[Callable[[], None]] = []
        if center or not products:
            # Any origin near the mean will do: what it misses is in ``first`` and corrected exactly.
            self.origins, means = xp.empty((k, d)), xp.empty((k, d), X.dtype) if center else None
            self.first, self.mass, self.launches = _sums(X, slots, k, weights, None, self.origins, means)
        if products:
            self.raw = xp.empty((k, d, d))
            self.launches += _products(self.raw, X, slots, weights, means, fresh=True)

    def is_of(self, X: Array, slots: Slots, weights: Array | None) -> bool:
        """Whether these are the rows, and the memory that groups are in."""
        return X is self.X and slots.owners is self.owners and weights is self.weights

    def moments(self, groups: Groups) -> Moments:
        for launch in self.launches:
            launch()
        return Moments(self.raw, self.first, self.mass, groups.counts, self.origins, self.center)


def update_moments(
    moments: Moments, X: Array, rows: Array, old: Array, new: Array, weights: Array | None = None
) -> None:
    xp, k = loader.namespace(X), len(moments.counts)
    X, weights = contiguous(X, X.dtype), _float64(weights)
    # Rows leave the groups 0 .. k - 1 and enter the groups k .. 2 k - 1.
    groups = group_rows(xp.concatenate([old, new + k]), 2 * k).among(xp.concatenate([rows, rows]))
    slots = cut(groups, CHUNK)
    moments.counts = moments.counts + groups.counts[k:] - groups.counts[:k]
    means = None
    if moments.first is not None:
        known, means = moments.known_sums, moments.known_sums[2].astype(X.dtype)
        *changes, launches = _sums(X, slots, k, weights, known[2], None, None)
        for launch in launches:
            launch()
        for held, change in zip(known, changes, strict=False):
            held += change[k:] - change[:k]
    if moments.raw is not None:
        for launch in _products(moments.raw, X, slots, weights, means, fresh=False):
            launch()


def _float64(weights: Array | None) -> Array | None:
    return None if weights is None else contiguous(weights, np.dtype(np.float64))


def _sums(
    X: Array,
    slots: Slots,
    k: int,
    weights: Array | None,
    origins: Array | None,
    new_origins: Array | None,
    means: Array | None,
) -> tuple[Array, Array, list[Callable[[], None]]]:
    """Sums of ``w (x - o)`` (groups, d) and ``w`` (groups,) over each group, float64; group g is about origin g mod k.
    The launches are still to be made.

    About ``new_origins``, which are to be the means in X's precision, or zero without ``means``, if there is room for
    them.
    """
    xp = loader.namespace(X)
    d, n_slots, n_groups = X.shape[1], len(slots.owners), slots.groups.k
    defines = _of_sums(X.dtype)
    parts, first, mass = xp.empty((n_slots, d + 1)), xp.empty((n_groups, d)), xp.empty(n_groups)
    inputs = (X, or_null(weights), or_null(origins), *slots.arguments, np.int32(k), np.int32(d))
    strips = -(-(d + 1) // 32)
    add, fold = (loader.kernel("sums", name, defines) for name in ("sums", "fold_sums"))
    shape = slots.slots, np.int32(n_groups), np.int32(d), np.int32(means is not None)
    results = first, mass, or_null(new_origins), or_null(means)
    adding = partial(add, (n_slots * strips,), (32, 8), (*inputs, parts))
    folding = partial(fold, (-(-first.size // 256),), (256,), (parts, *shape, *results))
    return first, mass, [adding, folding]


def _products(
    raw: Array, X: Array, slots: Slots, weights: Array | None, origins: Array | None, fresh: bool
) -> list[Callable[[], None]]:
    """Launches that add ``sum w (x - o)(x - o)^T`` of k groups to raw moments; of 2 k groups, those c + k less those c.

    ``fresh`` ones are uninitialised memory.
    """
    xp = loader.namespace(X)
    (k, d), n_slots = raw.shape[:2], len(slots.owners)
    if n_slots == 0:
        return [partial(raw.fill, 0)] if fresh else []
    tile = _tile(X.dtype, d)
    defines = _of_products(X.dtype, tile, pieces(X.dtype, d, X))
    multiply, fold = (loader.kernel("moments", name, defines) for name in ("products", "fold_products"))
    inputs = (X, or_null(weights), or_null(origins), *slots.arguments, np.int32(k), np.int32(d))

    tiles, patches = _triangle(-(-d // tile)), _triangle(-(-d // PATCH))
    slot_size, shared = tiles * tile * tile, _shared_memory(tile, X.dtype.itemsize)
    at_once = max(1, min(n_slots, WORKSPACE // (slot_size * X.dtype.itemsize)))
    parts = xp.empty(at_once * slot_size, dtype=X.dtype)
    threads: tuple[int, ...] = (256 if tile == 128 else 128,)
    launches: list[Callable[[], None]] = []
    for first in range(0, n_slots, at_once):
        last = min(first + at_once, n_slots)
        args = (*inputs, np.int64(first), parts)
        launches.append(partial(multiply, ((last - first) * tiles,), threads, args, shared_mem=shared))
        span = np.int32(k), np.int32(d), np.int64(first), np.int64(last), np.int32(fresh and first == 0)
        args = (parts, slots.slots, np.int32(slots.groups.k), *span, raw)
        launches.append(partial(fold, (k * patches,), (PATCH, 8), args))
    return launches


def _shared_memory(tile: int, itemsize: int) -> int:
    """What a block of ``products`` keeps: row numbers, stages of rows, scales and origins."""
    stage = DEPTH * (tile + (8 if itemsize == 4 else 0))
    return CHUNK * 8 + (2 * STAGES * stage + CHUNK + 2 * tile) * itemsize


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
