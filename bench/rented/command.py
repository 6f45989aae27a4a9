"""`python -m bench rented`: tests, figures and sanitizers on a card that is rented for minutes.

The plan is a list of pieces, the most wanted first. Each runs in a process of its own and is killed at its limit, for a
call to CUDA that hangs cannot be interrupted. What was measured is in the results file as soon as it is there; of all
else that file says that it was not reached, and `--rest` goes on with it. All of it ends within six minutes, whatever
the pieces do.

Nothing but the standard library is used here, for the first piece installs this package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..lib.results import RESULTS, ROOT, reported
from .plan import (
    DYING,
    FAILED,
    NOT_REACHED,
    PASSED,
    REST_SECONDS,
    SECONDS,
    SHORTEST,
    STOPPED,
    Piece,
    as_text,
    plan,
    preparation,
    rest_of,
)
from .record import Record

BEGUN = time.monotonic()
SHOWING = 15
"""Seconds for the table in the end."""

Take = Callable[[dict[str, Any]], None]


def main(arguments: Sequence[str]) -> int:
    """Walk through the plan; 1 when something failed, 2 when it cannot be begun."""
    parser = argparse.ArgumentParser(prog="python -m bench rented", description=__doc__)
    parser.add_argument("--plan", action="store_true", help="show what would run when, with which limit")
    parser.add_argument("--rest", action="store_true", help="go on with what is missing in the results file")
    parser.add_argument("--figures", action="store_true", help="rows only; the package is installed already")
    parser.add_argument("--only", nargs="+", metavar="PIECE", help="some of the pieces (default: all)")
    parser.add_argument("--quick", action="store_true", help="small shapes; writes a file only with --out")
    parser.add_argument("--seconds", type=float, help=f"for all of it (default: {SECONDS}; --rest: {REST_SECONDS})")
    parser.add_argument("--out", type=Path, help="the results file (default: bench/results/<card>.json)")
    options = parser.parse_args(arguments)
    seconds = options.seconds or (REST_SECONDS if options.rest else SECONDS)
    first, pieces = preparation(), plan(quick=options.quick)
    if unknown := set(options.only or ()) - {piece.name for piece in pieces}:
        parser.error(f"there is no piece {min(unknown)!r}; there are {', '.join(piece.name for piece in pieces)}")
    if options.only:
        pieces = [piece for piece in pieces if piece.name in options.only]
    if options.figures:
        first, pieces = first[1:], [piece for piece in pieces if piece.figures]
    if options.plan:
        if options.rest:
            pieces = rest_of(pieces, _former(parser, options.out))
        sys.stdout.write(as_text([*first, *pieces], seconds))
        return 0

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is killed as well
    until, machine = BEGUN + seconds, []
    for piece in first:
        _timed(piece, min(piece.limit, until - time.monotonic()), machine.append, run)
    if not machine:
        say("no card answers, so nothing can be measured; what the pieces above print says why")
        return 2
    about = {**machine[0]["about"], "command": " ".join(["python -m bench rented", *arguments])}
    path = options.out or (None if options.quick else RESULTS / f"{machine[0]['slug']}.json")
    former = None
    if options.rest:
        former = _former(parser, path, about)
        pieces = rest_of(pieces, former)
    record = Record(path, pieces, about, former)
    walk(pieces, record, until, run)
    if path is not None:
        _show(path)
    say(f"failed: {', '.join(record.failed)}" if record.failed else "nothing failed")
    return 1 if record.failed else 0


def walk(
    pieces: Iterable[Piece],
    record: Record,
    until: float,
    run: Callable[[Piece, float, Take], str],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run one piece after another, each within its limit and what is left until then."""
    for piece in pieces:
        seconds = min(piece.limit, until - clock())
        if seconds < SHORTEST:
            say(f"{piece.name}: {NOT_REACHED}")
        else:
            record.end(piece, *_timed(piece, seconds, record.take, run, clock))


def _timed(
    piece: Piece,
    seconds: float,
    take: Take,
    run: Callable[[Piece, float, Take], str],
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, float]:
    """How a piece ended, and after how long."""
    say(f"{piece.name}, at most {seconds:.0f} s: {piece.what}")
    begin = clock()
    ended = run(piece, seconds, take)
    taken = clock() - begin
    say(f"{piece.name}: {ended}, {taken:.1f} s")
    return ended, taken


def run(piece: Piece, seconds: float, take: Take) -> str:
    """Run a piece in a group of processes of its own, which is killed when its time is up; how it ended.

    Of a piece that ended by itself the last line that it printed is part of that: pytest sums up there.
    """
    end = time.monotonic() + seconds
    process = subprocess.Popen(
        [sys.executable, *piece.command, *piece.rows],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **piece.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines), daemon=True)
    reader.start()
    status, said = None, [""]
    try:
        while status is None and (left := end - time.monotonic()) > 0:
            _hand_on(lines, take, said, min(left, 0.1))
            status = process.poll()  # its output need not end: processes that it started may hold that open
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(DYING - 1)
        reader.join(1)
        _hand_on(lines, take, said, 0)
    if status is None:
        return f"{STOPPED} after {seconds:.0f} s"
    ended = PASSED if status == 0 else f"{FAILED}: exit status {status}"
    return f"{ended}: {said[-1]}" if said[-1] and not piece.rows else ended


def _read(stream: TextIO, lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)


def _hand_on(lines: queue.SimpleQueue[str], take: Take, said: list[str], wait: float) -> None:
    """Take what the lines so far report, print the others and keep them as said; the first one is waited for."""
    with contextlib.suppress(queue.Empty):
        while True:
            line = lines.get(timeout=wait) if wait else lines.get_nowait()
            wait = 0
            message = reported(line)
            if message is None:
                print(line, end="", flush=True)
                said += filter(None, [line.strip("= \n")])
                continue
            take(message)
            if "row" in message:
                say(f"  {message['case']}: {message['what']}: {message['failed'] or message['result']}")


def _former(parser: argparse.ArgumentParser, path: Path | None, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """The results to go on from, which must be of the same card and commit."""
    if path is None:
        parser.error("--rest needs the results file of the run to go on from: name it with --out")
    try:
        former = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"--rest goes on from {path}, which cannot be read ({error}); run without --rest first")
    for name in ("card", "commit"):
        if about is not None and former.get(name) != about[name]:
            parser.error(
                f"{path} is of {name} {former.get(name)}, and this is {about[name]}; run without --rest, or with --out"
            )
    return former


def _show(path: Path) -> None:
    """The table, by a process of its own, which may use what has been installed since this one began."""
    command = [sys.executable, "-m", "bench", "show", str(path.resolve())]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=SHOWING, check=False)
    say(f"written: {path}")


def say(text: str) -> None:
    """Print a line of the run's own."""
    print(f"[{time.monotonic() - BEGUN:5.1f} s] {text}", flush=True)
