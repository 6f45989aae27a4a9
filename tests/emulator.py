"""Runs the CUDA kernels on the CPU: the unmodified ``.cu`` files, compiled by g++ against ``cuda_on_cpu/``.

``emulated(mode)`` puts them in place of the loader's, so that the host code of ``ksubspaces.kernels.cuda`` runs
with NumPy arrays. Each launch works on copies of its arrays with guards on either side, and its arguments are checked
against the kernel's signature. What this shows is that a kernel computes the right numbers, not that a GPU runs it.
"""

import contextlib
import ctypes
import functools
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from compiling import COMPILER, gxx, made_once
from cusolver_on_cpu import CuPy, CuSolver

from ksubspaces.kernels.cuda import cusolver, loader

FOLDER = Path(__file__).parent / "cuda_on_cpu"
MODES = {
    "late": {},
    "eager": {"COC_EAGER": "1"},
    "reverse": {"COC_REVERSE": "1"},
}
H100 = loader.Limits(shared_memory=232448, multiprocessors=132)
GUARD = 4096
ALIGNMENT = 512  # of what CuPy allocates

needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="g++ is missing, which compiles the emulated kernels: apt-get install g++"
)
modes = pytest.mark.parametrize("mode", MODES)


def kernel_names(text):
    """Names of the kernels that a ``.cu`` file defines."""
    return re.findall(r"__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(", text)


@contextlib.contextmanager
def emulated(mode="late", limits=H100, replaced=None, solver=None):
    """Within it the loader gives emulated kernels, in one of MODES, and cuSOLVER is NumPy (or ``solver``).

    ``replaced`` has other texts for some files.
    """
    solver, cupy = solver or CuSolver(), CuPy()
    kernel = functools.partial(_kernel, replaced=replaced or {}, limits=limits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "kernel", kernel)
        patch.setattr(loader, "prepare", lambda variants: None)
        patch.setattr(loader, "limits", lambda: limits)
        patch.setattr(loader, "namespace", lambda _: _UNFILLED)
        patch.setattr(cusolver, "library", lambda: solver)
        patch.setattr(cusolver, "libraries", SimpleNamespace(cupy=lambda: cupy))
        cusolver._idle.clear()  # handles of another library
        for variable in ("COC_EAGER", "COC_REVERSE"):
            patch.delenv(variable, raising=False)
        for variable, value in MODES[mode].items():
            patch.setenv(variable, value)
        yield
        assert not solver.wrong, solver.wrong


class _Unfilled:
    """NumPy, but for new memory: it is NaN and -1, lest the right numbers lie there from an earlier launch."""

    def __getattr__(self, name):
        return getattr(np, name)

    @staticmethod
    def empty(shape, dtype=float):
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        return array


_UNFILLED = _Unfilled()


def _kernel(source, name, defines=None, *, replaced, limits):
    file = f"{source}.cu"
    text = replaced.get(file) or (loader.FOLDER / file).read_text()
    headers = tuple((name, text) for name, text in sorted(replaced.items()) if name != file)
    level = "-Og" if replaced else "-O2"  # a replaced text is compiled for a run or two
    return _library(text, headers, tuple(sorted((defines or {}).items())), level).kernel(name, limits)


@functools.cache
def _headers():
    paths = [*sorted(FOLDER.glob("*.h")), *sorted(loader.FOLDER.glob("*.cuh"))]
    return [path.read_text() for path in paths]


@functools.cache
def _precompiled_header(level):
    """Folder with the emulator's header in the form that g++ reads fastest, for reading it takes most of the time."""

    def make(folder):
        gxx(level, "-x", "c++-header", "-o", folder / "cuda_on_cpu.h.gch", FOLDER / "cuda_on_cpu.h")

    return made_once((_headers(), level), make)


@functools.cache
def _library(text, headers, defines, level):
    """Compiles a source, once for each content of it; ``headers`` take the place of those beside it."""

    def make(folder):
        for name, header in headers:
            (folder / name).write_text(header)
        kernels = "\n".join(f"COC_KERNEL({name})" for name in kernel_names(text))
        (folder / "kernels.cpp").write_text(f'#include "cuda_on_cpu.h"\n#line 1\n{text}\n{kernels}\n')
        macros = [f"-D{name}={value}" for name, value in defines]
        includes = [f"-I{path}" for path in (_precompiled_header(level), FOLDER, loader.FOLDER)]
        gxx(level, "-shared", *macros, *includes, "-o", folder / "kernels.so", folder / "kernels.cpp")

    return CPUModule(made_once((_headers(), text, headers, defines, level), make) / "kernels.so")


