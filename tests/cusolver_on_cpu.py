"""cuSOLVER's eigensolvers by NumPy on host memory, called through the C types of its header, and CuPy's streams.

``CuSolver`` stands in for the library: it checks its arguments and can damage its results. ``CuPy`` notes what streams
are told, in which order.
"""

import ctypes
import itertools
import threading
from ctypes import POINTER, c_int, c_int64, c_size_t, c_void_p
from types import SimpleNamespace

import numpy as np

# As in cusolverDn.h; enumerations are ints, handles and parameters are pointers.
PROBLEM = [c_void_p, c_void_p, c_int, c_int, c_int64, c_int, c_void_p, c_int64, c_int, c_void_p, c_int]
HEADER = {
    "cusolverDnCreate": [POINTER(c_void_p)],
    "cusolverDnSetStream": [c_void_p, c_void_p],
    "cusolverDnCreateParams": [POINTER(c_void_p)],
    "cusolverDnDestroyParams": [c_void_p],
    "cusolverDnXsyevd_bufferSize": [*PROBLEM, POINTER(c_size_t), POINTER(c_size_t)],
    "cusolverDnXsyevd": [*PROBLEM, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p],
    "cusolverDnXsyevBatched_bufferSize": [*PROBLEM, POINTER(c_size_t), POINTER(c_size_t), c_int64],
    "cusolverDnXsyevBatched": [*PROBLEM, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_int64],
}
INVALID_VALUE = 3
VECTORS, LOWER, CUPYS_HANDLE = 1, 0, 7
REALS = {0: np.float32, 1: np.float64}


def memory(pointer, shape, dtype):
    """Array on the numbers at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype).reshape(shape)


class CuSolver:
    """The library: ``damage(values, vectors)`` is called on each float32 matrix that was solved, and may change them.

    Attributes
    ----------
    calls : list of (name, handle, stream, number of matrices)
    wrong : list of str
        What was wrong with arguments.
    """

    def __init__(self, damage=None, batched=True, on_device=48, on_host=24):
        self.damage, self.sizes = damage, (on_device, on_host)
        self.calls, self.wrong, self.streams, self.params = [], [], {}, set()
        self.numbers, self.lock = itertools.count(100), threading.Lock()
        self._kept = {}
        for name, types in HEADER.items():
            if batched or "Batched" not in name:
                call = getattr(self, "_sizes" if "bufferSize" in name else f"_{name.removeprefix('cusolverDn')}")
                self._kept[name] = ctypes.CFUNCTYPE(c_int, *types)(self._reporting(name, call))
                # As ctypes gives a function of a library: without the types that the callback has.
                address = ctypes.cast(self._kept[name], c_void_p).value
                setattr(self, name, ctypes.CFUNCTYPE(c_int)(address))

    def _reporting(self, name, call):
        def called(*args):
            try:
                with self.lock:
                    call(name, *args)
            except Exception as failure:  # ctypes would lose it
                self.wrong.append(f"{name}: {type(failure).__name__}: {failure}")
                return INVALID_VALUE
            return 0

        return called

    def _Create(self, name, handle):
        handle[0] = next(self.numbers)

    def _SetStream(self, name, handle, stream):
        self.streams[handle] = stream or 0

    def _CreateParams(self, name, params):
        params[0] = next(self.numbers)
        self.params.add(params[0])

    def _DestroyParams(self, name, params):
        self.params.remove(params)

    def _sizes(self, name, *args):
        params, job, fill, n, real, A, lda, real_w, W, computed = args[1:11]
        assert A and W, "no memory"
        assert (job, fill, lda, real_w, computed) == (VECTORS, LOWER, n, real, real), args
        assert params in self.params, "parameters that were not made"
        args[11][0], args[12][0] = self.sizes

    def _Xsyevd(self, name, *args):
        self._XsyevBatched(name, *args, 1)

    def _XsyevBatched(self, name, *args):
        handle, params, job, fill, n, real, A, lda, real_w, W, computed, *work, info, batch = args
        assert (job, fill, lda, real_w, computed) == (VECTORS, LOWER, n, real, real), args
        assert params in self.params, "parameters that were not made"
        for pointer, size, wanted in zip(work[::2], work[1::2], self.sizes, strict=True):
            assert size >= wanted, f"a workspace of {size} bytes, not {wanted}"
            memory(pointer, size, np.uint8)[:] = 0x5A
        self.calls.append((name, handle, self.streams[handle], batch))
        matrices, values = memory(A, (batch, n, n), REALS[real]), memory(W, (batch, n), REALS[real])
        memory(info, batch, np.int32)[:] = [self._solve(S, w) for S, w in zip(matrices, values, strict=True)]

    def _solve(self, S, w):
        """Columns of a matrix that is stored by columns: NumPy's, by rows, are their transpose. Reads one half of S."""
        try:
            w[:], V = np.linalg.eigh(np.tril(S.T))
        except np.linalg.LinAlgError:
            return 1
        S[:] = V.T
        if self.damage and S.dtype == np.float32:
            self.damage(w, S)
        return 0


class CuPy:
    """Devices, streams and events; ``told`` is what streams were told, in order: (stream, what)."""

    def __init__(self):
        self.told = told = []
        numbers = itertools.count(1000)

        class Stream:
            def __init__(self, non_blocking=False):
                self.ptr = next(numbers)

            def record(self):
                told.append((self.ptr, "record"))
                return self.ptr

            def wait_event(self, recorded):
                told.append((self.ptr, f"wait for {recorded}"))

        class Device:
            def __init__(self, index=3):
                self.id = index

            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

        self.current = Stream()
        device = SimpleNamespace(get_cusolver_handle=lambda: CUPYS_HANDLE)
        self.cuda = SimpleNamespace(
            Stream=Stream, Device=Device, device=device, get_current_stream=lambda: self.current
        )
