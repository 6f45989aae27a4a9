"""Workers of pytest-xdist share the cores, Hypothesis tries the same examples in every run (for others there is
``--hypothesis-profile=default``), and at the end stands what was skipped and what it takes.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from typing import Any

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))

if WORKERS:  # before NumPy or Torch is loaded; the programs that tests start get the same
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

with contextlib.suppress(ImportError):  # tests on a card do without it
    from hypothesis import settings

    settings.register_profile("repeatable", derandomize=True)
    settings.load_profile("repeatable")


ONE_IN = 5  # mutants of the CUDA kernels that are tried without --all-mutants: compiling them takes most of the time


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--all-mutants", action="store_true", help=f"try all mutants of kernels, not one in {ONE_IN}")


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    if config.getoption("--all-mutants"):
        return
    mutants = [item for item in items if getattr(item, "originalname", "") == "test_cuda_mutant_is_caught"]
    left_out = {item for number, item in enumerate(mutants) if number % ONE_IN}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = Counter(map(_reason, terminalreporter.stats.get("skipped", [])))
    if skipped:
        terminalreporter.section("skipped")
        for (what, reason), count in sorted(skipped.items()):
            terminalreporter.write_line(f"{what or count} skipped: {reason}")


def _reason(report: Any) -> tuple[str, str]:
    """The file, if all of it was skipped before its tests were counted, and why."""
    _, _, text = report.longrepr
    return report.nodeid if report.when == "collect" else "", text.removeprefix("Skipped: ")
