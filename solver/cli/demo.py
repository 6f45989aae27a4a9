"""``ksubspaces demo``: a fit of a real encoder's word embeddings."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..demo import minilm_table, planted_table
from .common import Commands, add_out_options, prepare, status
from .fit import RESULTS, add_fit_options, run

_K, _J = 5, 215
_PLANTED = {"n": 8000, "d": 128, "k": 5, "j": 24}


def add(commands: Commands) -> None:
    """Add the command to the parser's."""
    about = f"Fit {_K} subspaces of dimension {_J} to the word embeddings of all-MiniLM-L6-v2."
    parser = commands.add_parser("demo", help="fit the word embeddings of a real encoder", description=about)
    add_out_options(parser, "the results", Path("demo-output"))
    parser.set_defaults(command=demo)
    add_fit_options(parser)


def demo(options: argparse.Namespace) -> None:
    """Fit the demo's table. Where it cannot be had, say so and fit planted subspaces."""
    console = prepare(options, RESULTS)
    try:
        with status(console, "looking for the MiniLM table (downloaded once, 83 MB)"):
            table = minilm_table()
    except RuntimeError as error:
        note = "Using planted subspaces instead: {n} x {d}, {k} of dimension {j}, with noise.".format(**_PLANTED)
        sys.stderr.write(f"ksubspaces: {error}\n{note} The numbers are not those of the MiniLM table.\n")
        run(planted_table(**_PLANTED), "planted", _PLANTED["k"], _PLANTED["j"], options, console)
    else:
        run(table, "MiniLM word embeddings", _K, _J, options, console)
