"""``ksubspaces fit``: subspaces of given dimensions through a table's rows."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .._version import __version__
from ..arrays import AnyArray
from ..blocked import is_dask
from ..blocked_factors import BlockedFactorization, factorize_blocks
from ..factorization import Factorization
from ..figures import plot
from ..fit import SEARCHES, fit_subspaces
from ..folders import Holding
from ..report import FitReport, dimension_sweep, make_report, svd_curve
from ..row_files import is_in_blocks, open_rows
from ..seeding import Init
from ..storage import write_json
from ..subspaces import Subspaces
from ..tables import read_table
from ..terminal import render
from .common import Commands, add_options, add_out_options, gather_options, or_auto, prepare, results, several, status

if TYPE_CHECKING:
    from rich.console import Console

FACTORS, SUBSPACES, REPORT, PLOT = "factorization.safetensors", "subspaces.safetensors", "report.json", "report.png"
PARTS = "factors"  # in place of the first, where the table is read in blocks
RESULTS = Holding.of_files("results of a fit", FACTORS, SUBSPACES, REPORT, PLOT, PARTS)
_PASSED = ("affine", "init", "n_init", "search", "effort", "max_iter", "tol", "dtype", "seed", "device")
_INITS = ("k-means++", "random", "k-means")


def add(commands: Commands) -> None:
    """Add the command to the parser's."""
    parser = commands.add_parser("fit", help="fit a table of your own", description="Fit a table of your own.")
    parser.add_argument(
        "table", metavar="TABLE", help="x.npy, x.npz::name, model.safetensors::tensor_name, x.zarr, x.h5::name"
    )
    parser.add_argument(
        "--blocks",
        action="store_true",
        help="read the table in blocks of rows, as is done anyway with one that takes more than half of the memory",
    )
    parser.add_argument("--k", type=int, required=True, help="number of subspaces")
    parser.add_argument("--j", type=several(int), required=True, help="their dimension: one, or k separated by commas")
    add_out_options(parser, "the results")
    parser.set_defaults(command=fit)
    add_fit_options(parser)


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that end in :func:`run`."""
    parser.add_argument("--affine", action="store_true", help="flats with an offset instead of linear subspaces")
    parser.add_argument(
        "--init", default="k-means++", help=f"{', '.join(_INITS)}, or a saved subspaces.safetensors (%(default)s)"
    )
    parser.add_argument("--n-init", type=or_auto, default="auto", help="number of starts, or auto (%(default)s)")
    parser.add_argument("--search", choices=SEARCHES, default="auto", help="for better optima (%(default)s)")
    parser.add_argument("--effort", type=float, default=1, help="for how much longer to search (%(default)s)")
    parser.add_argument("--max-iter", type=int, default=100, help="most steps of a descent (%(default)s)")
    parser.add_argument("--tol", type=float, default=1e-4, help="stop below this relative decrease (%(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="compute in this type (default: the table's)")
    add_options(parser, PLOT)


def fit(options: argparse.Namespace) -> None:
    """Fit the table named."""
    if len(options.j) not in (1, options.k):
        raise ValueError(f"--j takes one number or one for each cluster: got {len(options.j)} for --k {options.k}")
    by_blocks = options.blocks or is_in_blocks(options.table)
    table = open_rows(options.table) if by_blocks else read_table(options.table)
    console = prepare(options, RESULTS)
    run(table, options.table, options.k, options.j[0] if len(options.j) == 1 else options.j, options, console)


def run(
    table: AnyArray, name: str, k: int, j: int | list[int], options: argparse.Namespace, console: Console | None
) -> None:
    """Fit, show and save."""
    given = {**gather_options(options, *_PASSED), "init": _init(options.init)}
    started = time.perf_counter()
    model = fit_subspaces(table, k, j, progress=console is not None, **given)
    seconds = time.perf_counter() - started
    with status(console, "factoring the table, and its SVD to compare"):
        factorization = factorize_blocks(table, model) if is_dask(table) else model.factorize(table)
        svd = svd_curve(table)
        report = make_report(model, factorization, svd, seconds)
    if console:
        console.print(render(report))
    if options.out is None:
        return
    with results(options, RESULTS) as folder:
        written = _save(folder, name, options, model, factorization, report)
        if options.plot and not is_dask(table):
            with status(console, "drawing: a few steps at other dimensions"):
                sweep = list(dimension_sweep(table, model, device=options.device))
                plot(folder / PLOT, report, svd, sweep)
            written.append(PLOT)
    if console:
        console.print(f"\nwrote {', '.join(written)} in {options.out}", markup=False, soft_wrap=True)


def _init(init: str) -> Init:
    if init in _INITS:
        return init
    if not Path(init).is_file():
        raise FileNotFoundError(f"--init {init}: not one of {', '.join(_INITS)}, and no such file of saved subspaces")
    return Subspaces.load(init)


def _save(
    out: Path,
    name: str,
    options: argparse.Namespace,
    model: Subspaces,
    factorization: Factorization | BlockedFactorization,
    report: FitReport,
) -> list[str]:
    factors = PARTS if isinstance(factorization, BlockedFactorization) else FACTORS
    factorization.save(out / factors)
    model.save(out / SUBSPACES)
    given = gather_options(options, *_PASSED)
    write_json(out / REPORT, {"table": name, "version": __version__, "options": given, **asdict(report)})
    return [factors, SUBSPACES, REPORT]
