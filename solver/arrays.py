"""Arrays in and out: NumPy, Torch, CuPy and whatever speaks their protocols; devices and dtypes.

An array enters through :func:`entered`, which hands the solver a NumPy or CuPy array without a copy where none is
needed, and a :class:`Home` that takes results back to the caller's kind of array and device. Further arrays of the same
computation follow through :func:`enter`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces.kernels import Rows, Streamed
from ksubspaces.kernels.flats import Array
from ksubspaces.kernels.libraries import Untyped
from ksubspaces.kernels.libraries import cupy as load_cupy

if TYPE_CHECKING:
    import torch

Matrix: TypeAlias = "Array | Rows"
"""Rows to compute with. From :func:`enter` to a problem, streamed rows take the place of an array."""

AnyArray: TypeAlias = Any
"""An array of the caller's library: NumPy, CuPy or Torch, whose types have no common methods that mypy knows."""

AnyDtype: TypeAlias = "DTypeLike | torch.dtype"

BLOCK_BYTES = 8 << 20  # of rows looked at together
STREAM_SHARE = 0.6  # rows that take more of a device's free memory than this stay in host memory ...
STREAM_BLOCKS = 16  # ... and come to it in blocks of this part of it


@dataclass(frozen=True)
class Home:
    """Where a caller's arrays live: ``kind`` is "numpy", "torch" or "cupy", ``device`` "cpu" or "cuda:0"."""

    kind: str = "numpy"
    device: str = "cpu"

    def back(self, array: Array) -> AnyArray:
        """The array (NumPy or CuPy) as the caller's kind, on the caller's device."""
        if self.kind == "numpy":
            return to_numpy(array)
        if self.kind == "torch":
            import torch

            if self.device == "cpu" or isinstance(array, np.ndarray):
                return torch.from_numpy(to_numpy(array)).to(self.device)  # not every Torch has CUDA
            return torch.from_dlpack(array).to(self.device)
        return _cupy_on(self.device, array)


NUMPY = Home()


@contextmanager
def entered(
    x: AnyArray, name: str, device: str | None = None, dtype: AnyDtype | None = None
) -> Iterator[tuple[Array, Home]]:
    """As :func:`enter`. Within it the array's device is current, with Torch's stream and pool if it is Torch's.

    Raises
    ------
    MemoryError
        When the device runs out of memory in it.
    """
    home = home_of(x)
    target = home.device if device is None else resolve_device(device)
    with computing(home, target):
        yield enter(x, name, target, dtype)


@contextmanager
def computing(home: Home, device: str) -> Iterator[None]:
    """Within it, the device is current, with the stream and pool of this home. Lack of memory raises our error."""
    if device == "cpu":
        yield
        return
    cupy = load_cupy()
    index = int(device.partition(":")[2])
    try:
        with cupy.cuda.Device(index), _torch_stream_and_pool(index) if _pool_is_torchs(home) else nullcontext():
            yield
    except _out_of_memory_errors() as error:
        free, total = (amount / 2**30 for amount in cupy.cuda.Device(index).mem_info)
        raise MemoryError(
            f"{device} ran out of memory: {error} {free:.1f} of its {total:.1f} GiB are free. Free other arrays there, "
            "pass the rows as a NumPy array (then they are streamed) or in a smaller dtype, or use device='cpu'"
        ) from None


def _pool_is_torchs(home: Home) -> bool:
    """Whether a computation for this home takes its memory from Torch, which a Torch without CUDA cannot give."""
    if home.kind != "torch":
        return False
    import torch

    return torch.cuda.is_available()


def _out_of_memory_errors() -> tuple[type[Exception], ...]:
    """Exceptions of the memory pools. Each tells how many bytes were asked for."""
    torch = sys.modules.get("torch")
    ours = load_cupy().cuda.memory.OutOfMemoryError
    return (ours,) if torch is None else (ours, torch.cuda.OutOfMemoryError)


@contextmanager
def _torch_stream_and_pool(index: int) -> Iterator[None]:
    """CuPy on Torch's current stream, with memory from Torch's pool: two pools would fight over the card."""
    import torch

    cupy, pointer = load_cupy(), torch.cuda.current_stream(index).cuda_stream
    pool = cupy.cuda.memory.PythonFunctionAllocator(
        lambda size, device: torch.cuda.caching_allocator_alloc(size, device, pointer),
        lambda address, device: torch.cuda.caching_allocator_delete(address),
    )
    with _stream_at(pointer, index), cupy.cuda.using_allocator(pool.malloc):
        yield


def _stream_at(pointer: int, index: int) -> Untyped:
    """CuPy's object for a stream of another library, which keeps it alive, on the current device, of this index."""
    cuda = load_cupy().cuda
    if not pointer:
        return cuda.Stream.null
    if hasattr(cuda.Stream, "from_external"):
        return cuda.Stream.from_external(_ForeignStream(pointer))
    return cuda.ExternalStream(pointer, index)  # CuPy before 14, which has no other way


