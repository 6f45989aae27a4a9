"""Compiles the kernels of this folder, CUDA C++ and Numba's, once per device, and says what the device holds.

Numba compiles its kernels to PTX and is done: CuPy loads and launches them like the others. A launch by Numba's own
dispatcher takes thirty times as long.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import libraries
from ..flats import Array

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17",)
NULL = np.uint64(0)
"""Passed where a kernel takes a pointer to nothing."""

Launch = Callable[..., None]
"""``launch(grid, block, args, *, shared_mem=0)``, on the current stream; a grid without blocks is no launch."""

Kinds = tuple[tuple[np.dtype, bool], ...]
"""Of the arguments of a Numba kernel: dtype, and whether it is an array, to which the kernel gets a pointer."""

NEWEST_PTX = (9, 0)  # cards beyond run it too, and every NVVM there is knows it


class Limits(NamedTuple):
    """What tile sizes depend on.

    Attributes
    ----------
    shared_memory : int
        Bytes of shared memory that one block can ask for.
    multiprocessors : int
        How many of them run blocks side by side.
    """

    shared_memory: int
    multiprocessors: int


def kernel(source: str, name: str, defines: Mapping[str, Any] | None = None) -> Launch:
    """Kernel ``name`` of ``<source>.cu``, compiled for the current device with ``-D`` for each of ``defines``."""
    import cupy

    return _compiled(cupy.cuda.Device().id, source, name, tuple(sorted((defines or {}).items())))


def numba_kernel(function: Callable[..., None]) -> Launch:
    """A function in Numba's CUDA Python as a kernel that takes arrays, as pointers, and NumPy's numbers.

    It is compiled for the current device and the dtypes of the arguments of each launch.
    """
    import cupy

    device = cupy.cuda.Device().id

    def launch(grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        if all(grid):
            run = _numba_compiled(device, function, kinds(args))
            run(tuple(grid), tuple(block), tuple(args), shared_mem=shared_mem)

    return launch


def kinds(args: Sequence[Any]) -> Kinds:
    """Kinds of the arguments of a Numba kernel."""
    return tuple((arg.dtype, not isinstance(arg, np.generic)) for arg in args)


def limits() -> Limits:
    """Limits of the current device."""
    import cupy

    return _limits(cupy.cuda.Device().id)


def namespace(array: Array) -> Any:
    """The module that made ``array``: NumPy or CuPy."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy


def read(source: str) -> str:
    """Text of ``<source>.cu``, ending with a digest of the headers.

    Compilers find the headers in this folder, but CuPy's cache on disk knows nothing of them: without the digest
    it would hand out kernels made with old ones.
    """
    headers = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))
    return f"{(FOLDER / source).with_suffix('.cu').read_text()}\n// {hashlib.sha256(headers).hexdigest()}\n"


def options(defines: Mapping[str, Any]) -> tuple[str, ...]:
    """Options of the compiler."""
    return (*OPTIONS, f"-I{FOLDER}", *(f"-D{name}={value}" for name, value in sorted(defines.items())))


@functools.cache
def _module(device: int, source: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    import cupy

    return cupy.RawModule(code=read(source), options=options(dict(defines)), backend="nvrtc")


@functools.cache
def _compiled(device: int, source: str, name: str, defines: tuple[tuple[str, Any], ...]) -> Launch:
    function = _module(device, source, defines).get_function(name)
    granted = function.max_dynamic_shared_size_bytes

    def launch(grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        nonlocal granted
        if shared_mem > granted:  # more than 48 KiB has to be asked for
            function.max_dynamic_shared_size_bytes = granted = shared_mem
        if all(grid):
            function(tuple(grid), tuple(block), tuple(args), shared_mem=shared_mem)

    return launch


def numba_ptx(function: Callable[..., None], kinds: Kinds, cc: tuple[int, int]) -> tuple[str, str]:
    """PTX of a Numba kernel for a compute capability, and the name that the kernel has there."""
    from numba import types

    scalars = [getattr(types, dtype.name) for dtype, _ in kinds]
    signature = tuple(types.CPointer(s) if array else s for s, (_, array) in zip(scalars, kinds, strict=True))
    ptx, _ = libraries.numba_cuda().compile_ptx(function, signature, device=False, cc=min(cc, NEWEST_PTX))
    return ptx, ptx.partition(".visible .entry ")[2].partition("(")[0]


def linked(ptx: str, cc: tuple[int, int]) -> bytes:
    """Machine code of PTX, by nvJitLink, which comes with numba-cuda: a driver older than NVVM cannot read its PTX."""
    from cuda.bindings import nvjitlink

    text, options = ptx.encode(), [f"-arch=sm_{cc[0]}{cc[1]}"]
    linker = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, text, len(text), "kernel.ptx")
        nvjitlink.complete(linker)
        code = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, code)
    finally:
        nvjitlink.destroy(linker)
    return bytes(code)


@functools.cache
def _numba_compiled(device: int, function: Callable[..., None], kinds: Kinds) -> Launch:
    import cupy

    digits = cupy.cuda.Device(device).compute_capability  # "90"
    cc = int(digits[:-1]), int(digits[-1])
    try:
        ptx, name = numba_ptx(function, kinds, cc)
        code = linked(ptx, cc)
    except Exception as failure:  # of the compiler or its libraries: these kernels are known to compile
        raise libraries.unusable("kernels for a CUDA device are compiled by numba-cuda", failure) from failure
    module = cupy.cuda.Module()
    module.load(code)
    return module.get_function(name)


@functools.cache
def _limits(device: int) -> Limits:
    import cupy

    attributes = cupy.cuda.Device(device).attributes
    return Limits(attributes["MaxSharedMemoryPerBlockOptin"], attributes["MultiProcessorCount"])
