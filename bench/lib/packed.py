"""Rows of random bits, laid out as a budget of some two bits a number lays out a table."""

from __future__ import annotations

import numpy as np

from ksubspaces.kernels.packed import PADDING, PackedRows

WIDTH = 10  # of a window
MOST = 3  # bits of a term


def random_packed_rows(n: int, d: int, k: int = 6, tiers: int = 6, seed: int = 0) -> PackedRows:
    """n rows of k clusters with ``tiers`` layouts each: from a third of the d directions on, up to all of them."""
    rng = np.random.default_rng(seed)
    ends, terms = [], []
    for c in range(k):
        for r in range(tiers):
            m = d // 3 + (d - d // 3) * r // max(1, tiers - 1)
            ends.append(np.sort(rng.integers(1, MOST + 1, m))[::-1].cumsum())
            terms.append(c * d + np.arange(m))
    groups = rng.integers(0, len(ends), n).astype(np.int32)
    sizes = np.array([own[-1] for own in ends], np.int64)[groups]
    end, directions = np.concatenate(ends), np.concatenate(terms)
    return PackedRows(
        codes=np.append(rng.integers(0, 256, -(-int(sizes.sum()) // 8), np.uint8), np.zeros(PADDING, np.uint8)),
        groups=groups,
        starts=np.cumsum(sizes) - sizes,
        bounds=np.cumsum([0, *map(len, ends)]),
        clusters=np.repeat(np.arange(k, dtype=np.int32), tiers),
        skips=np.maximum(end - WIDTH, 0).astype(np.int32),
        shifts=np.maximum(WIDTH - end, 0).astype(np.int32),
        masks=np.full(len(end), (1 << WIDTH) - 1, np.int32),
        tables=((1 << WIDTH) * rng.integers(0, MOST, len(end))).astype(np.int32),
        scales=rng.random(len(end), np.float32),
        directions=directions.astype(np.int32),
        blocks=np.zeros(len(end), np.int32),
        levels=rng.standard_normal(MOST << WIDTH, np.float32),
        bases=rng.standard_normal((k * d, d), np.float32) / np.float32(np.sqrt(d)),
    )
