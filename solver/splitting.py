"""How many clusters: split them top-down for as long as a split pays for its labels and bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from ksubspaces.kernels import Flats
from ksubspaces.kernels.rows import as_rows

from .alternation import alternate
from .arrays import Array, namespace
from .pricing import PATIENCE, Budget, FixedPrice, Solution, assign_within, compact
from .problem import Problem
from .refit import RESIDENT_BYTES
from .seeding import kmeans, kmeans_plusplus

MOST_CLUSTERS = 64
SEEDED = (2, 4, 8, 16)  # clusters to seed where one cannot be split in two
SAMPLE = 1 << 15  # rows of a cluster that a split is tried on
FEWEST = 4  # rows that are worth splitting
TRIAL_STEPS = 2  # for each way to begin a split ...
SPLIT_STEPS = 6  # ... and for the best of them
SETTLE_STEPS = 8  # of all clusters after each split
SETTLE_TOL = 1e-3
PAYS = 1e-3  # share of the objective that a split must gain
STALE = 0.1  # a split is tried anew when its cluster's size or dimension changed by this share


class Split(NamedTuple):
    """Two flats in place of one, tried when the cluster had so many rows and that dimension.

    ``gain`` is what ``f + lambda P`` falls by; ``flats`` are ``None`` where a split was out of the question.
    """

    gain: float
    flats: Flats | None
    size: int
    dim: int

    def is_stale(self, size: int, dim: int) -> bool:
        return abs(size - self.size) > STALE * self.size or abs(dim - self.dim) > STALE * self.dim


def clusters(
    budget: Budget,
    solution: Solution,
    most: int | None,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """More clusters by splitting, or, where not even the first split pays, by seeding several at a time."""
    solution = grow(budget, solution, most, rng, on_step)
    if solution.k > 1 or solution.price == 0 or most == 1:
        return solution
    best = solution
    for k in SEEDED if most is None else (most,):
        dims = equal_dims(budget, k)
        if k > budget.n_rows or dims[0] < 1:
            break
        labels = kmeans_plusplus(replace(budget.problem, dims=dims), rng)
        seeded = compact(settle(budget, budget.solve(labels, k), on_step))
        if seeded.objective < best.objective:
            best = seeded
    return best if best is solution else grow(budget, best, most, rng, on_step)


def equal_dims(budget: Budget, k: int) -> tuple[int, ...]:
    """The largest dimension that k clusters alike can have."""
    return (min(budget.d, (budget.n_parameters - budget.overhead(k)) // (budget.n_rows + k * budget.d)),) * k


def grow(
    budget: Budget,
    solution: Solution,
    most: int | None,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """Split the cluster whose split gains most, settle, and so on: to ``most`` clusters, or while a split pays."""
    splits: dict[int, Split] = {}
    while (k := solution.k) < (most or MOST_CLUSTERS):
        sizes = enumerate(zip(solution.counts, solution.dims, strict=True))
        stale = [c for c, own in sizes if c not in splits or splits[c].is_stale(*own)]
        splits |= split_all(budget, solution, stale, rng)
        chosen, least = max(splits, key=lambda c: splits[c].gain), PAYS * solution.objective if most is None else 0
        split = splits.pop(chosen)
        if split.flats is None or split.gain <= least:
            break
        both = solution.flats(split.flats.bases.dtype).followed_by(split.flats)
        flats = both.take([*range(chosen), k, *range(chosen + 1, k), k + 1])
        larger = settle(budget, budget.solve(budget.assign(flats, solution)[0], k + 1), on_step)
        if larger.objective >= solution.objective:
            break
        solution = compact(larger)
        if solution.k <= k:
            splits.clear()  # numbers have changed
    return solution


def settle(budget: Budget, solution: Solution, on_step: Callable[[Solution], None] | None) -> Solution:
    """A few steps of all clusters."""
    return alternate(solution, budget, max_iter=SETTLE_STEPS, tol=SETTLE_TOL, patience=PATIENCE, on_step=on_step)


def split_all(budget: Budget, solution: Solution, chosen: Sequence[int], rng: np.random.Generator) -> dict[int, Split]:
    """The best split found of each chosen cluster, at the solution's price; many are tried at a time."""
    counts, dims = solution.counts, solution.dims
    splits = {c: Split(-np.inf, None, counts[c], dims[c]) for c in chosen}
    worth = [c for c in chosen if counts[c] >= FEWEST and solution.price > 0]
    # As many as second moments, and copies of rows, fit in a bounded memory.
    clusters = np.arange(len(worth)) // max(1, RESIDENT_BYTES // (16 * budget.d**2))
    rows = np.cumsum([min(counts[c], SAMPLE) for c in worth]) // max(SAMPLE, len(budget.problem.X) // 4)
    for _, batch in groupby(zip(clusters + rows, worth, strict=True), key=itemgetter(0)):
        splits.update(_try_splits(budget, solution, [c for _, c in batch], rng))
    return splits


