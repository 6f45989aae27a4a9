"""Rows by label. An assignment finds them once; every operation on the rows of each cluster takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from .flats import Array, Kept, namespace


@dataclass(frozen=True, eq=False)
class Groups:
    """Row numbers of k groups; :func:`ksubspaces.kernels.group_rows` makes them of labels.

    Attributes
    ----------
    order : (m,) int64 array
        Row numbers of one group after another.
    starts : (k + 1,) int64 array
        Rows of group c are ``order[starts[c]:starts[c + 1]]``.
    counted : (k,) int64 array, optional
        Rows of each group, where they are known without a difference of ``starts``.
    moved : int64 array without axes, optional
        Rows that were in another group before.
    whole : bool
        Whether each row of an array has a group, and is named once.
    kept : dict
        What a device has computed of them and keeps.
    """

    order: Array
    starts: Array
    counted: Array | None = None
    moved: Array | None = None
    whole: bool = False
    kept: Kept = field(default_factory=dict, init=False, repr=False)

    @property
    def k(self) -> int:
        """Number of groups."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Array:
        """Rows of each group, (k,) int64."""
        return self.starts[1:] - self.starts[:-1] if self.counted is None else self.counted

    @cached_property
    def bounds(self) -> list[int]:
        """``starts`` on the host, which waits for a device."""
        return [int(start) for start in self.starts.tolist()]

    @cached_property
    def owners(self) -> Array:
        """Group of each row in ``order``, (m,) int32."""
        xp = namespace(self.order)
        if xp is np:
            return np.repeat(np.arange(self.k, dtype=np.int32), self.counts)
        # A repeat would have the host wait.
        return xp.searchsorted(self.starts[1:], xp.arange(len(self.order)), side="right").astype(np.int32)

    @cached_property
    def labels(self) -> Array:
        """Group of each row, (n,) int32, where each has one."""
        labels = namespace(self.order).empty(len(self.order), np.int32)
        labels[self.order] = self.owners
        return labels

    def rows(self, c: int) -> Array:
        """Row numbers of group c."""
        return self.order[self.bounds[c] : self.bounds[c + 1]]

    def sums(self, values: Array) -> Array:
        """Sums of values (n,) of the rows of each group, (k,) float64, in a fixed order."""
        xp, own = namespace(self.order), values[self.order].astype(np.float64)
        sums = xp.concatenate([xp.zeros(1), own.cumsum()])
        return sums[self.starts[1:]] - sums[self.starts[:-1]]

    def take(self, first: int, end: int) -> Groups:
        """Groups first to end - 1."""
        rows = slice(self.bounds[first], self.bounds[end])
        return Groups(self.order[rows], self.starts[first : end + 1] - rows.start)

    def blocks(self, most: int) -> Iterator[tuple[int, Array]]:
        """Groups and row numbers of one group after another, ``most`` rows at a time."""
        for c in range(self.k):
            for start in range(self.bounds[c], self.bounds[c + 1], most):
                yield c, self.order[start : min(start + most, self.bounds[c + 1])]

    def among(self, rows: Array) -> Groups:
        """The same groups of an array in which row i of these has the number ``rows[i]``."""
        return Groups(rows[self.order].astype(np.int64, copy=False), self.starts)

    def parts(self, most: int) -> Iterator[tuple[Array, Groups]]:
        """Row numbers in their order, ``most`` at a time, each part with its groups, whose rows count from 0."""
        xp = namespace(self.order)
        for start in range(0, max(len(self.order), 1), most):
            rows = self.order[start : start + most]
            yield rows, Groups(xp.arange(len(rows)), self.starts.clip(start, start + len(rows)) - start)
