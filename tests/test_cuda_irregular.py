"""The Numba kernels for GPUs: run by Numba's simulator, and compiled for real GPUs, without one."""

import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import import_or_skip

import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")
numba = import_or_skip("numba")

from numba.cuda import dispatcher  # noqa: E402
from simulator import SIGNATURES  # noqa: E402

from ksubspaces.kernels.cuda import irregular, irregular_kernels, loader  # noqa: E402


def compiled(name, signature, cc):
    """PTX of a kernel and its name there."""
    kinds = tuple((np.dtype(kind.lstrip("*")), kind.startswith("*")) for kind in signature.split())
    try:
        return loader.numba_ptx(getattr(irregular_kernels, name), kinds, cc)
    except Exception as failure:
        if "nvvm" in str(failure).lower():
            pytest.skip(f"the compiler of numba-cuda is missing: pip install nvidia-nvvm ({failure})")
        raise


def machine_code(ptx, cc):
    try:
        return loader.linked(ptx, cc)
    except Exception as failure:
        if "nvjitlink" in str(failure).lower():
            pytest.skip(f"the linker of numba-cuda is missing: pip install nvidia-nvjitlink ({failure})")
        raise


def test_cuda_kernels_under_the_simulator():
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "simulated_irregular.py")]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


@pytest.fixture
def no_device(monkeypatch):
    """Compiling asks for none: whatever Numba would find need not be the device of the arrays."""

    def asked():
        raise AssertionError("Numba looks for a device")

    monkeypatch.setattr(dispatcher, "get_current_device", asked)


@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", SIGNATURES)
@pytest.mark.usefixtures("no_device")
def test_cuda_kernels_compile_to_ptx(name, cc):
    for signature in SIGNATURES[name]:
        ptx, entry = compiled(name, signature, cc)
        assert re.findall(r"\.visible \.entry (\S+)\(", ptx) == [entry]
        assert f".target sm_{cc[0]}{cc[1]}" in ptx
        assert "atom." not in ptx  # sums in an order of their own would not repeat
        parameters = re.findall(r"\.param \.(\w+) ", ptx.partition(".entry")[2].partition(")")[0])
        assert parameters == ["u64"] * len(signature.split())  # what CuPy passes for arrays and np.int64


@pytest.mark.parametrize("name", SIGNATURES)
def test_cuda_kernels_link_to_machine_code(name):
    ptx, entry = compiled(name, SIGNATURES[name][0], (9, 0))
    for cc in ((9, 0), (10, 0)):
        code = machine_code(ptx, cc)
        assert code.startswith(b"\x7fELF")
        assert entry.encode() in code


def test_newer_cards_get_ptx_that_every_nvvm_knows():
    assert ".target sm_90" in compiled("fold", SIGNATURES["fold"][0], (12, 1))[0]


def test_every_numba_kernel_is_compiled():
    functions = inspect.getmembers(irregular_kernels, inspect.isfunction)
    assert {name for name, function in functions if "cuda.threadIdx" in inspect.getsource(function)} == set(SIGNATURES)


class CuPy:
    """As much of CuPy as launching takes; it notes what is loaded and launched."""

    def __init__(self):
        self.loaded, self.launched, self.index, self.capability = [], [], 0, "90"
        cupy = self

        class Device:
            def __init__(self, index=None):
                self.id = cupy.index if index is None else index
                self.compute_capability = cupy.capability

        class Module:
            def load(self, code):
                cupy.loaded.append((cupy.index, code))

            def get_function(self, name):
                def function(grid, block, args, shared_mem=0):
                    cupy.launched.append((name, grid, block, args, shared_mem))

                return function

        self.cuda = SimpleNamespace(Device=Device, Module=Module)


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    cupy = CuPy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    loader._numba_compiled.cache_clear()
    yield cupy
    loader._numba_compiled.cache_clear()


def test_launches_are_cupys(cupy, monkeypatch):
    """Compiled once for a card and the dtypes of the arguments; nothing is copied, waited for or warned of."""
    made = []
    monkeypatch.setattr(
        loader, "numba_ptx", lambda f, kinds, cc: (made.append((kinds, cc)), (f"{kinds}", f.__name__))[1]
    )
    monkeypatch.setattr(loader, "linked", lambda ptx, cc: ptx.encode())
    x, y, m, t = np.zeros(3, np.float32), np.zeros(3), np.int64(3), irregular.THREADS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for device, array in ((0, x), (0, x), (0, y), (1, y)):
            cupy.index = device
            irregular._launch("fold", 2, array, m)
        irregular._launch("fold", 0, x.astype("i4"), m)
    assert [args[0] is array for (_, _, _, args, _), array in zip(cupy.launched, (x, x, y, y), strict=True)] == [
        True
    ] * 4
    assert {(name, grid, block, shared) for name, grid, block, _, shared in cupy.launched} == {("fold", (2,), (t,), 0)}
    single, double = (((np.dtype(real), True), (np.dtype("i8"), False)) for real in ("f4", "f8"))
    assert made == [(single, (9, 0)), (double, (9, 0))]
    assert [device for device, _ in cupy.loaded] == [0, 0, 1]


def test_what_is_loaded_is_machine_code_of_the_card(cupy):
    ptx, _ = compiled("fold", SIGNATURES["fold"][0], (9, 0))
    architectures = {machine_code(ptx, cc)[48:52] for cc in ((9, 0), (10, 0))}  # flags in the header of an ELF file
    assert len(architectures) == 2
    for cupy.capability in ("90", "100"):
        loader._numba_compiled.cache_clear()
        irregular._launch("fold", 1, np.zeros(3), np.int64(1), np.int64(3), np.zeros(3))
        code = cupy.loaded[-1][1]
        architectures.remove(code[48:52])
        assert cupy.launched[-1][0].encode() in code


def test_a_compiler_that_fails_is_told_with_versions(cupy, monkeypatch):
    def failing(*args):
        raise RuntimeError("NVVM is too old")

    monkeypatch.setattr(loader, "numba_ptx", failing)
    with pytest.raises(
        ImportError, match=r"RuntimeError: NVVM is too old.*numpy \d.*numba-cuda \d.*ksubspaces\[cuda12\]"
    ):
        irregular._launch("fold", 1, np.zeros(3))


def test_random_numbers_are_the_same_in_64_bits():
    """Compiled, the products of Philox overflow into the sign; Python's integers do not, nor do they here."""
    compiled = numba.njit(irregular_kernels._random.py_func)
    assert compiled(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for row, low, high in np.random.default_rng(0).integers(0, 2**31, (50, 3)).tolist():
        row = row << 20
        assert compiled(row, low << 1, high) == irregular_kernels._random.py_func(row, low << 1, high)
    inlined = numba.njit(irregular_kernels._random.py_func, inline="always")

    @numba.njit
    def several(n, low, high):  # inlined, as in the kernels, it leaves the seeds as they are
        return [inlined(row, low, high) for row in range(n)]

    assert several(5, 1234, 567) == [compiled(row, 1234, 567) for row in range(5)]
