"""Rows in float16, prepared once for all kernels that multiply them so."""

from __future__ import annotations

import numpy as np

from ..flats import Array, Kept
from . import loader

VARIANTS: list[loader.Variant] = [("halves", {})]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return VARIANTS if dtype == np.float32 else []


STEP = 32  # columns that rows are filled up to
ROOM = 256  # rows that what is measured of them is filled up to


def steps_of(d: int) -> int:
    """Steps that rows are filled up to where kernels are compiled for a few numbers of them."""
    return 1 << (max(1, -(-d // STEP)) - 1).bit_length()


class HalfRows:
    """Rows about a centre, as float16 of ``width`` columns, and what ``prepare`` of halves.cu measures of them."""

    def __init__(self, X: Array, centre: Array | None, width: int) -> None:
        xp = loader.namespace(X)
        n, d = X.shape
        self.centre = loader.NULL
        if centre is not None:
            self.centre = xp.zeros(-(-d // STEP) * STEP, dtype=np.float32)
            self.centre[:d] = centre
        room = -(-n // ROOM) * ROOM
        self.halves = xp.empty((n, width // 2), dtype=np.uint32)
        self.energy, self.lost, self.scales = (xp.empty(room, dtype=np.float32) for _ in range(3))
        args = (X, np.int64(n), np.int32(d), np.int32(width), self.centre, self.halves)
        run = loader.kernel("halves", "prepare")
        run((-(-n // 8),), (256,), (*args, self.energy, self.lost, self.scales))


def half_rows(X: Array, centre: Array | None, width: int, kept: Kept | None) -> HalfRows:
    """Rows in float16, prepared once if they can be kept, about the first centre: any near the rows will do."""
    name = "halves", width, centre is not None
    if kept is None:
        return HalfRows(X, centre, width)
    if name not in kept:
        kept[name] = HalfRows(X, centre, width)
    return kept[name]
