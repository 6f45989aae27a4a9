"""The host's share of a warm step on a card, which takes no card: kernels and the library do nothing there.

Fits run on the card that counts (`tests/counting.py`). The times have its bookkeeping in them, of launches and of new
arrays, and what that takes at least is told: the least of many in a row. What CuPy takes for the same, some 5 us each,
is not in them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from ..lib.compare import spread
from ..lib.results import ROOT

GOALS = {"PATCHES": 300e-6, "TABLES": 150e-6}
STEPS = 5


def main(arguments: Sequence[str]) -> None:
    """Print the times of both problems."""
    parser = argparse.ArgumentParser(prog="python -m bench host", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20, help="fits of each problem (default: 20)")
    repeats = parser.parse_args(arguments).repeats
    sys.path.insert(0, str(ROOT / "tests"))
    import warm_steps

    for name, goal in GOALS.items():
        fit = warm_steps.Fit(getattr(warm_steps, name), STEPS)
        fit.look(lambda counts: None)  # with kernels, for what the host reads
        seconds = [1e6 * taken for _ in range(repeats) for taken in fit.seconds()]
        own = 1e6 * fit.bookkeeping()
        met = "met" if statistics.median(seconds) <= 1e6 * goal else "missed"
        shape = " ".join(f"{key}={fit.shape[key]}" for key in "ndkj")
        print(f"{name.lower()} {shape}: {spread(seconds, '.0f')} us of the host a step, {own:.0f} for counting; "
              f"{fit.calls()} calls; goal {1e6 * goal:.0f} us {met}")  # fmt: skip
