"""Nearest flats of rows: prepares what ``assign.cu`` reads, and launches it."""

from __future__ import annotations

import functools

import numpy as np

from ..flats import Array, Flats, Kept, Layout
from . import loader, screen
from .columns import BLOCKS_PER_MULTIPROCESSOR, CHUNK_BYTES, CHUNKS, ROWS, Columns, shared_memory
from .memory import Place, or_null, place

VARIANTS: list[loader.Variant] = [
    ("assign", {"PRODUCT": p, "RESIDENT": r}) for p in ("SplitTF32", "Double") for r in (0, 1)
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    product = _product(dtype)
    resident, _ = shared_memory(-(-d // _step(dtype)), COLUMNS[product], dtype.itemsize)
    return [("assign", {"PRODUCT": product, "RESIDENT": int(resident)})]


def _product(dtype: np.dtype) -> str:
    """How numbers of a dtype are multiplied; see ``products.cuh``."""
    return "SplitTF32" if dtype == np.float32 else "Double"


def _step(dtype: np.dtype) -> int:
    """Columns of a row in a step."""
    return CHUNKS * CHUNK_BYTES // dtype.itemsize


# As in assign.cu.
COLUMNS = {"SplitTF32": 128, "Double": 64}

WAVES = 8  # of blocks at least, if flats can be divided to that end: the last wave leaves most of the GPU idle
MAX_SPLITS = 16
DISTANCES = 1 << 24  # held at a time where all flats are compared


def assign(
    X: Array,
    flats: Flats,
    penalty: Array | None = None,
    weights: Array | None = None,
    *,
    residuals: bool = True,
    kept: Kept | None = None,
) -> tuple[Array, Array | None]:
    """Nearest flat of each row and the squared distance to it; see :func:`ksubspaces.kernels.assign`.

    Products are as accurate as in X's dtype; labels come by screening where that pays, see
    :mod:`ksubspaces.kernels.cuda.screen`.

    Notes
    -----
    Besides the result this takes memory for the flats and a few numbers for each row.
    """
    if screen.pays(X, flats, residuals=residuals, kept=kept):
        return screen.assign(X, flats, penalty, weights, residuals=residuals, kept=kept)
    xp = loader.namespace(X)
    n = X.shape[0]
    labels, nearest = xp.empty(n, dtype=np.int32), xp.empty(n, dtype=X.dtype)
    if n == 0:
        return labels, nearest
    search = _Search(X, flats)
    if search.splits == 1:
        search.launch(penalty, weights, labels, nearest, loader.NULL, loader.NULL)
        return labels, nearest
    found = xp.empty((search.splits, n), dtype=np.int32)
    distances, costs = xp.empty((search.splits, n), dtype=X.dtype), xp.empty((search.splits, n), dtype=X.dtype)
    search.launch(penalty, weights, found, distances, costs, loader.NULL)
    args = (found, distances, costs, np.int64(n), np.int32(search.splits), labels, nearest, loader.NULL, loader.NULL)
    search.kernel("nearest")((-(-n // 256),), (256,), args)
    return labels, nearest


def sqdistances(X: Array, flats: Flats) -> Array:
    """Squared distances (n, k), in column-major order; see :func:`ksubspaces.kernels.sqdistances`."""
    xp = loader.namespace(X)
    distances = xp.empty((flats.k, X.shape[0]), dtype=X.dtype)
    if distances.size:
        _Search(X, flats).launch(None, None, loader.NULL, loader.NULL, loader.NULL, distances)
    return distances.T


def two_nearest(X: Array, flats: Flats) -> tuple[Array, Array]:
    """The two nearest flats of each row from the distances of some rows at a time."""
    xp, n = loader.namespace(X), len(X)
    labels, nearest = xp.zeros((2, n), np.int32), xp.full((2, n), np.inf, X.dtype)
    for start in range(0, n, DISTANCES // flats.k + 1):
        block = X[start : start + DISTANCES // flats.k + 1]
        distances, rows = xp.ascontiguousarray(sqdistances(block, flats)), xp.arange(len(block))
        for turn in range(min(2, flats.k)):
            best = distances.argmin(axis=1)
            span = slice(start, start + len(block))
            labels[turn, span], nearest[turn, span] = best, distances[rows, best]
            distances[rows, best] = np.inf
    return labels.T, nearest.T


class _Plan:
    """What of a search depends on shapes alone, on the host and on the device.

    Attributes
    ----------
    exact : (k,) bool array
        Flats measured along complements.
    splits, n_columns : int
    owners, places : (P,) arrays
        Flat and column of each direction.
    lengthened, length_places : arrays
        Flats that have a column for their offset besides, and these columns.
    is_exact : (k,) bool array
        ``exact`` on the device.
    ends, tiles, first : int32 arrays
        As in :class:`ksubspaces.kernels.cuda.columns.Columns`, as the kernel reads them.
    """

    def __init__(
        self, where: Place, layout: Layout, along_complements: bool, affine: bool, splits: int, tile: int
    ) -> None:
        xp = where[0]
        directions = layout.shorter if along_complements else layout
        self.exact = layout.wide if along_complements else layout.narrow
        sizes, lengthened = np.diff(directions.starts), ~self.exact & affine
        columns = Columns.of(sizes + lengthened, splits, tile)
        self.splits, self.n_columns = len(columns.first) - 1, int(columns.tiles[-1]) * tile
        places = np.arange(directions.total) + (columns.starts - directions.starts[:-1])[directions.owners]
        endless = np.full(2, np.iinfo(np.int32).max)
        self.has_lengthened = bool(lengthened.any())
        self.owners, self.places = xp.asarray(directions.owners), xp.asarray(places)
        self.lengthened = xp.asarray(np.flatnonzero(lengthened))
        self.length_places = xp.asarray(columns.ends[lengthened] - 1)
        self.is_exact = xp.asarray(self.exact)
        self.ends = xp.asarray(np.concatenate([columns.ends, endless]).astype(np.int32))
        self.tiles, self.first = (xp.asarray(part.astype(np.int32)) for part in (columns.tiles, columns.first))


_plan = functools.lru_cache(maxsize=16)(_Plan)


class _Search:
    """Rows, flats, and a launch over them."""

    def __init__(self, X: Array, flats: Flats) -> None:
        self.xp = xp = loader.namespace(X)
        self.X = xp.ascontiguousarray(X)
        self.n, self.d = X.shape
        self.dtype = X.dtype
        self.product = _product(X.dtype)
        self.step = _step(X.dtype)
        self.steps = -(-self.d // self.step)
        self.row_tiles = -(-self.n // ROWS)
        self.resident, self.shared = shared_memory(self.steps, COLUMNS[self.product], X.dtype.itemsize)

        self.offsets, self.centre = None, None
        if flats.centre is not None:
            middle = flats.centre.astype(self.dtype)
            self.offsets = xp.asarray(flats.offsets, dtype=np.float64) - middle
            self.centre = xp.zeros(self.steps * self.step, dtype=self.dtype)
            self.centre[: self.d] = middle
        splits = self._wanted_splits(flats.k, flats.direction_layout.total)
        shapes = flats.layout, flats.complements is not None, flats.offsets is not None, splits
        self.plan = _plan(place(X), *shapes, COLUMNS[self.product])
        self.splits = self.plan.splits
        self._place_directions(flats)

    def _wanted_splits(self, k: int, directions: int) -> int:
        """Among how many blocks the flats are divided, so that blocks are many enough."""
        slots = BLOCKS_PER_MULTIPROCESSOR * loader.limits().multiprocessors
        most = min(k, MAX_SPLITS, -(-directions // COLUMNS[self.product]))
        return max(1, min(most, -(-WAVES * slots // self.row_tiles)))

    def _place_directions(self, flats: Flats) -> None:
        """Put directions, and the terms of each flat, in the order in which the kernel reads them."""
        xp, plan, tile = self.xp, self.plan, COLUMNS[self.product]
        matrix = xp.zeros((plan.n_columns, self.steps * self.step), dtype=self.dtype)
        self.shifts = loader.NULL if self.offsets is None else xp.zeros(plan.n_columns, dtype=self.dtype)
        terms = xp.zeros((flats.k + 2, 4), dtype=self.dtype)  # |mu|^2, slope, penalty, whether exact
        terms[:-2, 3] = plan.is_exact
        if len(flats.directions):
            rows = flats.directions.astype(self.dtype, copy=False)
            matrix[plan.places, : self.d] = rows
            if self.offsets is not None:
                self.shifts[plan.places] = (rows * self.offsets[plan.owners]).sum(axis=1)
        if plan.has_lengthened and self.offsets is not None:
            offsets = self.offsets[plan.lengthened]
            squares = (offsets**2).sum(axis=1)
            lengths = xp.sqrt(squares)
            matrix[plan.length_places, : self.d] = offsets / xp.maximum(lengths, 1e-300)[:, None]
            terms[plan.lengthened, 0], terms[plan.lengthened, 1] = squares, 2 * lengths
        tiles = matrix.reshape(-1, tile, self.steps, self.step).transpose(0, 2, 1, 3)
        self.directions = xp.ascontiguousarray(tiles)
        self.terms = terms

    def kernel(self, name: str) -> loader.Launch:
        """Kernel of ``assign.cu`` for this search."""
        return loader.kernel("assign", name, {"PRODUCT": self.product, "RESIDENT": int(self.resident)})

    def _measure_rows(self) -> loader.Argument:
        """|x|^2 of each row about the centre, where a flat needs it."""
        if self.plan.exact.all():
            return loader.NULL
        rows = self.row_tiles * ROWS
        energy = self.xp.empty(rows, dtype=self.dtype)
        args = (self.X, np.int64(self.n), np.int32(self.d), or_null(self.centre), energy)
        self.kernel("measure_rows")((rows // 8,), (256,), args)
        return energy

    def launch(self, penalty: Array | None, weights: Array | None, *outputs: loader.Argument) -> None:
        """Run the search into (splits, n) labels, residuals and costs, or into (k, n) distances, the last output."""
        xp, plan = self.xp, self.plan
        if penalty is not None:
            self.terms[:-2, 2] = xp.asarray(penalty)
        own = loader.NULL if weights is None else xp.ascontiguousarray(xp.asarray(weights, dtype=self.dtype))
        operands = self.X, np.int64(self.n), np.int32(self.d), self.directions, self.shifts
        columns = plan.ends, self.terms, plan.tiles, plan.first, np.int32(self.splits)
        of_rows = or_null(self.centre), self._measure_rows(), loader.NULL, own
        args = (*operands, *columns, *of_rows, *outputs, loader.NULL, loader.NULL)
        self.kernel("assign")((self.row_tiles * self.splits,), (ROWS,), args, shared_mem=self.shared)
