"""`python -m bench downstream`: what compressed word embeddings cost a sentence encoder on a real task.

MiniLM is fine-tuned to tell positive from negative sentences (movie reviews and editorials, scored by people), with two
seeds. Each table is compressed by every method at every ratio and measured on held-out movie reviews: swapped in
without retraining, for three partitions where a method depends on chance, and after one more epoch of fine-tuning in
factored form, which the original gets as well. The pretrained encoder, its table compressed, is measured on sentence
vectors, which needs no labels.

Every finished unit is kept in the user's cache, so that a run that was killed goes on where it was. A full run takes
about an hour on two quiet cores, --quick three minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ksubspaces.demo import minilm_folder
from ksubspaces.storage import write_whole

from ..lib import machine, texts
from ..lib.results import RESULTS
from ..lib.units import in_parallel
from .plan import FULL, QUICK, data_of
from .plot import draw
from .report import checks, collect, tables
from .work import Original, Unit, measure, measure_original, units

OUT = RESULTS / "downstream.json"


def main(arguments: Sequence[str]) -> None:
    """Measure everything that is not yet measured, print the tables, write the results and their plot."""
    parser = argparse.ArgumentParser(prog="python -m bench downstream", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sentences, methods and ratios; writes no results")
    parser.add_argument("--out", type=Path, help=f"results, with the plot beside them (default: {OUT.name})")
    parser.add_argument("--processes", type=int, default=machine.cores(), help="of one thread each (default: cores)")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    console = Console(width=170)
    if options.fresh:
        shutil.rmtree(plan.folder)
    texts.load_all()  # both fetched once, not by each process
    minilm_folder()
    spent = plan.folder / "minutes.json"  # by this run and those that it goes on from
    begin = time.perf_counter() - 60 * (json.loads(spent.read_text()) if spent.exists() else 0.0)

    def done(what: str, number: int, of: int) -> float:
        minutes = (time.perf_counter() - begin) / 60
        write_whole(spent, json.dumps(minutes).encode())
        console.print(f"{minutes:5.1f} min  {number}/{of}  {what}", markup=False, highlight=False)
        return minutes

    originals: dict[int, dict[str, Any]] = {}
    for original, result in in_parallel(measure_original, [Original(plan, s) for s in plan.seeds], options.processes):
        originals[original.seed] = result
        done(f"fine-tuned with seed {original.seed}", len(originals), len(plan.seeds))
    wanted = units(plan)
    measured: dict[Unit, dict[str, Any]] = {}
    for unit, result in in_parallel(measure, wanted, options.processes):
        measured[unit] = result
        minutes = done(unit.name, len(measured), len(wanted))

    rows = collect(originals, measured, data_of(plan).test.scores)
    results = {**machine.describe(), "date": _today(), "minutes": minutes, **rows}
    for table in tables(results):
        console.print(table)
    for line in checks(results):
        console.print(line, markup=False, highlight=False)
    out = options.out or (None if options.quick else OUT)
    if out is not None:
        write_whole(out, (json.dumps(results, indent=1) + "\n").encode())
        draw(out.with_suffix(".png"), results["rows"])
        console.print(f"written: {out} and its .png", soft_wrap=True)


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
