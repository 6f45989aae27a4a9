from __future__ import annotations

from dataclasses import replace

from ksubspaces.kernels import Moments

from .arrays import Array
from .descent import Problem, Refit


class RunningMoments:
    def __init__(self, problem: Problem, k: int) -> None:
        self._refit = Refit(replace(problem, dims=(1,) * k))

    @property
    def resident(self) -> bool:
        return self._refit.resident

    def __call__(self, labels: Array) -> Moments:
        return self._refit._moments(labels)
