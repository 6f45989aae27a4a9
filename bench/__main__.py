"""`python -m bench`: one process, one table of ratios, one file in bench/results/."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from . import machine, suite_compress, suite_gpu, suite_layers, suite_minilm, suite_models, suite_small
from .compare import Row, table
from .data import minilm

RESULTS = Path(__file__).parent / "results"
OF_MINILM = {"minilm": suite_minilm, "compress": suite_compress, "layers": suite_layers, "models": suite_models}
SUITES = (*OF_MINILM, "small")


def main() -> int:
    """Run every comparison; 1 when one of them is not comparable, whatever the targets say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, starts and rows; writes no file by itself")
    parser.add_argument("--gpu", action="store_true", help="the rows measured on a card, and only those")
    parser.add_argument("--only", choices=SUITES, nargs="+", help="some of the suites (default: all)")
    parser.add_argument("--out", type=Path, help="where to write the results (default: bench/results/<machine>.json)")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 170)
    progress = Console(stderr=True)
    rows = []
    load = machine.OtherLoad()
    measured = (
        suite_gpu.rows(quick=options.quick)
        if options.gpu
        else _rows(progress, options.only or SUITES, quick=options.quick)
    )
    for row in measured:
        row.others = load.since_last()
        progress.print(f"{row.case}: {row.what}: {row.result}", highlight=False, markup=False, soft_wrap=True)
        rows.append(row)
    about = machine.describe() | ({"card": suite_gpu.card()} if options.gpu else {})
    title = f"{about.get('card', about['processor'])}, {about['cores']} cores; {about['command']}"
    console.print(table(rows, title))
    name = "-".join([machine.slug(about.get("card")), *(options.only or [])])
    out = options.out or (None if options.quick else RESULTS / f"{name}.json")
    if out is not None:
        _write(out, {**about, "date": _now(), "quick": options.quick, "rows": [row.as_json() for row in rows]})
        console.print(f"written: {out}", soft_wrap=True)
    missed = [row for row in rows if row.reached is False]
    failed = [row for row in rows if row.failed]
    console.print(f"{len(rows)} rows, {len(missed)} targets missed, {len(failed)} checks failed")
    return 1 if failed else 0


def _rows(progress: Console, suites: Sequence[str], *, quick: bool) -> Iterator[Row]:
    try:
        X = minilm()
    except RuntimeError as error:
        progress.print(f"no MiniLM table, its rows are left out: {error}", style="yellow", markup=False)
        yield Row("MiniLM", "left out: the table is not here", result="", note=str(error))
    else:
        for name in OF_MINILM:
            if name in suites:
                yield from OF_MINILM[name].rows(X, quick=quick)
    if "small" in suites:
        yield from suite_small.rows(quick=quick)


def _write(path: Path, results: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, default=_plain) + "\n")
    part.replace(path)


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} to the results file")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
