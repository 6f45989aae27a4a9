"""Rows against the flats of their own groups, in float64: one kernel for flats of few dimensions, products by cuBLAS
of one group after another for flats of many."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..flats import Array, Flats
from ..groups import Groups
from . import loader
from .groups import cut
from .memory import or_null
from .moments import CHUNK

BLOCK_BYTES = 256 << 20  # rows gathered in float64 at a time
PART = 64  # rows of a block
COLUMNS = (2, 4, 8, 16, 32)  # of a lane
NARROW = 256  # columns up to which the kernel takes flats of any dimension ...
FEW = 32  # ... and beyond which, of so many dimensions on average


def _defines(dtype: Any, d: int) -> dict[str, Any]:
    each = next(each for each in COLUMNS if 32 * each >= d or each == COLUMNS[-1])
    return {"REAL": "float" if dtype == np.float32 else "double", "EACH": each, "CHUNK": CHUNK}


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("grouped", _defines(dtype, 32 * each)) for dtype in (np.float32, np.float64) for each in COLUMNS
]


def residuals(X: Array, groups: Groups, flats: Flats) -> Array:
    xp = loader.namespace(X)
    result, X = xp.zeros(len(X)), xp.ascontiguousarray(X)
    if _by_products(flats):
        _residuals_by_products(X, groups, flats, result)
    else:
        _project(X, groups, flats, result, None)
    return result


def coefficients(X: Array, groups: Groups, flats: Flats) -> Array:
    xp, layout, X = loader.namespace(X), flats.layout, loader.namespace(X).ascontiguousarray(X)
    # Where flats are of one dimension the host need not know how many rows each has.
    total = len(groups.order) * layout.width if layout.uniform else int(np.diff(groups.bounds) @ layout.dims)
    packed, end = xp.empty(total, X.dtype), 0
    if not _by_products(flats):
        _project(X, groups, flats, None, packed)
        return packed
    for c, rows in groups.blocks(max(1, BLOCK_BYTES // (8 * layout.d))):
        start, end = end, end + len(rows) * layout.dims[c]
        packed[start:end] = (_gathered(X, rows, flats, c) @ flats.basis(c).astype(np.float64).T).reshape(-1)
    return packed


def _by_products(flats: Flats) -> bool:
    """Whether products of matrices take less time than one row after another, or rows do not fit in registers."""
    d, total, k = flats.layout.d, flats.layout.total, flats.k
    return d > NARROW and (total > FEW * k or d > 32 * COLUMNS[-1])


def _project(X: Array, groups: Groups, flats: Flats, result: Array | None, packed: Array | None) -> None:
    xp, layout, d = loader.namespace(X), flats.layout, X.shape[1]
    slots = cut(groups, CHUNK)
    offsets = None if flats.offsets is None else xp.ascontiguousarray(flats.offsets, dtype=np.float64)
    bases = xp.ascontiguousarray(flats.bases, dtype=np.float64)
    places = None
    if packed is not None:
        sizes = groups.counts * xp.asarray(np.array(layout.dims))
        places = xp.cumsum(sizes) - sizes
    flat = bases, xp.asarray(layout.starts), or_null(offsets)
    results = or_null(result), or_null(places), or_null(packed)
    grid = (len(slots.owners) * -(-CHUNK // PART),)
    kernel = loader.kernel("grouped", "project", _defines(X.dtype, d))
    kernel(grid, (256,), (X, *flat, *slots.arguments, np.int32(d), *results))


def _residuals_by_products(X: Array, groups: Groups, flats: Flats, result: Array) -> None:
    bases = flats.layout.split(flats.bases.astype(np.float64, copy=False))
    for c, rows in groups.blocks(max(1, BLOCK_BYTES // (8 * X.shape[1]))):
        rest, V = _gathered(X, rows, flats, c), bases[c]
        _subtract_product(rest, rest @ V.T, V)
        shape = np.int64(len(rows)), np.int32(X.shape[1])
        squares = loader.kernel("grouped", "squares", _defines(X.dtype, X.shape[1]))
        squares((-(-len(rows) // 8),), (256,), (rest, rows, *shape, result))


def _gathered(X: Array, rows: Array, flats: Flats, c: int) -> Array:
    """Some rows less the offset of flat c, in float64."""
    xp, d = loader.namespace(X), X.shape[1]
    out = xp.empty((len(rows), d))
    mu = None if flats.offsets is None else xp.ascontiguousarray(flats.offsets[c], dtype=np.float64)
    shape = np.int64(len(rows)), np.int32(d)
    gather = loader.kernel("grouped", "gather", _defines(X.dtype, d))
    gather((-(-len(rows) // 8),), (256,), (X, rows, or_null(mu), *shape, out))
    return out


def _subtract_product(rest: Array, coefficients: Array, V: Array) -> None:
    """``rest -= coefficients @ V``, without memory for the product where the library can."""
    if isinstance(rest, np.ndarray):
        rest -= coefficients @ V
        return
    from cupy import cublas

    cublas.gemm("N", "N", coefficients, V, out=rest, alpha=-1.0, beta=1.0)
