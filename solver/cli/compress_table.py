"""``ksubspaces compress TABLE``: a table of numbers, or of words and their vectors."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..bits.quantized import QuantizedFactorization
from ..budget import compress
from ..factorization import Factorization
from ..folders import Holding
from ..report import svd_curve
from ..tables import read_table
from ..text_tables import has_words, read_words
from ..words import FACTORS, WORDS, WordVectors
from .common import check_out, gather_options, open_console, results

RESULTS = Holding.of_files("a compressed table", FACTORS, WORDS)
_OF_MODELS = ("texts", "report", "modules", "storage", "min_cosine")
_BUDGETS = ("ratio", "bits", "nbytes", "max_error")


def compress_table(options: argparse.Namespace) -> None:
    """Compress, show, save."""
    spec = str(options.model)
    if given := [name for name in _OF_MODELS if getattr(options, name, None) is not None]:
        raise ValueError(
            f"--{given[0].replace('_', '-')} is for the folder of a model, and {spec} names a table; leave it out"
        )
    check_out(options, RESULTS)
    console = open_console(options)
    words, table = read_words(Path(spec)) if has_words(spec) else (None, read_table(spec))
    budget = gather_options(options, *_BUDGETS, "k", "seed", "device")
    factors: Factorization | QuantizedFactorization = compress(table, progress=console is not None, **budget)
    if console:
        n, d = factors.shape
        error, svd = factors.measure_error(table), svd_curve(table).at(factors.n_parameters)
        spent = f"{n * d:,} parameters -> {factors.n_parameters:,}"
        if isinstance(factors, QuantizedFactorization):
            spent = f"{table.nbytes:,} bytes -> {factors.nbytes:,}, {factors.bits:.2f} bits a number,"
        console.print(
            f"{spec}: {n:,} x {d:,}\n"
            f"  {spent} in {len(factors.dims)} clusters; "
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