@dataclass(frozen=True)
class _ForeignStream:
    """A stream by CUDA's protocol for them, which the streams of older Torch do not speak."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def home_of(x: AnyArray) -> Home:
    """Where the results of a computation with x go."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return Home("torch", f"cuda:{x.device.index}" if x.device.type == "cuda" else "cpu")
    if type(x).__module__.partition(".")[0] == "cupy":
        return Home("cupy", f"cuda:{x.device.id}")
    if hasattr(x, "__cuda_array_interface__"):
        return Home("cupy", f"cuda:{load_cupy().asarray(x).device.id}")
    return NUMPY


def enter(x: AnyArray, name: str, device: str | None = None, dtype: AnyDtype | None = None) -> tuple[Array, Home]:
    """An array of the caller as a NumPy or CuPy array of a dtype that the solver computes in.

    Parameters
    ----------
    x : array
        NumPy, Torch or CuPy, or anything with ``__dlpack__``, ``__cuda_array_interface__`` or ``__array__``.
    name : str
        What the caller knows it as, for the errors.
    device : str, optional
        "cpu", "cuda", "cuda:1"; ``None`` is where x lives.
    dtype : dtype, optional
        "float32" or "float64"; ``None`` is float32 for float16, bfloat16 and float32, else float64.

    Returns
    -------
    array : ndarray or CuPy array
        Shares x's memory unless device or dtype forbid it. Never to be written to.
    home : Home
    """
    array, home = import_array(x, name), home_of(x)
    wanted = compute_dtype(array.dtype, name) if dtype is None else requested_dtype(dtype)
    compute_dtype(array.dtype, name)  # refuses strings, objects and complex numbers whatever was requested
    with np.errstate(over="ignore"):
        converted = array.astype(wanted, copy=False)
    if wanted.itemsize < array.dtype.itemsize and _overflowed(array, converted):
        raise ValueError(f"{name} has entries that do not fit {wanted}; use dtype='float64' or scale it down")
    array = converted
    target = home.device if device is None else resolve_device(device)
    if isinstance(array, np.ndarray) and array.ndim == 2 and target != "cpu":
        room = STREAM_SHARE * _free_bytes(home)
        if array.nbytes > room:  # the device needs room for the rows and for what is computed from them
            return Streamed(array, load_cupy(), int(room) // STREAM_BLOCKS), home  # type: ignore[return-value]
    return place(array, target), home


def _overflowed(array: Array, converted: Array) -> bool:
    """Whether finite entries have become infinite."""
    xp = namespace(array)
    array, converted = xp.atleast_1d(array), xp.atleast_1d(converted)
    size = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    spans = (slice(start, start + size) for start in range(0, len(array), size))
    return any(bool((xp.isinf(converted[span]) & xp.isfinite(array[span])).any()) for span in spans)


def _free_bytes(home: Home) -> int:
    """Bytes that a computation on the current device can have: free ones, and those that its pool holds in reserve."""
    cupy = load_cupy()
    if _pool_is_torchs(home):
        import torch

        index = cupy.cuda.Device().id
        reserve = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)
    else:
        reserve = cupy.get_default_memory_pool().free_bytes()
    return int(cupy.cuda.runtime.memGetInfo()[0] + reserve)


def place(array: Array, device: str) -> Array:
    """A NumPy or CuPy array on the device; itself if it is there."""
    return to_numpy(array) if device == "cpu" else _cupy_on(device, array)


