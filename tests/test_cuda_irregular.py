"""The Numba kernels for GPUs: run by Numba's simulator, and compiled for real GPUs, without one."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import import_or_skip

import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")
numba = import_or_skip("numba")

from numba import cuda, float32, float64, int32, int64  # noqa: E402
from numba.cuda import dispatcher  # noqa: E402

from ksubspaces.kernels.cuda import irregular  # noqa: E402

F4, F8, I4, I8 = float32[::1], float64[::1], int32[::1], int64[::1]
SIGNATURES = {
    "_arrivals": [(F4, int64, int64, F8), (F8, int64, int64, F8)],
    "_lower": [
        (real[::1], trials, weights, float64[:, ::1])
        for real in (float32, float64)
        for trials in (real[:, ::1], real[::1, :], real[:, :])
        for weights in (F4, float64[:])
    ],
    "_fold": [(float64[:, ::1], F8)],
    "_count_changed": [(I4, I4, I8), (int32[:], int64[:], I8)],
    "_list_changed": [(I4, I4, I8, I8), (int32[:], int64[:], I8, I8)],
    "_least_of_blocks": [(F8, F8, I8, int64, F8, I8)],
    "_least_of_all": [(F8, I8, int64, F8, I8)],
}
DEVICE_FUNCTIONS = ["_random", "_sum_of_block", "_least_of_block"]


def test_cuda_kernels_under_the_simulator():
    folder = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder / "simulated_irregular.py")]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_cuda_kernels_compile_to_ptx(name, cc, monkeypatch):
    # Functions that kernels call are compiled for the device there is, and kept.
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=cc))
    for called in DEVICE_FUNCTIONS:
        getattr(irregular, called).overloads.clear()
    for signature in SIGNATURES[name]:
        try:
            ptx, _ = cuda.compile_ptx(getattr(irregular, name).py_func, signature, cc=cc)
        except Exception as failure:
            if "nvvm" in str(failure).lower():
                pytest.skip(f"the compiler of numba-cuda is missing: pip install nvidia-nvvm ({failure})")
            raise
        assert ".visible .entry" in ptx
        assert f".target sm_{cc[0]}{cc[1]}" in ptx
        assert "atom." not in ptx  # sums in an order of their own would not repeat


def test_every_numba_kernel_is_compiled():
    kernels = {name for name, value in vars(irregular).items() if hasattr(value, "py_func")}
    assert kernels == {*SIGNATURES, *DEVICE_FUNCTIONS}


def test_launches_are_on_cupys_stream(monkeypatch):
    """Nothing is copied or waited for."""
    array, calls = SimpleNamespace(), []
    stream = SimpleNamespace(ptr=7)
    cupy = SimpleNamespace(ndarray=SimpleNamespace, cuda=SimpleNamespace(get_current_stream=lambda: stream))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    numbas = SimpleNamespace(external_stream=lambda ptr: ptr, as_cuda_array=lambda array, sync: (id(array), sync))
    monkeypatch.setattr(irregular, "cuda", numbas)

    class Kernel:
        def __getitem__(self, configuration):
            return lambda *args: calls.append((configuration, args))

    irregular._launch(Kernel(), 3, array, 5)
    irregular._launch(Kernel(), 0, array, 5)
    assert calls == [((3, irregular.THREADS, 7), ((id(array), False), 5))]


def test_random_numbers_are_the_same_in_64_bits():
    """Compiled, the products of Philox overflow into the sign; Python's integers do not, nor do they here."""
    compiled = numba.njit(irregular._random.py_func)
    assert compiled(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    for row, low, high in np.random.default_rng(0).integers(0, 2**31, (50, 3)).tolist():
        row = row << 20
        assert compiled(row, low << 1, high) == irregular._random.py_func(row, low << 1, high)
