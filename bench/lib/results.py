"""Results files, and how a process reports a result to the one that started it. The standard library alone."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results"
MARK = "\x1e"
"""Begins a line of JSON among a piece's output (RFC 7464)."""


def emit(message: dict[str, Any]) -> None:
    """Report something to the process that runs this piece."""
    sys.stdout.write(f"{MARK}{json.dumps(message, default=_plain)}\n")
    sys.stdout.flush()


def reported(line: str) -> dict[str, Any] | None:
    """What a line of output reports; None where it is no report, or one that was cut off."""
    if not line.startswith(MARK):
        return None
    try:
        return json.loads(line[1:])
    except ValueError:
        return None


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON: the whole file, or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(results, indent=1, default=_plain) + "\n")
    part.replace(path)


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # NumPy's
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} to the results file")


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
