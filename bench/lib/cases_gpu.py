"""What is measured on a card: planted rows of a few shapes, how far a fit of them has come, and the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from ksubspaces import kernels
from ksubspaces.alternation import FixedDims, State
from ksubspaces.kernels import Flats
from ksubspaces.problem import Problem

from .data import planted, random_partition

REPEATS = 7
SHAPES = {
    "tables": {"n": 50265, "d": 768, "k": 5, "j": 408},
    "patches": {"n": 1_000_000, "d": 64, "k": 512, "j": 8},
    "clear-patches": {"n": 1_000_000, "d": 64, "k": 512, "j": 8, "noise": 0.2},
    "small": {"n": 4000, "d": 64, "k": 8, "j": 16},
}
QUICK_SHAPES = {
    "tables": {"n": 3000, "d": 96, "k": 3, "j": 51},
    "patches": {"n": 6000, "d": 64, "k": 16, "j": 8},
    "clear-patches": {"n": 6000, "d": 64, "k": 16, "j": 8, "noise": 0.2},
    "small": {"n": 800, "d": 64, "k": 8, "j": 16},
}


@dataclass(frozen=True, eq=False)
class Case:
    """Planted rows on the card, and where a fit of them stands after a few steps."""

    name: str
    n: int
    d: int
    k: int
    j: int
    quick: bool
    noise: float = 0.5

    @property
    def text(self) -> str:
        return f"{self.name} n={self.n} d={self.d} k={self.k} j={self.j}"

    @cached_property
    def rows(self) -> np.ndarray:
        return planted(self.n, self.d, self.k, self.j, noise=self.noise).X

    @cached_property
    def start(self) -> np.ndarray:
        return random_partition(self.n, self.k)

    @cached_property
    def X(self) -> Any:
        import cupy

        return cupy.asarray(self.rows)

    @cached_property
    def problem(self) -> Problem:
        return Problem(self.X, None, (self.j,) * self.k, False)

    @cached_property
    def fitted(self) -> tuple[Any, Flats]:
        """Labels and flats after two steps."""
        import cupy

        labels, rule = cupy.asarray(self.start), FixedDims(self.problem)
        for _ in range(2):
            flats = rule.refit(State(labels))
            labels, _ = kernels.assign(self.X, flats)
        return labels, flats

    @cached_property
    def lengths(self) -> Any:
        """Squared lengths of the rows, in float64."""
        import cupy

        return cupy.einsum("ij,ij->i", self.X, self.X, dtype=np.float64)


@cache
def case_of(name: str, quick: bool) -> Case:
    """The case of a name, made once for all rows of a process."""
    return Case(name, **(QUICK_SHAPES if quick else SHAPES)[name], quick=quick)


def card() -> str:
    """The card's name."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def timed_on_card(
    *runs: Callable[[], Any], repeats: int = REPEATS, warm_up: Callable[[], Any] | None = None
) -> list[list[float]]:
    """Seconds of each run, the runs taken in turn in every repeat.

    An untimed round, or `warm_up` in its place, comes first: it compiles kernels and fills pools of memory.
    """
    import cupy

    for run in runs if warm_up is None else (warm_up,):
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            cupy.cuda.Device().synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return seconds
