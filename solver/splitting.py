"""How many clusters: split them top-down for as long as a split pays for its labels and bases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .arrays import Array, namespace, to_numpy
from .pricing import Pricing, Solution, Spectra, compact, spectra_of
from .problem import Problem
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

    def is_stale(self, count: int, dim: int) -> bool:
        return abs(count - self.count) > STALE * self.count or abs(dim - self.dim) > STALE * self.dim


def clusters(
    pricing: Pricing,
    solution: Solution,
    most: int | None,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """More clusters by splitting, or, where not even the first split pays, by seeding several at a time."""
    solution = grow(pricing, solution, most, rng, on_step)
    if solution.k > 1 or solution.price == 0 or most == 1:
        return solution
    best = solution
    for k in SEEDED if most is None else (most,):
        dims = equal_dims(pricing, k)
        if k > pricing.n_rows or dims[0] < 1:
            break
        labels = kmeans_plusplus(replace(pricing.problem, dims=dims), rng)
        seeded = compact(pricing.settle(pricing.solve(labels, k), SETTLE_STEPS, SETTLE_TOL, on_step))
        if seeded.objective < best.objective:
            best = seeded
    return best if best is solution else grow(pricing, best, most, rng, on_step)


def equal_dims(pricing: Pricing, k: int) -> tuple[int, ...]:
    """The largest dimension that k clusters alike can have."""
    d = pricing.problem.X.shape[1]
    return (min(d, (pricing.n_parameters - pricing.overhead(k)) // (pricing.n_rows + k * d)),) * k


def grow(
    pricing: Pricing,
    solution: Solution,
    most: int | None,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """Split the cluster whose split gains most, settle, and so on: to ``most`` clusters, or while a split pays."""
    problem = pricing.problem
    splits: dict[int, Split] = {}
    while solution.k < (most or MOST_CLUSTERS):
        for c in range(solution.k):
            if c not in splits or splits[c].is_stale(solution.counts[c], solution.dims[c]):
                splits[c] = propose(pricing, solution, c, rng)
        chosen, least = max(splits, key=lambda c: splits[c].gain), PAYS * solution.objective if most is None else 0
        split = splits.pop(chosen).flats if splits[chosen].gain > least else None
        if split is None:
            break
        flats, dims = _with_split(solution, chosen, split, problem.X.dtype)
        labels = pricing.reassign(flats, dims, solution.price)
        larger = pricing.settle(pricing.solve(labels, len(dims)), SETTLE_STEPS, SETTLE_TOL, on_step)
        if larger.objective >= solution.objective:
            break
        full = compact(larger)
        if full.k != larger.k:
            splits.clear()  # numbers have changed
        solution = full
    return solution


def _with_split(solution: Solution, c: int, split: Flats, dtype: np.dtype) -> tuple[Flats, tuple[int, ...]]:
    """The flats of a solution with one of the two of a split in the place of c, and the other at the end."""
    k = solution.k
    both = solution.flats(dtype).followed_by(split)
    flats = both.take([*range(c), k, *range(c + 1, k), k + 1])
    return flats, flats.layout.dims


def propose(pricing: Pricing, solution: Solution, c: int, rng: np.random.Generator) -> Split:
    """The best split found of cluster c, at the solution's price."""
    problem = pricing.problem
    count, dim, d = solution.counts[c], solution.dims[c], problem.X.shape[1]
    if count < FEWEST or solution.price == 0:
        return Split(-np.inf, None, count, dim)
    rows = pricing.rows_of(solution.labels, c)[:: -(-count // SAMPLE)]
    weights = None if problem.weights is None else problem.weights[rows]
    part = Problem(problem.X[rows], weights, (1, 1), problem.affine, problem.unit)
    pair = _Pair(part, solution.price, count / len(rows))
    whole = float(solution.spectra.values[c, dim:].sum()) + solution.price * (count + d) * dim
    dearer = pricing.overhead(solution.k + 1) - pricing.overhead(solution.k)
    best = min((pair.descend(sides, TRIAL_STEPS) for sides in _sides(part, solution, c, rng)), key=lambda s: s[0])
    cost, spectra, dims = pair.descend(best[3], SPLIT_STEPS)[:3]
    gain = whole - cost - solution.price * dearer
    return Split(gain, spectra.flats(dims, problem.X.dtype), count, dim)


class _Pair:
    """Two clusters in the place of one, alternated at a fixed price on a sample of its rows."""

    def __init__(self, part: Problem, price: float, scale: float) -> None:
        self.part, self.price, self.scale = part, price, scale

    def descend(self, sides: Array, max_iter: int) -> tuple[float, Spectra, tuple[int, ...], Array]:
        """Cost, spectra, dimensions and sides of the best step."""
        best = self._refit(sides)
        for _ in range(max_iter):
            cost, spectra, dims, _ = best
            penalty = namespace(sides).asarray([self.price * j for j in dims])
            flats = spectra.flats(dims, self.part.X.dtype)
            step = self._refit(kernels.assign(self.part.X, flats, penalty, self.part.weights)[0])
            if step[0] >= cost:
                break
            best = step
        return best

    def _refit(self, sides: Array) -> tuple[float, Spectra, tuple[int, ...], Array]:
        part, d = self.part, self.part.X.shape[1]
        moments = kernels.second_moments(part.X, kernels.group_rows(sides, 2), part.weights, part.affine)
        spectra = spectra_of(moments, part.affine, part.X.dtype)
        directions = self.price * (self.scale * to_numpy(moments.counts) + d)  # what one of each side costs
        dims = (self.scale * spectra.values > directions[:, None]).sum(axis=1)
        cost = float((self.scale * spectra.left(dims) + directions * dims).sum())
        return cost, spectra, tuple(dims.tolist()), sides


def _sides(part: Problem, solution: Solution, c: int, rng: np.random.Generator) -> list[Array]:
    """Ways to begin a split: by what the rows cost where they are, and by direction."""
    xp, X = namespace(part.X), part.X
    flat = solution.spectra.take([c]).flats([solution.dims[c]], X.dtype)
    residuals = kernels.sqdistances(X, flat)[:, 0]
    costs = residuals if part.weights is None else part.weights * residuals
    ways = []
    for keys, share in ((costs, 0.5), (residuals, 0.2)):
        sides = xp.ones(len(X), dtype=np.int32)
        sides[xp.argsort(keys, kind="stable")[: max(1, int(share * len(X)))]] = 0
        ways.append(sides)
    return [*ways, kmeans(part, rng)]
