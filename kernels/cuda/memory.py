"""Addresses of arrays, and how wide copies of their rows can be."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from types import ModuleType
from typing import TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Kept
from . import loader

Place: TypeAlias = "tuple[ModuleType] | tuple[ModuleType, int, int]"
"""Whose arrays are made, and on a card the device and the stream: what else than shapes a plan is for."""

Work = TypeVar("Work")

WIDEST = 16  # bytes of the widest asynchronous copy


def place(array: Array) -> Place:
    """Where arrays are made beside this one."""
    xp = loader.namespace(array)
    if isinstance(array, np.ndarray):
        return (xp,)
    return xp, xp.cuda.Device().id, xp.cuda.get_current_stream().ptr


def address(array: Array) -> int:
    """Address of the first number of an array."""
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def pieces(dtype: np.dtype, length: int, array: Array | None = None) -> int:
    """Numbers that a copy from rows of ``length`` takes at a time: as many as fit if aligned, else one."""
    aligned = length * dtype.itemsize % WIDEST == 0 and (array is None or address(array) % WIDEST == 0)
    return WIDEST // dtype.itemsize if aligned else 1


def keep(kept: Kept | None, key: Hashable, make: Callable[[], Work]) -> Work:
    """What is kept under a key; it is made where it is not there yet."""
    if kept is None:
        return make()
    if key not in kept:
        kept[key] = make()
    return cast("Work", kept[key])


def contiguous(array: Array, dtype: DTypeLike) -> Array:
    """The array itself if its numbers are of this dtype and follow one another, else a copy whose are."""
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    return loader.namespace(array).ascontiguousarray(array, dtype=dtype)


def or_null(array: Array | None) -> loader.Argument:
    """The array, or what a kernel takes for none."""
    return loader.NULL if array is None else array
