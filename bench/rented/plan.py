"""What runs on a rented card: pieces in their order, the most wanted first, each with a limit."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

SECONDS, REST_SECONDS = 335, 570
"""For all pieces, and for what is left of them, where each has `PATIENCE` times its limit."""
PATIENCE = 3
SHORTEST = 4
"""Seconds in which a process can start; with fewer left a piece is not begun."""
DYING = 5
"""Seconds that a killed process is waited for; one that is stuck in its driver may stay for ever."""
WORKERS = 8
"""Processes of the tests, which share the card."""
PASSED, NOT_REACHED, STOPPED, FAILED = "passed", "not reached", "stopped", "failed"
"""How a piece ended; the last two say more behind that."""


@dataclass(frozen=True)
class Piece:
    """A part of the plan.

    Attributes
    ----------
    name, what : str
        What it is called, and what it does.
    limit : float
        Seconds after which it is killed.
    command : tuple of str
        Arguments of Python; the names of the rows follow them.
    rows : tuple of str
        Rows that it measures, see `suites/gpu.py`, or a tool of `suites/sanitize.py`.
    env : dict
        Variables of its environment.
    """

    name: str
    limit: float
    what: str
    command: tuple[str, ...]
    rows: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    @property
    def figures(self) -> bool:
        """Whether it measures times."""
        return "gpu" in self.command


def preparation() -> list[Piece]:
    """What the other pieces need: the package, and a card that answers."""
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", ".")
    return [
        Piece("install", 30, "this package, for this Python; nothing is fetched", install),
        Piece("machine", 20, "which card this is, and which packages", ("-m", "bench", "gpu", "--about")),
    ]


def plan(*, quick: bool = False, several: bool | None = None) -> list[Piece]:
    """Tests, rows, and what is slow; `several` processes for the tests where pytest-xdist is installed."""
    several = importlib.util.find_spec("xdist") is not None if several is None else several
    tests = ("-m", "pytest", "tests/test_gpu.py", "-v", "--color=no", "-p", "no:cacheprovider")
    card = ("tests/contract", "-m", "gpu")
    workers = ("-n", str(WORKERS)) if several else ()
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // WORKERS))} if several else {}
    return [
        Piece("tests", 100, "every test of the card", (*tests, *card, *workers), env=threads),
        _figures("tables", 35, "few wide flats: assignment, a step, moments, residuals", quick, *_TABLES),
        _figures("patches", 55, "many small flats: the same, and a greedy start", quick, *_PATCHES),
        _figures("eigenspaces", 25, "batches of eigenvectors", quick, *_EIGENSPACES),
        _figures("fits", 35, "whole fits, beside an SVD of each cluster by Torch", quick, *_FITS),
        _figures("fit-patches", 75, "a whole default fit of a million rows", quick, "fit-patches"),
        _figures("breathing", 60, "breathing fits of a million rows", quick, *_BREATHING),
        _figures("host", 45, "against an SVD of each cluster by NumPy on the host", quick, "five-steps-host"),
        *(
            Piece(tool, 30, f"each operation under compute-sanitizer's {tool}", ("-m", "bench", "sanitize"), (tool,))
            for tool in ("memcheck", "racecheck", "initcheck", "synccheck")
        ),
    ]


_TABLES = (
    "assign-tables",
    "step-tables",
    "decode-packed",
    "lookup-packed",
    "assign-tables-halves",
    "residuals-tables",
    "moments-tables",
)
_PATCHES = ("assign-patches", "step-patches", "residuals-patches", "assign-patches-halves", "start-patches")
_EIGENSPACES = (
    "eigenspaces-512x64-cupy",
    "eigenspaces-512x64-cusolver",
    "eigenspaces-512x128-cupy",
    "eigenspaces-512x128-cusolver",
    "eigenspaces-64x256-cusolver",
    "eigenspaces-5x768-cusolver",
)
_FITS = ("fit-tables", "five-steps-torch", "fit-small")

_BREATHING = ("breathing-clear-patches", "breathing-patches")


def _figures(name: str, limit: float, what: str, quick: bool, *rows: str) -> Piece:
    return Piece(name, limit, what, ("-m", "bench", "gpu", *(["--quick"] if quick else [])), rows)


def rest_of(pieces: Iterable[Piece], former: dict[str, Any]) -> list[Piece]:
    """What a results file lacks: pieces that were not reached or stopped, and rows that were not measured."""
    ended = {piece["name"]: piece["ended"] for piece in former["pieces"]}
    measured = {row["name"] for row in former["rows"] if row["measured"]}
    rest = []
    for piece in pieces:
        rows = tuple(name for name in piece.rows if name not in measured)
        if rows or (not piece.rows and not ended.get(piece.name, NOT_REACHED).startswith((PASSED, FAILED))):
            rest.append(replace(piece, rows=rows, limit=PATIENCE * piece.limit))
    return rest


def as_text(pieces: Sequence[Piece], seconds: float) -> str:
    """When each piece begins at the latest, with which limit, and what it does."""
    lines, begin = [f"{seconds:g} s for all; each begins when those before it have ended, at the latest"], 0.0
    for piece in pieces:
        left = seconds - begin
        when = f"after {begin:3.0f} s" if left >= SHORTEST else "if time is left"
        limit = min(piece.limit, left) if left >= SHORTEST else piece.limit
        lines.append(f"{when:>15}, at most {limit:3.0f} s   {piece.name}: {piece.what}")
        lines += [f"{'':34}{row}" for row in piece.rows]
        begin += piece.limit + DYING
    return "\n".join(lines) + "\n"
