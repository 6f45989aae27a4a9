"""On a card: every comparison of `suites/gpu.py` must hold, whatever the targets say."""

from __future__ import annotations

import pytest

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")


def _devices() -> int:
    try:
        return cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(_devices() == 0, reason="CUDA finds no device")]


def test_comparisons_hold() -> None:
    from .suites.gpu import ROWS, measured

    failed = {name: row.failed for name, row in measured([*ROWS], quick=True) if row.failed}
    assert not failed