class CPUModule:
    """Kernels of a compiled source."""

    def __init__(self, path):
        self.library = ctypes.CDLL(os.fspath(path))
        self.library.coc_last_error.restype = ctypes.c_char_p

    def kernel(self, name, limits=H100):
        """``launch(grid, block, args, *, shared_mem=0)``, as :func:`ksubspaces.kernels.cuda.loader.kernel` gives it."""
        function = getattr(self.library, f"coc_launch_{name}")
        function.argtypes = [ctypes.POINTER(ctypes.c_uint), ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)]
        signature = getattr(self.library, f"coc_signature_{name}")
        signature.restype = ctypes.c_char_p
        parameters = signature().decode().split()

        def launch(grid, block, args, *, shared_mem=0):
            grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
            _check_shape(grid, block, shared_mem, limits)
            if not all(grid):
                return
            guarded = Guarded()
            values = [_value(i, arg, kind, guarded) for i, (arg, kind) in enumerate(zip(args, parameters, strict=True))]
            pointers = [ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in values]
            failed = function((ctypes.c_uint * 6)(*grid, *block), shared_mem, (ctypes.c_void_p * len(args))(*pointers))
            if failed:
                raise RuntimeError(f"{name}: {self.library.coc_last_error().decode()}")
            guarded.finish(name)

        return launch


def _check_shape(grid, block, shared_mem, limits):
    """What a GPU refuses is refused."""
    if grid[0] > 2**31 - 1 or max(grid[1:]) > 65535:
        raise RuntimeError(f"a grid of {grid} blocks is too large")
    if not 1 <= block[0] * block[1] * block[2] <= 1024:
        raise RuntimeError(f"a block has 1 to 1024 threads, not {block}")
    if shared_mem > limits.shared_memory:
        raise RuntimeError(f"a block can have {limits.shared_memory} bytes of shared memory, not {shared_mem}")


def _value(i, arg, kind, guarded):
    """The argument as its bytes, with CuPy's rule for Python numbers: int is long long and float is double."""
    if isinstance(arg, (int, float)) and not isinstance(arg, np.generic):
        arg = np.int64(arg) if isinstance(arg, int) else np.float64(arg)
    if isinstance(arg, np.ndarray):
        given, address = arg.dtype.str[1:], guarded.add(arg, kind.startswith("&"))
        if kind[1:] not in (given, "?"):
            raise TypeError(f"argument {i}: the kernel takes {kind}, not an array of {given}")
        return ctypes.c_void_p(address)
    if isinstance(arg, np.generic):
        given = arg.dtype.str[1:]
        if kind not in (given, "?") and not (kind[0] in "*&" and given == "u8" and not arg):
            raise TypeError(f"argument {i}: the kernel takes {kind}, not {given}")
        return (ctypes.c_char * arg.nbytes).from_buffer_copy(arg.tobytes())
    raise TypeError(f"argument {i}: kernels take arrays and numbers, not {type(arg)}")


class Guarded:
    """Copies of the arrays of a launch, each between guards that hold NaN and that nothing may write."""

    def __init__(self):
        self.copies = {}

    def add(self, array, writable):
        """Address of the copy of an array, aligned as it would be on a GPU."""
        if not array.flags.c_contiguous:
            raise TypeError("kernels take contiguous arrays")
        if array.size == 0:
            return 0  # as in CuPy
        key = (array.ctypes.data, array.nbytes)
        if key not in self.copies:
            if any(np.may_share_memory(array, other) for other, *_ in self.copies.values()):
                raise TypeError("two arrays of a launch overlap without being the same")
            root = array
            while isinstance(root.base, np.ndarray):
                root = root.base
            offset = (array.ctypes.data - root.ctypes.data) % ALIGNMENT
            memory = np.full(2 * GUARD + array.nbytes + 2 * ALIGNMENT, 0xFF, dtype=np.uint8)
            start = GUARD + (offset - GUARD - memory.ctypes.data) % ALIGNMENT
            memory[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
            self.copies[key] = [array, memory, start, False]
        self.copies[key][3] |= writable
        return self.copies[key][1].ctypes.data + self.copies[key][2]

    def finish(self, name):
        """Check the guards and hand the results back."""
        for array, memory, start, writable in self.copies.values():
            stop = start + array.nbytes
            if np.any(memory[:start] != 0xFF) or np.any(memory[stop:] != 0xFF):
                raise RuntimeError(f"{name} wrote outside an array of shape {array.shape}")
            if writable:
                array.reshape(-1).view(np.uint8)[:] = memory[start:stop]
