"""`python -m bench show FILE`: the table of a results file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from .compare import Row, table


def show(about: dict[str, Any], rows: Sequence[Row]) -> None:
    """Print the rows that a machine and a command gave, and how many of them fall short."""
    console = Console(width=None if sys.stdout.isatty() else 170)
    console.print(table(rows, f"{about.get('card', about['processor'])}, {about['cores']} cores; {about['command']}"))
    missed = [row for row in rows if row.reached is False]
    failed = [row for row in rows if row.failed]
    console.print(f"{len(rows)} rows, {len(missed)} targets missed, {len(failed)} checks failed")


def main(arguments: Sequence[str]) -> None:
    """Show each of the files."""
    parser = argparse.ArgumentParser(prog="python -m bench show", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    for file in parser.parse_args(arguments).files:
        results = json.loads(file.read_text())
        show(results, [Row.of_json(row) for row in results["rows"]])
