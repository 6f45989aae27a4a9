"""Rows that do not fit on the device: they stay in host memory and come to it block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .flats import Array


class Streamed:
    """Rows (n, d) in host memory, for a device.

    Parameters
    ----------
    rows : (n, d) NumPy array, float32 or float64
        Read, never written.
    xp : module
        CuPy; or NumPy, for which a block is a part of ``rows``.
    block_bytes : int
        Most bytes of a block. There are two on the device at a time, and two in pinned host memory.
    exponent : int, default 0
        Rows count as ``2^exponent`` times those in memory.
    """

    ndim = 2

    def __init__(self, rows: np.ndarray, xp: Any, block_bytes: int, exponent: int = 0) -> None:
        self.rows, self.xp, self.block_bytes, self.exponent = rows, xp, block_bytes, exponent
        self.shape, self.dtype, self.nbytes = rows.shape, rows.dtype, rows.nbytes
        self.block_rows = int(max(1, min(len(rows), block_bytes // (rows.shape[1] * rows.itemsize))))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, chosen: Array) -> Array:
        """The rows of the given numbers, on the device."""
        numbers = chosen if isinstance(chosen, np.ndarray) else chosen.get()
        return self.xp.asarray(self._scaled(self.rows[numbers]))

    def _scaled(self, rows: np.ndarray) -> np.ndarray:
        return np.ldexp(rows, np.int32(self.exponent)) if self.exponent else rows

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Consecutive rows and where they stand, on the device; a block holds until the next is asked for."""
        spans = [slice(i, min(i + self.block_rows, len(self))) for i in range(0, len(self), self.block_rows)]
        if self.xp is np or not spans:
            return ((span, self._scaled(self.rows[span])) for span in spans)
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
            np.copyto(pinned[slot][:m], self._scaled(self.rows[span]))
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

    def gathered(self, numbers: Array) -> Iterator[tuple[slice, Array]]:
        """The rows of the given numbers, a block at a time, and which of the numbers they are."""
        for start in range(0, len(numbers), self.block_rows):
            span = slice(start, min(start + self.block_rows, len(numbers)))
            yield span, self[numbers[span]]
