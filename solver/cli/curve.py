"""``ksubspaces curve``: error against size, for several ways of compressing a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._version import __version__
from ..curve import RATIOS, CompressionCurve, compression_curve
from ..demo import minilm_folder, minilm_table
from ..folders import Holding
from ..front import BITS, Front, compression_front
from ..tables import read_table
from ..terminal import render_curve, render_front
from .common import (
    Commands,
    add_options,
    add_out_options,
    add_weight_options,
    gather_options,
    prepare,
    results,
    row_weights,
    several,
    status,
)

CURVE = Holding.of_files("a curve", "curve.json", "curve.png")
_MINILM = "minilm"


def add(commands: Commands) -> None:
    """Add the command to the parser's."""
    about = (
        "Compress a table to several sizes in several ways; a table and a plot of the errors. "
        "With weights, errors are also told weighted by them, and ours-weighted is among the methods. "
        "With --bits, error against bytes."
    )
    parser = commands.add_parser("curve", help="error against size, for several methods", description=about)
    parser.add_argument(
        "table",
        metavar="TABLE",
        help=f"x.npy, x.npz::name or model.safetensors::tensor_name; or {_MINILM}, the demo's table, "
        "with weights from its own tokenizer",
    )
    parser.add_argument(
        "--bits",
        type=several(float),
        metavar="BITS",
        help=f"bits a number, as {','.join(f'{size:g}' for size in BITS)}: the front of bytes, in place of ratios",
    )
    parser.add_argument(
        "--ratios", type=several(float), default=list(RATIOS), help=f"shares to save ({','.join(map(str, RATIOS))})"
    )
    parser.add_argument(
        "--methods",
        type=several(str),
        help="svd, messi-K for K clusters of equal dimension, ours; with -weighted after it, by the weights "
        "(svd,messi-3,messi-5,ours, and ours-weighted if there are weights)",
    )
    add_weight_options(parser)
    parser.add_argument(
        "--warm", action="store_true", help="begin each fit with the clusters of the one before: faster, less exact"
    )
    add_out_options(parser, "curve.json and curve.png", Path("curve-output"))
    parser.set_defaults(command=curve)
    add_options(parser, "curve.png")


def curve(options: argparse.Namespace) -> None:
    """Measure, show and save."""
    if options.bits and (options.methods or options.warm):
        raise ValueError("--methods and --warm are for ratios; leave them out with --bits")
    console = prepare(options, CURVE)
    own = None
    if options.table == _MINILM:
        with status(console, "looking for the MiniLM model (downloaded once, 83 MB)"):
            if options.weights is None and options.tokenizer is None:
                own = minilm_folder()  # before the table, which it holds
            table = minilm_table()
    else:
        table = read_table(options.table)
    with status(console, "weighing the rows"):
        weights = row_weights(options, len(table), own)
    names = ("bits", "device", "seed") if options.bits else ("ratios", "methods", "warm", "device", "seed")
    passed, shown = gather_options(options, *names), console is not None
    measured: Front | CompressionCurve
    if options.bits:
        measured = compression_front(table, sample_weight=weights, progress=shown, **passed)
    else:
        measured = compression_curve(table, sample_weight=weights, progress=shown, **passed)
    if console:
        n, d = measured.shape
        console.print(f"{options.table}, {n:,} x {d:,}\n", markup=False, soft_wrap=True)
        console.print(render_front(measured) if isinstance(measured, Front) else render_curve(measured))
    given = {**passed, **gather_options(options, "weights", "tokenizer", "texts")}
    with results(options, CURVE) as folder:
        measured.save(folder / "curve.json", {"table": options.table, "version": __version__, "options": given})
        written = ["curve.json"]
        if options.plot:
            measured.plot(folder / "curve.png")
            written.append("curve.png")
    if console:
        console.print(f"\nwrote {', '.join(written)} in {options.out}", markup=False, soft_wrap=True)
