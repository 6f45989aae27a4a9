"""What a step of the alternation and a draw of the seeding ask of a card: launches, allocations, waits, host time.

``pytest tests/test_cuda_step.py -s`` prints all of it by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from counting import Counts, counting, on_card
from emulator import needs_compiler
from helpers import import_or_skip
from planted import planted

from ksubspaces import fit_subspaces
from ksubspaces.kernels.cuda import loader, screen
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS

pytestmark = needs_compiler

import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")

# At most so many, in launches, allocations, waits and uploads. None depends on n or k.
LIMITS = {
    "warm step, patches": (14, 13, 1, 0),
    "warm step, tables": (35, 27, 1, 0),
    "draw of the seeding": (7, 0, 0, 0),
}
PATCHES = {"n": 4096, "d": 8, "k": 512, "j": 1, "noise": 0.1, "wrong": 0.1}
TABLES = {"n": 2000, "d": 136, "k": 5, "j": 100, "noise": 0.3, "wrong": 0.5}
STEPS = 3
"""The last of them is warm: bases, moments and plans are there, and rows still move."""


def start(n: int, d: int, k: int, j: int, noise: float, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and labels of which a share is wrong."""
    X, labels = planted(n, d, k, j, noise=noise)
    rng = np.random.default_rng(0)
    return X, np.where(rng.random(n) < wrong, rng.integers(k, size=n), labels)


def after_each_step(X: Any, labels: np.ndarray, k: int, j: int, look: Callable[[], Any]) -> list[Any]:
    """What there is to see after each step of a fit, in each of which rows move and no cluster is filled."""
    seen: list[Any] = []

    def looked(step: Any) -> bool:
        seen.append(look())
        assert step.moved > 0
        assert step.n_reseeded == 0
        return len(seen) == STEPS

    fit_subspaces(X, k, j, init=labels, tol=0, callback=looked)
    return seen


def check(what: str, counts: Counts) -> None:
    print(f"\n{what}: {counts}")
    over = {name: (n, most) for (name, n), most in zip(counts.totals.items(), LIMITS[what], strict=True) if n > most}
    assert not over, f"{what}: more {over} than it may"


@pytest.mark.parametrize(("what", "shape"), [("warm step, patches", PATCHES), ("warm step, tables", TABLES)])
def test_a_step(what: str, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "PRODUCTS", 0)  # labels come as in problems of any size
    X, labels = start(**shape)
    with counting() as counts:
        *_, before, last = after_each_step(on_card(X), labels, shape["k"], shape["j"], counts.now)
        prepared = loader.variants_of_a_fit(np.dtype(np.float32), shape["d"])
    check(what, last - before)
    assert counts.variants <= {(source, *sorted(defines.items())) for source, defines in prepared}


def test_a_draw_of_the_seeding() -> None:
    X, _ = start(**{**PATCHES, "n": 256})
    found = []
    with counting() as counts:
        for k in (2, 7, 8):  # the first compiles what there is to compile
            before = counts.now()
            problem = Problem(on_card(X), None, (PATCHES["j"],) * k, False)
            STARTS["k-means++"](problem, np.random.default_rng(0))
            found.append(counts.now() - before)
    check("draw of the seeding", found[2] - found[1])
