"""``ksubspaces compress TABLE``: a table of numbers, or of words and their vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..budget import compress
from ..folders import Holding
from ..report import svd_curve
from ..tables import read_table
from ..text_tables import has_words, read_words
from ..words import FACTORS, WORDS, WordVectors
from .common import check_out, open_console, results

RESULTS = Holding.of_files("a compressed table", FACTORS, WORDS)
_OF_MODELS = ("texts", "report", "modules", "storage")


def compress_table(options: argparse.Namespace) -> None:
    """Compress, show, save."""
    spec = str(options.model)
    if given := [name for name in _OF_MODELS if getattr(options, name, None) is not None]:
        raise ValueError(f"--{given[0]} is for the folder of a model, and {spec} names a table; leave it out")
    check_out(options, RESULTS)
    console = open_console(options)
    words, table = read_words(Path(spec)) if has_words(spec) else (None, read_table(spec))
    factors = compress(
        table, options.ratio, k=options.k, seed=options.seed, device=options.device, progress=console is not None
    )
    if console:
        n, d = factors.shape
        error, svd = factors.measure_error(table), svd_curve(table).at(factors.n_parameters)
        console.print(
            f"{spec}: {n:,} x {d:,}\n"
            f"  {n * d:,} parameters -> {factors.n_parameters:,} in {len(factors.dims)} clusters; "
            f"relative error {error:.4f} (SVD {svd:.4f})",
            markup=False,
            soft_wrap=True,
        )
    if options.out is None:
        return
    with results(options, RESULTS) as folder:
        if words is None:
            factors.save(folder / FACTORS)
        else:
            WordVectors(words, factors).write(folder)
    if console:
        console.print(f"\nwrote {options.out}", markup=False, soft_wrap=True)
