"""Encoding of a table by every method of the front in bytes; each is first checked to decode to what it meant.

pytest-benchmark shows them as one group.
"""

from __future__ import annotations

import numpy as np
import pytest

from .lib.data import planted
from .lib.tables import Table, bags
from .suites.bytes import METHODS


@pytest.fixture(scope="module")
def problem(quick: bool) -> Table:
    A = planted(*((1000, 32, 3, 8) if quick else (20_000, 128, 5, 32)), noise=0.3).X
    return Table("planted", A, (np.arange(len(A)) + 10.0) ** -0.5, np.arange(50), bags(A))


@pytest.mark.parametrize("side", METHODS)
def test_encode(side: str, problem: Table, measure) -> None:
    method = METHODS[side]
    size = method.sizes[len(method.sizes) // 2]

    def run():
        return method.make(problem, size, 0)

    code = run()
    decoded = code.reopened()
    assert not code.fault(decoded)
    assert 0 < problem.measure(decoded).cosine <= 1 + 1e-6
    measure(run, rounds=3)
