"""One error for whatever is wrong with the libraries that a GPU takes; streams of Torch in CuPy's hands."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ksubspaces import arrays
from ksubspaces.kernels import libraries

VERSIONS = rf"Found: Python 3\.\d+\.\d+.*, numpy {np.__version__}, numba \d\S+, (numba-cuda \d|.*no numba-cuda)"
REMEDY = r'pip install "ksubspaces\[cuda12\]" \(or \[cuda13\]'


class FailingFinder:
    def __init__(self, name, failure):
        self.name, self.failure = name, failure

    def find_spec(self, name, path=None, target=None):
        if name == self.name:
            raise self.failure


FAILURES = [
    ModuleNotFoundError("No module named 'it'"),
    ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.5."),
    AttributeError("module 'numpy' has no attribute 'row_stack'"),
    OSError("libcuda.so.1: cannot open shared object file"),
    RuntimeError("CuPy is not correctly installed"),
]
failures = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)


def fail(monkeypatch, name, failure):
    """Importing the module raises the failure, whether it was imported before or not."""
    for loaded in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    parent, _, child = name.rpartition(".")
    if parent in sys.modules:
        monkeypatch.delattr(sys.modules[parent], child, raising=False)
    monkeypatch.setattr(sys, "meta_path", [FailingFinder(name, failure), *sys.meta_path])


@failures
def test_cupy_that_fails(monkeypatch, failure):
    fail(monkeypatch, "cupy", failure)
    expected = rf"need CuPy, .* {type(failure).__name__}: .*{VERSIONS}.*{REMEDY}"
    with pytest.raises(ImportError, match=expected) as caught:
        libraries.cupy()
    assert caught.value.__cause__ is failure
    with pytest.raises(ImportError, match=expected):
        arrays.resolve_device("cuda")


@failures
@pytest.mark.parametrize("name", ["numba_cuda", "numba.cuda", "numba.cuda.cudaimpl"])
def test_numba_cuda_that_fails(monkeypatch, name, failure):
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'ksubspaces[cuda13]'")
    fail(monkeypatch, name, failure)
    expected = rf"need numba-cuda, .* {type(failure).__name__}: .*{VERSIONS}.*{REMEDY}"
    with pytest.raises(ImportError, match=expected) as caught:
        libraries.numba_cuda()
    assert caught.value.__cause__ is failure
    monkeypatch.delitem(sys.modules, "ksubspaces.kernels.cuda.irregular_kernels", raising=False)
    with pytest.raises(ImportError, match=expected):
        importlib.import_module("ksubspaces.kernels.cuda.irregular_kernels")


def test_a_numba_that_numpy_is_too_new_for():
    """Nothing on the way to the kernels imports Numba before the error can be ours."""
    program = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'numba': raise ImportError('Numba needs NumPy 2.4 or less')\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import ksubspaces.kernels.cuda.irregular_kernels\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert "ImportError: sampling and lists of rows on a CUDA device need numba-cuda" in done.stderr
    assert f"numpy {np.__version__}" in done.stderr.splitlines()[-1]


def test_packages_found_are_named(monkeypatch):
    there = {"numpy": "2.5.2", "numba": "0.68.1", "cupy-cuda12x": "13.6.0", "cupy-cuda13x": "14.2.0"}

    def version(package):
        if package not in there:
            raise libraries.metadata.PackageNotFoundError(package)
        return there[package]

    monkeypatch.setattr(libraries.metadata, "version", version)
    told = ", numpy 2.5.2, numba 0.68.1, cupy-cuda12x 13.6.0, cupy-cuda13x 14.2.0, no numba-cuda"
    assert libraries.found().endswith(told)
    there.clear()
    assert libraries.found().endswith(", no numpy, no numba, no numba-cuda, no cupy")


@pytest.mark.parametrize("version", [13, 14])
def test_a_stream_of_torch_is_cupys_current_one(monkeypatch, version):
    """By the way of each CuPy that it does not warn of."""

    def from_external(stream):
        status, pointer = stream.__cuda_stream__()
        return f"stream {pointer}, status {status}"

    stream = SimpleNamespace(null="null", **({"from_external": from_external} if version == 14 else {}))
    cuda = SimpleNamespace(Stream=stream)
    if version == 13:
        cuda.ExternalStream = lambda pointer, index: f"stream {pointer}, device {index}"
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    expected = "stream 1234, status 0" if version == 14 else "stream 1234, device 1"
    assert arrays._stream_at(1234, 1) == expected
    assert arrays._stream_at(0, 1) == "null"
