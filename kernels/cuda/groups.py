"""Rows grouped by label, and the groups cut into slots of work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..flats import Array
from . import loader

VARIANTS: list[tuple[str, dict[str, Any]]] = [("groups", {})]

WARPS = 4  # of a block; one segment of the labels each
SEGMENT = 256  # labels that a warp walks at least
SEGMENTS = 4096  # as many as fill a card


def group_by_label(labels: Array, k: int) -> tuple[Array, Array]:
    """Sort row numbers by label, stably.

    Parameters
    ----------
    labels : (n,) int32 array, values in [0, k)
    k : int

    Returns
    -------
    order : (n,) int64
        Row numbers, by label and then in their own order.
    starts : (k + 1,) int64
        Rows of label c are ``order[starts[c]:starts[c + 1]]``.
    """
    xp = loader.namespace(labels)
    order = xp.empty(len(labels), dtype=np.int64)
    if len(labels) == 0 or k == 0:
        return order, xp.zeros(k + 1, dtype=np.int64)
    segments, counts, launch = _counted(labels, k)
    places = xp.cumsum(counts, dtype=np.int64)
    starts = places[::segments].copy()
    launch("place_rows", places, order)
    return order, starts


def label_counts(labels: Array, k: int) -> Array:
    """How many rows have each label; unlike CuPy's bincount this does not wait for the device."""
    if len(labels) == 0 or k == 0:
        return loader.namespace(labels).zeros(k, dtype=np.int64)
    segments, counts, _ = _counted(labels, k)
    return counts[1:].reshape(k, segments).sum(axis=1, dtype=np.int64)


def _counted(labels: Array, k: int) -> tuple[int, Array, Callable[..., None]]:
    """Segments of the labels, 0 and then how many of each label each segment has, and a launch over the segments."""
    xp = loader.namespace(labels)
    labels = xp.ascontiguousarray(labels, dtype=np.int32)
    length, segments = _segments(len(labels), k)
    shape = np.int64(len(labels)), np.int32(max(k - 1, 1).bit_length()), np.int64(length), np.int64(segments)

    def launch(name: str, *args: Array) -> None:
        loader.kernel("groups", name)((-(-segments // WARPS),), (32 * WARPS,), (labels, *shape, *args))

    counts = xp.zeros(k * segments + 1, dtype=np.int32)
    launch("count_labels", counts[1:])
    return segments, counts, launch


def _segments(n: int, k: int) -> tuple[int, int]:
    """Length and number of the segments: enough of them, but fewer when k is large, for each has k counters."""
    wanted = max(1, min(n // SEGMENT, SEGMENTS, (4 * n + 2**16) // k))
    length = -(-n // wanted)
    length = -(-length // 32) * 32
    return length, -(-n // length)


class Groups(NamedTuple):
    """Grouped rows in slots: a slot is up to ``chunk`` rows of one group.

    How many slots there are depends on the labels, which the host does not read; there is room for as many as
    there can be, and those left over belong to no group.

    Attributes
    ----------
    order : (n,) int64 array
        Row numbers by group.
    starts : (k + 1,) int64 array
        Where each group begins in ``order``.
    slots : (k + 1,) int64 array
        Number of slots before each group.
    owners : (n_slots,) int32 array
        Group of each slot; k for those left over.
    """

    order: Array
    starts: Array
    slots: Array
    owners: Array

    @property
    def k(self) -> int:
        """Number of groups."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Array:
        """Rows of each group, (k,) int64."""
        return self.starts[1:] - self.starts[:-1]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """What kernels take to find the rows of a slot."""
        return self.order, self.starts, self.slots, self.owners, np.int32(self.k)


def grouped(labels: Array, k: int, chunk: int) -> Groups:
    """Rows by label, in slots of ``chunk``."""
    xp = loader.namespace(labels)
    order, starts = group_by_label(labels, k)
    most = min(len(labels), k)  # groups that hold a row, hence slots that may be short of rows
    n_slots = (len(labels) - most) // chunk + most
    slots, owners = xp.empty(k + 1, dtype=np.int64), xp.empty(n_slots, dtype=np.int32)
    shape = np.int32(k), np.int32(chunk), np.int64(n_slots)
    loader.kernel("groups", "cut_groups")((1,), (1024,), (starts, *shape, slots, owners))
    return Groups(order, starts, slots, owners)
