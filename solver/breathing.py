"""Breathing: add flats where residuals are large, then take away those whose loss costs least.

The alternation stops where no row gains by another flat and no flat by another basis, though some flats may stand
where there is little to do. One breath adds m flats through rows drawn by their residuals, lets all of them settle,
takes away the m that are missed least, lets the others settle, and keeps what it got if that is better; if not, m is
halved. After breathing k-means (Fritzke 2020, arXiv 2006.15666), which adds few points at a time: of flats it pays to
add as many as there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .alternation import FixedDims, State
from .arrays import Array, namespace
from .problem import Problem
from .seeding import Through

ROUGH = 1e-3  # a start need not have settled any better before it breathes
HASTY, PATIENT = (1, 2), (2, 3)  # steps with the flats added, and without those taken away: for few and many breaths
MANY = 100  # steps in all, from which breaths are patient: their optima are better and take longer to find
POINTS = 2  # times as many for points, whose steps take less and gain less
COPIED_BYTES = 16 << 20  # of rows that are measured again at a time
DRAWN_BYTES = 64 << 20  # of second moments, or distances, of flats that are added at a time
SAME = 2e-4  # share of the objective up to which a breath ended where it began: of few steps, it takes threefold

Run = Callable[[Problem, State, int], State]
"""Alternates from a state, up to so many steps."""


def breathe(problem: Problem, state: State, rng: np.random.Generator, steps: float, run: Run) -> Iterator[State]:
    """The best state after each breath, for as long as one fits in what is left of the steps.

    A step counts as one if it is one of k flats; with more flats it counts in proportion.
    """
    few = steps < MANY * _times(problem)
    k, settling = problem.k, settling_steps(problem, few)
    added_steps, left_steps = settling
    m = most = min(k, len(problem.X) - k) if _can_gain(problem) else 0
    while m >= 1 and not state.stopped:
        while m > 1 and cost(k, m, settling) > steps:
            m //= 2
        if cost(k, m, settling) > steps:
            return
        steps -= cost(k, m, settling)
        grown = add_flats(problem, state, rng, m)
        if grown is None:
            return
        larger, start = grown
        settled = run(larger, start, added_steps)
        if settled.stopped:
            yield replace(state, stopped=True)
            return
        left, flats = take_away(problem, larger, settled)
        new = run(problem, State(left, flats.bases), left_steps)
        if few and abs(new.objective - state.objective) <= SAME * state.objective:
            steps -= 2 * cost(k, m, settling)
        if new.objective < state.objective:
            history = (*state.history, *(f for f in new.history if f < state.objective))
            state = replace(new, history=history, n_reseeded=state.n_reseeded + new.n_reseeded, converged=False)
        else:
            state, m = replace(state, stopped=new.stopped), m // 2 if m // 2 > most // 16 else most
        yield state


def cost(k: int, m: int, settling: tuple[int, int]) -> float:
    """Steps that a breath of m flats takes beside k, with so many to settle."""
    added, left = settling
    return 2 + m / k + (added + 1.5) * (k + m) / k + left


def settling_steps(problem: Problem, few: bool) -> tuple[int, int]:
    """Steps of a breath with the flats added, and without those taken away; fewer if there are few for all breaths."""
    added, left = HASTY if few else PATIENT
    return _times(problem) * added, _times(problem) * left


def _times(problem: Problem) -> int:
    return 1 if any(problem.dims) else POINTS


def _can_gain(problem: Problem) -> bool:
    """Whether flats differ at all: neither one alone, nor the origin or the whole space k times."""
    d, dims = problem.X.shape[1], set(problem.dims)
    return problem.k > 1 and dims != {d} and (problem.affine or dims != {0})


def add_flats(problem: Problem, state: State, rng: np.random.Generator, m: int) -> tuple[Problem, State] | None:
    """The problem with m flats more, or as many as there are rows to draw, and a state; ``None`` if no row is off.

    A row is drawn by its weighted residual, and a flat goes through the rows closest to it. It has the dimension of
    one of the others, drawn as well.
    """
    X, k, xp = problem.X, problem.k, namespace(problem.X)
    flats = _refit(problem, state)
    labels, residuals = kernels.assign(X, flats)
    drawn = kernels.sample_rows(residuals if problem.weights is None else problem.weights * residuals, m, rng)
    if len(drawn) == 0:
        return None
    dims = tuple(problem.dims[c] for c in rng.permutation(k)[: len(drawn)].tolist())
    through, at_once = Through(problem), max(1, DRAWN_BYTES // (8 * max(X.shape[1] ** 2, len(X))))
    for first in range(0, len(drawn), at_once):
        added = through(drawn[first : first + at_once], dims[first : first + at_once])
        nearer, distances = kernels.assign(X, added)
        labels = xp.where(distances < residuals, nearer + np.int32(k + first), labels)
        residuals = xp.minimum(residuals, distances)
        flats = flats.followed_by(added)
    return replace(problem, dims=flats.layout.dims), State(labels, flats.bases)


def _refit(problem: Problem, state: State) -> Flats:
    rule = FixedDims(problem)
    flats = rule.refit(state)
    return flats if rule.ok is None or bool(rule.ok.all()) else rule.refit(state, exact=True)


def take_away(problem: Problem, larger: Problem, state: State) -> tuple[Array, Flats]:
    """Labels and flats without those that are missed least, so that the problem's dimensions are left.

    A flat is missed by how much further off the flats are that its rows go to. Half of those still to go go at a time,
    then rows whose nearest or second flat is gone are measured again.
    """
    X, xp, sizes = larger.X, namespace(larger.X), np.array(larger.dims)
    flats = _refit(larger, state)
    labels, distances = (part.T for part in kernels.two_nearest(X, flats))
    kept, spare, at_once = np.arange(larger.k), Counter(larger.dims), max(1, COPIED_BYTES * len(X) // X.nbytes)
    spare.subtract(problem.dims)
    while (left := sum(spare.values())) > 0:
        (missed,) = kernels.fetch([_missed_by(larger, labels, distances)])
        gone: list[int] = []
        for c in kept[np.argsort(missed[kept], kind="stable")].tolist():
            if spare[sizes[c]] > 0 and 2 * len(gone) < left:
                gone.append(c)
                spare[sizes[c]] -= 1
        kept = np.setdiff1d(kept, gone)
        there = xp.asarray(np.isin(np.arange(larger.k), kept))
        rows = xp.flatnonzero(~there[labels].all(axis=0))
        others, numbers = flats.take(kept.tolist()), xp.asarray(kept.astype(np.int32))
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once]
            nearest, distances[:, some] = (part.T for part in kernels.two_nearest(X[some], others))
            labels[:, some] = numbers[nearest]
    order = np.empty(len(kept), np.int64)  # of the flats kept, such that their dimensions are the problem's in turn
    order[np.argsort(problem.dims, kind="stable")] = kept[np.argsort(sizes[kept], kind="stable")]
    numbers = np.zeros(larger.k, np.int32)
    numbers[order] = np.arange(len(order))
    return xp.asarray(numbers)[labels[0]], flats.take(order.tolist())


def _missed_by(problem: Problem, labels: Array, distances: Array) -> Array:
    """By how much the objective rises without each flat, (k,) float64."""
    rise = (distances[1] - distances[0]).astype(np.float64)
    if problem.weights is not None:
        rise *= problem.weights
    return kernels.group_rows(labels[0], problem.k).sums(rise)
