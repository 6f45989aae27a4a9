"""NumPy in CuPy's place, so that programs for a card run where there is none: a folder to put on Python's path.

Arrays are NumPy's, for which the operations run on the CPU. What the programs ask of a device is answered by a
pretended one whose work is done when it is asked for.
"""

import contextlib
import os
import time
from types import SimpleNamespace

import numpy
from numpy import ndarray

__all__ = ["asnumpy", "cuda", "from_dlpack", "get_default_memory_pool", "ndarray"]
FREE_BYTES = 1 << 30


def __getattr__(name):
    return getattr(numpy, name)


def asnumpy(array):
    return numpy.array(array)


def from_dlpack(tensor):
    return numpy.from_dlpack(tensor)


def get_default_memory_pool():
    return SimpleNamespace(
        free_all_blocks=lambda: None, total_bytes=lambda: 0, free_bytes=lambda: 0, get_limit=lambda: 0
    )


class Event:
    def __init__(self, disable_timing=False):
        self.seconds = None

    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        pass


class CUDARuntimeError(Exception):
    pass


def _count():
    count = int(os.environ.get("PRETENDED_CARDS", "1"))
    if count == 0:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return count


class Device(contextlib.nullcontext):
    def __init__(self, index=0):
        super().__init__()
        _count()
        self.id = index
        self.mem_info = FREE_BYTES, FREE_BYTES

    def synchronize(self):
        pass


class Stream(contextlib.nullcontext):
    def __init__(self, non_blocking=False):
        super().__init__()


cuda = SimpleNamespace(
    Device=Device,
    Event=Event,
    Stream=Stream,
    get_elapsed_time=lambda begin, end: 1e3 * (end.seconds - begin.seconds),
    memory=SimpleNamespace(OutOfMemoryError=MemoryError),
    set_allocator=lambda allocator: None,
    runtime=SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError,
        getDevice=lambda: 0,
        getDeviceCount=_count,
        getDeviceProperties=lambda index: {"name": b"No card: NumPy"},
        memGetInfo=lambda: (FREE_BYTES, FREE_BYTES),
    ),
)
