"""Assignment among the flats that were nearest to each row of late.

Flats move little from step to step, and the one that is nearest to a row next was one of the few nearest to it before.
Each row's few are found with all flats measured; then a step measures these alone, for as many times less products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Rows
from ksubspaces.kernels.products import side_by_side

from .arrays import Array

FEW = 4  # flats that a row has for candidates
STEPS = 4  # among the same candidates, before all flats are measured again
TOGETHER = 1 << 12  # rows that are measured at a time
BLOCK = 1 << 14  # rows whose distances to all flats are held


@dataclass(eq=False)
class Nearby:
    """The few flats (n, m) nearest to each row, by number; and, flat by flat, the places in that array it has."""

    flats: np.ndarray
    places: list[np.ndarray]
    steps: int = 0

    @property
    def k(self) -> int:
        """Number of flats that they were chosen from."""
        return len(self.places)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Numbers of flats, and some of their places at a time."""
        for c, places in enumerate(self.places):
            for start in range(0, len(places), TOGETHER):
                yield c, places[start : start + TOGETHER]


def pays(n: int, k: int) -> bool:
    """Whether so many flats are several times as many as a row has for candidates."""
    return k >= 2 * FEW and n >= BLOCK


def find(X: Rows, flats: Flats, penalty: Array, weights: Array | None) -> tuple[Array, Nearby]:
    """Labels as :func:`kernels.assign` gives them, and the flats whose costs are least for each row."""
    few = np.empty((len(X), FEW), np.int32)
    labels = np.empty(len(X), np.int32)
    for start in range(0, len(X), BLOCK):
        rows = slice(start, start + BLOCK)
        costs = kernels.sqdistances(X[rows], flats)
        if weights is not None:
            costs *= weights[rows, None].astype(costs.dtype)
        costs += penalty.astype(costs.dtype)
        labels[rows] = costs.argmin(axis=1)
        few[rows] = np.argpartition(costs, FEW - 1, axis=1)[:, :FEW]
    few.sort(axis=1)  # the lowest number first on a tie
    order = np.argsort(few, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(few.ravel(), minlength=flats.k))
    return labels, Nearby(few, np.split(order, ends[:-1]))


def assign(X: Rows, nearby: Nearby, flats: Flats, penalty: Array, weights: Array | None) -> Array:
    """Labels of those among each row's few flats whose costs are least."""
    costs = np.empty(nearby.flats.shape, X.dtype)

    def measure(task: tuple[int, np.ndarray]) -> None:
        c, places = task
        rows = places // FEW
        own = kernels.assign(X[rows], flats.take([c]))[1]
        if weights is not None:
            own *= weights[rows].astype(own.dtype)
        costs.reshape(-1)[places] = own + costs.dtype.type(penalty[c])

    for _ in side_by_side(measure, nearby.blocks()):
        pass
    nearby.steps += 1
    return np.take_along_axis(nearby.flats, costs.argmin(axis=1)[:, None], axis=1)[:, 0]
