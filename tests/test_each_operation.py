"""What the sanitizers and the tests of a card run, with NumPy in CuPy's place and on the emulated card."""

import os
import re
import subprocess
import sys
from pathlib import Path

import each_operation
import numpy as np
import pytest
from emulator import emulated, needs_compiler

from ksubspaces import kernels
from ksubspaces.kernels import cpu, cuda

TESTS = Path(__file__).parent
IN_PLACE_OF_CUPY = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS / "numpy_as_cupy", TESTS)))}
OPERATIONS = [name for name in kernels.__all__ if name in cuda.__all__]


@pytest.fixture
def called(monkeypatch):
    """Names of the operations that were called."""
    names = set()

    def watched(name, operation):
        def call(*args, **kwargs):
            names.add(name)
            return operation(*args, **kwargs)

        return call

    for name in OPERATIONS:
        monkeypatch.setattr(kernels, name, watched(name, getattr(kernels, name)))
    return names


def test_no_operation_is_left_out(called):
    each_operation.run(np)
    assert called == set(OPERATIONS) == set(cuda.__all__)


@needs_compiler
def test_on_the_emulated_card(monkeypatch):
    monkeypatch.setattr(kernels, "kernels_for", lambda array: cuda)
    for name in ("changed_rows", "largest", "sample_rows", "lower_distances"):  # Numba's have a simulator of their own
        monkeypatch.setattr(cuda, name, getattr(cpu, name))
    with emulated():
        each_operation.run_on(np, *each_operation.SHAPES[0])


def test_the_program_runs():
    done = subprocess.run(
        [sys.executable, each_operation.__file__], env=IN_PLACE_OF_CUPY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *ran, last = done.stdout.splitlines()
    assert last == each_operation.DONE
    assert {line.removeprefix(each_operation.RAN) for line in ran} == set(OPERATIONS)


def test_tests_of_a_card_run():
    """Each of them once, but for those that need a card's own memory."""
    left_out = "streamed or running_out_of_memory"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "middle_of_each"]
    done = subprocess.run(
        [*command, "test_gpu.py", "contract", "-m", "gpu", "-k", f"not ({left_out})"],
        cwd=TESTS,
        env=IN_PLACE_OF_CUPY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed, .*deselected in", done.stdout)
    rows = {line.split()[0].rstrip(":"): line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert all(any(number.isdigit() and int(number) > 0 for number in rows[name]) for name in OPERATIONS)
