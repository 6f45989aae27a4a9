"""Rows that operations read. They stay where they live, or come block by block to a device that cannot hold them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import TypeAlias

import numpy as np

from .devices import kernels_for
from .flats import Array, Kept, namespace
from .groups import Groups

Index: TypeAlias = "Array | slice"
"""Numbers of rows, or consecutive ones."""


class Rows:
    """Rows (n, d) where they live, and what a device has computed of them and keeps.

    Attributes
    ----------
    array : (n, d) array, float32 or float64
        Read, never written.
    kept : dict or None
        What a device keeps for as long as the rows are used; ``None`` if rows come and go.
    """

    ndim = 2
    kept: Kept | None

    def __init__(self, array: Array) -> None:
        self.array, self.kept = array, {}
        self.shape, self.dtype, self.nbytes = array.shape, array.dtype, array.nbytes

    @cached_property
    def xp(self) -> ModuleType:
        """NumPy or CuPy, whichever results are arrays of."""
        return namespace(self.array)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: Index) -> Array:
        """The chosen rows, on the device."""
        return self.array[chosen]

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Spans and blocks of consecutive rows, on the device. A block is valid until the next is asked for."""
        yield slice(0, len(self)), self.array

    def grouped(self, groups: Groups) -> Iterator[tuple[Index, Array, Groups]]:
        """Blocks of the rows that have a group: numbers as an index, rows, and the groups within the block."""
        yield slice(None), self.array, groups

    def ordered(self, groups: Groups) -> Iterator[tuple[Index, Array, Groups]]:
        """The same, each block going on in the order of the groups where the last one ended."""
        yield slice(None), self.array, groups

    def back(self, part: Array) -> Array:
        """Part of a result that may be as large as the rows, in the memory where these are."""
        return part

    def gathered(self, numbers: Array) -> Iterator[tuple[slice, Index, Array, Array]]:
        """Blocks that hold the rows of these numbers: the span of the numbers, an index of the block's rows, the block,
        and where the rows lie within it."""
        yield slice(None), slice(None), self.array, numbers


class Streamed(Rows):
    """Rows (n, d) in host memory, for a device that cannot hold them.

    Parameters
    ----------
    array : (n, d) NumPy array, float32 or float64
    xp : module
        CuPy; or NumPy, for which a block is a part of ``array``.
    block_bytes : int
        Most bytes of a block. There are two on the device at a time, and two in pinned host memory.
    exponent : int, default 0
        Rows count as ``2^exponent`` times those in memory.
    """

    def __init__(self, array: np.ndarray, xp: ModuleType, block_bytes: int, exponent: int = 0) -> None:
        super().__init__(array)
        self.xp, self.kept, self.block_bytes, self.exponent = xp, None, block_bytes, exponent
        self.block_rows = int(max(1, min(len(array), block_bytes // (array.shape[1] * array.itemsize))))

    def __getitem__(self, chosen: Index) -> Array:
        numbers = chosen if isinstance(chosen, (np.ndarray, slice)) else chosen.get()
        return self.xp.asarray(self._scaled(self.array[numbers]))

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return np.ldexp(rows, np.int32(self.exponent)) if self.exponent else rows

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        spans = [slice(i, min(i + self.block_rows, len(self))) for i in range(0, len(self), self.block_rows)]
        if self.xp is np or not spans:
            return ((span, self[span]) for span in spans or [slice(0, 0)])
        return self._uploaded(spans)

    def _uploaded(self, spans: list[slice]) -> Iterator[tuple[slice, Array]]:
        """Blocks through two buffers: one is filled while the device works on the other."""
        import cupyx

        cuda, shape = self.xp.cuda, (self.block_rows, self.shape[1])
        pinned = [cupyx.empty_pinned(shape, dtype=self.dtype) for _ in range(2)]
        device = [self.xp.empty(shape, dtype=self.dtype) for _ in range(2)]
        copied, used = ([cuda.Event(disable_timing=True) for _ in range(2)] for _ in range(2))
        copier, worker = cuda.Stream(non_blocking=True), cuda.get_current_stream()
        for event in used:
            event.record(worker)  # whatever held this memory before is done with it

        def upload(i: int) -> None:
            slot, span = i % 2, spans[i]
            m = span.stop - span.start
            copied[slot].synchronize()  # the last copy from this pinned buffer
            np.copyto(pinned[slot][:m], self._scaled(self.array[span]))
            copier.wait_event(used[slot])
            device[slot][:m].set(pinned[slot][:m], stream=copier)
            copied[slot].record(copier)

        upload(0)
        try:
            for i, span in enumerate(spans):
                if i + 1 < len(spans):
                    upload(i + 1)
                worker.wait_event(copied[i % 2])
                yield span, device[i % 2][: span.stop - span.start]
                used[i % 2].record(worker)
        finally:
            copier.synchronize()  # the buffers go back to their pools only when nothing writes to them

    def grouped(self, groups: Groups) -> Iterator[tuple[Index, Array, Groups]]:
        if not groups.whole:
            yield from self.ordered(groups)
            return
        for span, block in self.blocks():
            yield span, block, kernels_for(block).group_rows(groups.labels[span], groups.k)

    def ordered(self, groups: Groups) -> Iterator[tuple[Index, Array, Groups]]:
        return ((numbers, self[numbers], part) for numbers, part in groups.parts(self.block_rows))

    def back(self, part: Array) -> Array:
        return part if isinstance(part, np.ndarray) else part.get()

    def gathered(self, numbers: Array) -> Iterator[tuple[slice, Index, Array, Array]]:
        for start in range(0, len(numbers), self.block_rows):
            span = slice(start, min(start + self.block_rows, len(numbers)))
            yield span, numbers[span], self[numbers[span]], self.xp.arange(span.stop - span.start)


def as_rows(X: Array | Rows) -> Rows:
    """Rows of an array; themselves if they are. What is no array is refused."""
    if isinstance(X, Rows):
        return X
    kernels_for(X)
    return Rows(X)
