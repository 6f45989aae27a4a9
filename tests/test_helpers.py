"""The suite's own pieces: skips summed up with what to install, workers that share the cores."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import import_or_skip

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "OMP_"))}
PROGRAM = """
import os
import pytest
from helpers import import_or_skip

@pytest.mark.parametrize("page", range(3))
@pytest.mark.skipif(True, reason="Chromium is missing: apt-get install chromium")
def test_page(page): pass

def test_package(): import_or_skip("no_such_package.part")

def test_threads(): assert os.environ.get("OMP_NUM_THREADS") == os.environ.get("EXPECTED")
"""


def run(folder, *options, **environment):
    """The last lines of a run of a small suite under this one's conftest.py."""
    for name in ("conftest.py", "helpers.py"):
        shutil.copy(Path(__file__).parent / name, folder)
    (folder / "test_some.py").write_text(PROGRAM)
    (folder / "test_none.py").write_text("from helpers import import_or_skip\nimport_or_skip('other', '2', 'that')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT | environment, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("workers", [0, 2])
def test_skips_are_summed_up(tmp_path, workers):
    options, expected = [], {}
    if workers:
        import_or_skip("xdist", install="pytest-xdist")
        options, expected = ["-n", "2"], {"EXPECTED": str(max(1, (os.cpu_count() or 1) // 2))}
    lines = run(tmp_path, *options, **expected)
    at = next(i for i, line in enumerate(lines) if line.strip("= ") == "skipped")
    assert lines[at + 1 : at + 4] == [
        "3 skipped: Chromium is missing: apt-get install chromium",
        "1 skipped: no-such-package is missing: pip install no-such-package",
        "test_none.py skipped: other 2 or later is missing: pip install that",
    ]
    assert "1 passed, 5 skipped" in lines[-1]


def test_threads_that_were_asked_for_stay(tmp_path):
    import_or_skip("xdist", install="pytest-xdist")
    lines = run(tmp_path, "-n", "2", "-k", "threads", OMP_NUM_THREADS="3", EXPECTED="3")
    assert "1 passed" in lines[-1]
