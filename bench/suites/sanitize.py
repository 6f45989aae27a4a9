"""Each operation under a tool of compute-sanitizer, which tells of one operation after another as they end.

A tool slows kernels down so much that it may not get through all shapes within its time: what it got through stands in
its row. `tests/each_operation.py` is the program that it watches.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ..lib.compare import Row
from ..lib.results import ROOT, emit

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PROGRAM = ROOT / "tests" / "each_operation.py"
REPORT, SUMMARIES = "=========", ("COMPUTE-SANITIZER", "SUMMARY")
RAN, DONE = "ran ", "each operation ran on each shape"  # as in the program


def followed(tool: str, lines: Iterable[str]) -> Iterator[tuple[Row, bool]]:
    """The row after each operation, and whether it is the last; from what the tool and the program print."""
    times, faults, reports, ended = Counter[str](), list[str](), list[str](), False
    for line in lines:
        if line.startswith(REPORT):
            if not any(word in line for word in SUMMARIES):
                reports.append(line.strip("= \n"))
        elif line.startswith(RAN):
            name = line.removeprefix(RAN).strip()
            times[name] += 1
            if reports:
                faults.append(f"{name}: {reports[0]}")
                reports.clear()
        else:
            ended |= line.strip() == DONE
            continue
        if line.startswith(RAN):
            yield _row(tool, times, faults, ended), False
    faults += [f"in the end: {report}" for report in reports[:1]]
    if not ended:
        faults.append("the program ended early")
    yield _row(tool, times, faults, ended), True


def _row(tool: str, times: Counter[str], faults: Sequence[str], ended: bool) -> Row:
    how = "all shapes" if ended else "so far"
    return Row(
        "each operation, odd shapes",
        f"compute-sanitizer's {tool}",
        result=f"{len(times)} operations, {times.total()} calls, {len(faults)} with faults, {how}",
        failed="; ".join(faults),
        raw={"calls": dict(times)},
    )


def main(arguments: Sequence[str]) -> int:
    """Report a row for each tool, anew after each operation."""
    parser = argparse.ArgumentParser(prog="python -m bench sanitize", description=__doc__)
    parser.add_argument("tools", nargs="+", choices=TOOLS)
    failed = False
    for tool in parser.parse_args(arguments).tools:
        sanitizer = shutil.which("compute-sanitizer")
        if sanitizer is None:
            missing = "compute-sanitizer is missing: install the CUDA toolkit"
            emit({"row": tool, "measured": False, **Row(tool, missing, result="left out").as_json()})
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, str(PROGRAM)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for row, last in followed(tool, _shown(process.stdout)):
                emit({"row": tool, "measured": last, **row.as_json()})
                failed |= last and bool(row.failed)
        failed |= process.returncode != 0
    return int(failed)


def _shown(lines: Iterable[str]) -> Iterator[str]:
    """The lines, printed as they pass, but for the operations that ran."""
    for line in lines:
        if not line.startswith(RAN):
            print(line, end="", flush=True)
        yield line
