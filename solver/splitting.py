"""How many clusters: split them top-down for as long as a split pays for its labels and bases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats
from ksubspaces.kernels.rows import as_rows

from .alternation import alternate
from .arrays import Array, namespace, to_numpy
from .pricing import PATIENCE, Budget, FixedPrice, Solution, assign_within, compact
from .problem import Problem
from .refit import RESIDENT_BYTES
from .seeding import kmeans, kmeans_plusplus

MOST_CLUSTERS, ROWS_OF_ONE = 64, 3  # at most, or one for each so many times d rows
SEEDED = (2, 4, 8, 16)  # clusters to seed where one cannot be split in two
SAMPLE = 1 << 15  # rows of a cluster that a split is tried on
TRIAL_BYTES = 8 << 20  # that trials in one batch may hold, ...
TRIAL_SHARE = 0.25  # ... or this share of X; one trial may hold more
FEWEST = 4  # rows that are worth splitting
TRIAL_STEPS = 4  # of the best way to begin a split
TRIAL_TOL = 2e-4
SETTLE_STEPS = 5  # of all clusters after each split
SETTLE_TOL = 1e-3
ALIKE = 0.4  # share of the best split's gain that splits in the same round have
PAYS = 3e-4  # share of the objective that a split must gain
STALE = 0.1  # a split is tried anew when its cluster's size or dimension changed by this share


class Split(NamedTuple):
    """Two flats in place of one, tried when the cluster had so many rows and that dimension.

    ``gain`` is what ``f + lambda P`` falls by; ``flats`` are ``None`` where that is nothing.
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
        return drop_spare(budget, solution)
    best = solution
    for k in SEEDED if most is None else (most,):
        dims = equal_dims(budget, k)
        if k > budget.n_rows or dims[0] < 1:
            break
        labels = kmeans_plusplus(replace(budget.problem, dims=dims), rng)
        seeded = compact(settle(budget, labels, k, on_step))
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
    least = MOST_CLUSTERS if budget.problem.stands is None else 1  # few rows that stand for many fit any cluster
    at_most = most or max(least, len(budget.problem.X) // (ROWS_OF_ONE * budget.d))
    while (k := solution.k) < at_most:
        sizes = enumerate(zip(solution.counts, solution.dims, strict=True))
        stale = [c for c, own in sizes if c not in splits or splits[c].is_stale(*own)]
        budget.release()  # the trials need the room, and another number of clusters has other moments
        splits |= split_all(budget, solution, stale, rng)
        chosen = best_splits(splits, PAYS * solution.objective if most is None else 0, at_most - k)
        if not chosen:
            break
        labels = divide(budget, solution, {c: splits.pop(c) for c in chosen})
        larger = settle(budget, labels, k + len(chosen), on_step)
        if larger.objective >= solution.objective:
            break
        solution = compact(larger)
        if solution.k < k + len(chosen):
            splits.clear()  # numbers have changed
    return solution


def drop_spare(budget: Budget, solution: Solution) -> Solution:
    """Where a solution is exact, one that is exact without the clusters, small ones first, whose rows others can have.

    Several splits in a round may part rows of one subspace, which no price of their directions brings together again.
    """
    spare = [int(c) for c in np.argsort(solution.counts, kind="stable")] if solution.price == 0 else []
    while spare and solution.k > 1:
        c = spare.pop(0)
        others = [own for own in range(solution.k) if own != c]
        labels, _ = budget.assign(solution.flats(budget.problem.X.dtype).take(others), solution)
        fewer = compact(budget.solve(labels, len(others)))
        if fewer.price == 0 and fewer.k == len(others):
            solution, spare = fewer, [own - (own > c) for own in spare]
    return solution


def divide(budget: Budget, solution: Solution, splits: dict[int, Split]) -> Array:
    """Labels of all rows when clusters are split: the first of two flats takes the place of one."""
    flats, order = solution.flats(budget.problem.X.dtype), list(range(solution.k))
    for c, split in splits.items():
        assert split.flats is not None
        order[c] = flats.k
        order.append(flats.k + 1)
        flats = flats.followed_by(split.flats)
    return budget.assign(flats.take(order), solution)[0]


def best_splits(splits: dict[int, Split], least: float, most: int) -> list[int]:
    """The clusters whose splits gain more than the least, and not much less than the best of them."""
    ranked = sorted((c for c in splits if splits[c].flats is not None), key=lambda c: -splits[c].gain)
    least = max(least, ALIKE * splits[ranked[0]].gain) if ranked else least
    return [c for c in ranked if splits[c].gain > least][:most]


def settle(budget: Budget, labels: Array, k: int, on_step: Callable[[Solution], None] | None) -> Solution:
    """A few steps of all clusters."""
    return alternate(
        budget.solve(labels, k), budget, max_iter=SETTLE_STEPS, tol=SETTLE_TOL, patience=PATIENCE, on_step=on_step
    )


def split_all(budget: Budget, solution: Solution, chosen: Sequence[int], rng: np.random.Generator) -> dict[int, Split]:
    """The best split found of each chosen cluster, at the solution's price; many are tried at a time."""
    counts, dims = solution.counts, solution.dims
    splits = {c: Split(-np.inf, None, counts[c], dims[c]) for c in chosen}
    worth = [c for c in chosen if counts[c] >= FEWEST and solution.price > 0]
    # A few at a time, for rows are copied, and moments, eigenvectors and flats of both sides are held.
    X, d = budget.problem.X, budget.d
    room = RESIDENT_BYTES if budget.problem.on_card else max(TRIAL_BYTES, int(TRIAL_SHARE * X.nbytes))
    held = np.cumsum(
        [(2 * 8 + 4 * X.dtype.itemsize) * d**2 + min(counts[c], SAMPLE) * d * X.dtype.itemsize for c in worth]
    )
    for _, batch in groupby(zip(held // room, worth, strict=True), key=itemgetter(0)):
        splits.update(_try_splits(budget, solution, [c for _, c in batch], rng))
    return splits


def _try_splits(budget: Budget, solution: Solution, chosen: list[int], rng: np.random.Generator) -> dict[int, Split]:
    p, counts = budget.problem, solution.counts[chosen]
    xp, rows = namespace(p.X), budget.rows_of(solution, chosen)
    steps = [-(-len(own) // SAMPLE) for own in rows]
    sizes = np.array([-(-len(own) // step) for own, step in zip(rows, steps, strict=True)])
    starts = [0, *np.cumsum(sizes).tolist()]
    if len(rows[0]) == len(p.X) and not (p.on_card and steps[0] > 1):
        numbers = slice(None, None, steps[0])  # a view
    else:
        numbers = xp.concatenate([own[::step] for own, step in zip(rows, steps, strict=True)])
    weights = None if p.weights is None else p.weights[numbers]
    stands = None if p.stands is None else p.stands[numbers]
    part = Problem(p.X[numbers], weights, (0,) * (2 * len(chosen)), p.affine, stands=stands)
    first = xp.asarray(2 * np.repeat(np.arange(len(chosen)), sizes), np.int32)
    whole = sizes if stands is None else to_numpy(kernels.group_rows(first // 2, len(chosen)).sums(stands))
    rule = FixedPrice(part, starts, solution.price, counts / whole)

    k = 2 * len(chosen)
    ways = [first + sides for sides in _sides(part, starts, solution, chosen, rng)]
    best = np.argmin([rule.appraise(labels, k).reshape(-1, 2).sum(axis=1) for labels in ways], axis=0)
    labels = xp.stack(ways)[xp.asarray(np.repeat(best, sizes)), xp.arange(len(first))]
    trial = alternate(rule.solve(labels, k), rule, max_iter=TRIAL_STEPS, tol=TRIAL_TOL)
    kept = np.array(solution.dims)[chosen]
    more = budget.overhead(solution.k + 1) - budget.overhead(solution.k) - (counts + budget.d) * kept
    gains = solution.costs[chosen] - solution.price * more - trial.costs.reshape(-1, 2).sum(axis=1)
    flats = trial.flats(p.X.dtype)
    return {
        c: Split(
            float(gains[i]), flats.take([2 * i, 2 * i + 1]) if gains[i] > 0 else None, int(counts[i]), int(kept[i])
        )
        for i, c in enumerate(chosen)
    }


def _sides(
    part: Problem, starts: Sequence[int], solution: Solution, chosen: Sequence[int], rng: np.random.Generator
) -> list[Array]:
    """Ways to begin a split: by what the rows cost where they are, and by direction."""
    xp, X = namespace(part.X), part.X
    flats = solution.flats(X.dtype).take(chosen)
    _, residuals = assign_within(part, starts, flats)
    costs = residuals if part.own_weights is None else part.own_weights * residuals
    by_costs, by_residuals, by_direction = (xp.ones(len(X), np.int32) for _ in range(3))
    for first, end in pairwise(starts):
        for sides, keys, share in ((by_costs, costs, 0.5), (by_residuals, residuals, 0.2)):
            sides[first + xp.argsort(keys[first:end], kind="stable")[: max(1, int(share * (end - first)))]] = 0
        weights = None if part.weights is None else part.weights[first:end]
        by_direction[first:end] = kmeans(
            replace(part, X=as_rows(X[first:end]), weights=weights, dims=(1, 1), stands=None), rng
        )
    return [by_costs, by_residuals, by_direction]
