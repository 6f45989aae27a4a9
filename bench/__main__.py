"""`python -m bench`: one process, one table of ratios, one file in bench/results/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from . import machine, rented, suite_compress, suite_layers, suite_minilm, suite_models, suite_small
from .compare import Row
from .data import minilm
from .rented_record import now, write
from .show import show

RESULTS = Path(__file__).parent / "results"
OF_MINILM = {"minilm": suite_minilm, "compress": suite_compress, "layers": suite_layers, "models": suite_models}
SUITES = (*OF_MINILM, "small")


def main() -> int:
    """Run every comparison; 1 when one of them is not comparable, whatever the targets say."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats, starts and rows; writes no file by itself")
    parser.add_argument("--gpu", action="store_true", help="rows measured on a card; takes the options of bench.rented")
    parser.add_argument("--only", choices=SUITES, nargs="+", help="some of the suites (default: all)")
    parser.add_argument("--out", type=Path, help="where to write the results (default: bench/results/<machine>.json)")
    if "--gpu" in sys.argv:
        return rented.main(["--figures", *(argument for argument in sys.argv[1:] if argument != "--gpu")])
    options = parser.parse_args()
    progress = Console(stderr=True)
    rows = []
    load = machine.OtherLoad()
    for row in _rows(progress, options.only or SUITES, quick=options.quick):
        row.others = load.since_last()
        progress.print(f"{row.case}: {row.what}: {row.result}", highlight=False, markup=False, soft_wrap=True)
        rows.append(row)
    about = machine.describe()
    show(about, rows)
    name = "-".join([machine.slug(), *(options.only or [])])
    out = options.out or (None if options.quick else RESULTS / f"{name}.json")
    if out is not None:
        write(out, {**about, "date": now(), "quick": options.quick, "rows": [row.as_json() for row in rows]})
        print(f"written: {out}")
    return 1 if any(row.failed for row in rows) else 0


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


if __name__ == "__main__":
    sys.exit(main())
