"""Minutes on a rented card: the plan walked through with a clock, pieces that hang or crash, rows without a card."""

# ruff: noqa: E402  (what may be missing is looked for before it is imported)
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

for module in ("rich", "psutil", "threadpoolctl"):
    pytest.importorskip(module, reason=f"{module} is not installed")
TESTS = Path(__file__).parent
ROOT = TESTS.parent

from bench import COMPARISONS
from bench.__main__ import COMMANDS
from bench.lib import cases_gpu, peers_gpu
from bench.lib.results import MARK, reported
from bench.rented import command as rented
from bench.rented import plan as rented_plan
from bench.rented.plan import DYING, NOT_REACHED, PASSED, SECONDS, SHORTEST, STOPPED, Piece
from bench.rented.record import Record
from bench.suites import gpu as suite_gpu
from bench.suites import sanitize

PLAN = [*rented_plan.preparation(), *rented_plan.plan()]
WITH_ROWS = [piece for piece in PLAN if piece.rows]
FIGURES = [piece for piece in PLAN if piece.figures]
ROWS = {*suite_gpu.ROWS, *sanitize.TOOLS}


# The plan, and a walk through it with a clock


def test_plan_has_each_row_once_and_the_most_wanted_first():
    names = [name for piece in PLAN for name in piece.rows]
    assert sorted(names) == sorted(ROWS)
    assert sorted(name for piece in FIGURES for name in piece.rows) == sorted(suite_gpu.ROWS)
    order = [piece.name for piece in PLAN]
    assert len(set(order)) == len(order)
    assert order[:5] == ["install", "machine", "tests", "tables", "patches"]
    assert order[-5:] == ["host", "memcheck", "racecheck", "initcheck", "synccheck"]
    assert SECONDS + DYING + rented.SHOWING < 360
    reserved = sum(piece.limit + DYING for piece in PLAN[: order.index("fit-patches")])
    assert reserved <= SECONDS  # whatever the other pieces do, all but the slowest rows have their time


def test_tests_run_in_several_processes_where_that_can_be():
    one, several = (next(p for p in rented_plan.plan(several=s) if p.name == "tests") for s in (False, True))
    assert "-n" not in one.command
    assert several.command[-2:] == ("-n", "8")


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Pretended:
    """Runs pieces as `run` does, but that it takes no time: each measures its rows one by one, hangs or crashes."""

    def __init__(self, clock, path, behaviour):
        self.clock, self.path, self.behaviour, self.begun = clock, path, behaviour, {}

    def __call__(self, piece, seconds, take):
        self.begun[piece.name] = self.clock.now, seconds
        end, how = self.clock.now + seconds, self.behaviour(piece)
        for name in piece.rows:
            if self.clock.now + how["row"] >= end or how.get("crash") == name:
                break
            self.clock.now += how["row"]
            take({"row": name, "case": name, "what": "measured", "result": f"{self.clock.now} s", "failed": ""})
            assert measured(self.path)[name]["result"] == f"{self.clock.now} s"  # there as soon as it is measured
        if "crash" in how:
            return "failed: exit status -11"
        if self.clock.now + how["row"] >= end:
            self.clock.now = end + DYING
            return f"{STOPPED} after {seconds:.0f} s"
        return PASSED


def measured(path):
    return {row["name"]: row for row in json.loads(path.read_text())["rows"] if row["measured"]}


def walked(path, behaviour, pieces=PLAN, former=None):
    """The results file after a walk, when the pieces began and within what, and the seconds it took."""
    clock = Clock()
    begin, run = clock.now, Pretended(clock, path, behaviour)
    rented.walk(pieces, Record(path, pieces, {"card": "none"}, former), begin + SECONDS, run, clock)
    return json.loads(path.read_text()), run.begun, clock.now - begin


def test_all_of_it_when_nothing_is_slow(tmp_path):
    results, begun, seconds = walked(tmp_path / "card.json", lambda piece: {"row": 1.0})
    assert list(begun) == [piece.name for piece in PLAN]
    assert [within for _, within in begun.values()] == [piece.limit for piece in PLAN]
    assert {piece["ended"] for piece in results["pieces"]} == {PASSED}
    assert set(measured(tmp_path / "card.json")) == ROWS
    assert seconds == len(ROWS)


def test_when_everything_hangs_it_still_ends(tmp_path):
    results, begun, seconds = walked(tmp_path / "card.json", lambda piece: {"row": 1e9})
    assert seconds <= SECONDS + DYING
    ended = {piece["name"]: piece["ended"] for piece in results["pieces"]}
    assert ended["fits"] == f"{STOPPED} after 35 s"
    assert ended["synccheck"] == NOT_REACHED
    assert {row["result"] for row in results["rows"]} == {ended[piece.name] for piece in WITH_ROWS}
    assert list(begun) == [piece.name for piece in PLAN][: len(begun)]


