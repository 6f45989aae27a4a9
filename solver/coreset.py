"""Fewer rows that stand for all of them: on a large table clusters are found on a coreset.

A row is drawn with a probability that follows from its share of the rows, of what they weigh and of what they leave:
of what bounds its sensitivity (Feldman and Langberg, "A Unified Framework for Approximating and Clustering Data", 2011;
for projective clustering Maalouf et al., "Coresets for Projective Clustering"). Weighted back by that probability, sums
over the rows drawn are those over all in expectation, and so are rows of a cluster: a direction costs what it costs in
the whole table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ksubspaces import kernels

from . import splitting
from .arrays import Array, device_of, place, squared_lengths, to_numpy
from .pricing import Budget, Solution, compact
from .problem import Problem

ROWS = 1 << 16  # of a coreset, by default
LARGE = 2  # times its rows: a table of which clusters are found on one


def odds(m: int, *measures: np.ndarray, totals: Sequence[float] | None = None) -> np.ndarray:
    """Probabilities (n,) that draw m rows by the mean of their shares of these measures (n,), fewer where these are
    uneven: no row is drawn twice. ``totals`` are of the measures, where there are more rows than these."""
    totals = [measure.sum() for measure in measures] if totals is None else totals
    shares = [measure / total for measure, total in zip(measures, totals, strict=True) if total > 0]
    return np.minimum(1, m / len(shares) * np.sum(shares, axis=0))


def coreset(budget: Budget, solution: Solution, m: int, rng: np.random.Generator) -> tuple[Budget, Array]:
    """A budget over a coreset of m of its rows, and their numbers; rows kept exactly are not among them.

    What a row leaves is told by a solution.
    """
    p, n = budget.problem, len(budget.problem.X)
    flats = solution.flats(p.X.dtype)
    _, residuals = kernels.assign(p.X, flats)
    own = np.ones(n) if p.weights is None else to_numpy(p.weights)
    rows = np.ones(n)
    if budget.exact is not None:
        rows[to_numpy(budget.exact)] = 0
    lengths, left = (to_numpy(part).astype(np.float64) * own for part in (squared_lengths(p.X), residuals))
    chances = odds(m, rows, own * rows, lengths * rows, left * rows)
    drawn = np.flatnonzero(rng.random(n) < chances)
    stands, where = 1 / chances[drawn], device_of(p.X)
    numbers = place(drawn, where)
    weights = place(own[drawn] * stands, where)
    part = Problem(p.X[numbers], weights, (), p.affine, p.unit, place(stands, where))
    return Budget(part, budget.n_parameters, None, budget.n_rows, budget.n_exact), numbers


def clusters(
    budget: Budget,
    solution: Solution,
    most: int | None,
    m: int,
    rng: np.random.Generator,
    on_step: Callable[[Solution], None] | None = None,
) -> Solution:
    """More clusters, found on a coreset of m rows: their flats and their price give all rows their labels."""
    part, rows = coreset(budget, solution, m, rng)
    start = compact(part.solve(solution.labels[rows], solution.k))
    few = splitting.clusters(part, start, most, rng, on_step)
    labels, _ = budget.assign(few.flats(budget.problem.X.dtype), few)
    return compact(budget.solve(labels, few.k))
