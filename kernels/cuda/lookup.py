"""Decodes rows of a factorization on a GPU: few rows one by one, many rows cluster by cluster."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..factors import Factors
from ..flats import Array
from . import loader
from .groups import cut, group_rows
from .memory import address, or_null

CHUNK = 64  # rows of a tile
DEPTH = 16
STAGES = 3
DIRECT_BYTES = 64 << 20  # of bases read by rows decoded one by one; beyond it, grouping them costs less

# NumPy has no bfloat16: such numbers come as their 16 bits, or with the dtype of ml_dtypes.
STORED = {"float32": "float", "float64": "double", "float16": "Half", "uint16": "BFloat16", "bfloat16": "BFloat16"}


def _defines(stored: str, width: int) -> loader.Defines:
    return {"STORED": stored, "CHUNK": CHUNK, "WIDTH": width, "DEPTH": DEPTH, "STAGES": STAGES}


VARIANTS: list[loader.Variant] = [
    ("lookup", _defines(stored, width))
    for stored in ("float", "double", "Half", "BFloat16")
    for width in ((64,) if stored == "double" else (64, 128))
]


class _Tables(NamedTuple):
    """Where the factors of each cluster are; ``kept`` keeps them there."""

    blocks: Array
    bases: Array
    dims: Array
    offsets: Array | None
    kept: list[Array]


def lookup(rows: Array, factorization: Factors) -> Array:
    bases = factorization.bases
    xp, d, dtype = loader.namespace(bases[0]), bases[0].shape[1], bases[0].dtype
    if dtype.name not in STORED:
        raise TypeError(f"factors can be {', '.join(STORED)}, not {dtype.name}; convert them")
    tables = _tables(factorization)
    rows = xp.ascontiguousarray(rows, dtype=np.int64)
    out = xp.empty((len(rows), d), dtype=dtype)
    read = len(rows) * sum(len(V) for V in bases) / len(bases) * d * dtype.itemsize
    decode = _decode_directly if read <= DIRECT_BYTES else _decode_grouped
    decode(rows, factorization.labels, factorization.positions, tables, out)
    return out


def _tables(factorization: Factors) -> _Tables:
    """Tables of a factorization, made once: its arrays do not change."""
    if "tables" in factorization.kept:
        return factorization.kept["tables"]
    xp, dtype = loader.namespace(factorization.bases[0]), factorization.bases[0].dtype
    arrays = [xp.ascontiguousarray(part) for part in (*factorization.blocks, *factorization.bases)]
    if any(array.dtype != dtype for array in arrays):
        raise TypeError(f"coefficients and bases must have one dtype, here {dtype}; convert the others to it")
    offsets = factorization.offsets
    k = len(factorization.bases)
    addresses = xp.asarray(np.array([address(array) for array in arrays], dtype=np.uint64))
    tables = _Tables(
        blocks=addresses[:k],
        bases=addresses[k:],
        dims=xp.asarray(np.array([len(V) for V in factorization.bases], dtype=np.int32)),
        offsets=None if offsets is None else xp.ascontiguousarray(offsets, dtype=dtype),
        kept=arrays,
    )
    factorization.kept["tables"] = tables
    return tables


def _decode_directly(rows: Array, labels: Array, positions: Array, tables: _Tables, out: Array) -> None:
    d = out.shape[1]
    decode = loader.kernel("lookup", "decode_directly", _defines(STORED[out.dtype.name], 64))
    factors = (tables.blocks, tables.bases, tables.dims, or_null(tables.offsets))
    grid = (-(-len(rows) * -(-d // 128) // 4),)
    decode(grid, (128,), (rows, np.int64(len(rows)), labels, positions, *factors, np.int32(d), out))


def _decode_grouped(rows: Array, labels: Array, positions: Array, tables: _Tables, out: Array) -> None:
    d = out.shape[1]
    width = 128 if d > 64 and out.dtype != np.float64 else 64
    slots = cut(group_rows(labels[rows], len(tables.dims), chunk=CHUNK), CHUNK)
    decode = loader.kernel("lookup", "decode_grouped", _defines(STORED[out.dtype.name], width))
    factors = (tables.blocks, tables.bases, tables.dims, or_null(tables.offsets))
    decode(
        (len(slots.owners) * -(-d // width),),
        (2 * width if out.dtype != np.float64 else 128,),
        (rows, positions, *factors, *slots.arguments, np.int32(d), out),
        shared_mem=_shared_memory(width, out.dtype.itemsize),
    )


def _shared_memory(width: int, itemsize: int) -> int:
    """Stages of coefficients and of basis vectors, padded."""
    return STAGES * (CHUNK * (DEPTH * itemsize + 16) + DEPTH * (width + 8) * itemsize)
