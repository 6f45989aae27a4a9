"""Fits under robust losses: least squares in the same alternation, with weights from the residuals of the step before.

A step refits flats under the weights of the residuals, and assigns each row to its nearest flat, which is best under
any loss that grows. The sum of the loss never rises (see :mod:`.losses`). Where a redescending loss ends depends on
where it starts, so starts are found that outliers do not lead away: seeding by distances that are cut off, some steps
under Geman and McClure's loss whose scale shrinks with the residuals, and the best of them by that loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Streamed

from .alternation import NOISE, FixedDims, State, alternate, rounded
from .arrays import Array, device_of, namespace, squared_lengths
from .checks import Seed, generators, whole
from .losses import LOSSES, MAD, Loss, robust_scale
from .problem import Problem
from .progress import Bar, shown
from .seeding import STARTS, Init, bounded_kmeans_plusplus, given_labels

N_STARTS = 8
START_STEPS = 8
SETTLED_STEPS = 24  # more of the best start, at most
SAME_SCALE = 1e-3
SAMPLED = 4096  # rows whose median is the middle of all


@dataclass(frozen=True, eq=False)
class RobustState(State):
    """Residuals (n,) are those of the labels to the flats they were chosen from; ``None`` where there are none yet."""

    residuals: Array | None = None


class RobustFit(NamedTuple):
    """What a fit came to; objective and energy are sums of the loss."""

    state: RobustState
    flats: Flats
    labels: Array
    objective: float
    energy: float
    scale: float


class Reweighted:
    """The rule of K-subspaces under a loss of a given scale: least squares with weights that each step makes anew."""

    def __init__(self, problem: Problem, loss: Loss, scale: float) -> None:
        self.problem, self.loss, self.scale = problem, loss, scale
        self.rule = FixedDims(problem)

    def refit(self, state: RobustState, exact: bool = False) -> Flats:
        weights, doubted = self.problem.weights, self.rule.doubted
        if state.residuals is not None:
            weights = self.loss.reweighted(state.residuals, weights, self.scale)
        self.rule = FixedDims(replace(self.problem, weights=weights))
        self.rule.by_moments, self.rule.doubted = False, doubted  # the loss needs each residual
        return self.rule.refit(state, exact)

    def assign(self, flats: Flats, state: RobustState) -> tuple[Array, Array | None]:
        """With residuals by differences: an outlier's own, as a difference of squares, is lost in its length."""
        labels, _ = kernels.assign(self.problem.X, flats, residuals=False)
        return labels, kernels.residuals(self.problem.X, kernels.group_rows(labels, self.problem.k), flats)

    def measure(self, state: RobustState, flats: Flats, labels: Array, residuals: Array | None) -> RobustState | None:
        new = self.rule.measure(state, flats, labels, residuals)
        if new is None:
            return None
        objective = self.total(residuals)
        return RobustState(new.labels, new.bases, objective, new.moved, new.n_reseeded, residuals=residuals)

    def confirm(self) -> bool:
        return self.rule.confirm()

    def total(self, residuals: Array | None) -> float:
        """``sum_i w_i rho(r_i)``."""
        assert residuals is not None
        return self.problem.unit * float(self.loss.total(residuals, self.problem.weights, self.scale))


def fit_robust(
    problem: Problem,
    loss: Loss,
    scale: float | str,
    init: Init,
    n_init: int | str,
    max_iter: int,
    tol: float,
    seed: Seed,
    bar: Bar | None,
    effort: float,
    *,
    exponent: int,
    on_step: Callable[[int, int, float, State], bool],
) -> RobustFit:
    """Fit flats under a loss. As :func:`fit_problem` has it, ``init`` and ``scale`` are those of ``2^exponent X``."""
    if isinstance(problem.X, Streamed):
        raise ValueError(f"loss={loss.name!r} needs X on the device, which lacks the memory for it; use loss='l2'")
    if loss.power == 1:
        problem = replace(problem, unit=float(np.ldexp(problem.unit, -exponent)))
    typical = _typical_distance(problem)
    least = np.sqrt(NOISE * float(np.finfo(problem.X.dtype).eps) * typical)

    with shown(bar):
        begun = _starts(problem, init, n_init, effort, seed, typical, exponent)
        starts = [_anneal(problem, state, least, START_STEPS) for state in begun]
        shared = Reweighted(problem, LOSSES["geman-mcclure"], min(_scale(problem, start, least) for start in starts))
        number = int(np.argmin([shared.total(start.residuals) for start in starts]))
        state = _anneal(problem, starts[number], least, SETTLED_STEPS)

        def report(state: RobustState) -> bool:
            if bar is not None:
                bar.energy, step = energy, len(state.history)
                bar.update(f"start {number}, step {step}", state.objective, f"{state.moved} moved", step)
            return on_step(number, 0, min(state.history), state)

        own = float(np.ldexp(scale, -exponent)) if not isinstance(scale, str) else _scale(problem, state, least)
        rule = Reweighted(problem, loss, own)
        energy = rule.total(squared_lengths(problem.X))
        state = alternate(_afresh(state), rule, max_iter=max_iter, tol=tol, on_step=report)
        if bar is not None:
            bar.finish()
    flats = rounded(rule.refit(state, exact=True), problem.X.dtype)
    labels, _ = kernels.assign(problem.X, flats, residuals=False)
    residuals = kernels.residuals(problem.X, kernels.group_rows(labels, problem.k), flats)
    told = float(np.ldexp(rule.scale, exponent))
    return RobustFit(state, flats, labels, rule.total(residuals), energy, told)


def _starts(
    problem: Problem, init: Init, n_init: int | str, effort: float, seed: Seed, typical: float, exponent: int
) -> Iterator[RobustState]:
    if isinstance(init, str) and init in STARTS:
        count = round(N_STARTS * effort) if n_init == "auto" else whole("n_init", n_init, 1, "'auto' or ")
        for rng in islice(generators(seed), count):
            if init == "k-means++":
                labels, residuals = bounded_kmeans_plusplus(problem, rng, typical)
                yield RobustState(labels, residuals=residuals)
            else:
                yield RobustState(STARTS[init](problem, rng))
        return
    yield RobustState(given_labels(init, problem, device_of(problem.X), exponent))


def _anneal(problem: Problem, state: RobustState, least: float, steps: int) -> RobustState:
    """Steps under a loss whose scale is that of the residuals before each, until it stays the same."""
    before = 0.0
    for _ in range(steps):
        scale = least if state.residuals is None else _scale(problem, state, least)
        if abs(scale - before) <= SAME_SCALE * scale:
            break
        before = scale
        state = alternate(_afresh(state), Reweighted(problem, LOSSES["geman-mcclure"], scale), max_iter=1, tol=0)
    return state


def _afresh(state: RobustState) -> RobustState:
    """A state to go on from under another loss."""
    return RobustState(state.labels, state.bases, n_reseeded=state.n_reseeded, residuals=state.residuals)


def _scale(problem: Problem, state: RobustState, least: float) -> float:
    assert state.residuals is not None
    return max(robust_scale(state.residuals, problem.weights), least)


def _typical_distance(problem: Problem) -> float:
    """Median of squared distances to the origin, or to the median of the columns if affine; positive."""
    X, xp = problem.X, namespace(problem.X)
    distances = squared_lengths(X)
    if problem.affine:
        middle = xp.median(X[xp.arange(0, len(X), -(-len(X) // SAMPLED))], axis=0)
        distances = kernels.sqdistances(X, Flats.points(middle[None], X.dtype))[:, 0]
    typical = (robust_scale(distances, problem.weights) / MAD) ** 2
    return typical or float(distances.mean()) or 1.0
