"""Faults planted in the CUDA kernels are caught by the emulation, each in at least one of its modes."""

import exercises
import pytest
from emulator import MODES, emulated, needs_compiler
from mutants import MUTANTS

from ksubspaces.kernels.cuda import loader

pytestmark = needs_compiler
CASES = [
    pytest.param(exercise, mutant, id=f"{mutant.file}: {mutant.what}")
    for exercise, table in MUTANTS.items()
    for mutant in table
]


@pytest.mark.parametrize("exercise", MUTANTS)
def test_cuda_kernels_without_a_fault_pass(exercise):
    for mode in MODES:
        with emulated(mode):
            getattr(exercises, exercise)()


@pytest.mark.parametrize(("exercise", "mutant"), CASES)
def test_cuda_mutant_is_caught(exercise, mutant):
    text = (loader.FOLDER / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.old!r} must stand in {mutant.file} exactly once"
    replaced = {mutant.file: text.replace(mutant.old, mutant.new)}
    assert any(_fails(getattr(exercises, exercise), mode, replaced) for mode in MODES), (
        f"nothing notices: {mutant.what}"
    )


def _fails(exercise, mode, replaced):
    try:
        with emulated(mode, replaced=replaced):
            exercise()
    except (AssertionError, RuntimeError) as failure:
        return "could not compile" not in str(failure)
    return False
