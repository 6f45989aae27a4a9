"""Rows grouped by label, and the groups cut into slots of work."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import NamedTuple

import numpy as np

from ..flats import Array, Kept
from ..groups import Groups
from . import loader
from .memory import contiguous, keep

VARIANTS: list[loader.Variant] = [("groups", {})]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return VARIANTS


CHUNK = 1024  # rows of a slot
WARPS = 8  # of a block, at most
SEGMENT = 256, 2048  # rows that a block sorts, at least and at most, but no fewer than there are labels
SEGMENTS = 512  # as many as fill a card


def group_rows(
    labels: Array, k: int, before: Array | None = None, chunk: int = CHUNK, kept: Kept | None = None
) -> Groups:
    """Groups, cut into slots of ``chunk`` rows already; see :func:`ksubspaces.kernels.group_rows`."""
    xp, n = loader.namespace(labels), len(labels)
    if n == 0 or k == 0:
        order, starts = xp.empty(n, np.int64), xp.zeros(k + 1, np.int64)
        return Groups(order, starts, None, None if before is None else xp.zeros((), np.int64), whole=True)
    return keep(kept, (_Sorting, n, k, chunk), lambda: _Sorting(xp, n, k, chunk)).group(labels, before)


def label_counts(labels: Array, k: int) -> Array:
    """How many rows have each label; unlike CuPy's bincount this does not wait for the device."""
    xp, n = loader.namespace(labels), len(labels)
    return _Counting(xp, n, k).count(contiguous(labels, np.int32), None) if n and k else xp.zeros(k, dtype=np.int64)


class _Counting:
    """Memory for the counts of k labels of n rows, and launches over it.

    Attributes
    ----------
    counts : uint32 array
        Of each label before each segment, and room for a counter of blocks.
    totals : (k + 1,) int64 array
        Of each label in all rows, and of rows that had another label.
    slots : tuple
        As ``add_counts`` takes them; here none are wanted.
    """

    slots: tuple[loader.Argument, ...] = loader.NULL, np.int32(0), np.int64(0), loader.NULL, loader.NULL

    def __init__(self, xp: ModuleType, n: int, k: int) -> None:
        width = k + 1
        length, segments, self.warps, self.shared = _segments(n, k)
        self.counts, self.totals = xp.empty(segments * width + 1, np.uint32), xp.empty(width, np.int64)
        self.of_labels, self.moved, self.blocks = self.totals[:k], self.totals[k:].reshape(()), (segments,)
        self.shape = np.int64(n), np.int32(k), np.int32(length), np.int32(self.shared > 0)
        self._count, add = loader.kernel("groups", "count_labels"), loader.kernel("groups", "add_counts")
        summed = np.int64(segments), np.int32(width), self.counts, self.totals, *self.slots
        self._add = partial(add, (-(-width // 32),), (32, 32), summed)

    def count(self, labels: Array, before: Array | None) -> Array:
        """Rows of each label."""
        old = loader.NULL if before is None else contiguous(before, np.int32)
        self._count(self.blocks, (256,), (labels, old, *self.shape, self.counts), shared_mem=self.shared)
        self._add()
        return self.of_labels


class _Sorting(_Counting):
    """The same, and memory for groups that are cut into slots."""

    def __init__(self, xp: ModuleType, n: int, k: int, chunk: int) -> None:
        self.order, self.starts = xp.empty(n, np.int64), xp.empty(k + 1, np.int64)
        slots, owners = _room_for_slots(xp, n, k, chunk)
        self.kept: Kept = {chunk: (slots, owners)}
        self.slots = self.starts, np.int32(chunk), np.int64(len(owners)), slots, owners
        super().__init__(xp, n, k)
        rows, labels, length, in_shared = self.shape
        shape = rows, labels, np.int32(max(k - 1, 1).bit_length()), length, in_shared
        self.placed = *shape, self.counts, self.starts, self.order
        self._place = loader.kernel("groups", "place_rows")

    def group(self, labels: Array, before: Array | None) -> Groups:
        """Groups, which are valid until the next ones."""
        labels = contiguous(labels, np.int32)
        self.count(labels, before)
        shared = self.warps * self.shared
        self._place(self.blocks, (32 * self.warps,), (labels, *self.placed), shared_mem=shared)
        groups = Groups(self.order, self.starts, self.of_labels, None if before is None else self.moved, whole=True)
        groups.kept.update(self.kept)
        return groups


def _segments(n: int, k: int) -> tuple[int, int, int, int]:
    """Rows of a segment and how many segments; warps that place them, and bytes for the counters of each: 0 where they
    do not fit."""
    shared, limit = 4 * (k + 1), loader.limits().shared_memory
    warps = next((w for w in (WARPS, WARPS // 2, WARPS // 4, 1) if w * shared <= limit), 0)
    length = max(SEGMENT[0], k, min(SEGMENT[1], n // SEGMENTS))
    length = -(-length // 256) * 256
    return length, -(-n // length), max(warps, 1), shared if warps else 0


class Slots(NamedTuple):
    """Groups cut into slots of up to ``chunk`` rows.

    How many slots there are depends on the groups, which the host does not read; there is room for as many as
    there can be, and those left over belong to no group.

    Attributes
    ----------
    groups : Groups
    slots : (k + 1,) int64 array
        Number of slots before each group.
    owners : (n_slots,) int32 array
        Group of each slot; k for those left over.
    """

    groups: Groups
    slots: Array
    owners: Array

    @property
    def arguments(self) -> tuple[loader.Argument, ...]:
        """What kernels take to find the rows of a slot."""
        return self.groups.order, self.groups.starts, self.slots, self.owners, np.int32(self.groups.k)


def cut(groups: Groups, chunk: int) -> Slots:
    """Slots of ``chunk`` rows, which the groups keep."""
    if chunk not in groups.kept:
        slots, owners = _room_for_slots(loader.namespace(groups.order), len(groups.order), groups.k, chunk)
        shape = np.int32(groups.k), np.int32(chunk), np.int64(len(owners))
        loader.kernel("groups", "cut_groups")((1,), (1024,), (groups.starts, *shape, slots, owners))
        groups.kept[chunk] = slots, owners
    return Slots(groups, *groups.kept[chunk])


def _room_for_slots(xp: ModuleType, n: int, k: int, chunk: int) -> tuple[Array, Array]:
    """Number of slots before each group, and the owners of slots."""
    most = min(n, k)  # groups that hold a row, hence slots that may be short of rows
    return xp.empty(k + 1, dtype=np.int64), xp.empty((n - most) // chunk + most, dtype=np.int32)
