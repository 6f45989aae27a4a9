"""cuSOLVER's eigensolvers with sizes in 64 bits, by ctypes from the library that CuPy is linked with.

``XsyevBatched`` came with CUDA 12.6.2, and CuPy does not wrap it. ``Xsyevd`` leaves the device idle while the host
works, so several matrices are solved side by side: a thread and a stream for each.
"""

from __future__ import annotations

import ctypes
import functools
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from .. import libraries
from ..flats import Array
from ..libraries import Untyped
from . import loader
from .memory import address

LANES = 8
"""Matrices that are solved side by side, at most."""

VECTORS, LOWER = 1, 0  # CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER
REALS = {np.dtype(np.float32): 0, np.dtype(np.float64): 1}  # cudaDataType
STATUS = {1: "not initialized", 2: "allocation failed", 3: "invalid value", 6: "execution failed", 7: "internal error"}

_pointer, _size, _int, _int64 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int64
_PROBLEM = [_pointer, _pointer, _int, _int, _int64, _int, _pointer, _int64, _int, _pointer, _int]
_SIZES = [ctypes.POINTER(_size), ctypes.POINTER(_size)]
_WORK = [_pointer, _size, _pointer, _size, _pointer]
PROTOTYPES = {
    "cusolverDnCreate": [ctypes.POINTER(_pointer)],
    "cusolverDnSetStream": [_pointer, _pointer],
    "cusolverDnCreateParams": [ctypes.POINTER(_pointer)],
    "cusolverDnDestroyParams": [_pointer],
    "cusolverDnXsyevd_bufferSize": _PROBLEM + _SIZES,
    "cusolverDnXsyevd": _PROBLEM + _WORK,
    "cusolverDnXsyevBatched_bufferSize": [*_PROBLEM, *_SIZES, _int64],
    "cusolverDnXsyevBatched": [*_PROBLEM, *_WORK, _int64],
}
"""Arguments of cuSOLVER's functions; all of them return a status."""


def eigh_batched(S: Array) -> tuple[Array, Array]:
    """Eigenvalues (k, d), ascending, and eigenvectors (k, d, d), as rows, of symmetric matrices S (k, d, d).

    In S's dtype, float32 or float64. A matrix that did not converge has NaN for eigenvalues. Where cuSOLVER is too old
    for ``XsyevBatched``, this is :func:`eigh_each`.
    """
    if not hasattr(library(), "cusolverDnXsyevBatched"):
        return eigh_each(S)
    results = _Results.of(S)
    with _Solver("cusolverDnXsyevBatched", S, len(S)) as solver:
        solver(_current_lane(), results, 0, solver.workspace(results))
    return results.checked()


def eigh_each(S: Array) -> tuple[Array, Array]:
    """As :func:`eigh_batched`, by ``Xsyevd`` on one matrix after another, several of them at a time."""
    k, results = len(S), _Results.of(S)
    lanes = min(k, LANES)
    with _Solver("cusolverDnXsyevd", S) as solver:
        work = [solver.workspace(results) for _ in range(lanes)]
        if lanes == 1:
            solver(_current_lane(), results, 0, work[0])
        else:

            def solve(i: int, lane: _Lane) -> None:
                for c in range(i, k, lanes):
                    solver(lane, results, c, work[i])

            _side_by_side(lanes, solve)
    return results.checked()


@functools.cache
def library() -> Untyped:
    """The cuSOLVER that CuPy is linked with; its functions are found through CuPy's own module."""
    try:
        from cupy_backends.cuda.libs import cusolver

        return ctypes.CDLL(cusolver.__file__)
    except Exception as failure:
        raise libraries.unusable("eigenvectors on a CUDA device need CuPy with cuSOLVER", failure) from failure


class _Results(NamedTuple):
    """Where the solvers write: S becomes the eigenvectors."""

    vectors: Array
    values: Array
    info: Array

    @classmethod
    def of(cls, S: Array) -> _Results:
        xp, (k, d) = loader.namespace(S), S.shape[:2]
        return cls(xp.array(S, order="C"), xp.empty((k, d), S.dtype), xp.zeros(k, np.int32))

    def checked(self) -> tuple[Array, Array]:
        """Eigenvalues, NaN where there are none, and eigenvectors."""
        xp = loader.namespace(self.info)
        return xp.where((self.info != 0)[:, None], np.nan, self.values).astype(self.values.dtype), self.vectors


