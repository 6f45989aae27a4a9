"""The columns of ``assign.cu``, one for each direction, and the shared memory that its tiles take."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from . import loader

# As in assign.cu.
ROWS = 128
CHUNKS, CHUNK_BYTES = 4, 16
STAGES = 3

BLOCKS_PER_MULTIPROCESSOR = 2  # that registers allow
RESERVED = 1024  # bytes of shared memory that each block costs beyond its own


def shared_memory(steps: int, columns: int, itemsize: int) -> tuple[bool, int]:
    """Whether the rows of a block stay in shared memory and leave room for another block, and the bytes of a block."""

    def needed(row_tiles: int) -> int:
        tiles = (row_tiles * ROWS + STAGES * columns) * CHUNKS * CHUNK_BYTES
        return tiles + 4 * ROWS * itemsize  # and sums of squares

    room = (loader.limits().shared_memory + RESERVED) // BLOCKS_PER_MULTIPROCESSOR - RESERVED
    resident = needed(steps) <= room
    return resident, needed(steps if resident else STAGES)


@dataclass(frozen=True)
class Columns:
    """Where the directions of each flat stand among the columns.

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
    def of(cls, sizes: np.ndarray, splits: int, tile: int) -> Columns:
        """Lay out flats with so many directions, in splits of about the same number of columns."""
        widths = sizes + sizes % 2
        reach = np.cumsum(widths)
        middles = np.searchsorted(reach - widths / 2, reach[-1] * np.arange(1, splits) / splits)
        first = np.unique(np.concatenate([[0], middles, [len(sizes)]]))
        before = np.concatenate([[0], reach])[first]
        empty_last = widths[first[1:] - 1] == 0  # a flat without columns is met in the first column after it
        tiles = np.concatenate([[0], np.cumsum(-(-(np.diff(before) + empty_last) // tile))])
        shift = np.repeat(tiles[:-1] * tile - before[:-1], np.diff(first))
        return cls(reach - widths + shift, reach + shift, first, tiles)


class Parts:
    """Flats as ``assign.cu`` reads them, each the columns that it has in one split.

    Attributes
    ----------
    splits, count : int
    starts : (k + 1,) int32
        Parts of each flat.
    ends, tiles, first : int32 arrays
        Where parts end, and tiles and parts of each split; at the end two that never end.
    terms : (parts + 2, 4) float32
        Room for what belongs to each part.
    """

    def __init__(
        self, xp: ModuleType, starts: np.ndarray, ends: np.ndarray, first: np.ndarray, tiles: np.ndarray
    ) -> None:
        self.splits, self.count = len(first) - 1, len(ends)
        ends = np.append(ends, np.full(2, np.iinfo(np.int32).max))
        self.starts, self.ends, self.first, self.tiles = (
            xp.asarray(part.astype(np.int32)) for part in (starts, ends, first, tiles)
        )
        self.terms = xp.zeros((self.count + 2, 4), dtype=np.float32)

    @classmethod
    def whole(cls, xp: ModuleType, columns: Columns) -> Parts:
        """Each flat is one part."""
        return cls(xp, np.arange(len(columns.ends) + 1), columns.ends, columns.first, columns.tiles)

    @classmethod
    def cut(cls, xp: ModuleType, columns: Columns, splits: int, tile: int) -> Parts:
        """Columns of one split cut into splits of as many tiles each, wherever flats end."""
        n_tiles = int(columns.tiles[-1])
        tiles = np.append(np.arange(0, n_tiles, -(-n_tiles // splits)), n_tiles)
        edges = tiles[1:-1] * tile
        begin = np.searchsorted(edges, columns.starts, side="right")
        last = np.maximum(begin, np.searchsorted(edges, columns.ends, side="left"))
        starts = np.concatenate([[0], np.cumsum(last - begin + 1)])
        owners = np.repeat(np.arange(len(begin)), last - begin + 1)
        split = begin[owners] + np.arange(len(owners)) - starts[owners]
        ends = np.minimum(columns.ends[owners], tiles[split + 1] * tile)
        return cls(xp, starts, ends, np.searchsorted(split, np.arange(len(tiles))), tiles)
