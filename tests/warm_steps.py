"""Fits on the counting card, looked at after each step: as they are, and with kernels that do nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting import Counts, bookkeeping, counting, on_card
from planted import planted

from ksubspaces import fit_subspaces
from ksubspaces.kernels.cuda import screen

PATCHES = {"n": 4096, "d": 8, "k": 512, "j": 1, "noise": 0.1, "wrong": 0.1}
TABLES = {"n": 2000, "d": 136, "k": 5, "j": 100, "noise": 0.3, "wrong": 0.5}
WARM = 3
"""The first step that is warm: bases, moments and plans are there, and rows still move."""
OURS = {"solver", "kernels"}


def start(n: int, d: int, k: int, j: int, noise: float, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and labels of which a share is wrong."""
    X, labels = planted(n, d, k, j, noise=noise)
    rng = np.random.default_rng(0)
    return X, np.where(rng.random(n) < wrong, rng.integers(k, size=n), labels)


class Fit:
    """A fit of a few steps, in each of which rows move and no cluster is filled."""

    def __init__(self, shape: dict[str, Any], steps: int = WARM) -> None:
        self.shape, self.steps, (self.X, self.labels) = shape, steps, start(**shape)
        self.told: list[Any] | None = None

    def look(self, look: Callable[[Counts], Any]) -> list[Any]:
        """What there is to see after each step. From the second time on kernels do nothing, and the host reads what it
        read at first."""
        seen: list[Any] = []

        def looked(step: Any) -> bool:
            seen.append(look(counts))
            assert step.moved > 0
            assert step.n_reseeded == 0
            return len(seen) == self.steps

        with pytest.MonkeyPatch.context() as patch, counting(self.told) as counts:
            patch.setattr(screen, "PRODUCTS", 0)  # labels come as in problems of any size
            k, j, steps = self.shape["k"], self.shape["j"], self.steps
            fit_subspaces(on_card(self.X), k, j, init=self.labels, tol=0, max_iter=steps, callback=looked)
        self.told = self.told or counts.told
        return seen

    def seconds(self) -> list[float]:
        """Of the host in each warm step, without those that kernels and the library take."""
        seen = self.look(Counts.now)
        return [(after - before).seconds for before, after in zip(seen[WARM - 2 :], seen[WARM - 1 :], strict=False)]

    def bookkeeping(self) -> float:
        """Seconds of those that the counting card takes to count."""
        *_, before, last = self.look(Counts.now)
        with counting([]):
            return bookkeeping(last - before)

    def calls(self) -> int:
        """Functions of the solver and the kernels that the last step calls."""
        called = 0

        def count(frame: Any, event: str, _: Any) -> None:
            nonlocal called
            called += event == "call" and _is_ours(frame)

        sys.setprofile(count)
        try:
            *_, before, last = self.look(lambda _: called)
        finally:
            sys.setprofile(None)
        return int(last - before)


def _is_ours(frame: Any) -> bool:
    return not OURS.isdisjoint(Path(frame.f_code.co_filename).parts) and "<" not in frame.f_code.co_name
