"""The search for a good fit: starts race, the best one breathes, and an exact refit finishes it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import repeat
from typing import NamedTuple

import numpy as np

from ksubspaces.kernels import Flats

from .alternation import FixedDims, State, alternate, finish
from .arrays import Array, device_of
from .breathing import ROUGH, breathe
from .checks import Seed, generators, whole
from .problem import Problem
from .progress import Bar, shown
from .seeding import STARTS, Init, given_labels

Start = Callable[[Problem, np.random.Generator], Array]


class Plan(NamedTuple):
    """How a fit of up to so many flats searches by default.

    Attributes
    ----------
    most : float
        Flats.
    raced : tuple of str
        Kinds of the starts that are raced where there are no breaths. With many flats one start is as good as another:
        what they end at no longer follows from what they have after a few steps. And there a start by direction wins
        no race any more, which it does among few flats of embeddings.
    breathing : tuple of str
        Kinds of the starts that are raced to breathe.
    breaths : int
        Steps that breaths may take: about what the starts take that are not raced then.
    whole : int
        Steps that a whole fit takes, starts counted as well: what each further effort adds.
    """

    most: float
    raced: tuple[str, ...]
    breathing: tuple[str, ...]
    breaths: int
    whole: int


PLANS = (
    Plan(31, ("k-means", "k-means", "k-means++", "k-means++"), ("k-means",), 24, 40),
    Plan(64, ("k-means", "k-means", "k-means++", "k-means++"), ("k-means++",), 54, 90),
    Plan(128, ("k-means", "k-means++"), ("k-means++",), 30, 60),
    Plan(np.inf, ("k-means++",), ("k-means++",), 0, 60),
)
RACE_STEPS = 3
POINTS = 4  # as many steps for flats of dimension 0, of which a start takes longer and a step less time


def fit_problem(
    problem: Problem,
    init: Init,
    n_init: int | str,
    max_iter: int,
    tol: float,
    seed: Seed,
    bar: Bar | None = None,
    search: str = "auto",
    effort: float = 1,
    *,
    exponent: int = 0,
    on_step: Callable[[int, int, float, State], bool] | None = None,
) -> tuple[State, Flats, Array, float]:
    """Race the starts, let the best breathe and finish it: where it ended; flats, labels and objective of the exact
    finish.

    ``init`` is given in the scale of ``2^exponent`` times the problem's rows; ``on_step`` is told the numbers of the
    start and the breath and the least objective so far.
    """
    plan = next(plan for plan in PLANS if problem.k <= plan.most)
    breathes = _breathes(search, init, n_init, problem)
    starts, race_steps = _starts(init, n_init, problem, device_of(problem.X), exponent, plan, breathes, effort)
    steps = max_iter if race_steps is None else min(race_steps, max_iter)
    rough = max(tol, ROUGH) if breathes else tol
    number, breath, least = 0, 0, math.inf

    def run(problem_: Problem, state: State, most: int, tol: float = 0.0) -> State:
        def report(state: State) -> bool:
            nonlocal least
            if problem_ is problem:
                least = min(least, state.objective)
            if bar is not None:
                step, place = len(state.history), f"breath {breath}" if breath else f"start {number}"
                bar.update(f"{place}, step {step}", least if breath else state.objective, f"{state.moved} moved", step)
            return on_step is not None and on_step(number, breath, least, state)

        return alternate(state, FixedDims(problem_), max_iter=most, tol=tol, on_step=report)

    best: State | None = None
    seeds = generators(seed)
    with shown(bar):
        for number, (start, rng) in enumerate(zip(starts, seeds, strict=False)):
            state = run(problem, State(start(problem, rng)), steps, rough)
            if best is None or state.objective < best.objective:
                best, winner = state, number
            if state.stopped:
                best = replace(best, stopped=True)
                break
        assert best is not None
        number = winner
        best = run(problem, best, max_iter, rough)
        if breathes and best.converged and not best.stopped:
            allowed = (plan.breaths + (effort - 1) * plan.whole) * (1 if any(problem.dims) else POINTS)
            breath = 1
            try:
                for found in breathe(problem, best, next(seeds), allowed, run):
                    best, breath = found, breath + 1
            except KeyboardInterrupt:
                warnings.warn("interrupted: this is the best result so far", RuntimeWarning, stacklevel=3)
                best = replace(best, stopped=True)
            breath = 0
            best = run(problem, replace(best, converged=False), len(best.history) + max_iter, tol)
        if bar is not None:
            bar.finish()
    return best, *finish(problem, best.labels)


def _breathes(search: str, init: Init, n_init: int | str, problem: Problem) -> bool:
    if search != "auto":
        return search == "breathing"
    return isinstance(init, str) and n_init == "auto" and not problem.on_card


def _starts(
    init: Init,
    n_init: int | str,
    problem: Problem,
    device: str,
    exponent: int,
    plan: Plan,
    breathes: bool,
    effort: float,
) -> tuple[Iterable[Start], int | None]:
    """The starts to run, and how many steps each is given before the best goes on; None for all it takes."""
    if n_init != "auto":
        n_init = whole("n_init", n_init, 1, "'auto' or ")
    if isinstance(init, str) and init in STARTS:
        if problem.k == 1:
            return [STARTS[init]], None
        if n_init == "auto":
            kinds = plan.breathing if breathes else plan.raced * round(effort)
            return [STARTS[kind if init == "k-means++" else init] for kind in kinds], RACE_STEPS
        return repeat(STARTS[init], int(n_init)), None
    labels = given_labels(init, problem, device, exponent)
    return [lambda problem, rng: labels], None
