"""The alternation: refit each flat to its rows, assign each row to its best flat, until neither gains.

A :class:`Rule` says which flats may be chosen and what a row pays for each; the loop is the same for all of them.

A step is queued on the device as a whole, and the host waits for it once: for the objective, how many rows moved, how
many each cluster has, and whether the eigensolver failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .arrays import Array, namespace
from .problem import Problem
from .refit import RunningMoments, are_trivial

NOISE = 64  # times the rounding of |x|^2: a residual below that is none


@dataclass(frozen=True, eq=False)
class State:
    """Where an alternation stands.

    Attributes
    ----------
    labels : (n,) int32 array
        From which the next step goes on.
    bases : array or None
        Of the flats that these labels were chosen from, from which the next refit may go on.
    objective : float
        After the last step.
    moved : int
        Rows whose label the last step changed.
    n_reseeded : int
        Clusters that lacked rows and were filled so far.
    history : tuple of float
        Objective after each step.
    converged, stopped : bool
        No further step gains; a callback asked to stop.
    """

    labels: Array
    bases: Array | None = None
    objective: float = np.inf
    moved: int = 0
    n_reseeded: int = 0
    history: tuple[float, ...] = ()
    converged: bool = False
    stopped: bool = False


S = TypeVar("S", bound=State)


class Rule(Protocol[S]):
    """Which flats a refit may choose, and what a row pays for each."""

    def refit(self, state: S, exact: bool = False) -> Flats:
        """The best flats for a state's labels. If not ``exact``, it may fail, and the host does not wait."""

    def assign(self, flats: Flats, state: S) -> tuple[Array, Array | None]:
        """Labels of the best flats, and residuals where they are at hand; not waited for either."""

    def measure(self, state: S, flats: Flats, labels: Array, residuals: Array | None) -> S | None:
        """The state after these labels, for one wait of the host; ``None`` if the refit had failed."""

    def confirm(self) -> bool:
        """Whether a step that gains nothing is the last; where it is not, the next refit is exact."""


def alternate(
    state: S,
    rule: Rule[S],
    *,
    max_iter: int,
    tol: float,
    patience: int = 0,
    on_step: Callable[[S], bool | None] | None = None,
) -> S:
    """Alternate from the labels of a state, up to max_iter steps in all, and return the best state met.

    It has converged when no label changed, or when more than ``patience`` steps in a row lowered the objective by no
    more than ``tol`` of itself.
    """
    best, idle = state, 0
    while not (state.converged or state.stopped) and len(state.history) < max_iter:
        new = _step(state, rule) or _step(state, rule, exact=True)
        assert new is not None  # what is exact has not failed, or says so itself
        filled = new.n_reseeded > state.n_reseeded
        idle = 0 if filled or new.objective * (1 + tol) < best.objective else idle + 1
        settled = not filled and (new.moved == 0 or idle > patience)
        history = (*state.history, new.objective)
        state = replace(new, history=history, converged=settled and rule.confirm())
        if on_step and on_step(state):
            state = replace(state, stopped=True)
        best = state if state.objective <= best.objective else best
    told = {name: getattr(state, name) for name in ("n_reseeded", "history", "converged", "stopped")}
    return replace(best, **told)


def _step(state: S, rule: Rule[S], exact: bool = False) -> S | None:
    flats = rule.refit(state, exact)
    return rule.measure(state, flats, *rule.assign(flats, state))


