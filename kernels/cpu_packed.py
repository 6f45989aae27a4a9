"""Rows of packed bits decoded on the CPU: coefficients and products by loops, in a thread for each core.

Rows of one group are decoded in blocks, so that basis vectors stay in cache. A row's products are added up in the order
of its terms, by the same instructions whatever the rows beside it, which no product of BLAS promises.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .cpu_grouped import group_rows
from .packed import PackedRows
from .products import count_threads, side_by_side

ROWS = 32  # of a block, in fours
COLUMNS = 384  # of a strip
FEW = 1 << 21  # multiplications for which no threads are begun


def decode(rows: np.ndarray, packed: PackedRows) -> np.ndarray:
    rows, d = np.ascontiguousarray(rows, dtype=np.int64), packed.bases.shape[1]
    out = np.empty((len(rows), d), dtype=np.float32)
    groups = group_rows(packed.groups[rows], len(packed.clusters) + 1)
    terms = packed.skips, packed.shifts, packed.masks, packed.tables, packed.scales, packed.directions, packed.blocks
    gains = np.ones((1, 1), np.float32) if packed.gains is None else packed.gains
    offsets, exact = (np.zeros((1, d), np.float32) if part is None else part for part in (packed.offsets, packed.exact))
    has = packed.gains is not None, packed.offsets is not None
    places = packed.codes, packed.starts, packed.bounds, packed.clusters
    arguments = *places, *terms, packed.levels, packed.bases, gains, offsets, exact, *has, out
    longest = int(np.diff(packed.bounds).max(initial=0))
    threads = 1 if len(rows) * d * longest <= FEW else count_threads()

    def work(thread: int) -> None:
        _decode_blocks(thread, threads, rows, groups.order, groups.starts, longest, *arguments)

    for _ in side_by_side(work, range(threads)):
        pass
    return out


@njit(cache=True, nogil=True, fastmath={"contract"})
def _decode_blocks(  # type: ignore[no-untyped-def]
    thread, threads, rows, order, group_starts, longest, codes, starts, bounds, clusters, skips, shifts, masks, tables,
    scales, directions, blocks, levels, bases, gains, offsets, exact, has_gains, has_offsets, out,
):  # fmt: skip
    """Every ``threads``-th block of rows, those of one group after another."""
    n_groups, block = clusters.size, -1
    Z = np.zeros((ROWS, longest + 3), np.float32)
    X = np.empty((ROWS, bases.shape[1]), np.float32)
    for g in range(n_groups + 1):
        for begin in range(group_starts[g], group_starts[g + 1], ROWS):
            block += 1
            if block % threads != thread:
                continue
            chosen = order[begin : min(begin + ROWS, group_starts[g + 1])]
            if g == n_groups:
                for i in chosen:
                    out[i] = exact[starts[rows[i]]]
                continue
            first, m = bounds[g], bounds[g + 1] - bounds[g]
            for r in range(chosen.size):
                row = rows[chosen[r]]
                for t in range(m):
                    e = first + t
                    bit = starts[row] + skips[e]
                    byte = bit >> 3
                    word = np.uint32(codes[byte]) | np.uint32(codes[byte + 1]) << np.uint32(8)
                    word |= np.uint32(codes[byte + 2]) << np.uint32(16)
                    window = (word >> np.uint32(bit & 7)) << np.uint32(shifts[e]) & np.uint32(masks[e])
                    z = scales[e] * levels[tables[e] + window]
                    Z[r, t] = z * gains[row, blocks[e]] if has_gains else z
                Z[r, m : m + 3] = 0
                if has_offsets:
                    X[r] = offsets[clusters[g]]
                else:
                    X[r] = 0
            _add_products(Z, m, directions[first : first + m], bases, chosen.size, X)
            for r in range(chosen.size):
                out[chosen[r]] = X[r]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_products(Z, m, directions, bases, n, X):  # type: ignore[no-untyped-def]
    """X += Z V for the vectors V = bases[directions], four rows and four terms at once."""
    d = bases.shape[1]
    for left in range(0, d, COLUMNS):
        width = min(COLUMNS, d - left)
        for r in range(0, n, 4):
            w, x = X[r, left : left + width], X[r + 1, left : left + width]
            y, z = X[r + 2, left : left + width], X[r + 3, left : left + width]
            for t in range(0, m, 4):
                last = m - 1  # past it Z is zero
                v0 = bases[directions[t], left : left + width]
                v1 = bases[directions[min(t + 1, last)], left : left + width]
                v2 = bases[directions[min(t + 2, last)], left : left + width]
                v3 = bases[directions[min(t + 3, last)], left : left + width]
                a0, a1, a2, a3 = Z[r, t], Z[r, t + 1], Z[r, t + 2], Z[r, t + 3]
                b0, b1, b2, b3 = Z[r + 1, t], Z[r + 1, t + 1], Z[r + 1, t + 2], Z[r + 1, t + 3]
                c0, c1, c2, c3 = Z[r + 2, t], Z[r + 2, t + 1], Z[r + 2, t + 2], Z[r + 2, t + 3]
                d0, d1, d2, d3 = Z[r + 3, t], Z[r + 3, t + 1], Z[r + 3, t + 2], Z[r + 3, t + 3]
                for c in range(width):
                    w[c] = w[c] + a0 * v0[c] + a1 * v1[c] + a2 * v2[c] + a3 * v3[c]
                    x[c] = x[c] + b0 * v0[c] + b1 * v1[c] + b2 * v2[c] + b3 * v3[c]
                    y[c] = y[c] + c0 * v0[c] + c1 * v1[c] + c2 * v2[c] + c3 * v3[c]
                    z[c] = z[c] + d0 * v0[c] + d1 * v1[c] + d2 * v2[c] + d3 * v3[c]
