"""Rows against the flats of their own groups, in float64: one kernel for flats of few dimensions, products by cuBLAS
of one group after another for flats of many."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from ..flats import Array, Flats
from ..groups import Groups
from . import loader
from .groups import CHUNK, cut
from .memory import or_null

BLOCK_BYTES = 256 << 20  # rows gathered in float64 at a time
PART = 64  # rows of a block
COLUMNS = (2, 4, 8, 16, 32)  # of a lane
NARROW = 256  # columns up to which the kernel takes flats of any dimension ...
FEW = 32  # ... and beyond which, of so many dimensions on average


def _defines(dtype: DTypeLike, d: int) -> loader.Defines:
    each = next(each for each in COLUMNS if 32 * each >= d or each == COLUMNS[-1])
    return {"REAL": "float" if dtype == np.float32 else "double", "EACH": each, "CHUNK": CHUNK}


VARIANTS: list[loader.Variant] = [
    ("grouped", _defines(dtype, 32 * each)) for dtype in (np.float32, np.float64) for each in COLUMNS
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    return [("grouped", _defines(dtype, d))]


def residuals(X: Array, groups: Groups, flats: Flats) -> Array:
    return _against_flats(X, groups, flats, False, True)[1]


def coefficients(X: Array, groups: Groups, flats: Flats, residuals: bool = False) -> tuple[Array, Array | None]:
    packed, left = _against_flats(X, groups, flats, True, residuals)
    return packed, left if residuals else None


def _against_flats(X: Array, groups: Groups, flats: Flats, wanted: bool, residuals: bool) -> tuple[Array, Array]:
    """Coefficients and residuals, each if wanted."""
    xp, layout = loader.namespace(X), flats.layout
    X, total = xp.ascontiguousarray(X), 0
    if wanted:  # where flats are of one dimension, the host need not know how many rows each has
        total = len(groups.order) * layout.width if layout.uniform else int(np.diff(groups.bounds) @ layout.dims)
    packed, left = xp.empty(total, X.dtype), xp.zeros(len(X) if residuals else 0)
    work = _by_library if _by_products(flats) else _by_kernel
    work(X, groups, flats, packed if wanted else None, left if residuals else None)
    return packed, left


def _by_products(flats: Flats) -> bool:
    """Whether products of matrices take less time than one row after another, or rows do not fit in registers."""
    d, total, k = flats.layout.d, flats.layout.total, flats.k
    return d > NARROW and (total > FEW * k or d > 32 * COLUMNS[-1])


def _by_kernel(X: Array, groups: Groups, flats: Flats, packed: Array | None, left: Array | None) -> None:
    xp, layout, d = loader.namespace(X), flats.layout, X.shape[1]
    slots = cut(groups, CHUNK)
    offsets = None if flats.offsets is None else xp.ascontiguousarray(flats.offsets, dtype=np.float64)
    bases = xp.ascontiguousarray(flats.bases, dtype=np.float64)
    places = None
    if packed is not None:
        sizes = groups.counts * xp.asarray(np.array(layout.dims))
        places = xp.cumsum(sizes) - sizes
    flat = bases, xp.asarray(layout.starts), or_null(offsets)
    results = or_null(left), or_null(places), or_null(packed)
    grid = (len(slots.owners) * -(-CHUNK // PART),)
    kernel = loader.kernel("grouped", "project", _defines(X.dtype, d))
    kernel(grid, (256,), (X, *flat, *slots.arguments, np.int32(d), *results))


def _by_library(X: Array, groups: Groups, flats: Flats, packed: Array | None, left: Array | None) -> None:
    bases, end = flats.layout.split(flats.bases.astype(np.float64, copy=False)), 0
    squares = loader.kernel("grouped", "squares", _defines(X.dtype, X.shape[1]))
    for c, rows in groups.blocks(max(1, BLOCK_BYTES // (8 * X.shape[1]))):
        rest, V = _gathered(X, rows, flats, c), bases[c]
        part = rest @ V.T
        if packed is not None:
            start, end = end, end + part.size
            packed[start:end] = part.reshape(-1)
        if left is not None:
            _subtract_product(rest, part, V)
            shape = np.int64(len(rows)), np.int32(X.shape[1])
            squares((-(-len(rows) // 8),), (256,), (rest, rows, *shape, left))


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
