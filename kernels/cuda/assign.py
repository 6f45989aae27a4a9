"""Nearest flats of rows: prepares what ``assign.cu`` reads, and launches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..flats import Array, Flats
from . import loader

PRODUCTS = {"fp32": "SplitTF32", "fp16x3": "SplitHalf", "tf32": "PlainTF32"}
"""How each precision multiplies float32; float64 is multiplied as such. See ``products.cuh``."""

VARIANTS = [("assign", {"PRODUCT": p, "RESIDENT": r}) for p in (*PRODUCTS.values(), "Double") for r in (0, 1)]

# As in assign.cu.
ROWS = 128
CHUNKS, CHUNK_BYTES = 4, 16
STAGES = 3
COLUMNS = {"SplitTF32": 128, "SplitHalf": 128, "PlainTF32": 128, "Double": 64}
PROBE_SCALE = 16384

BLOCKS_PER_MULTIPROCESSOR = 2  # that registers allow
WAVES = 8  # of blocks at least, if flats can be divided to that end: the last wave leaves most of the GPU idle
MAX_SPLITS = 16
RESERVED = 1024  # bytes of shared memory that each block costs beyond its own


def assign(
    X: Array, flats: Flats, penalty: Array | None = None, weights: Array | None = None, precision: str = "fp32"
) -> tuple[Array, Array]:
    """Nearest flat of each row and the squared distance to it; see :func:`ksubspaces.kernels.assign`.

    Parameters
    ----------
    precision : {"fp32", "fp16x3", "tf32"}
        Of the products, for float32 rows. The first two are as accurate as float32 arithmetic; "tf32" has 11 bits.

    Notes
    -----
    Besides the result this takes memory for the flats and a few numbers for each row.
    """
    xp = loader.namespace(X)
    n = X.shape[0]
    labels, residuals = xp.zeros(n, dtype=np.int32), xp.zeros(n, dtype=X.dtype)
    if n == 0:
        return labels, residuals
    search = _Search(X, flats, precision)
    if search.splits == 1:
        search.launch(penalty, weights, labels, residuals, loader.NULL, loader.NULL)
        return labels, residuals
    found = xp.empty((search.splits, n), dtype=np.int32)
    distances, costs = xp.empty((search.splits, n), dtype=X.dtype), xp.empty((search.splits, n), dtype=X.dtype)
    search.launch(penalty, weights, found, distances, costs, loader.NULL)
    args = (found, distances, costs, np.int64(n), np.int32(search.splits), labels, residuals)
    search.kernel("nearest")((-(-n // 256),), (256,), args)
    return labels, residuals


def sqdistances(X: Array, flats: Flats, precision: str = "fp32") -> Array:
    """Squared distances (n, k), in column-major order; see :func:`ksubspaces.kernels.sqdistances`."""
    xp = loader.namespace(X)
    distances = xp.zeros((flats.k, X.shape[0]), dtype=X.dtype)
    if distances.size:
        _Search(X, flats, precision).launch(None, None, loader.NULL, loader.NULL, loader.NULL, distances)
    return distances.T


@dataclass(frozen=True)
class _Layout:
    """Where the probes of each flat stand among the columns.

    Attributes
    ----------
    starts, ends : (k,) int arrays
        Columns of each flat, an even number of them.
    first, tiles : (splits + 1,) int arrays
        Flats and tiles of columns of each split; a split begins with a tile of its own.
    """

    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    tiles: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, splits: int, tile: int) -> _Layout:
        """Lay out flats with so many probes, in splits of about the same number of columns."""
        widths = sizes + sizes % 2
        reach = np.cumsum(widths)
        middles = np.searchsorted(reach - widths / 2, reach[-1] * np.arange(1, splits) / splits)
        first = np.unique(np.concatenate([[0], middles, [len(sizes)]]))
        before = np.concatenate([[0], reach])[first]
        tiles = np.concatenate([[0], np.cumsum(np.maximum(1, -(-np.diff(before) // tile)))])
        shift = np.repeat(tiles[:-1] * tile - before[:-1], np.diff(first))
        return cls(reach - widths + shift, reach + shift, first, tiles)


class _Search:
    """Rows, flats, and a launch over them."""

    def __init__(self, X: Array, flats: Flats, precision: str) -> None:
        if precision not in PRODUCTS:
            raise ValueError(f"precision must be one of {', '.join(map(repr, PRODUCTS))}, got {precision!r}")
        self.xp = xp = loader.namespace(X)
        self.X = xp.ascontiguousarray(X)
        self.n, self.d = X.shape
        self.dtype = X.dtype
        self.product = PRODUCTS[precision] if X.dtype == np.float32 else "Double"
        self.step = CHUNKS * CHUNK_BYTES // X.dtype.itemsize
        self.steps = -(-self.d // self.step)
        self.row_tiles = -(-self.n // ROWS)

        self.parts = [V if W is None else W for V, W in zip(flats.bases, flats.complements, strict=True)]
        self.exact = np.array([W is not None for W in flats.complements])
        self.offsets, self.centre = None, None
        if flats.centre is not None:
            middle = flats.centre.astype(self.dtype)
            self.offsets = xp.asarray(flats.offsets, dtype=np.float64) - middle
            self.centre = xp.zeros(self.steps * self.step, dtype=self.dtype)
            self.centre[: self.d] = middle
        sizes = np.array([len(part) for part in self.parts], dtype=np.int64)
        along_offset = ~self.exact & (flats.offsets is not None)
        self.layout = _Layout.of(sizes + along_offset, self._wanted_splits(sizes), COLUMNS[self.product])
        self.splits = len(self.layout.first) - 1
        self._place_probes(sizes, along_offset)

    def _wanted_splits(self, sizes: np.ndarray) -> int:
        """Among how many blocks the flats are divided, so that blocks are many enough."""
        slots = BLOCKS_PER_MULTIPROCESSOR * loader.limits().multiprocessors
        most = min(len(sizes), MAX_SPLITS, -(-int(sizes.sum()) // COLUMNS[self.product]))
        return max(1, min(most, -(-WAVES * slots // self.row_tiles)))

    def _place_probes(self, sizes: np.ndarray, along_offset: np.ndarray) -> None:
        """Build the list of probes in the order in which the kernel reads it, and what belongs to each."""
        xp, layout, tile = self.xp, self.layout, COLUMNS[self.product]
        columns = int(layout.tiles[-1]) * tile
        matrix = xp.zeros((columns, self.steps * self.step), dtype=self.dtype)
        self.shifts = loader.NULL if self.offsets is None else xp.zeros(columns, dtype=self.dtype)
        terms = xp.zeros((len(sizes) + 2, 4), dtype=self.dtype)  # |mu|^2, slope, penalty, whether exact
        terms[:-2, 3] = xp.asarray(self.exact)
        if sizes.any():
            rows = xp.concatenate([part for part in self.parts if len(part)]).astype(self.dtype, copy=False)
            owners = np.repeat(np.arange(len(sizes)), sizes)
            places = xp.asarray(np.arange(len(owners)) + (layout.starts - np.cumsum(sizes) + sizes)[owners])
            matrix[places, : self.d] = rows
            if self.offsets is not None:
                self.shifts[places] = (rows * self.offsets[xp.asarray(owners)]).sum(axis=1)
        if along_offset.any() and self.offsets is not None:
            flats, places = xp.asarray(np.nonzero(along_offset)[0]), xp.asarray(layout.ends[along_offset] - 1)
            squares = (self.offsets[flats] ** 2).sum(axis=1)
            lengths = xp.sqrt(squares)
            matrix[places, : self.d] = self.offsets[flats] / xp.maximum(lengths, 1e-300)[:, None]
            terms[flats, 0], terms[flats, 1] = squares, 2 * lengths
        tiles = matrix.reshape(-1, tile, self.steps, self.step).transpose(0, 2, 1, 3)
        self.probes = _split_half(tiles) if self.product == "SplitHalf" else xp.ascontiguousarray(tiles)
        self.terms = terms
        endless = np.full(2, np.iinfo(np.int32).max)
        self.ends = xp.asarray(np.concatenate([layout.ends, endless]).astype(np.int32))

    def kernel(self, name: str) -> loader.Launch:
        """Kernel of ``assign.cu`` for this search."""
        return loader.kernel("assign", name, {"PRODUCT": self.product, "RESIDENT": int(self._is_resident())})

    def _shared_memory(self, row_tiles: int) -> int:
        tiles = (row_tiles * ROWS + STAGES * COLUMNS[self.product]) * CHUNKS * CHUNK_BYTES
        return tiles + 4 * ROWS * self.dtype.itemsize  # and sums of squares

    def _is_resident(self) -> bool:
        """Whether the rows of a block stay in shared memory and leave room for another block."""
        room = (loader.limits().shared_memory + RESERVED) // BLOCKS_PER_MULTIPROCESSOR - RESERVED
        return self._shared_memory(self.steps) <= room

    def _measure_rows(self) -> tuple[Any, Any]:
        """|x|^2 and scale of each row, about the centre."""
        if self.exact.all() and self.product != "SplitHalf":
            return loader.NULL, loader.NULL
        xp, rows = self.xp, self.row_tiles * ROWS
        energy, scales = xp.empty(rows, dtype=self.dtype), xp.empty(rows, dtype=np.float32)
        centre, largest = self.centre, xp.zeros(1, dtype=self.dtype)
        if centre is None or self.offsets is None:
            centre = xp.zeros(self.d, dtype=self.dtype)
        else:
            largest[0] = xp.abs(self.offsets).max()
        args = (self.X, np.int64(self.n), np.int32(self.d), centre, largest, energy, scales)
        self.kernel("measure_rows")((rows // 8,), (256,), args)
        return energy, scales

    def launch(
        self, penalty: Array | None, weights: Array | None, labels: Any, residuals: Any, costs: Any, distances: Any
    ) -> None:
        """Run the search into (splits, n) labels, residuals and costs, or into (k, n) distances."""
        xp, layout = self.xp, self.layout
        if penalty is not None:
            self.terms[:-2, 2] = xp.asarray(penalty)
        energy, scales = self._measure_rows()
        args = (
            self.X,
            np.int64(self.n),
            np.int32(self.d),
            self.probes,
            self.shifts,
            self.ends,
            self.terms,
            xp.asarray(layout.tiles.astype(np.int32)),
            xp.asarray(layout.first.astype(np.int32)),
            np.int32(self.splits),
            loader.NULL if self.centre is None else self.centre,
            energy,
            scales,
            loader.NULL if weights is None else xp.ascontiguousarray(xp.asarray(weights, dtype=self.dtype)),
            labels,
            residuals,
            costs,
            distances,
        )
        shared = self._shared_memory(self.steps if self._is_resident() else STAGES)
        self.kernel("assign")((self.row_tiles * self.splits,), (ROWS,), args, shared_mem=shared)


def _split_half(tiles: Array) -> Array:
    """Chunks of four columns as the high parts in float16 and then the low parts."""
    xp = loader.namespace(tiles)
    scaled = (tiles * PROBE_SCALE).astype(np.float32).reshape(*tiles.shape[:-1], -1, 4)
    high = scaled.astype(np.float16)
    low = (scaled - high.astype(np.float32)).astype(np.float16)
    return xp.ascontiguousarray(xp.concatenate([high, low], axis=-1))
