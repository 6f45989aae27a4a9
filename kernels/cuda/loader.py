"""Compiles the kernels of this folder, CUDA C++ and Numba's, once per device, and tells the limits of a device.

CUDA C++ is kept on disk by CuPy. Numba compiles its kernels to machine code and is done: that is kept beside, and CuPy
loads and launches it like the others. A launch by Numba's own dispatcher takes thirty times as long.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np

from .. import libraries
from ..flats import Array
from ..libraries import Untyped

FOLDER = Path(__file__).parent
OPTIONS = ("--std=c++17", f"-I{FOLDER}")
"""The same for all: for each set of options CuPy asks the compiler for its version, which takes 14 ms."""
NULL = np.uint64(0)
"""Passed where a kernel takes a pointer to nothing."""

Launch = Callable[..., None]
"""``launch(grid, block, args, *, shared_mem=0)``, on the current stream; a grid without blocks is no launch."""

Argument: TypeAlias = "Array | np.generic"
"""Of a kernel: an array, to which it gets a pointer, or one of NumPy's numbers."""

Defines = Mapping[str, str | int]
"""What is defined in a ``.cu`` file."""

Variant = tuple[str, Defines]
"""A ``.cu`` file, and what is defined in it."""

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


def kernel(source: str, name: str, defines: Defines | None = None) -> Launch:
    """Kernel ``name`` of ``<source>.cu``, compiled for the current device with these definitions."""
    import cupy

    return _launch(cupy.cuda.Device().id, source, name, _ordered(defines or {}))


def prepare(variants: Iterable[Variant]) -> list[Future[Untyped]]:
    """Begin to compile these for the current device, side by side. A launch waits for its own kernel alone."""
    import cupy

    device = cupy.cuda.Device().id
    modules = [_begun((device, source, _ordered(defines))) for source, defines in variants]
    if begun := [(module, which) for module, which in modules if which]:
        pool = ThreadPoolExecutor(min(len(begun), os.cpu_count() or 1), "ksubspaces-nvrtc")
        for module, which in begun:
            pool.submit(_compile, module, which)
        pool.shutdown(wait=False)
    return [module for module, _ in modules]


def all_variants() -> list[Variant]:
    """All variants that the modules of this folder declare."""
    return [variant for module in _launchers() for variant in getattr(module, "VARIANTS", ())]


def variants_of_a_fit(dtype: np.dtype, d: int) -> list[Variant]:
    """The variants that a fit of rows of d numbers uses, whatever its numbers of rows and flats."""
    wanted = [module.of_a_fit for module in _launchers() if hasattr(module, "of_a_fit")]
    return [variant for of_a_fit in wanted for variant in of_a_fit(dtype, d)]


def _launchers() -> list[ModuleType]:
    names = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.endswith(("_kernels", "__")))
    return [importlib.import_module(f"{__package__}.{name}") for name in names]


def numba_kernel(source: str, name: str) -> Launch:
    """Kernel ``name`` of ``<source>_kernels.py``, which takes arrays, as pointers, and NumPy's numbers.

    It is compiled for the current device and the dtypes of the arguments of each launch.
    """
    import cupy

    device = cupy.cuda.Device().id

    def launch(grid: Sequence[int], block: Sequence[int], args: Sequence[Argument], *, shared_mem: int = 0) -> None:
        if all(grid):
            run = _numba_compiled(device, source, name, kinds(args))
            run(tuple(grid), tuple(block), tuple(args), shared_mem=shared_mem)

    return launch


def kinds(args: Sequence[Argument]) -> Kinds:
    """Kinds of the arguments of a Numba kernel."""
    return tuple((arg.dtype, not isinstance(arg, np.generic)) for arg in args)


def limits() -> Limits:
    """Limits of the current device."""
    import cupy

    return _limits(cupy.cuda.Device().id)


def namespace(array: Array) -> ModuleType:
    """The module that made ``array``: NumPy or CuPy."""
    if isinstance(array, np.ndarray):
        return np
    import cupy

    return cupy


