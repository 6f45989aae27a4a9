"""The results file of a plan, which has each row as soon as it is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..lib.results import now, write
from .plan import FAILED, NOT_REACHED, STOPPED, Piece


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
        """Keep a row that was measured, if it says nothing else; ``row`` is its name."""
        row = {name: value for name, value in message.items() if name != "row"}
        self.rows[message["row"]] |= {"measured": True, **row}
        self._write()

    def end(self, piece: Piece, ended: str, seconds: float) -> None:
        """Keep how a piece ended, which is also why the rows are missing that it still owes."""
        self.pieces[piece.name] |= {"ended": ended, "seconds": round(seconds, 1)}
        for name in piece.rows:
            row = self.rows[name]
            if not row["measured"]:  # though it may have come a part of the way
                so_far = {**row, "result": f"{ended}; {row['result']}"} if "raw" in row else None
                self.rows[name] = so_far or _missing(name, piece, ended)
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
