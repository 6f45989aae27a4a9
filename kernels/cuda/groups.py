"""Rows grouped by label, and the groups cut into slots of work."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..flats import Array
from ..groups import Groups
from . import loader

VARIANTS: list[loader.Variant] = [("groups", {})]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return VARIANTS


CHUNK = 1024  # rows of a slot
WARPS = 8  # of a block, at most
SEGMENT = 256, 2048  # rows that a block sorts, at least and at most, but no fewer than there are labels
SEGMENTS = 512  # as many as fill a card


def group_rows(labels: Array, k: int, before: Array | None = None, chunk: int = CHUNK) -> Groups:
    """Groups, cut into slots of ``chunk`` rows already; see :func:`ksubspaces.kernels.group_rows`."""
    xp, n = loader.namespace(labels), len(labels)
    order, starts = xp.empty(n, np.int64), xp.empty(k + 1, np.int64)
    if n == 0 or k == 0:
        starts.fill(0)
        return Groups(order, starts, None, None if before is None else xp.zeros((), np.int64), whole=True)
    labels = xp.ascontiguousarray(labels, dtype=np.int32)
    counts, totals = _count(labels, k, before)
    groups = Groups(order, starts, totals[:k], None if before is None else totals[k:].reshape(()), whole=True)
    _cut(groups, totals, chunk)
    length, segments, warps, shared = _segments(n, k)
    shape = np.int64(n), np.int32(k), np.int32(max(k - 1, 1).bit_length()), np.int32(length), np.int32(shared > 0)
    place = loader.kernel("groups", "place_rows")
    place((segments,), (32 * warps,), (labels, *shape, counts, starts, order), shared_mem=warps * shared)
    return groups


def label_counts(labels: Array, k: int) -> Array:
    """How many rows have each label; unlike CuPy's bincount this does not wait for the device."""
    if len(labels) == 0 or k == 0:
        return loader.namespace(labels).zeros(k, dtype=np.int64)
    return _count(loader.namespace(labels).ascontiguousarray(labels, dtype=np.int32), k)[1][:k]


def _count(labels: Array, k: int, before: Array | None = None) -> tuple[Array, Array]:
    """Counts of each label before each segment, and in all rows. The last total counts rows that had another label."""
    xp, width = loader.namespace(labels), k + 1
    length, segments, _, shared = _segments(len(labels), k)
    counts, totals = xp.empty((segments, width), np.uint32), xp.empty(width, np.int64)
    shape = np.int64(len(labels)), np.int32(k), np.int32(length), np.int32(shared > 0)
    old = loader.NULL if before is None else xp.ascontiguousarray(before, dtype=np.int32)
    count = loader.kernel("groups", "count_labels")
    count((segments,), (256,), (labels, old, *shape, counts), shared_mem=shared)
    loader.kernel("groups", "add_counts")(
        (-(-width // 32),), (32, 32), (np.int64(segments), np.int32(width), counts, totals)
    )
    return counts, totals


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
        _cut(groups, loader.NULL, chunk)
    return Slots(groups, *groups.kept[chunk])


def _cut(groups: Groups, totals: loader.Argument, chunk: int) -> None:
    """Find the slots, and where groups start if the rows of each are given."""
    xp, n, k = loader.namespace(groups.order), len(groups.order), groups.k
    most = min(n, k)  # groups that hold a row, hence slots that may be short of rows
    n_slots = (n - most) // chunk + most
    slots, owners = xp.empty(k + 1, dtype=np.int64), xp.empty(n_slots, dtype=np.int32)
    shape = np.int32(k), np.int32(chunk), np.int64(n_slots)
    loader.kernel("groups", "cut_groups")((1,), (1024,), (totals, groups.starts, *shape, slots, owners))
    groups.kept[chunk] = slots, owners
