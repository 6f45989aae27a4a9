"""Rows of packed bits decoded on a GPU, in one launch and without a wait.

What it costs, for 8,192 rows of a table of d = 384 at 2 bits, some 300 terms a row. Each row by itself would read its
300 basis vectors, 0.46 MB, and all of them 3.8 GB, 0.7 ms of an H100's L2. Rows of one group share their vectors: in
tiles of 64 rows this is 60 MB, still of L2, 11 us. The bits are 0.8 MB, what comes out 13 MB. The products, 1.9 GFLOP,
take 19 us on tensor cores, three products of TF32 each for the accuracy of float32, and 50 us without. So rows are
grouped. A block does that for itself: it counts the groups of all rows asked for, which takes microseconds; the three
launches of a sort would take as long as the products. These are estimates, not yet measured on a card.

A row's products are added up in the order of its terms, whatever the rows beside it: rows that are decoded by
themselves are those of the whole, bit for bit.
"""

from __future__ import annotations

import numpy as np

from ..flats import Array
from ..packed import PackedRows
from . import loader
from .memory import address, or_null

CHUNK = 64  # rows of a tile
DEPTH = 16
STAGES = 3
BATCH = 8192  # rows of a launch; each of its blocks looks through all of them


def _defines(width: int) -> loader.Defines:
    return {"CHUNK": CHUNK, "WIDTH": width, "DEPTH": DEPTH, "STAGES": STAGES}


VARIANTS: list[loader.Variant] = [("packed", _defines(width)) for width in (64, 128)]


def decode(rows: Array, packed: PackedRows) -> Array:
    xp, d, n_groups = loader.namespace(packed.codes), packed.bases.shape[1], len(packed.clusters)
    width = 128 if d > 64 else 64
    rows = xp.ascontiguousarray(rows, dtype=np.int64)
    out = xp.empty((len(rows), d), dtype=np.float32)
    decode_rows = loader.kernel("packed", "decode_packed", _defines(width))
    # The kernel reads bytes in twos.
    codes = packed.codes if address(packed.codes) % 2 == 0 else packed.codes.copy()
    terms = packed.skips, packed.shifts, packed.masks, packed.tables, packed.scales, packed.directions, packed.blocks
    optional = (or_null(part) for part in (packed.gains, packed.offsets, packed.exact))
    columns = 0 if packed.gains is None else packed.gains.shape[1]
    shape = np.int32(n_groups), np.int32(columns), np.int32(d)
    arguments = codes, packed.groups, packed.starts, packed.bounds, packed.clusters, *terms, packed.levels, packed.bases
    arguments = (*arguments, *optional, *shape)
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        b = len(part)
        most = min(b, n_groups + 1)  # kinds of rows among them, hence tiles that may be short of rows
        grid = (((b - most) // CHUNK + most) * -(-d // width),)
        decode_rows(
            grid,
            (2 * width,),
            (part, np.int32(b), *arguments, out[first : first + b]),
            shared_mem=_shared_memory(width, b, n_groups),
        )
    return out


def _shared_memory(width: int, n_rows: int, n_groups: int) -> int:
    """Bytes for stages of coefficients and basis vectors, or, before these, for groups of rows and their counts.

    Raises
    ------
    ValueError
        When there are more groups than fit.
    """
    search = 4 * (n_groups + 1) + 2 * n_rows
    if search > (limit := loader.limits().shared_memory) or n_groups >= 1 << 16:
        raise ValueError(f"this device decodes rows of up to {(limit - 2 * n_rows) // 4} groups, not {n_groups}")
    return max(search, 4 * STAGES * (CHUNK * (DEPTH + 4) + DEPTH * (width + 8)))
