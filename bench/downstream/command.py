"""`python -m bench downstream`: what compressed word embeddings cost a sentence encoder on a real task.

MiniLM is fine-tuned to tell positive from negative sentences (movie reviews and editorials, scored by people), with two
seeds. Each table is compressed by every method at every ratio and measured on held-out movie reviews: swapped in
without retraining, for three partitions where a method depends on chance, and after one more epoch of fine-tuning in
factored form, which the original gets as well. The pretrained encoder, its table compressed, is measured on sentence
vectors, which needs no labels.

With --bits tables are stored in packed bits instead, by `compress(bits=)` and peers of the same bytes, and swapped in.

Every finished unit is kept in the user's cache, so that a run that was killed goes on where it was. A full run takes
about an hour on two quiet cores, --quick three minutes; with --bits as long again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ksubspaces.demo import minilm_folder
from ksubspaces.storage import write_whole

from ..lib import machine, texts
from ..lib.results import RESULTS
from ..lib.units import Item, in_parallel
from . import coded
from .plan import FULL, QUICK, data_of
from .plot import draw
from .report import checks, collect, tables
from .work import Original, fine_tune, measure, measure_original, units

OUT, OUT_BITS = RESULTS / "downstream.json", RESULTS / "downstream-bits.json"


def main(arguments: Sequence[str]) -> None:
    """Measure everything that is not yet measured, print the tables, write the results and their plot."""
    parser = argparse.ArgumentParser(prog="python -m bench downstream", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sentences, methods and ratios; writes no results")
    parser.add_argument("--bits", action="store_true", help="tables in packed bits, swapped in, and these alone")
    default = f"{OUT.name}, with --bits {OUT_BITS.name}"
    parser.add_argument("--out", type=Path, help=f"results, with their plot beside them (default: {default})")
    parser.add_argument("--processes", type=int, default=machine.cores(), help="of one thread each (default: cores)")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else FULL
    console = Console(width=170)
    if options.fresh:
        shutil.rmtree(plan.folder)
    texts.load_all()  # both fetched once, not by each process
    minilm_folder()
    spent = plan.folder / f"minutes{'-bits' * options.bits}.json"  # by this run and those that it goes on from
    begin = time.perf_counter() - 60 * (json.loads(spent.read_text()) if spent.exists() else 0.0)

    def run(work: Callable[[Item], Any], items: Sequence[Item], name: Callable[[Item], str]) -> dict[Item, Any]:
        found: dict[Item, Any] = {}
        for item, result in in_parallel(work, items, options.processes):
            found[item] = result
            minutes = (time.perf_counter() - begin) / 60
            write_whole(spent, json.dumps(minutes).encode())
            done = f"{minutes:5.1f} min  {len(found)}/{len(items)}  {name(item)}"
            console.print(done, markup=False, highlight=False)
        return found

    models = [Original(plan, seed) for seed in plan.seeds]
    tuned = run(fine_tune if options.bits else measure_original, models, lambda model: f"fine-tuned, seed {model.seed}")
    originals, scores = {model.seed: found for model, found in tuned.items()}, data_of(plan).test.scores
    if options.bits:
        rows = coded.collect(originals, run(coded.measure, coded.units(plan), lambda unit: unit.name), scores)
        shown, said = [coded.table(rows)], coded.checks(rows)
    else:
        rows = collect(originals, run(measure, units(plan), lambda unit: unit.name), scores)
        shown, said = list(tables(rows)), checks(rows)
    for table in shown:
        console.print(table)
    for line in said:
        console.print(line, markup=False, highlight=False)
    out = options.out or (None if options.quick else OUT_BITS if options.bits else OUT)
    if out is not None:
        results = {**machine.describe(), "date": _today(), "minutes": json.loads(spent.read_text()), **rows}
        write_whole(out, (json.dumps(results, indent=1) + "\n").encode())
        if not options.bits:
            draw(out.with_suffix(".png"), results["rows"])
        console.print(f"written: {out}", soft_wrap=True)


def _today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
