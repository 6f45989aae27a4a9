"""All that the host needs of a step, gathered by one launch and one copy: one wait."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..flats import Array
from . import loader
from .memory import contiguous

VARIANTS: list[loader.Variant] = [("status", {})]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return VARIANTS


KINDS = {np.dtype(kind): np.int32(i) for i, kind in enumerate((np.bool_, np.int32, np.int64, np.float32, np.float64))}
MOST = 4  # arrays
NONE: tuple[loader.Argument, ...] = loader.NULL, np.int32(0), np.int32(0)


def fetch(arrays: Sequence[Array]) -> list[np.ndarray]:
    """Up to four arrays on the host, in float64; see :func:`ksubspaces.kernels.fetch`."""
    sizes = [array.size for array in arrays]
    joined = loader.namespace(arrays[0]).empty(sum(sizes))
    args: list[loader.Argument] = []
    for array, size in zip(arrays, sizes, strict=True):
        args += contiguous(array, array.dtype), np.int32(size), KINDS[array.dtype]
    args += NONE * (MOST - len(arrays))
    loader.kernel("status", "join")((-(-joined.size // 256),), (256,), (*args, joined))
    told = joined if isinstance(joined, np.ndarray) else joined.get()
    parts = zip(arrays, sizes, itertools.accumulate(sizes), strict=True)
    return [told[end - size : end].reshape(array.shape) for array, size, end in parts]
