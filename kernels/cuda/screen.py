"""Labels from one product in float16, where they are proven, and in float32 for the rows left.

Two kernels screen: ``screen.cu`` flats of few dimensions, with rows in registers, and ``assign.cu`` the others, whose
distances it gives in parts. What is around them stands in ``halves.cu``.

Notes
-----
**The bound.** A row x, scaled to a length of about 1, becomes x' in float16, and the directions V of a flat become V'.
With e_x = |x - x'|, with e_V, at least the spectral norm of V - V', both measured, and with g, what tensor cores lose,

    |V x - V' x'|  <=  |V (x - x')| + |(V - V') x'| + g  <=  e  =  e_x + (e_V + g) |x|

so that ``|V' x'|^2`` is off by at most ``e (2 |V x| + e)``. A flat is the nearest for certain if it is nearer than any
other by more than the sum of what both may be off by.

- e_V: directions go in pieces of 64; the squared norm of E = V - V' is at most the sum of those of its pieces, and that
  of a piece is the norm of ``E E^T``, at most its norm of Frobenius and its largest sum of absolute values in a row.
- g: tensor cores add eight products at a time to a sum that they round toward zero. With the sums of all directions as
  a vector, each addition loses at most 2^-22 of its length, and that is at most |x|: ``g = (d / 8) 2^-22``.
- An offset m counts by its part across the flat: ``|x|^2 - |V x|^2 - 2 m x + |m|^2``. In two halves m loses nothing
  that matters, and ``2 m x`` is off by ``2 |m| e_x``.
- screen.cu keeps a flat's number in the last bits of its key, which lose ``(number + 1) 2^-23`` of it.

Rows for which two flats alone are within the bound are decided between these; rows with more, among all flats. All
lists have room for every row, so a bound that proves nothing costs time and no label.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TypeAlias, cast

import numpy as np

from ..flats import Array, Flats, Kept, Layout
from . import loader
from .columns import ROWS, Columns, Parts, shared_memory
from .halves import half_rows, steps_of
from .memory import Place, contiguous, place

Arguments: TypeAlias = "tuple[loader.Argument, ...]"

VARIANTS: list[loader.Variant] = [
    *(("screen", {"STEPS": steps, "PLAIN": plain}) for steps in (1, 2, 4, 8) for plain in (0, 1)),
    *(("assign", {"PRODUCT": "Half", "RESIDENT": r}) for r in (0, 1)),
    *(("assign", {"PRODUCT": "SplitTF32", "RESIDENT": r, "LISTED": 1}) for r in (0, 1)),
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    if dtype != np.float32:
        return []
    resident, resident32 = (shared_memory(-(-d // step), TILE, 4)[0] for step in (STEP, STEP32))
    wide: list[loader.Variant] = [
        ("assign", _of_assign("Half", resident)),
        ("assign", _of_assign("SplitTF32", resident32)),
    ]
    narrow: list[loader.Variant] = (
        [("screen", {"STEPS": steps_of(d), "PLAIN": plain}) for plain in (0, 1)] if d <= LONGEST else []
    )
    return wide + narrow


def _of_assign(product: str, resident: bool) -> loader.Defines:
    return {"PRODUCT": product, "RESIDENT": int(resident), **({} if product == "Half" else {"LISTED": 1})}


# As in the sources.
STEP, STEP32, PIECE, FRAGMENT = 32, 16, 64, 8
TILE = 128  # columns of assign.cu
STAGE_BYTES, STAGES = 16384, 3  # of screen.cu
MTILES = {1: 4, 2: 4, 4: 2, 8: 1}
WIDEST, LONGEST = PIECE, 256

FEWEST = 16  # flats for which screen.cu pays
FEWEST_DIRECTIONS = 128  # for which assign.cu does
LARGE = 1 << 30  # bytes of rows that are screened only if there is twice as much room
PRODUCTS = 1 << 27  # multiplications for which screening pays at all
LISTED_SHARE = 100  # of so many rows one, about, is listed
MOST_SPLITS = 16
MOST_BLOCKS = 1 << 14  # that find nothing to do for rows that are not listed


def pays(X: Array, flats: Flats, *, residuals: bool, kept: Kept | None) -> bool:
    """Whether labels come faster by screening."""
    n, d = X.shape
    directions = flats.direction_layout
    if X.dtype != np.float32 or flats.k < 2 or n == 0 or n * d * directions.total < PRODUCTS:
        return False
    if not is_narrow(directions) and (residuals or directions.total < FEWEST_DIRECTIONS):
        return False
    return bool(kept) or X.nbytes < LARGE or 2 * X.nbytes < _free_bytes(X)


def _free_bytes(X: Array) -> int:
    """Of the memory where X lives."""
    xp = loader.namespace(X)
    return int(xp.cuda.runtime.memGetInfo()[0] + xp.get_default_memory_pool().free_bytes())


def is_narrow(directions: Layout) -> bool:
    """Whether screen.cu is for flats of these directions."""
    return bool(directions.d <= LONGEST and directions.width <= WIDEST and directions.k >= FEWEST)


def assign(
    X: Array,
    flats: Flats,
    penalty: Array | None,
    weights: Array | None,
    *,
    residuals: bool,
    kept: Kept | None,
) -> tuple[Array, Array | None]:
    """Labels, and residuals of narrow flats if asked for; see :func:`ksubspaces.kernels.assign`."""
    key = place(X), flats.layout, flats.complements is not None, flats.offsets is not None
    kept = {} if kept is None else kept
    if "work" not in kept or kept["work"][0] != key:  # what is kept of other flats goes, for it is as long as the rows
        kept["work"] = key, _Screening(X, flats, key, kept)
    search: _Screening = kept["work"][1]
    labels = search.assign(flats, penalty, weights)
    return labels, search.residuals(labels) if residuals else None


class _Plan:
    """What of a screening depends on shapes alone, and the memory that flats are put into.

    Attributes
    ----------
    narrow : bool
        Whether screen.cu is for them, else assign.cu.
    steps, steps32 : int
        Of 32 and of 16 columns of a row.
    tile : int
        Columns that follow one another in memory before the next step does.
    pieces : (p, 8) int32
        As in halves.cu.
    starts, piece_starts : (k + 1,) int32
        Where each flat's directions and pieces begin.
    screened, listed : Parts
        For all rows, and for those listed.
    """

    def __init__(
        self,
        where: Place,
        layout: Layout,
        along_complements: bool,
        affine: bool,
        narrow: bool,
        splits: tuple[int, int],
    ) -> None:
        xp, directions = where[0], layout.shorter if along_complements else layout
        exact = layout.wide if along_complements else layout.narrow
        d, k, dims = layout.d, layout.k, np.array(directions.dims)
        lengthened = ~exact & affine
        self.narrow = narrow
        self.steps, self.steps32, self.tile = -(-d // STEP), -(-d // STEP32), TILE
        if self.narrow:
            self.steps, self.tile = steps_of(d), FRAGMENT
            columns = Columns.of(dims + lengthened, splits[1], TILE)
            self.listed = self.screened = Parts.whole(xp, columns)
            firsts, lengths = self._fragments(xp, dims, affine, bool(exact.any()))
        else:
            columns = Columns.of(dims + lengthened, 1, TILE)
            self.screened, self.listed = (Parts.cut(xp, columns, ways, TILE) for ways in splits)
            firsts, lengths = columns.starts, np.where(lengthened, columns.ends - 1, -1)
            self.n_columns = int(columns.tiles[-1]) * TILE
        counts = np.maximum(1, -(-dims // PIECE))
        owners, piece_starts = np.repeat(np.arange(k), counts), np.concatenate([[0], np.cumsum(counts)])
        before = (np.arange(len(owners)) - piece_starts[owners]) * PIECE
        pieces = [
            owners,
            directions.starts[owners] + before,
            np.minimum(dims[owners] - before, PIECE),
            firsts[owners] + before,
            columns.starts[owners] + before,
            lengths[owners],
            np.where(lengthened, columns.ends - 1, -1)[owners],
            (before == 0) + 2 * exact[owners],
        ]
        self.pieces = xp.asarray(np.stack(pieces, axis=1).astype(np.int32))
        self.starts, self.piece_starts = (xp.asarray(a.astype(np.int32)) for a in (directions.starts, piece_starts))
        n_columns32 = int(columns.tiles[-1]) * TILE
        self.halves = xp.zeros(self.n_columns * self.steps * STEP, dtype=np.uint16)
        self.floats = xp.zeros(n_columns32 * self.steps32 * STEP32, dtype=np.float32)
        self.shifts = xp.zeros(self.n_columns, dtype=np.float32) if affine else loader.NULL
        self.shifts32 = xp.zeros(n_columns32, dtype=np.float32) if affine else loader.NULL
        self.terms, self.keys = (xp.zeros((k, 4), dtype=np.float32) for _ in range(2))
        self.losses, self.counters = xp.zeros(len(owners), dtype=np.float32), xp.zeros(2, dtype=np.int32)
        self.several = self.counters[1:]
        self.halves_as_chunks = self.halves.view(np.float32)

    def _fragments(self, xp: ModuleType, dims: np.ndarray, affine: bool, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """First columns of flats and columns of their offsets as screen.cu reads them: four flats side by side."""
        k, uniform = len(dims), bool((dims == dims[0]).all())
        order = np.arange(k) if uniform else np.argsort(-dims, kind="stable")
        quads = -(-k // 4)
        pairs, names = np.zeros(4 * quads, np.int64), np.full(4 * quads, k)
        pairs[:k], names[:k] = -(-dims[order] // 2), order
        sizes = pairs.reshape(-1, 4).max(axis=1)
        self.single = not affine and not exact and uniform and int(sizes[0]) == 4
        self.sizes, self.names = (xp.asarray(a.astype(np.int32)) for a in (sizes, names))
        ends = np.cumsum(sizes + affine)
        each = STAGE_BYTES // (self.steps * STEP * FRAGMENT * 2)  # fragments of a stage
        self.n_stages = max(1, -(-int(ends[-1]) // each))
        self.n_columns = self.n_stages * each * FRAGMENT
        rank = np.argsort(order)  # of each flat
        firsts = FRAGMENT * (ends - sizes - affine)[rank // 4] + 2 * (rank % 4)
        lengths = FRAGMENT * (ends - 1)[rank // 4] + 2 * (rank % 4)
        return firsts, lengths if affine else np.full(k, -1)


@functools.lru_cache(maxsize=256)
def _splits(narrow: bool, n_tiles: int, k: int, directions: int) -> tuple[int, int]:
    """Into how many splits flats go for all rows, and for listed rows."""
    slots, most = 2 * loader.limits().multiprocessors, max(1, -(-directions // TILE))
    if narrow:
        return 1, max(1, min(LISTED_SHARE * slots // n_tiles, k, 4, most))

    def waves(splits: int) -> int:  # times the tiles of each
        return -(-n_tiles * splits // slots) * -(-most // splits)

    return min(range(1, min(most, MOST_SPLITS) + 1), key=waves), max(1, min(most, MOST_BLOCKS // n_tiles))


_plan = functools.lru_cache(maxsize=16)(_Plan)


class _Screening:
    """Rows made ready, memory, and the launches over them. Flats of one layout come and go.

    Attributes
    ----------
    flats : tuple
        Arguments that tell kernels of the flats of the last call.
    """

    def __init__(self, X: Array, flats: Flats, key: tuple[Place, Layout, bool, bool], kept: Kept) -> None:
        self.xp = xp = loader.namespace(X)
        where, layout, along_complements, self.affine = key
        self.X, (n, d), self.k = contiguous(X, X.dtype), X.shape, flats.k
        directions, n_tiles = flats.direction_layout, -(-n // ROWS)
        narrow = is_narrow(directions)
        splits = _splits(narrow, n_tiles, flats.k, directions.total)
        self.plan = plan = _plan(where, layout, along_complements, self.affine, narrow, splits)
        if self.affine and "centre" not in kept:
            kept["centre"] = flats.centre  # of the first flats; any that is near will do
        self.rows = rows = half_rows(self.X, kept["centre"] if self.affine else None, plan.steps * STEP, kept)
        self.n, self.d, self.n_tiles, self.flats = np.int64(n), np.int32(d), n_tiles, cast("Arguments", ())
        self.list, m = xp.empty(n, np.int32), plan.listed.splits * n
        shape = (np.int32(size) for size in (narrow and self.affine, plan.tile, plan.steps, plan.steps32))
        placed = plan.halves, plan.floats, plan.shifts, plan.shifts32, plan.terms, plan.keys
        parts = plan.screened.starts, plan.screened.terms, plan.listed.starts, plan.listed.terms
        self.placed = *shape, *placed, *parts, plan.losses, plan.counters
        self.place = partial(loader.kernel("halves", "place_flats"), (len(plan.pieces),), (256,))
        if narrow:
            self.pairs, self.seconds = xp.empty(n, np.int32), xp.empty(n, np.int32)
            self.found, self.costs = xp.empty(m, np.int32), xp.empty(m, np.float32)
        else:
            self.distances = distances = xp.empty(max(plan.screened.count, plan.listed.count) * n, np.float32)
            outputs = (*(loader.NULL,) * 4, distances)
            self.screen_rows, self.measure_listed = (self._prepared(p, outputs) for p in ("Half", "SplitTF32"))
            of_flats = distances, plan.screened.starts, plan.terms, np.int32(self.k), plan.losses, plan.piece_starts
            self.listing = *of_flats, self.d, rows.energy, rows.lost, rows.scales
            self.deciding = distances, plan.listed.starts, plan.terms, np.int32(self.k)
            self.lists, self.decide = (
                partial(loader.kernel("halves", name), (-(-n // 256),), (256,))
                for name in ("list_rows", "decide_listed")
            )

    def assign(self, flats: Flats, penalty: Array | None, weights: Array | None) -> Array:
        """Labels of the rows."""
        xp, plan, own = self.xp, self.plan, loader.NULL
        if weights is not None and penalty is not None:
            own = contiguous(weights, np.float32)
        offsets = contiguous(flats.offsets, np.float64) if flats.offsets is not None else loader.NULL
        directions = contiguous(flats.directions, np.float32)
        prices = loader.NULL if penalty is None else xp.ascontiguousarray(xp.asarray(penalty), dtype=np.float64)
        self.place((directions, self.d, plan.pieces, offsets, self.rows.centre, prices, *self.placed))
        self.flats = self.d, directions, plan.starts, offsets, plan.terms
        self.defines = {"STEPS": plan.steps, "PLAIN": int(plan.narrow and plan.single and penalty is None)}
        labels = xp.empty(len(self.X), dtype=np.int32)
        by = self.screen_narrow if plan.narrow else self.screen_wide
        by(labels, own)
        return labels

    def screen_narrow(self, labels: Array, weights: loader.Argument) -> None:
        """Labels by screen.cu."""
        plan, rows, n = self.plan, self.rows, len(self.X)
        mask = np.uint32((1 << (self.k - 1).bit_length()) - 1)  # of a flat's number in its key
        shape = rows.halves, self.n, plan.halves, np.int32(self.k), np.int32(plan.n_stages), mask
        bounds = plan.sizes, plan.names, np.int32(self.affine), plan.keys, plan.losses, rows.energy, rows.lost
        outputs = rows.scales, weights, labels, self.pairs, self.seconds, self.list, plan.counters
        args = (*shape, *bounds, *outputs)
        blocks = -(-n // (4 * 16 * MTILES[plan.steps]))
        loader.kernel("screen", "screen", self.defines)((blocks,), (128,), args, shared_mem=STAGES * STAGE_BYTES)
        decided = (weights, self.pairs, self.seconds, plan.counters, labels)
        blocks = min(-(-n // 8), 8 * loader.limits().multiprocessors)
        loader.kernel("screen", "decide_pairs", self.defines)((blocks,), (256,), (self.X, *self.flats, *decided))
        self._prepared("SplitTF32", (weights, self.found, loader.NULL, self.costs, loader.NULL))()
        parts = self.found, loader.NULL, self.costs, self.n, np.int32(plan.listed.splits)
        run, _ = self._kernel("nearest", "SplitTF32")
        run((-(-n // 256),), (256,), (*parts, labels, loader.NULL, self.list, plan.several))

    def screen_wide(self, labels: Array, weights: loader.Argument) -> None:
        """Labels by assign.cu."""
        found = self.list, self.plan.several
        self.screen_rows()
        self.lists((*self.listing, weights, self.n, labels, *found))
        self.measure_listed()
        self.decide((*self.deciding, weights, self.n, *found, labels))

    def _kernel(self, name: str, product: str) -> tuple[loader.Launch, int]:
        """Kernel of assign.cu, and the shared memory of a block."""
        half = product == "Half"
        resident, shared = shared_memory(self.plan.steps if half else self.plan.steps32, TILE, 4)
        return loader.kernel("assign", name, _of_assign(product, resident)), shared

    def _prepared(self, product: str, outputs: Arguments) -> Callable[[], None]:
        """A launch of assign.cu: "Half" on all rows, "SplitTF32" on the listed."""
        plan, rows, half = self.plan, self.rows, product == "Half"
        parts = plan.screened if half else plan.listed
        d = np.int32(plan.steps * STEP) if half else self.d
        operands = (plan.halves_as_chunks, plan.shifts) if half else (plan.floats, plan.shifts32)
        columns = parts.ends, parts.terms, parts.tiles, parts.first, np.int32(parts.splits)
        of_rows = loader.NULL if half else rows.centre, rows.energy, rows.scales
        X = rows.halves.view(np.uint16) if half else self.X
        args = (X, self.n, d, *operands, *columns, *of_rows, *outputs, self.list, plan.several)
        run, shared = self._kernel("assign", product)
        return partial(run, (self.n_tiles * parts.splits,), (ROWS,), args, shared_mem=shared)

    def residuals(self, labels: Array) -> Array:
        """Squared distances to the flats of the labels, in float32."""
        n, (d, *flats) = len(self.X), self.flats
        result = self.xp.empty(n, dtype=np.float32)
        run = loader.kernel("screen", "residuals_of", self.defines)
        run((-(-n // 8),), (256,), (self.X, self.n, d, *flats, labels, result))
        return result
