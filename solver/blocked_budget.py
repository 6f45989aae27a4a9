"""``compress`` over rows in the blocks of a Dask array.

Clusters are found on a coreset, as in a large table in memory (:mod:`.coreset`); a few steps over all rows follow, each
one pass over the blocks (:mod:`.blocked`). Labels stay where the blocks are, and coefficients are computed there.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Moments

from . import splitting
from .alternation import alternate
from .arrays import AnyArray, AnyDtype, Array, device_of, place, to_numpy
from .blocked import Blocks, Delayed, Tally, moved_to
from .blocked_factors import BlockedFactorization, of_blocks
from .checks import Passed, Seed, generators
from .pricing import PATIENCE, Budget, Solution, Spectra, compact, drop_rounding
from .problem import Problem
from .progress import Bar, shown
from .result import Record, share

WHOLE_STEPS = 4  # over all rows, after clusters were found on a coreset
NO_PARTITION = (
    "no partition of A into clusters was found that beats its truncated SVD at as many parameters, "
    "so that is what is returned (k=1 asks for it)"
)


class BlockedBudget:
    """The rule of a budget (see :class:`~.pricing.Budget`) for rows in blocks. Labels are those of each block."""

    def __init__(self, blocks: Blocks, budget: Budget) -> None:
        self.blocks, self.budget, self.affine = blocks, budget, budget.problem.affine

    def refit(self, state: Solution, exact: bool = False) -> Flats:
        """Flats of the clusters that have rows."""
        return state.flats(self.blocks.dtype).take(np.flatnonzero(state.counts).tolist())

    def assign(self, flats: Flats, state: Solution) -> tuple[Delayed, Delayed]:
        penalty = state.price * np.array(flats.layout.dims)
        before: Delayed = state.labels if state.history and flats.k == state.k else None  # else numbers have changed
        labels, tally, moved = self.blocks.step(_step, flats, before, penalty=penalty, affine=self.affine)
        return labels, (tally, moved)

    def measure(self, state: Solution, flats: Flats, labels: Delayed, found: Delayed) -> Solution:
        tally, moved = found
        return replace(self.solve(tally, self.blocks.dtype, labels), moved=moved)

    def confirm(self) -> bool:
        return True

    def solve(self, tally: Tally, dtype: DTypeLike, labels: Delayed) -> Solution:
        """The flats that clusters of these moments are worth."""
        d, k = self.blocks.d, len(tally.counts)
        spaces = kernels.top_eigenspaces(tally.moments.scatter, [d] * k, dtype)
        assert spaces.eigenvalues is not None
        values = np.array(spaces.eigenvalues, np.float64)
        drop_rounding(values, d, spaces.bases.dtype)
        spectra = Spectra(spaces.bases.reshape(k, -1, d), values, tally.moments.means if self.affine else None)
        dims, price, costs = self.budget.choose(spectra, tally.counts, np.zeros(k))
        fitted = spectra.flats(dims, spaces.bases.dtype)
        own = Solution(labels, fitted=fitted, counts=tally.counts, price=price, costs=costs)
        return replace(own, objective=float(costs.sum()))

    def finish(self, solution: Solution) -> Solution:
        """The flats that its labels are worth, all in float64."""
        labels: Delayed = solution.labels
        k = int((solution.counts > 0).sum())
        if k < solution.k:
            numbers = np.cumsum(solution.counts > 0, dtype=np.int32) - np.int32(1)
            labels = self.blocks.each(_renumber, labels, numbers=numbers)
        found = self.solve(self.blocks.sum(_tally, k, self.affine, beside=labels), np.float64, labels)
        return replace(found, history=solution.history, converged=solution.converged)


def refuse_for_blocks(**given: Passed) -> None:
    """Refuse the first argument that is not left at its default and cannot be had for a Dask array."""
    for name, value in given.items():
        if value is not None and not (isinstance(value, (str, bool)) and value in ("auto", "budget", False)):
            raise ValueError(f"{name} cannot be had for a Dask array; leave it out, or pass an array in memory")


def compress_blocks(
    A: AnyArray,
    parameters: Callable[[int, int], int],
    most: int | None,
    few: int,
    *,
    sample_weight: AnyArray | None,
    affine: bool,
    max_iter: int,
    tol: float,
    dtype: AnyDtype | None,
    seed: Seed,
    progress: bool,
) -> BlockedFactorization:
    """As :func:`~.budget.compress` has it, for a Dask array."""
    begun = time.perf_counter()
    blocks = Blocks(A, sample_weight, dtype, "A")
    n, d = blocks.n, blocks.d
    if most is not None and most > n:
        raise ValueError(f"k={most} clusters need at least {most} rows, but there are {n}; lower k")
    blocks.check_moments(most or 1)
    energy, mass = blocks.survey()
    drawing, rng = islice(generators(seed), 2)
    bar = Bar(energy) if progress else None

    def on_step(solution: Solution, where: str = "a coreset") -> None:
        if bar is not None:
            bar.update(f"{solution.k} clusters of {where}", solution.objective, f"{max(solution.dims)} dims at most")

    no_rows = Problem(np.zeros((0, d), blocks.dtype), None, (), affine)
    whole = BlockedBudget(blocks, Budget(no_rows, parameters(n, d), n_rows=n))
    nowhere: Delayed = [None] * len(blocks.blocks)
    line = BlockedBudget(blocks, whole.budget.linear)
    svd = line.solve(blocks.sum(_tally, 1, False), np.float64, nowhere)
    with shown(bar):
        grown = _grow(blocks, whole.budget, svd, (energy, mass), most, few, drawing, rng, on_step)
        best = alternate(
            replace(grown, labels=nowhere, objective=np.inf, history=(), converged=False),
            whole,
            max_iter=min(max_iter, WHOLE_STEPS),
            tol=tol,
            patience=PATIENCE,
            on_step=partial(on_step, where="all rows"),
        )
        best = whole.finish(best)
        if svd.objective < best.objective:
            best = replace(svd, history=(svd.objective,), converged=True)
        if best.k == 1 and most != 1 and best.price > 0:
            warnings.warn(NO_PARTITION, stacklevel=3)
        flats = best.flats(blocks.dtype)
        labels: Delayed = best.labels if best.k > 1 else blocks.each(_zeros, blocks.blocks)
        left, counts = blocks.sum(_leave, flats, beside=labels)
        if bar is not None:
            bar.finish()
    record = Record(left, energy, share(left, energy), list(best.history), best.converged)
    record = replace(record, seconds=time.perf_counter() - begun)
    return of_blocks(blocks, labels, flats, counts, record)


def _grow(
    blocks: Blocks,
    budget: Budget,
    svd: Solution,
    totals: tuple[float, float],
    most: int | None,
    few: int,
    drawing: np.random.Generator,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None],
) -> Solution:
    """Clusters of a coreset, drawn by what the truncated SVD leaves, too."""
    flats, drawn = svd.flats(blocks.dtype), int(drawing.integers(2**63))
    rows, own, stands = blocks.sample(few, drawn, *totals, flats, svd.objective)
    weights = own * stands
    problem = Problem(
        rows,
        None if (weights == 1).all() else weights,
        (),
        budget.problem.affine,
        stands=None if (stands == 1).all() else stands,
    )
    part = Budget(problem, budget.n_parameters, n_rows=blocks.n)
    first = compact(part.solve(np.zeros(len(rows), np.int32), 1))
    return compact(splitting.clusters(part, first, most, rng, on_step))


def sum_products(X: AnyArray) -> np.ndarray:
    """``X^T X`` (d, d) of a Dask array, in float64."""
    return Blocks(X).sum(_tally, 1, False).moments.known_raw[0]


def _step(block: tuple[Array, Array | None], flats: Flats, penalty: np.ndarray, affine: bool) -> tuple[Array, Tally]:
    """Labels of a block's rows at a price for each flat, and the moments of its clusters."""
    X, w = block
    there = partial(place, device=device_of(X))
    labels, _ = kernels.assign(X, moved_to(flats, there), there(penalty), w, residuals=False)
    return labels, _tally(block, labels, flats.k, affine, X.dtype)


def _tally(
    block: tuple[Array, Array | None], labels: Delayed, k: int, affine: bool, dtype: DTypeLike = np.float64
) -> Tally:
    """The moments of clusters in a block; of one, whatever the labels."""
    X, w = block
    if k == 1:
        labels = _zeros(block)
    moments: Moments = kernels.second_moments(X, kernels.group_rows(labels, k), w, affine, True, dtype)
    return Tally(moved_to(moments, to_numpy), to_numpy(kernels.label_counts(labels, k)))


def _leave(block: tuple[Array, Array | None], labels: Array, flats: Flats) -> tuple[float, np.ndarray]:
    """What flats leave of a block's rows, and rows of each cluster (1, k)."""
    X, w = block
    there = moved_to(flats, partial(place, device=device_of(X)))
    left = kernels.residuals(X, kernels.group_rows(labels, flats.k), there)
    return float(left.sum() if w is None else w @ left), to_numpy(kernels.label_counts(labels, flats.k))[None]


def _zeros(block: tuple[Array, Array | None]) -> Array:
    return place(np.zeros(len(block[0]), np.int32), device_of(block[0]))


def _renumber(labels: Array, numbers: np.ndarray) -> Array:
    return place(numbers, device_of(labels))[labels]
