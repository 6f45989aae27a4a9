"""What the pieces of a plan report, and the results file that has it as soon as it is there."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .rented_plan import FAILED, NOT_REACHED, STOPPED, Piece

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


class Record:
    """The results of a plan. Each row and piece is in it from the start, as not reached, until it is measured.

    Parameters
    ----------
    path : Path or None
        The results file, if there is to be one.
    pieces : iterable of Piece
    about : dict
        The machine and what it runs, as it goes into the file.
    former : dict, optional
        Results to go on from.
    """

    def __init__(
        self, path: Path | None, pieces: Iterable[Piece], about: dict[str, Any], former: dict[str, Any] | None = None
    ) -> None:
        self.path, self.about = path, about
        self.pieces = {piece["name"]: piece for piece in former["pieces"]} if former else {}
        self.rows = {row["name"]: row for row in former["rows"]} if former else {}
        for piece in pieces:
            self.pieces[piece.name] = {"name": piece.name, "limit": piece.limit, "ended": NOT_REACHED, "seconds": 0.0}
            for name in piece.rows:
                self.rows[name] = _missing(name, piece, NOT_REACHED)
        self._write()

    def take(self, message: dict[str, Any]) -> None:
        """Keep a row that was measured; ``row`` is its name."""
        row = {name: value for name, value in message.items() if name != "row"}
        self.rows[message["row"]] |= {**row, "measured": True}
        self._write()

    def end(self, piece: Piece, ended: str, seconds: float) -> None:
        """Keep how a piece ended, which is also why the rows are missing that it still owes."""
        self.pieces[piece.name] |= {"ended": ended, "seconds": round(seconds, 1)}
        for name in piece.rows:
            if not self.rows[name]["measured"]:
                self.rows[name] = _missing(name, piece, ended)
        self._write()

    @property
    def failed(self) -> list[str]:
        """Pieces that failed or were stopped, and rows whose check failed."""
        pieces = [name for name, piece in self.pieces.items() if piece["ended"].startswith((FAILED, STOPPED))]
        return pieces + [name for name, row in self.rows.items() if row.get("failed")]

    def _write(self) -> None:
        if self.path is not None:
            parts = {"date": now(), "pieces": [*self.pieces.values()], "rows": [*self.rows.values()]}
            write(self.path, {**self.about, **parts})


def _missing(name: str, piece: Piece, why: str) -> dict[str, Any]:
    return {"name": name, "piece": piece.name, "measured": False, "case": name, "what": piece.what, "result": why}


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
