"""The kernels for the device where an array lives."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import numpy as np

from .flats import Array


def kernels_for(array: Array) -> ModuleType:
    """The module whose kernels run where ``array`` lives."""
    return _kernels_of(type(array))  # type: ignore[arg-type]


@functools.cache
def _kernels_of(kind: type) -> ModuleType:
    """Imported on first use, for it compiles code."""
    if issubclass(kind, np.ndarray):
        return importlib.import_module("ksubspaces.kernels.cpu")
    if kind.__module__.partition(".")[0] == "cupy":
        return importlib.import_module("ksubspaces.kernels.cuda")
    raise TypeError(f"kernels take NumPy or CuPy arrays, got {kind.__module__}.{kind.__qualname__}")
