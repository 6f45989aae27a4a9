"""How many clusters: split them top-down for as long as a split pays for its labels and bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from operator import itemgetter

import numpy as np

from ksubspaces.kernels import Flats

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


@dataclass(frozen=True, eq=False)
class Split:
    """Two flats in place of one.

    ``gain`` is what ``f + lambda P`` falls by, and ``flats`` are ``None`` where a split was out of the question;
    ``count`` and ``dim`` are those of the cluster when the split was tried.
    """

    gain: float
    flats: Flats | None
    count: int
    dim: int

    def is_stale(self, solution: Solution, c: int) -> bool:
        count, dim = solution.counts[c], solution.dims[c]
        return abs(count - self.count) > STALE * self.count or abs(dim - self.dim) > STALE * self.dim


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
    d = budget.problem.X.shape[1]
    return (min(d, (budget.n_parameters - budget.overhead(k)) // (budget.n_rows + k * d)),) * k


def grow(
    budget: Budget,
    solution: Solution,
    most: int | None,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """Split the cluster whose split gains most, settle, and so on: to ``most`` clusters, or while a split pays."""
    splits: dict[int, Split] = {}
    while solution.k < (most or MOST_CLUSTERS):
        stale = [c for c in range(solution.k) if c not in splits or splits[c].is_stale(solution, c)]
        splits.update(zip(stale, split_all(budget, solution, stale, rng), strict=True))
        chosen, least = max(splits, key=lambda c: splits[c].gain), PAYS * solution.objective if most is None else 0
        split = splits.pop(chosen).flats if splits[chosen].gain > least else None
        if split is None:
            break
        labels, _ = budget.assign(_with_split(solution, chosen, split, budget.problem.X.dtype), solution)
        larger = settle(budget, budget.solve(labels, solution.k + 1), on_step)
        if larger.objective >= solution.objective:
            break
        full = compact(larger)
        if full.k != larger.k:
            splits.clear()  # numbers have changed
        solution = full
    return solution


def settle(budget: Budget, solution: Solution, on_step: Callable[[Solution], None] | None) -> Solution:
    """A few steps of all clusters."""
    return alternate(solution, budget, max_iter=SETTLE_STEPS, tol=SETTLE_TOL, patience=PATIENCE, on_step=on_step)


def _with_split(solution: Solution, c: int, split: Flats, dtype: np.dtype) -> Flats:
    """The flats of a solution with one of the two of a split in the place of c, and the other at the end."""
    k = solution.k
    both = solution.flats(dtype).followed_by(split)
    return both.take([*range(c), k, *range(c + 1, k), k + 1])


def split_all(budget: Budget, solution: Solution, chosen: Sequence[int], rng: np.random.Generator) -> list[Split]:
    """The best split found of each chosen cluster, at the solution's price; many are tried at a time."""
    d, counts, dims = budget.problem.X.shape[1], solution.counts, solution.dims
    splits = {c: Split(-np.inf, None, counts[c], dims[c]) for c in chosen}
    worth = [c for c in chosen if counts[c] >= FEWEST and solution.price > 0]
    # As many as second moments, and copies of rows, fit in a bounded memory.
    clusters = np.arange(len(worth)) // max(1, RESIDENT_BYTES // (16 * d * d))
    rows = np.cumsum([min(counts[c], SAMPLE) for c in worth]) // max(SAMPLE, len(budget.problem.X) // 4)
    for _, batch in groupby(zip(clusters + rows, worth, strict=True), key=itemgetter(0)):
        splits.update(_try_splits(budget, solution, [c for _, c in batch], rng))
    return [splits[c] for c in chosen]


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

    def costs(trial: Solution) -> np.ndarray:
        return rule.costs(trial.spectra, trial.counts, trial.dims)

    ways = [tried(first + sides, TRIAL_STEPS) for sides in _sides(part, starts, solution, chosen, rng)]
    best = xp.asarray(np.repeat(np.argmin([costs(way) for way in ways], axis=0), sizes))
    labels = xp.stack([way.labels for way in ways])[best, xp.arange(len(best))]
    trial = tried(labels, SPLIT_STEPS)
    kept = np.array(solution.dims)[chosen]
    whole = solution.spectra.left(solution.dims)[chosen] + solution.price * (counts + p.X.shape[1]) * kept
    dearer = solution.price * (budget.overhead(solution.k + 1) - budget.overhead(solution.k))
    gains, flats = whole - costs(trial) - dearer, trial.flats(p.X.dtype)
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
        by_direction[first:end] = kmeans(replace(part, X=X[first:end], weights=weights, dims=(1, 1)), rng)
    return [by_costs, by_residuals, by_direction]