class FixedDims:
    """K-subspaces: dimensions are given, and a cluster that lacks rows is filled with the rows of largest residual.

    The objective ``f = sum_i w_i min_c r_c(x_i)`` never rises: a refit is the best flat for its rows (Eckart-Young), an
    assignment the best flat for each row. Where eigenvectors are dear, refits are a few steps towards them until these
    gain nothing more, which a refit that is exact, or nearly so, confirms or mends.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        d = problem.X.shape[1]
        self.moments = RunningMoments(problem, problem.k, not are_trivial(problem.dims, d))
        # On a card the moments that the next refit takes cost less than residuals; elsewhere residuals come for nothing
        self.by_moments = problem.on_card and self.moments.resident and self.moments.products
        self.exact, self.doubted = True, False  # whether the last refit was, and whether the next one has to be
        self.ok: Array | None = None  # where the last one succeeded, (k,)

    def refit(self, state: State, exact: bool = False) -> Flats:
        dtype, nearly, start = np.float64 if exact else None, self.doubted and not exact, state.bases
        spaces, offsets = self.moments.eigenspaces(
            state.labels, self.problem.dims, dtype, start, exact or nearly, nearly
        )
        self.exact, self.ok, self.doubted = spaces.exact or nearly, spaces.ok, False
        return spaces.flats(offsets)

    def assign(self, flats: Flats, state: State) -> tuple[Array, Array | None]:
        return kernels.assign(self.problem.X, flats, residuals=not self.by_moments)

    def measure(self, state: State, flats: Flats, labels: Array, residuals: Array | None) -> State | None:
        p = self.problem
        if residuals is None or self.by_moments:
            moments, moved = self.moments.after(labels, state.labels)
            assert moved is not None
            left, counts = kernels.measure_objective(moments, flats, self.moments.kept), moments.counts
        else:
            left, moved = p.objective(residuals), (labels != state.labels).sum()
        if not self.by_moments or p.weights is not None:
            counts = p.counts(labels)
        objective, moved, counts, *ok = kernels.fetch([left, moved, counts, *([] if self.ok is None else [self.ok])])
        if ok and not ok[0].all():
            return None
        n_filled = 0
        if (counts < p.least).any():
            if residuals is None or self.by_moments:
                residuals = kernels.residuals(p.X, kernels.group_rows(labels, p.k), flats)
            labels, n_filled = reseed(p, labels, residuals, counts)
        return State(labels, flats.bases, p.unit * float(objective.sum()), int(moved), state.n_reseeded + n_filled)

    def confirm(self) -> bool:
        self.doubted = not self.exact
        return self.exact


def finish(problem: Problem, labels: Array) -> tuple[Flats, Array, float]:
    """An exact refit in float64, labels by its flats, and the objective of both."""
    rule = FixedDims(problem)
    flats = rounded(rule.refit(State(labels), exact=True), problem.X.dtype)
    labels, _ = kernels.assign(problem.X, flats, residuals=False)
    return flats, labels, problem.total(kernels.residuals(problem.X, kernels.group_rows(labels, problem.k), flats))


def rounded(flats: Flats, dtype: DTypeLike) -> Flats:
    """Flats of an exact refit in the precision of a result: just what a prediction from it will use."""
    offsets = None if flats.offsets is None else flats.offsets.astype(dtype)
    return kernels.spanned_by(flats.layout, flats.bases.astype(dtype), offsets)


def reseed(problem: Problem, labels: Array, residuals: Array, counts: np.ndarray) -> tuple[Array, int]:
    """Fill clusters that lack rows with those of largest residual; new labels, and how many clusters got some.

    A cluster with fewer rows than its flat passes through anyway, an empty one above all, takes the worst rows of the
    others for nothing and the objective falls. Rows that are fitted already stay, so with more flats than the rows
    need, some remain empty. ``counts`` (k,) are of rows of positive weight.
    """
    room = np.maximum(0, problem.least - counts.astype(np.int64))
    xp, distance = namespace(labels), problem.distance_to_middle()
    noise = NOISE * float(np.finfo(problem.X.dtype).eps) * (distance.max() if problem.affine else distance)
    settled = xp.asarray(room)[labels] == 0  # rows of the clusters in need stay where they are
    cost = xp.where(settled & (residuals > noise), residuals, 0).astype(np.float64)
    if problem.weights is not None:
        cost *= problem.weights
    worst = kernels.largest(cost, int(room.sum()))
    takers = np.repeat(np.arange(problem.k, dtype=labels.dtype), room)[: len(worst)]
    labels = labels.copy()
    labels[worst] = xp.asarray(takers)
    return labels, len(np.unique(takers))