def test_a_piece_that_hangs_keeps_what_it_has_measured(tmp_path):
    def slow(piece):
        return {"row": 20.0 if piece.name == "patches" else 0.5}

    results, begun, _ = walked(tmp_path / "card.json", slow)
    rows = {row["name"]: row for row in results["rows"]}
    done = [name for name in next(p for p in PLAN if p.name == "patches").rows if rows[name]["measured"]]
    assert done == ["assign-patches", "step-patches"]
    assert rows["start-patches"]["result"] == f"{STOPPED} after 55 s"
    assert rows["eigenspaces-512x64-cupy"]["measured"]
    assert len(begun) == len(PLAN)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_pieces_do(tmp_path, seed):
    chance = random.Random(seed)

    def behaviour(piece):
        how = {"row": chance.choice([0.1, 3.0, 10.0, 30.0, 1e9])}
        return how | ({"crash": chance.choice(piece.rows or [None])} if chance.random() < 0.3 else {})

    results, begun, seconds = walked(tmp_path / "card.json", behaviour)
    assert seconds <= SECONDS + DYING
    limits = {piece.name: piece.limit for piece in PLAN}
    assert all(SHORTEST <= within <= limits[name] for name, (_, within) in begun.items())
    assert len(results["rows"]) == len(ROWS)
    for piece in results["pieces"]:
        assert (piece["ended"] == NOT_REACHED) == (piece["name"] not in begun)
    assert all(row["result"] for row in results["rows"])


def test_the_rest_is_what_was_not_reached(tmp_path):
    path = tmp_path / "card.json"
    first, _, _ = walked(path, lambda piece: {"row": 20.0 if piece.name in ("patches", "fits") else 100.0})
    rest = rented_plan.rest_of(PLAN, first)
    names = {piece.name: piece for piece in rest}
    assert names["patches"].rows == ("residuals-patches", "assign-patches-halves", "start-patches")
    assert names["patches"].limit == 3 * 55
    assert "synccheck" in names
    before = measured(path)
    results, _, _ = walked(path, lambda piece: {"row": 1.0}, rest, first)
    assert set(measured(path)) == ROWS
    assert all(measured(path)[name] == row for name, row in before.items())
    assert not rented_plan.rest_of(PLAN, results)


def test_a_failed_test_is_no_rest(tmp_path):
    results, _, _ = walked(tmp_path / "card.json", lambda p: {"row": 1.0} | ({} if p.rows else {"crash": None}))
    assert Record(None, [], {}, results).failed == [piece.name for piece in PLAN if not piece.rows]
    assert not rented_plan.rest_of(PLAN, results)


# Processes


def program(text, *rows, limit=20.0):
    return Piece("program", limit, "a program", ("-c", text), rows)


REPORT = """
import sys, time, os, signal, subprocess
from bench.lib.results import emit
emit({"row": "a", "case": "", "what": "", "result": "1", "failed": ""})
"""


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("print('said')", PASSED),
        ("sys.exit(3)", "failed: exit status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed: exit status -11"),
        ("time.sleep(60)", STOPPED),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)", STOPPED),
        ("subprocess.Popen(['sleep', '60']); time.sleep(60)", STOPPED),
        ("subprocess.Popen(['sleep', '60'])", PASSED),  # which holds the output open
        ("os.fork() or time.sleep(60)", PASSED),
        (f"sys.stdout.write({MARK!r} + '{{\"row\": 1'); sys.stdout.flush(); os._exit(1)", "failed: exit status 1"),
        ("sys.stdout.write('x' * 300_000)", PASSED),
        ("sys.stdout.buffer.write(bytes(range(256)))", PASSED),
    ],
)
def test_processes_are_ended(text, ended, capfd):
    taken, begin = [], time.monotonic()
    got = rented.run(program(REPORT + text), 2.0, taken.append)
    assert got.startswith(ended)
    assert time.monotonic() - begin < 2 + DYING
    assert [message["row"] for message in taken] == ["a"]
    if "said" in text:
        assert "said\n" in capfd.readouterr().out
        assert got == f"{PASSED}: said"


