"""Labels from one product in float16, where they are proven, and in float32 for the rows left.

Two kernels screen: ``screen.cu`` flats of few dimensions, with rows in registers, and ``assign.cu`` the others. What is
around them stands in ``halves.cu``.

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
from types import ModuleType
from typing import Any

import numpy as np

from ..flats import Array, Flats, Layout
from . import loader
from .halves import half_rows

VARIANTS = [
    *(("screen", {"STEPS": steps, "PLAIN": plain}) for steps in (1, 2, 4, 8) for plain in (0, 1)),
    *(("assign", {"PRODUCT": "Half", "RESIDENT": r}) for r in (0, 1)),
    *(("assign", {"PRODUCT": "SplitTF32", "RESIDENT": r, "LISTED": 1}) for r in (0, 1)),
]

# As in the sources.
STEP, PIECE, WARPS = 32, 64, 4
TILE_BYTES, STAGES = 16384, 3
WIDEST, LONGEST = PIECE, 256  # flat and row of screen.cu
FEWEST = 16  # flats for which screen.cu pays
FEWEST_DIRECTIONS = 128  # for which assign.cu does
PRODUCTS = 1 << 27  # multiplications for which screening pays at all
LISTED_SHARE = 100  # of so many rows one, about, is listed
MTILES = {1: 4, 2: 4, 4: 2, 8: 1}
WIDE_WARPS = 4


def pays(X: Array, flats: Flats, *, residuals: bool) -> bool:
    """Whether labels come faster by screening."""
    n, d = X.shape
    directions = flats.direction_layout
    if X.dtype != np.float32 or flats.k < 2 or n == 0 or n * d * directions.total < PRODUCTS:
        return False
    return is_narrow(flats) or (not residuals and directions.total >= FEWEST_DIRECTIONS)


def is_narrow(flats: Flats) -> bool:
    """Whether screen.cu is for them."""
    directions = flats.direction_layout
    return bool(directions.d <= LONGEST and directions.width <= WIDEST and directions.k >= FEWEST)


def assign(
    X: Array,
    flats: Flats,
    penalty: Array | None,
    weights: Array | None,
    *,
    residuals: bool,
    kept: dict[Any, Any] | None,
) -> tuple[Array, Array | None]:
    """Labels, and residuals of narrow flats if asked for; see :func:`ksubspaces.kernels.assign`."""
    search = _Screening(X, flats, penalty, weights, {} if kept is None else kept)
    labels = search.screen_narrow() if search.narrow else search.screen_wide()
    return labels, search.residuals(labels) if residuals else None


class _Plan:
    """What of a screening depends on shapes alone, and the memory that flats are put into.

    Attributes
    ----------
    steps : int
        Of 32 columns of a row.
    tile : int
        Columns that follow one another in memory before the next step does.
    pieces : (p, 8) int32
        As in halves.cu.
    starts : (k + 1,) int32
        Where each flat's directions begin.
    piece_starts : (k + 1,) int32
    sizes : uint32
        Fragments of each flat, four flats in a word.
    single : bool
        Whether all flats have one fragment and none is exact.
    """

    def __init__(
        self, xp: ModuleType, layout: Layout, along_complements: bool, affine: bool, narrow: bool, splits: int
    ) -> None:
        from .assign import COLUMNS
        from .assign import _Plan as Plan

        directions = layout.shorter if along_complements else layout
        d, k, dims = layout.d, layout.k, np.array(directions.dims)
        tile = COLUMNS["SplitTF32"]
        self.search = search = Plan(xp, layout, along_complements, affine, splits, tile)
        self.steps32 = -(-d // 16)
        self.steps = -(-d // STEP)
        columns, lengths = search.columns.starts, np.where(search.lengthened_host, search.columns.ends - 1, -1)
        columns32, lengths32 = columns, lengths
        self.tile, n_columns = tile, search.n_columns
        if narrow:
            self.steps = 1 << (self.steps - 1).bit_length()
            self.tile = 8
            columns, lengths, n_columns = self._fragments(xp, dims, affine, bool(search.exact.any()))
        counts = np.maximum(1, -(-dims // PIECE))
        owners = np.repeat(np.arange(k), counts)
        piece_starts = np.concatenate([[0], np.cumsum(counts)])
        before = (np.arange(len(owners)) - piece_starts[owners]) * PIECE
        pieces = [
            owners,
            directions.starts[owners] + before,
            np.minimum(dims[owners] - before, PIECE),
            columns[owners] + before,
            columns32[owners] + before,
            lengths[owners],
            lengths32[owners],
            (before == 0) + 2 * search.exact[owners],
        ]
        self.pieces = xp.asarray(np.stack(pieces, axis=1).astype(np.int32))
        self.starts, self.piece_starts = (xp.asarray(a.astype(np.int32)) for a in (directions.starts, piece_starts))
        self.halves = xp.zeros(n_columns * self.steps * STEP, dtype=np.uint16)
        self.floats = xp.zeros(search.n_columns * self.steps32 * 16, dtype=np.float32)
        self.shifts = xp.zeros(n_columns, dtype=np.float32) if affine else loader.NULL
        self.shifts32 = xp.zeros(search.n_columns, dtype=np.float32) if affine else loader.NULL
        self.terms, self.own = xp.zeros((k + 2, 4), dtype=np.float32), xp.zeros((k, 4), dtype=np.float32)
        self.losses, self.counters = xp.zeros(len(owners), dtype=np.float32), xp.zeros(2, dtype=np.int32)

    def _fragments(
        self, xp: ModuleType, dims: np.ndarray, affine: bool, exact: bool
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Columns of directions and offsets as screen.cu reads them, and how many there are."""
        k = len(dims)
        fragments = np.zeros(-(-k // 4) * 4, np.int64)
        fragments[:k] = -(-dims // 8)
        self.single = not affine and not exact and bool((fragments[:k] == 1).all())
        self.sizes = xp.asarray((fragments.reshape(-1, 4) << np.array([0, 8, 16, 24])).sum(axis=1).astype(np.uint32))
        if self.single:
            fragments[:] = 1
        quads = np.append(fragments.reshape(-1, 4), np.full((len(fragments) // 4, 1), int(affine)), axis=1)
        ends = np.cumsum(quads.reshape(-1)).reshape(-1, 5)
        starts = 8 * (ends - quads)
        owners = np.arange(k)
        lengths = starts[owners // 4, 4] + 2 * (owners % 4) if affine else np.full(k, -1)
        each = TILE_BYTES // (self.steps * STEP * 8 * 2)  # fragments of a tile
        self.n_tiles = -(-int(ends[-1, -1]) // each)
        return starts[owners // 4, owners % 4], lengths, self.n_tiles * each * 8


@functools.lru_cache(maxsize=16)
def _plan(where: tuple[Any, ...], *shapes: Any) -> _Plan:
    """The plan for these shapes; ``where`` is the module of the arrays, and on a card the device and the stream."""
    return _Plan(where[0], *shapes)


class _Screening:
    """Rows and flats made ready, and the launches over them."""

    def __init__(
        self, X: Array, flats: Flats, penalty: Array | None, weights: Array | None, kept: dict[Any, Any]
    ) -> None:
        self.xp = xp = loader.namespace(X)
        self.X, self.flats = xp.ascontiguousarray(X), flats
        self.n, self.d = X.shape
        self.narrow, affine = is_narrow(flats), flats.offsets is not None
        self.weights = loader.NULL
        if weights is not None and penalty is not None:
            self.weights = xp.ascontiguousarray(weights, dtype=np.float32)
        stream = () if isinstance(X, np.ndarray) else (xp.cuda.Device().id, xp.cuda.get_current_stream().ptr)
        self.splits = self._splits()
        shapes = flats.layout, flats.complements is not None, affine, self.narrow, self.splits
        self.plan = plan = _plan((xp, *stream), *shapes)
        self.splits = plan.search.splits
        self.single = self.narrow and plan.single and penalty is None
        width = plan.steps * STEP
        self.rows = half_rows(self.X, flats.centre, width, kept)
        self.offsets = xp.ascontiguousarray(flats.offsets, dtype=np.float64) if affine else loader.NULL
        self.directions = xp.ascontiguousarray(flats.directions, dtype=np.float32)
        args = (
            self.directions,
            np.int32(self.d),
            plan.pieces,
            self.offsets,
            self.rows.centre,
            loader.NULL if penalty is None else xp.ascontiguousarray(xp.asarray(penalty), dtype=np.float64),
            np.int32(self.narrow and affine),
            np.int32(plan.tile),
            np.int32(plan.steps),
            np.int32(plan.steps32),
            plan.halves,
            plan.floats,
            plan.shifts,
            plan.shifts32,
            plan.terms,
            plan.own,
            plan.losses,
            plan.counters,
        )
        loader.kernel("halves", "place_flats")((len(plan.pieces),), (256,), args)
        self.labels = xp.empty(self.n, dtype=np.int32)
        self.several = xp.empty(self.n, dtype=np.int32)

    def _splits(self) -> int:
        """Among how many blocks flats are divided: where rows alone, or those listed, are too few to fill the card."""
        slots, tiles = 2 * loader.limits().multiprocessors, -(-self.n // 128)
        wanted = LISTED_SHARE * slots // tiles if self.narrow else -(-8 * slots // tiles)
        total = self.flats.direction_layout.total
        return max(1, min(wanted, self.flats.k, 4 if self.narrow else 16, -(-total // 128)))

    def screen_narrow(self) -> Array:
        """Labels by screen.cu."""
        xp, plan, rows = self.xp, self.plan, self.rows
        pairs, seconds = (xp.empty(self.n, dtype=np.int32) for _ in range(2))
        k = self.flats.k
        args = (
            rows.halves,
            np.int64(self.n),
            plan.halves,
            np.int32(k),
            np.int32(plan.n_tiles),
            np.uint32((1 << (k - 1).bit_length()) - 1),
            plan.sizes,
            np.int32(self.flats.offsets is not None),
            plan.own,
            plan.losses,
            rows.energy,
            rows.lost,
            rows.scales,
            self.weights,
            self.labels,
            pairs,
            seconds,
            self.several,
            plan.counters,
        )
        run = self._kernel("screen")
        block_rows = 16 * MTILES[plan.steps] * WARPS
        run((-(-self.n // block_rows),), (32 * WARPS,), args, shared_mem=STAGES * TILE_BYTES)
        decided = (self.weights, pairs, seconds, plan.counters, self.labels)
        blocks = min(-(-self.n // 8), 8 * loader.limits().multiprocessors)
        self._kernel("decide_pairs")((blocks,), (256,), (*self._stack(), *decided))
        self._decide_several(plan.counters[1:])
        return self.labels

    def screen_wide(self) -> Array:
        """Labels by assign.cu."""
        xp, plan = self.xp, self.plan
        shape = self.splits, self.n
        found = xp.empty(shape, dtype=np.int32)
        bounds, costs, others = (xp.empty(shape, dtype=np.float32) for _ in range(3))
        more = (loader.NULL, loader.NULL, self.rows.lost, plan.losses, plan.piece_starts, others)
        self._assign("Half", (found, bounds, costs, loader.NULL, *more))
        args = (found, bounds, costs, others, np.int64(self.n), np.int32(self.splits), self.labels, self.several)
        run = loader.kernel("assign", "list_rows", self._defines("Half"))
        run((-(-self.n // 256),), (256,), (*args, plan.counters[1:]))
        self._decide_several(plan.counters[1:])
        return self.labels

    def _kernel(self, name: str) -> loader.Launch:
        return loader.kernel("screen", name, {"STEPS": self.plan.steps, "PLAIN": int(self.single)})

    def _decide_several(self, count: Array) -> None:
        """Labels of the listed rows, in float32."""
        xp, shape = self.xp, (self.splits, self.n)
        found, distances, costs = (xp.empty(shape, dtype=t) for t in (np.int32, np.float32, np.float32))
        unused = (loader.NULL,) * 4
        self._assign("SplitTF32", (found, distances, costs, loader.NULL, self.several, count, *unused))
        args = (found, distances, costs, np.int64(self.n), np.int32(self.splits), self.labels, loader.NULL)
        run = loader.kernel("assign", "nearest", self._defines("SplitTF32"))
        run((-(-self.n // 256),), (256,), (*args, self.several, count))

    def _defines(self, product: str) -> dict[str, Any]:
        defines: dict[str, Any] = {"PRODUCT": product, "RESIDENT": int(self._is_resident(product))}
        return defines if product == "Half" else {**defines, "LISTED": 1}

    def _shared_memory(self, row_tiles: int) -> int:
        return (row_tiles * 32 * self.warps + STAGES * 128) * 64 + 4 * 32 * self.warps * 4

    warps = 4

    def _is_resident(self, product: str) -> bool:
        self.warps = WIDE_WARPS if product == "Half" else 4
        return self._shared_memory(self._steps(product)) <= (loader.limits().shared_memory + 1024) // 2 - 1024

    def _steps(self, product: str) -> int:
        return self.plan.steps if product == "Half" else self.plan.steps32

    def _assign(self, product: str, outputs: tuple[Any, ...]) -> None:
        """Launch assign.cu: "Half" on all rows, "SplitTF32" on the listed."""
        plan, search, rows = self.plan, self.plan.search, self.rows
        half = product == "Half"
        args = (
            rows.halves.view(np.uint16) if half else self.X,
            np.int64(self.n),
            np.int32(plan.steps * STEP if half else self.d),
            plan.halves.view(np.float32) if half else plan.floats,
            plan.shifts if half else plan.shifts32,
            search.ends,
            plan.terms,
            search.tiles,
            search.first,
            np.int32(self.splits),
            loader.NULL if half else rows.centre,
            rows.energy,
            rows.scales,
            self.weights,
            *outputs,
        )
        shared = self._shared_memory(self._steps(product) if self._is_resident(product) else STAGES)
        run = loader.kernel("assign", "assign", self._defines(product))
        run((-(-self.n // (32 * self.warps)) * self.splits,), (32 * self.warps,), args, shared_mem=shared)

    def _stack(self) -> tuple[Any, ...]:
        plan = self.plan
        return self.X, np.int32(self.d), self.directions, plan.starts, self.offsets, plan.terms

    def residuals(self, labels: Array) -> Array:
        """Squared distances to the flats of the labels, in float32."""
        result = self.xp.empty(self.n, dtype=np.float32)
        X, *stack = self._stack()
        args = (X, np.int64(self.n), *stack, labels, result)
        self._kernel("residuals_of")((-(-self.n // 8),), (256,), args)
        return result