def import_array(x: AnyArray, name: str) -> Array:
    """x as a NumPy or CuPy array of its own dtype (bfloat16: as float32), where it lives."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        tensor = x.detach()
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} is a sparse Torch tensor; pass {name}.to_dense()")
        if tensor.device.type not in ("cpu", "cuda"):
            raise TypeError(f"{name} lives on Torch device {str(tensor.device)!r}; pass {name}.cpu()")
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()  # NumPy has no bfloat16
        if tensor.device.type == "cpu":
            try:
                return tensor.resolve_conj().resolve_neg().numpy()
            except TypeError:
                raise TypeError(f"{name} has Torch dtype {tensor.dtype}; pass {name}.float()") from None
        return load_cupy().from_dlpack(tensor)
    if type(x).__module__.partition(".")[0] == "cupy":
        return x
    if hasattr(x, "__cuda_array_interface__"):
        return load_cupy().asarray(x)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise TypeError(f"{name} has masked entries; fill them first, for instance with {name}.filled(0)")
    if hasattr(x, "toarray") and hasattr(x, "nnz"):
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray()")
    if not isinstance(x, np.ndarray) and not hasattr(x, "__array__") and hasattr(x, "__dlpack__"):
        return np.from_dlpack(x)
    try:
        array = np.asarray(x)
        if array.ndim == 0 and array.dtype == object:
            raise TypeError(f"{name} must be an array, got {type(x).__name__}")
        return array
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array of numbers: {error}") from None


def compute_dtype(dtype: DTypeLike, name: str) -> np.dtype:
    """float32 for half and single precision, float64 for other real numbers. Anything else is a TypeError."""
    dtype = np.dtype(dtype)
    if dtype.kind == "c":
        raise TypeError(f"{name} is complex; stack its real and imaginary parts into real columns first")
    if dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {dtype}; convert it to numbers first, for instance with astype('float32')")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


def requested_dtype(dtype: AnyDtype) -> np.dtype:
    try:
        requested = np.dtype(str(dtype).removeprefix("torch.") if "torch" in str(dtype) else dtype)  # type: ignore[arg-type]
    except TypeError:
        requested = None
    if requested not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, the precisions there are to compute in; got {dtype!r}")
    return np.dtype(requested)


def resolve_device(device: str) -> str:
    """ "cpu" or "cuda:<index>" for the device asked for, or an error that says what is missing and what to do."""
    text = str(device)
    if text == "cpu":
        return text
    kind, _, index = text.partition(":")
    if kind != "cuda" or (":" in text and not index.isdigit()):
        raise ValueError(f"device must be None, 'cpu', 'cuda' or 'cuda:<index>', got {device!r}")
    cupy = load_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device={device!r}, but CUDA finds no device ({error}); use device='cpu'") from None
    chosen = int(index) if index else cupy.cuda.runtime.getDevice() if count else 0
    if chosen >= count:
        raise RuntimeError(f"device={device!r}, but CUDA finds {count} device(s); use device='cpu' or a lower index")
    return f"cuda:{chosen}"


def move(home: Home, target: str) -> Home:
    """The home that ``target`` names. It is a kind of array, or a device for arrays of the same kind."""
    if target == "numpy":
        return NUMPY
    if target == "torch":
        return Home("torch", home.device)
    if target == "cupy":
        return Home("cupy", home.device if home.device != "cpu" else resolve_device("cuda"))
    try:
        device = resolve_device(target)
    except ValueError:
        message = f"target must be 'numpy', 'torch', 'cupy', 'cpu', 'cuda' or 'cuda:<index>', got {target!r}"
        raise ValueError(message) from None
    if home.kind == "torch":
        return Home("torch", device)
    return NUMPY if device == "cpu" else Home("cupy", device)


def _cupy_on(device: str, array: Array) -> Array:
    cupy = load_cupy()
    with cupy.cuda.Device(int(device.partition(":")[2])):
        return cupy.asarray(array)


def to_numpy(array: Array) -> np.ndarray:
    """A NumPy array of a NumPy or CuPy array; no copy of the former."""
    return array if isinstance(array, np.ndarray) else array.get()


def namespace(array: Matrix) -> ModuleType:
    """NumPy or CuPy, whichever the array belongs to."""
    if isinstance(array, Rows):
        return array.xp
    return np if isinstance(array, (np.ndarray, np.generic)) else load_cupy()


def device_of(array: Matrix) -> str:
    """Where a computation with the array runs: "cpu" or "cuda:<index>"."""
    xp = namespace(array)
    return "cpu" if xp is np else f"cuda:{xp.cuda.Device().id if isinstance(array, Rows) else array.device.id}"  # type: ignore[attr-defined]


def row_blocks(X: Matrix) -> Iterator[tuple[int, Array]]:
    """X in blocks of consecutive rows that fit in the cache, each with the number of its first row."""
    if isinstance(X, Streamed):
        yield from ((span.start, block) for span, block in X.blocks())
        return
    rows = X.array if isinstance(X, Rows) else X
    size = max(1, BLOCK_BYTES // max(1, X.shape[1] * X.dtype.itemsize))
    for start in range(0, X.shape[0], size):
        yield start, rows[start : start + size]


def scaled(X: Array, exponent: int) -> Array:
    """``2^exponent X``, which rounds nothing (but what becomes subnormal); X itself for exponent 0."""
    if exponent == 0:
        return X
    if isinstance(X, Streamed):
        return Streamed(X.array, X.xp, X.block_bytes, X.exponent + exponent)
    return namespace(X).ldexp(X, np.int32(exponent))


def squared_lengths(X: Matrix, dtype: DTypeLike | None = None) -> Array:
    """``|x_i|^2`` (n,), multiplied and summed in X's dtype or the one given."""
    xp = namespace(X)
    return xp.concatenate([xp.einsum("ij,ij->i", block, block, dtype=dtype) for _, block in row_blocks(X)])


def energy(X: Matrix, weights: Array | None = None) -> float:
    """``sum_i w_i |x_i|^2`` in float64."""
    xp = namespace(X)
    total = 0.0
    for start, block in row_blocks(X):
        squares = xp.einsum("ij,ij->i", block, block, dtype=np.float64)
        total = total + (squares.sum() if weights is None else weights[start : start + len(block)] @ squares)
    return float(total)