def test_what_was_started_is_killed_with_it(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert rented.run(program(text), 1.0, print).startswith(STOPPED)
    time.sleep(3)
    assert not mark.exists()


def test_whoever_stops_the_run_stops_the_piece(tmp_path):
    begun, alive = tmp_path / "begun", tmp_path / "alive"
    child = f"import time; open({str(begun)!r}, 'w'); time.sleep(3); open({str(alive)!r}, 'w')"
    run = f"""
from bench.rented import command as rented
rented.preparation = lambda: [rented.Piece("sleep", 30, "", ("-c", {child!r}))]
rented.main([])
"""
    with subprocess.Popen([sys.executable, "-c", run], cwd=ROOT) as process:
        while not begun.exists():
            time.sleep(0.05)
        process.terminate()
    assert process.returncode == 128 + 15
    time.sleep(3)
    assert not alive.exists()


@pytest.mark.parametrize("line", ["", "{}", MARK, f"{MARK}{{", f'{MARK}{{"row": 1', f' {MARK}{{"row": 1}}'])
def test_lines_that_are_no_reports(line):
    assert reported(line) is None


# Rows, NumPy in CuPy's place


@pytest.fixture
def in_place_of_cupy(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.syspath_prepend(str(TESTS / "numpy_as_cupy"))
    cases_gpu.case_of.cache_clear()
    yield
    cases_gpu.case_of.cache_clear()
    sys.modules.pop("cupy", None)


def test_rows_are_measured(in_place_of_cupy, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(suite_gpu, "torch_there", lambda: torch)
    monkeypatch.setattr(peers_gpu, "torch_there", lambda: torch)
    monkeypatch.setattr(peers_gpu, "half_product", lambda A, B: A.float() @ B.float())
    monkeypatch.setitem(peers_gpu.EIGENSOLVERS, "cusolver", peers_gpu.eigh_of_cupy)
    rows = dict(suite_gpu.measured([*suite_gpu.ROWS], quick=True))
    assert not {name: row.failed for name, row in rows.items() if row.failed}
    assert all(any(unit in row.result for unit in ("x faster", "x its time", " ms")) for row in rows.values())
    assert rows["assign-tables"].target == ">= 1.5 x, <= 0.7 ms"
    for name in ("assign-tables-halves", "assign-patches-halves"):
        assert 0 < rows[name].raw["peer_residual_error"] < 1e-6
    json.dumps([row.as_json() for row in rows.values()])


def test_peers_that_are_missing_are_named(in_place_of_cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ksubspaces.kernels.cuda.cusolver", None)
    torch_missing = "this Torch has no CUDA" if importlib.util.find_spec("torch") else "Torch is not installed"
    names = ["assign-tables-halves", "eigenspaces-512x64-cusolver", "five-steps-torch"]
    rows = dict(suite_gpu.measured(names, quick=True))
    assert [row.failed for row in rows.values()] == [""] * 3
    assert all(row.result == "left out" for row in rows.values())
    assert [row.what.split(":")[0] for row in rows.values()] == [torch_missing, "no XsyevBatched", torch_missing]
    torch = pytest.importorskip("torch", reason="torch is not installed")
    with pytest.raises(peers_gpu.Absent, match="float16 into float32"):
        peers_gpu.half_product(torch.ones(2, 2).half(), torch.ones(2, 2).half())


def test_a_row_that_cannot_be_measured_keeps_no_other_from_it(in_place_of_cupy, monkeypatch):
    monkeypatch.setitem(suite_gpu.ROWS, "moments-tables", lambda quick: 1 / 0)
    rows = dict(suite_gpu.measured(["moments-tables", "residuals-tables"], quick=True))
    assert rows["moments-tables"].failed == "ZeroDivisionError: division by zero"
    assert not rows["residuals-tables"].failed


def test_wrong_results_fail(in_place_of_cupy, monkeypatch):
    assign, residuals = suite_gpu.kernels.assign, suite_gpu.kernels.residuals
    monkeypatch.setattr(suite_gpu.kernels, "assign", lambda X, flats: (assign(X, flats)[0] * 0, assign(X, flats)[1]))
    monkeypatch.setattr(suite_gpu.kernels, "residuals", lambda *args: residuals(*args) * 1.001)
    rows = dict(suite_gpu.measured(["assign-tables", "residuals-tables"], quick=True))
    assert all(row.failed for row in rows.values())


# The command


def test_pieces_that_test_find_their_tests(capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "numpy_as_cupy"))
    tests = next(piece for piece in PLAN if piece.name == "tests")
    found = replace(tests, command=(*tests.command, "--collect-only"))
    assert rented.run(found, 100, print).startswith(PASSED)
    said = capfd.readouterr().out
    assert "test_lookup[card-" in said
    assert "test_three_runs_are_the_same_bits" in said
    assert "test_lookup[emulated" not in said


def test_a_sanitizer_tells_of_each_operation(tmp_path, monkeypatch):
    """One that finds nothing, and a card that is none."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS / "numpy_as_cupy", TESTS))))
    monkeypatch.setenv("PATH", str(tmp_path))
    piece, told = next(p for p in PLAN if p.name == "racecheck"), []
    assert rented.run(piece, 100, told.append) == PASSED
    assert [(row["result"], row["measured"]) for row in told] == [("left out", False)]
    sanitizer, told = tmp_path / "compute-sanitizer", []
    sanitizer.write_text('#!/bin/sh\necho "========= COMPUTE-SANITIZER"\nshift 4\nexec "$@"\n')
    sanitizer.chmod(0o755)
    assert rented.run(piece, 100, told.append) == PASSED
    assert [row["measured"] for row in told] == [False] * (len(told) - 1) + [True]
    assert told[-1]["result"].startswith(f"{len(told[-1]['raw']['calls'])} operations, {len(told) - 1} calls, 0 with")
    assert not told[-1]["failed"]
    record = Record(tmp_path / "card.json", [piece], {})
    record.take(told[5])
    record.end(piece, f"{STOPPED} after 30 s", 30.0)
    (row,) = json.loads((tmp_path / "card.json").read_text())["rows"]
    assert row["result"].startswith(f"{STOPPED} after 30 s; ")
    assert rented_plan.rest_of([piece], {"pieces": [{"name": "racecheck", "ended": STOPPED}], "rows": [row]})


def test_faults_are_of_the_operation_that_ran():
    lines = [
        "========= COMPUTE-SANITIZER",
        "ran assign",
        "========= Race reported between\n",
        "=========     Saved host",
    ]
    lines += ["ran lookup", "ran assign", "========= RACECHECK SUMMARY: 1 hazard displayed", sanitize.DONE]
    *_, before, (row, last) = sanitize.followed("racecheck", lines)
    assert last
    assert not before[1]
    assert row.failed == "lookup: Race reported between"
    assert row.raw == {"calls": {"assign": 2, "lookup": 1}}
    *_, (row, _) = sanitize.followed("racecheck", lines[:-1])
    assert row.failed.endswith("; the program ended early")


def command(*arguments, cards="1", timeout=240):
    environment = {**os.environ, "PYTHONPATH": str(TESTS / "numpy_as_cupy"), "PRETENDED_CARDS": cards}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout
    )


def test_command(tmp_path):
    out = tmp_path / "card.json"
    arguments = ["bench", "rented", "--figures", "--quick", "--out", str(out), "--only", "tables"]
    done = command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text())
    assert results["card"] == "No card: NumPy"
    assert results["command"].startswith("python -m bench rented --figures")
    assert [piece["ended"] for piece in results["pieces"]] == [PASSED]
    assert all(row["measured"] for row in results["rows"])
    assert "labels against cuBLAS" in done.stdout
    assert f"{len(rented_plan._TABLES)} rows, " in done.stdout  # the table's last line
    assert "nothing failed" in done.stdout
    results["rows"][0]["measured"] = False
    out.write_text(json.dumps(results))
    rest = command("bench", "--gpu", *arguments[3:], "--rest", "--plan")
    assert [line.strip() for line in rest.stdout.splitlines()[2:]] == [
        "after  25 s, at most 105 s   tables: few wide flats: assignment, a step, moments, residuals",
        results["rows"][0]["name"],
    ]
    results["card"] = "another"
    out.write_text(json.dumps(results))
    refused = command(*arguments, "--rest")
    assert refused.returncode == 2
    assert "is of card another, and this is No card: NumPy" in refused.stderr


def test_plan_is_shown():
    """Before anything is installed: -S leaves out all packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "bench", "rented", "--plan"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    shown = [line.split(": ")[0].split()[-1] for line in done.stdout.splitlines()[1:] if "at most" in line]
    assert shown == [piece.name for piece in PLAN]
    assert all(f" {name}\n" in done.stdout for name in suite_gpu.ROWS)


def test_without_a_card():
    done = command("bench", "rented", "--figures", "--quick", cards="0")
    assert done.returncode == 2
    assert "cudaErrorNoDevice" in done.stdout
    assert "no card answers" in done.stdout


def test_arguments_that_cannot_be_used(tmp_path):
    assert "there is no piece 'table'" in command("bench", "rented", "--only", "table").stderr
    assert "there is no row 'assign'" in command("bench", "gpu", "assign").stderr
    assert "name it with --out" in command("bench", "rented", "--rest", "--plan").stderr
    missing = command("bench", "rented", "--rest", "--plan", "--out", str(tmp_path / "none.json"))
    assert "run without --rest first" in missing.stderr
    assert "there is no suite 'layer'" in command("bench", "layer", "--quick").stderr
    assert "there is no suite 'gpu' to run with others" in command("bench", "layers", "gpu").stderr
    shown = command("bench", "--help").stdout
    assert all(name in shown for name in (*COMPARISONS, *COMMANDS))
