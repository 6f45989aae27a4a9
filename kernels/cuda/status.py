"""All that the host needs of a step, gathered by one launch and one copy: one wait."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ..flats import Array
from . import loader

VARIANTS: list[loader.Variant] = [("status", {})]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return VARIANTS


KINDS = [np.dtype(kind) for kind in (np.bool_, np.int32, np.int64, np.float32, np.float64)]
MOST = 4  # arrays


def fetch(arrays: Sequence[Array]) -> list[np.ndarray]:
    """Up to four arrays on the host, in float64; see :func:`ksubspaces.kernels.fetch`."""
    xp, sizes = loader.namespace(arrays[0]), [array.size for array in arrays]
    joined, args = xp.empty(sum(sizes)), []
    for array in (*arrays, *[None] * (MOST - len(arrays))):
        if array is None:
            args += [loader.NULL, np.int32(0), np.int32(0)]
        else:
            args += [xp.ascontiguousarray(array), np.int32(array.size), np.int32(KINDS.index(array.dtype))]
    loader.kernel("status", "join")((-(-joined.size // 256),), (256,), (*args, joined))
    told = joined if isinstance(joined, np.ndarray) else joined.get()
    ends = itertools.accumulate(sizes)
    return [told[end - array.size : end].reshape(array.shape) for array, end in zip(arrays, ends, strict=True)]
