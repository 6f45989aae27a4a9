"""Float64 squared distances of rows to their own flats: cuBLAS products, one cluster after another."""

from __future__ import annotations

import numpy as np

from ..flats import Array, Flats
from . import loader
from .groups import group_by_label

BLOCK_BYTES = 256 << 20  # rows gathered in float64 at a time


def residuals(X: Array, labels: Array, flats: Flats) -> Array:
    xp, d = loader.namespace(X), X.shape[1]
    result = xp.empty(len(X), dtype=np.float64)
    order, on_device = group_by_label(labels, flats.k)
    starts = on_device.tolist()  # the host has to know how many rows each product has
    size = max(1, BLOCK_BYTES // (8 * d))
    for c in range(flats.k):
        V = None
        for start in range(starts[c], starts[c + 1], size):
            rows = order[start : min(start + size, starts[c + 1])]
            V = flats.basis(c).astype(np.float64) if V is None else V
            rest = X[rows].astype(np.float64)
            if flats.offsets is not None:
                rest -= flats.offsets[c]
            rest -= (rest @ V.T) @ V
            result[rows] = xp.einsum("ij,ij->i", rest, rest)
    return result
