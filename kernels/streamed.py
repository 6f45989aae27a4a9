"""The operations on :class:`ksubspaces.kernels.Streamed` rows.

Each is done on one block after another and put together in the order of the rows, so that a result depends on the rows
alone. Labels, residuals and flats live on the device as always.
"""

from __future__ import annotations

import numpy as np

from ksubspaces import kernels

from .flats import Array, Flats
from .moments import Moments, combined
from .rows import Streamed


def assign(
    X: Streamed, flats: Flats, penalty: Array | None = None, weights: Array | None = None, *, residuals: bool = True
) -> tuple[Array, Array | None]:
    labels = X.xp.empty(len(X), dtype=np.int32)
    nearest = X.xp.empty(len(X), dtype=X.dtype) if residuals else None
    for span, block in X.blocks():
        part = None if weights is None else weights[span]
        labels[span], found = kernels.assign(block, flats, penalty, part, residuals=residuals)
        if nearest is not None:
            nearest[span] = found
    return labels, nearest


def sqdistances(X: Streamed, flats: Flats) -> Array:
    distances = X.xp.empty((len(X), flats.k), dtype=X.dtype)
    for span, block in X.blocks():
        distances[span] = kernels.sqdistances(block, flats)
    return distances


def residuals(X: Streamed, labels: Array, flats: Flats) -> Array:
    result = X.xp.empty(len(X), dtype=np.float64)
    for span, block in X.blocks():
        result[span] = kernels.residuals(block, labels[span], flats)
    return result


def second_moments(
    X: Streamed,
    labels: Array,
    k: int,
    weights: Array | None = None,
    center: bool = False,
    products: bool = True,
    rows: Array | None = None,
) -> Moments:
    if weights is not None and rows is not None:
        weights = weights[rows]
    total = combined(
        kernels.second_moments(block, labels[span], k, None if weights is None else weights[span], center, products)
        for span, block in (X.blocks() if rows is None else X.gathered(rows))
    )
    if total is None:  # no rows
        return kernels.second_moments(X[labels.astype(np.int64)], labels, k, weights, center, products)
    return total


def update_moments(
    moments: Moments, X: Streamed, rows: Array, old: Array, new: Array, weights: Array | None = None
) -> None:
    for span, block in X.gathered(rows):
        part = None if weights is None else weights[rows[span]]
        numbers = X.xp.arange(len(block))
        kernels.update_moments(moments, block, numbers, old[span], new[span], part)