def _try_splits(budget: Budget, solution: Solution, chosen: list[int], rng: np.random.Generator) -> dict[int, Split]:
    p, counts = budget.problem, solution.counts[chosen]
    xp, rows = namespace(p.X), budget.rows_of(solution, chosen)
    rows = [own[:: -(-len(own) // SAMPLE)] for own in rows]
    sizes = np.array([len(own) for own in rows])
    starts, numbers = [0, *np.cumsum(sizes).tolist()], xp.concatenate(rows)
    weights = None if p.weights is None else p.weights[numbers]
    part = Problem(p.X[numbers], weights, (0,) * (2 * len(chosen)), p.affine)
    rule, first = FixedPrice(part, starts, solution.price, counts / sizes), 2 * np.repeat(np.arange(len(chosen)), sizes)
    first = xp.asarray(first, np.int32)

    def tried(labels: Array, steps: int) -> Solution:
        return alternate(rule.solve(labels, 2 * len(chosen)), rule, max_iter=steps, tol=0)

    ways = [tried(first + sides, TRIAL_STEPS) for sides in _sides(part, starts, solution, chosen, rng)]
    best = np.argmin([way.costs.reshape(-1, 2).sum(axis=1) for way in ways], axis=0)
    labels = xp.stack([way.labels for way in ways])[xp.asarray(np.repeat(best, sizes)), xp.arange(len(first))]
    trial, kept = tried(labels, SPLIT_STEPS), np.array(solution.dims)[chosen]
    more = budget.overhead(solution.k + 1) - budget.overhead(solution.k) - (counts + budget.d) * kept
    gains = solution.costs[chosen] - solution.price * more - trial.costs.reshape(-1, 2).sum(axis=1)
    flats = trial.flats(p.X.dtype)
    return {
        c: Split(float(gains[i]), flats.take([2 * i, 2 * i + 1]), int(counts[i]), int(kept[i]))
        for i, c in enumerate(chosen)
    }


def _sides(
    part: Problem, starts: Sequence[int], solution: Solution, chosen: Sequence[int], rng: np.random.Generator
) -> list[Array]:
    """Ways to begin a split: by what the rows cost where they are, and by direction."""
    xp, X = namespace(part.X), part.X
    flats = solution.spectra.take(chosen).flats([solution.dims[c] for c in chosen], X.dtype)
    _, residuals = assign_within(part, starts, flats)
    costs = residuals if part.weights is None else part.weights * residuals
    by_costs, by_residuals, by_direction = (xp.ones(len(X), np.int32) for _ in range(3))
    for first, end in pairwise(starts):
        for sides, keys, share in ((by_costs, costs, 0.5), (by_residuals, residuals, 0.2)):
            sides[first + xp.argsort(keys[first:end], kind="stable")[: max(1, int(share * (end - first)))]] = 0
        weights = None if part.weights is None else part.weights[first:end]
        by_direction[first:end] = kmeans(replace(part, X=as_rows(X[first:end]), weights=weights, dims=(1, 1)), rng)
    return [by_costs, by_residuals, by_direction]
