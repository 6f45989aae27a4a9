"""The Numba kernels for GPUs under Numba's simulator, which checks that indices lie within the arrays.

Numba asks once, when it is loaded, whether to simulate, so that simulated kernels have a process of their own: one that
was started with ``NUMBA_ENABLE_CUDASIM=1``, or the one that :func:`run` starts and sends its work to.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

# Kinds of arguments that each kernel is launched with: "*f4" is an array of float32.
SIGNATURES = {
    "arrivals": ["*f4 i8 i8 i8 *f8", "*f8 i8 i8 i8 *f8"],
    "lower": [f"*{real} *{real} *{weight} i8 i8 i8 i8 *f8" for real in ("f4", "f8") for weight in ("f4", "f8")],
    "fold": ["*f8 i8 i8 *f8"],
    "count_changed": ["*i4 *i4 i8 *i8", "*i4 *i8 i8 *i8"],
    "list_changed": ["*i4 *i4 i8 *i8 *i8", "*i4 *i8 i8 *i8 *i8"],
    "least_of_blocks": ["*f8 i8 *f8 *i8 i8 *f8 *i8"],
    "least_of_all": ["*f8 *i8 i8 i8 *f8 *i8"],
}
THREADS, CHUNK = 8, 32  # every simulated thread is one of Python's: a few of them show as much


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Within it, in a process of the simulator's, the loader gives simulated kernels of small blocks."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    from ksubspaces.kernels.cuda import irregular, irregular_kernels, loader

    # The simulator's threads wait for one another in loops, each for as long as a switch takes.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeCUDAShared, "array", _shared_array)
        patch.setattr(loader, "numba_kernel", _simulated)
        for module in (irregular, irregular_kernels):
            patch.setattr(module, "THREADS", THREADS)
            patch.setattr(module, "CHUNK", CHUNK)
        yield
    sys.setswitchinterval(interval)


def _shared_array(memory: Any, shape: int, dtype: Any) -> np.ndarray:
    """One array of a line for all threads of a block; the simulator's own gives several if threads ask at once."""
    line = sys._getframe(1)
    return memory._allocations.setdefault((line.f_code, line.f_lineno), np.empty(shape, dtype))


def _simulated(source: str, name: str) -> Callable[..., None]:
    from numba import cuda

    from ksubspaces.kernels.cuda import irregular_kernels, loader

    assert source == "irregular"

    def launch(grid: tuple[int, ...], block: tuple[int, ...], args: Any) -> None:
        kinds = " ".join("*" * array + dtype.str[1:] for dtype, array in loader.kinds(args))
        assert kinds in SIGNATURES[name], f"{name} is not compiled for {kinds}"
        assert all(arg.ndim == 0 or (arg.ndim == 1 and arg.flags.c_contiguous) for arg in args)
        if all(grid):
            cuda.jit(getattr(irregular_kernels, name))[grid, block](*(arg if arg.ndim else arg.item() for arg in args))

    return launch


def run(operation: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What an operation of the Numba kernels returns, and its arguments afterwards."""
    return _process().submit(_run, operation, arguments).result()


@functools.cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_turn_on)


def _turn_on() -> None:
    os.environ["NUMBA_ENABLE_CUDASIM"] = "1"


def launch(source: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any]) -> list[Any]:
    """The arguments of a kernel after a launch."""
    return _process().submit(_launch, source, name, grid, block, args).result()


def _launch(source: str, name: str, grid: tuple[int, ...], block: tuple[int, ...], args: list[Any]) -> list[Any]:
    with simulated():
        _simulated(source, name)(grid, block, args)
        return args


def _run(operation: str, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    with simulated():
        from ksubspaces.kernels.cuda import irregular

        return getattr(irregular, operation)(**arguments), arguments


def end() -> None:
    """End the process, if there is one."""
    if _process.cache_info().currsize:
        _process().shutdown()
        _process.cache_clear()
