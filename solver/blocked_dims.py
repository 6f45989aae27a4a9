"""K-subspaces over rows in the blocks of a Dask array: the rule of the alternation, and how large its start is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Moments, layout_of

from .alternation import State, rounded
from .arrays import Array, device_of, place, to_numpy
from .blocked import Blocks, Delayed, Tally, moved_to
from .refit import are_trivial, best_flats

SAMPLE_BYTES = 64 << 20  # of rows on which a start is found ...
SAMPLE_ROWS = 20  # ... or so many for each dimension of each flat, if these take more
FILLED = 8  # clusters that lack rows and are filled in one step


@dataclass(frozen=True, eq=False)
class Sums:
    """What a pass adds up over blocks."""

    tally: Tally
    objective: float
    worst: np.ndarray
    costs: np.ndarray

    def __add__(self, other: Sums) -> Sums:
        worst, costs = np.concatenate([self.worst, other.worst]), np.concatenate([self.costs, other.costs])
        kept = np.argsort(-costs, kind="stable")[: max(len(self.costs), len(other.costs))]
        return Sums(self.tally + other.tally, self.objective + other.objective, worst[kept], costs[kept])


@dataclass(frozen=True, eq=False)
class BlockedState(State):
    """Labels are those of each block, where the block is; flats or moments are on the host."""

    flats: Flats | None = None
    moments: Moments | None = None


class BlockedDims:
    """The rule of given dimensions (see :class:`~.alternation.FixedDims`) for rows in blocks.

    A cluster that lacks rows is filled in the next refit: its moments are those of rows that are fitted worst.
    """

    def __init__(self, blocks: Blocks, dims: Sequence[int], affine: bool) -> None:
        self.blocks, self.affine, self.layout = blocks, affine, layout_of(blocks.d, tuple(dims))
        self.products = not are_trivial(dims, blocks.d)
        self.least = np.array(dims, np.int64) + affine
        if self.products:
            blocks.check_moments(len(dims))

    def refit(self, state: BlockedState, exact: bool = False) -> Flats:
        return state.flats if state.moments is None else self.flats(state.moments, self.blocks.dtype)  # type: ignore[return-value]

    def flats(self, moments: Moments, dtype: DTypeLike) -> Flats:
        """The best flats for clusters of these moments."""
        return best_flats(moments, self.layout, self.affine, dtype)

    def assign(self, flats: Flats, state: BlockedState) -> tuple[Delayed, Delayed]:
        n_worst = int(np.sort(self.least)[-FILLED:].sum())
        options = {"affine": self.affine, "products": self.products, "n_worst": n_worst}
        labels, sums, moved = self.blocks.step(_step, flats, state.labels, **options)  # type: ignore[arg-type]
        return labels, (sums, moved)

    def measure(self, state: BlockedState, flats: Flats, labels: Delayed, found: Delayed) -> BlockedState:
        (sums, moved), n_filled = found, 0
        counts, moments, worst = sums.tally.counts, sums.tally.moments, sums.worst[sums.costs > 0]
        lacking = np.flatnonzero(counts < self.least)
        takers = np.repeat(lacking, (self.least - counts)[lacking])[: len(worst)].astype(np.int32)
        if len(takers):
            rows = np.ascontiguousarray(worst[: len(takers)])
            moments.add(
                kernels.second_moments(
                    rows, kernels.group_rows(takers, self.layout.k), None, self.affine, self.products
                )
            )
            n_filled = len(np.unique(takers))
        return BlockedState(
            labels, flats.bases, sums.objective, moved, state.n_reseeded + n_filled, flats=flats, moments=moments
        )

    def confirm(self) -> bool:
        return True

    def finish(self, flats: Flats) -> tuple[Flats, list[Delayed], float]:
        """A float64 refit from the labels that these flats give, the labels it gives in turn, and their objective."""
        options = {"affine": self.affine, "products": self.products, "n_worst": 0}
        _, sums, _ = self.blocks.step(_step, flats, None, dtype=np.float64, **options)
        best = rounded(self.flats(sums.tally.moments, np.float64), self.blocks.dtype)
        labels, sums, _ = self.blocks.step(_step, best, None, exact=True, **options)
        return best, labels, sums.objective


def sample_size(blocks: Blocks, dims: Sequence[int]) -> int:
    """Rows of a start."""
    wanted = SAMPLE_ROWS * sum(j + 1 for j in dims)
    return max(wanted, SAMPLE_BYTES // (blocks.d * blocks.dtype.itemsize))


def _step(
    block: tuple[Array, Array | None],
    flats: Flats,
    affine: bool,
    products: bool,
    n_worst: int,
    dtype: DTypeLike | None = None,
    exact: bool = False,
) -> tuple[Array, Sums]:
    """Labels of a block's rows, and its sums; the objective from float64 differences if ``exact``."""
    X, w = block
    device, k = device_of(X), flats.k
    flats = moved_to(flats, partial(place, device=device))
    labels, residuals = kernels.assign(X, flats)
    groups = kernels.group_rows(labels, k)
    if exact:
        residuals = kernels.residuals(X, groups, flats)
    costs = residuals.astype(np.float64) if w is None else w * residuals
    moments = kernels.second_moments(X, groups, w, affine, products, dtype)
    counts = labels if w is None else labels[w > 0]
    worst = kernels.largest(costs, n_worst)
    tally = Tally(moved_to(moments, to_numpy), to_numpy(kernels.label_counts(counts, k)))
    return labels, Sums(tally, float(costs.sum()), to_numpy(X[worst]), to_numpy(costs[worst]))
