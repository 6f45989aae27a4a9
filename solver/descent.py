"""The alternation: assign each row to its nearest flat, refit each flat to its rows, until neither gains.

The objective ``f = sum_i w_i min_c r_c(x_i)`` never rises: a refit is the best flat for its rows (Eckart-Young), an
assignment the best flat for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .arrays import Array, fetch, namespace
from .problem import Problem
from .refit import Refit

NOISE = 64  # times the rounding of |x|^2: a residual below that is none


@dataclass(frozen=True)
class Step:
    """What a callback is told after each step of the alternation.

    Attributes
    ----------
    start : int
        Number of the start it belongs to, from 0.
    iteration : int
        Step within that start, from 1.
    objective : float
        Weighted sum of squared distances after the step, in the precision of the computation.
    moved : int
        Rows whose label changed.
    n_reseeded : int
        Clusters re-seeded so far within this start.
    seconds : float
        Since the fit began.
    """

    start: int
    iteration: int
    objective: float
    moved: int
    n_reseeded: int
    seconds: float


@dataclass(eq=False)
class Descent:
    """Where an alternation stands."""

    labels: Array
    history: list[float] = field(default_factory=list)
    converged: bool = False
    stopped: bool = False
    n_reseeded: int = 0


def descend(
    problem: Problem,
    state: Descent,
    *,
    max_iter: int,
    tol: float,
    on_step: Callable[[int, float, int, int], bool] | None = None,
) -> Descent:
    """Alternate from the labels of ``state``, up to max_iter steps in all, and return where it got to.

    It has converged when no label changed or the objective fell by less than ``tol`` of itself, with refits that were
    exact: where eigenvectors are dear, refits are single steps towards them until that happens.

    A step waits for the device where the host has to decide: once for whether to stop and which clusters to fill, and
    in the refit for how many rows moved and whether updated moments are still good.
    """
    if state.converged or len(state.history) >= max_iter:
        return state
    refit = Refit(problem)
    labels, history, n_reseeded = state.labels, list(state.history), state.n_reseeded
    while True:
        assigned, residuals = kernels.assign(problem.X, refit(labels))
        in_units, moved, *counts = fetch(
            problem.objective(residuals), (assigned != labels).sum(), problem.counts(assigned)
        )
        objective = problem.unit * in_units
        filled, n_filled = reseed(problem, assigned, residuals, counts)
        gained = history[-1] - objective if history else np.inf
        history.append(objective)
        settled = n_filled == 0 and (moved == 0 or gained <= tol * objective)
        converged = settled and refit.exact
        refit.warm = refit.warm and not settled
        stopped = bool(on_step and on_step(len(history), objective, int(moved), n_reseeded))
        if converged or stopped or len(history) >= max_iter:
            return Descent(assigned, history, converged, stopped, n_reseeded)
        labels, n_reseeded = filled, n_reseeded + n_filled


def finish(problem: Problem, labels: Array) -> tuple[Flats, Array, float]:
    """An exact refit, all of it in float64, the labels it gives, and the objective of the two together."""
    fitted = Refit(problem)(labels, exact=True)
    offsets = None if fitted.offsets is None else fitted.offsets.astype(problem.X.dtype)
    flats = Flats.spanned_by(
        fitted.layout, fitted.bases.astype(problem.X.dtype), offsets
    )  # just what a prediction from the result will use
    labels, _ = kernels.assign(problem.X, flats)
    groups = kernels.group_rows(labels, problem.k)
    return flats, labels, problem.total(kernels.residuals(problem.X, groups, flats))


def reseed(
    problem: Problem, labels: Array, residuals: Array, counts: Sequence[float] | None = None
) -> tuple[Array, int]:
    """Fill clusters that have fewer rows than their flat passes through anyway with the rows of largest residual.

    A flat of dimension j passes through any j rows (j + 1 if affine), so a cluster with fewer, an empty one above all,
    takes the worst rows of the others for nothing and the objective falls. Rows that are fitted already stay, so with
    more flats than the rows need, some remain empty.

    Parameters
    ----------
    problem : Problem
    labels : (n,) int32
    residuals : (n,) array
    counts : sequence of k numbers, optional
        Rows of positive weight in each cluster, where the host knows them already.

    Returns
    -------
    labels : (n,) int32
    n_filled : int
        Clusters that got rows.
    """
    if counts is None:
        counts = fetch(problem.counts(labels))
    room = [max(0, j + problem.affine - int(c)) for j, c in zip(problem.dims, counts, strict=True)]
    if not any(room):
        return labels, 0
    xp, distance = namespace(labels), problem.distance_to_middle()
    noise = NOISE * float(np.finfo(residuals.dtype).eps) * (distance.max() if problem.affine else distance)
    settled = xp.asarray(room)[labels] == 0  # rows of the clusters in need stay where they are
    cost = xp.where(settled & (residuals > noise), residuals, 0).astype(np.float64)
    if problem.weights is not None:
        cost *= problem.weights
    worst = kernels.largest(cost, sum(room))
    takers = np.repeat(np.arange(problem.k), room)[: len(worst)]
    labels = labels.copy()
    labels[worst] = xp.asarray(takers, dtype=labels.dtype)
    return labels, len(set(takers.tolist()))
