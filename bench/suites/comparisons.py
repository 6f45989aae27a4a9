"""Suites on this machine's processor: one process, one table of ratios, one file in bench/results/."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from .. import COMPARISONS, OF_MINILM
from ..lib import machine
from ..lib.compare import Row
from ..lib.data import minilm
from ..lib.results import RESULTS, now, write
from ..lib.show import show


def main(arguments: Sequence[str]) -> int:
    """Run the comparisons; 1 when one of them is not comparable, whatever the targets say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"some of {', '.join(COMPARISONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, starts and rows; writes no file by itself")
    parser.add_argument("--out", type=Path, help="where to write the results (default: bench/results/<machine>.json)")
    options = parser.parse_args(arguments)
    if unknown := set(options.suites) - {*COMPARISONS}:
        parser.error(f"there is no suite {min(unknown)!r} to run with others; there are {', '.join(COMPARISONS)}")
    progress = Console(stderr=True)
    rows = []
    load = machine.OtherLoad()
    for row in _rows(progress, options.suites or COMPARISONS, quick=options.quick):
        row.others = load.since_last()
        progress.print(f"{row.case}: {row.what}: {row.result}", highlight=False, markup=False, soft_wrap=True)
        rows.append(row)
    about = machine.describe()
    show(about, rows)
    out = options.out or (None if options.quick else RESULTS / f"{'-'.join([machine.slug(), *options.suites])}.json")
    if out is not None:
        write(out, {**about, "date": now(), "quick": options.quick, "rows": [row.as_json() for row in rows]})
        print(f"written: {out}")
    return 1 if any(row.failed for row in rows) else 0


def _rows(progress: Console, suites: Sequence[str], *, quick: bool) -> Iterator[Row]:
    if of_minilm := [name for name in OF_MINILM if name in suites]:
        try:
            X = minilm()
        except RuntimeError as error:
            progress.print(f"no MiniLM table, its rows are left out: {error}", style="yellow", markup=False)
            yield Row("MiniLM", "left out: the table is not here", result="", note=str(error))
        else:
            for name in of_minilm:
                yield from _suite(name).rows(X, quick=quick)
    for name in COMPARISONS:
        if name in suites and name not in OF_MINILM:
            yield from _suite(name).rows(quick=quick)


def _suite(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)
