"""Addresses of arrays, and how wide copies of their rows can be."""

from __future__ import annotations

from types import ModuleType
from typing import TypeAlias

import numpy as np

from ..flats import Array
from . import loader

Place: TypeAlias = "tuple[ModuleType] | tuple[ModuleType, int, int]"
"""Whose arrays are made, and on a card the device and the stream: what else than shapes a plan is for."""

WIDEST = 16  # bytes of the widest asynchronous copy


def address(array: Array) -> int:
    """Address of the first number of an array."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def pieces(dtype: np.dtype, length: int, array: Array | None = None) -> int:
    """Numbers that a copy from rows of ``length`` takes at a time: as many as fit if aligned, else one."""
    aligned = length * dtype.itemsize % WIDEST == 0 and (array is None or address(array) % WIDEST == 0)
    return WIDEST // dtype.itemsize if aligned else 1


def or_null(array: Array | None) -> loader.Argument:
    """The array, or what a kernel takes for none."""
    return loader.NULL if array is None else array