class _Lane(NamedTuple):
    """What cuSOLVER works with at a time: its handle, and a stream of CuPy's."""

    handle: int
    stream: Untyped


class _Solver:
    """A solver for matrices like the first of S, or for ``batch`` of them at once."""

    def __init__(self, name: str, S: Array, *batch: int) -> None:
        self.name, self.d, self.dtype, self.batch = name, S.shape[1], S.dtype, batch
        self.xp, self.params, self.library = loader.namespace(S), _pointer(), library()

    def __enter__(self) -> _Solver:
        self._call("cusolverDnCreateParams", ctypes.byref(self.params))
        return self

    def __exit__(self, *_: object) -> None:
        self._call("cusolverDnDestroyParams", self.params)

    def workspace(self, results: _Results) -> tuple[Array, np.ndarray]:
        """What the solver needs, on the device and on the host."""
        on_device, on_host = _size(), _size()
        sizes = ctypes.byref(on_device), ctypes.byref(on_host)
        self._call(f"{self.name}_bufferSize", *self._problem(_current_lane(), results, 0), *sizes, *self.batch)
        return self.xp.empty(max(1, on_device.value), np.uint8), np.empty(max(1, on_host.value), np.uint8)

    def __call__(self, lane: _Lane, results: _Results, c: int, work: tuple[Array, np.ndarray]) -> None:
        """Solve matrix c of the results, or all from c on."""
        buffers = [part for buffer in work for part in (address(buffer), buffer.nbytes)]
        info = address(results.info) + c * results.info.itemsize
        self._call("cusolverDnSetStream", lane.handle, lane.stream.ptr)
        self._call(self.name, *self._problem(lane, results, c), *buffers, info, *self.batch)

    def _problem(self, lane: _Lane, results: _Results, c: int) -> tuple[object, ...]:
        real, size = REALS[self.dtype], self.d * self.dtype.itemsize
        vectors, values = address(results.vectors) + c * self.d * size, address(results.values) + c * size
        matrix = self.d, real, vectors, self.d  # rows lie one after another; symmetric, so columns do as well
        return lane.handle, self.params, VECTORS, LOWER, *matrix, real, values, real

    def _call(self, name: str, *args: object) -> None:
        _call(self.library, name, *args)


def _call(library: Untyped, name: str, *args: object) -> None:
    function = getattr(library, name)
    function.argtypes, function.restype = PROTOTYPES[name], _int
    status = function(*args)
    if status:
        why = STATUS.get(status, "see cusolverStatus_t")
        raise RuntimeError(
            f"{name} failed with status {status} ({why}): free memory on the device, or check with "
            "cupy.show_config() that its CUDA libraries are those CuPy was made for, or use device='cpu'"
        )


def _current_lane() -> _Lane:
    """CuPy's handle and current stream."""
    cuda = libraries.cupy().cuda
    return _Lane(cuda.device.get_cusolver_handle(), cuda.get_current_stream())


_idle: defaultdict[int, list[_Lane]] = defaultdict(list)
"""Lanes of each device that no call is using; handles are dear."""


def _side_by_side(lanes: int, work: Callable[[int, _Lane], None]) -> None:
    """Call ``work(i, lane)`` for each of so many lanes, in threads: after what is on the current stream, before what
    comes to it. The memory must be the caller's, for threads have neither its allocator nor its stream."""
    cuda = libraries.cupy().cuda
    device, caller = cuda.Device().id, cuda.get_current_stream()
    own = [_lane(device) for _ in range(lanes)]
    ready = caller.record()

    def run(i: int) -> Untyped:
        with cuda.Device(device):
            own[i].stream.wait_event(ready)
            work(i, own[i])
            return own[i].stream.record()

    with ThreadPoolExecutor(lanes) as pool:
        for done in pool.map(run, range(lanes)):
            caller.wait_event(done)
    _idle[device] += own


def _lane(device: int) -> _Lane:
    """One that is idle, or a new one."""
    try:
        return _idle[device].pop()
    except IndexError:
        handle = _pointer()
        _call(library(), "cusolverDnCreate", ctypes.byref(handle))
        return _Lane(int(handle.value or 0), libraries.cupy().cuda.Stream(non_blocking=True))
