"""`python -m bench.show FILE`: the table of a results file."""

from __future__ import annotations

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


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    show(results, [Row.of_json(row) for row in results["rows"]])