def read(source: str, defines: Defines) -> str:
    """Text of ``<source>.cu``, after its definitions and before a digest of the headers.

    Compilers find the headers in this folder, but CuPy's cache on disk knows nothing of them: without the digest
    it would hand out kernels made with old ones.
    """
    lines = [f"#define {name} {value}" for name, value in sorted(defines.items())]
    text = (FOLDER / source).with_suffix(".cu").read_text()
    return "\n".join([*lines, f'#line 1 "{source}.cu"', text, f"// {_headers()}", ""])


@functools.cache
def _headers() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))).hexdigest()


_Ordered = tuple[tuple[str, str | int], ...]
_Which = tuple[int, str, _Ordered]

_modules: dict[_Which, Future[Untyped]] = {}
_modules_lock = threading.Lock()


def _ordered(defines: Defines) -> _Ordered:
    return tuple(sorted(defines.items()))


def _begun(which: _Which) -> tuple[Future[Untyped], _Which | None]:
    """The module, compiled or being so, and what is to be compiled if nobody has begun to."""
    with _modules_lock:
        if which in _modules:
            return _modules[which], None
        return _modules.setdefault(which, Future()), which


def _compile(module: Future[Untyped], which: _Which) -> None:
    import cupy

    device, source, defines = which
    try:
        with cupy.cuda.Device(device):
            compiled = cupy.RawModule(code=read(source, dict(defines)), options=OPTIONS, backend="nvrtc")
            compiled.compile()
        module.set_result(compiled)
    except BaseException as failure:
        del _modules[which]  # so that the next who asks tries again
        module.set_exception(failure)


@functools.cache
def _launch(device: int, source: str, name: str, defines: _Ordered) -> Launch:
    module, which = _begun((device, source, defines))
    if which:
        _compile(module, which)
    function = module.result().get_function(name)
    granted = function.max_dynamic_shared_size_bytes

    def launch(grid: Sequence[int], block: Sequence[int], args: Sequence[Argument], *, shared_mem: int = 0) -> None:
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
def _numba_compiled(device: int, source: str, name: str, kinds: Kinds) -> Launch:
    import cupy

    digits = cupy.cuda.Device(device).compute_capability  # "90"
    cc = int(digits[:-1]), int(digits[-1])
    entry, code = _kept(repr((_numba_texts(source), name, kinds, cc)), lambda: _by_numba(source, name, kinds, cc))
    module = cupy.cuda.Module()
    module.load(code)
    return module.get_function(entry)


def _by_numba(source: str, name: str, kinds: Kinds, cc: tuple[int, int]) -> tuple[str, bytes]:
    """Name and machine code of a Numba kernel."""
    function = getattr(importlib.import_module(f"{__package__}.{source}_kernels"), name)
    try:
        ptx, entry = numba_ptx(function, kinds, cc)
        return entry, linked(ptx, cc)
    except Exception as failure:  # of the compiler or its libraries: these kernels are known to compile
        raise libraries.unusable("kernels for a CUDA device are compiled by numba-cuda", failure) from failure


@functools.cache
def _numba_texts(source: str) -> tuple[str, ...]:
    """What the machine code of a file's Numba kernels depends on, besides kinds and card."""
    return libraries.found(), *((FOLDER / f"{source}{part}.py").read_text() for part in ("", "_kernels"))


def _kept(key: str, make: Callable[[], tuple[str, bytes]]) -> tuple[str, bytes]:
    """What the disk holds under a key. Else what ``make`` gives, which is written there if possible."""
    path = cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()}.ksubspaces"
    with contextlib.suppress(OSError, ValueError):
        digest, entry, code = path.read_bytes().split(b"\n", 2)
        if hashlib.sha256(entry + code).hexdigest().encode() == digest:
            return entry.decode(), code
    name, code = make()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(b"\n".join([hashlib.sha256(name.encode() + code).hexdigest().encode(), name.encode(), code]))
        Path(file.name).replace(path)
    return name, code


def cache_folder() -> Path:
    """Where CuPy keeps compiled kernels."""
    return Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")


@functools.cache
def _limits(device: int) -> Limits:
    import cupy

    attributes = cupy.cuda.Device(device).attributes
    return Limits(attributes["MaxSharedMemoryPerBlockOptin"], attributes["MultiProcessorCount"])
