"""What a step of the alternation and a draw of the seeding ask of a card: launches, allocations, waits, host time.

``pytest tests/test_cuda_step.py -s`` prints all of it by name.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from counting import Counts, counting, on_card
from emulator import emulated, needs_compiler
from helpers import import_or_skip
from warm_steps import PATCHES, TABLES, Fit, start

from ksubspaces.kernels.cuda import loader
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS

pytestmark = needs_compiler

import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")

# At most so many, in launches, allocations, waits and uploads. None depends on n or k.
LIMITS = {
    "warm step, patches": (13, 5, 1, 0),
    "warm step, tables": (23, 4, 1, 0),
    "draw of the seeding": (7, 0, 0, 0),
}
CALLS = {"warm step, patches": 109, "warm step, tables": 98}
"""Functions that the solver and the kernels call in a step, at most. ``python -m bench host`` tells the time."""


def check(what: str, counts: Counts) -> None:
    print(f"\n{what}: {counts}")
    over = {name: (n, most) for (name, n), most in zip(counts.totals.items(), LIMITS[what], strict=True) if n > most}
    assert not over, f"{what}: more {over} than it may"


@pytest.mark.parametrize(("what", "shape"), [("warm step, patches", PATCHES), ("warm step, tables", TABLES)])
def test_a_step(what: str, shape: dict[str, Any]) -> None:
    fit = Fit(shape)
    *_, before, last = fit.look(Counts.now)
    check(what, last - before)
    calls = fit.calls()
    print(f"{what}: {calls} calls")
    assert 20 < calls <= CALLS[what]
    with emulated():
        prepared = loader.variants_of_a_fit(np.dtype(np.float32), shape["d"])
    assert last.variants <= {(source, *sorted(defines.items())) for source, defines in prepared}


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
