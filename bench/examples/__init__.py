"""What subspaces are used for, each in under a minute, with a picture: `python -m bench digits` and `photograph`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..lib.machine import describe
from ..lib.results import RESULTS, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(name: str, example: Callable[[bool], tuple[dict[str, Any], Figure]], arguments: Sequence[str]) -> None:
    """Run an example, print its figures, and write these and the picture."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=example.__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows, in seconds; writes only with --out")
    parser.add_argument("--out", type=Path, help=f"folder for {name}.json and {name}.png; default bench/results")
    given = parser.parse_args(arguments)
    figures, picture = example(given.quick)
    for what, value in figures.items():
        print(f"{what:<34}{value}")
    folder = given.out or (None if given.quick else RESULTS)
    if folder is not None:
        write(folder / f"{name}.json", {**describe(), "figures": figures})
        picture.savefig(folder / f"{name}.png", dpi=110)


def canvas(width: float, height: float) -> Figure:
    """A figure that is drawn into files alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
