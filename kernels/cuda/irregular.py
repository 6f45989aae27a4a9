"""Small and irregular work on a GPU, by Numba kernels: sampling, the distances of seeding, lists of rows.

Every sum and every choice is made in an order that the shapes alone decide, and random numbers depend on the seed and
the row alone, so equal input gives equal bits. Kernels get pointers to contiguous arrays, and the lengths beside them.

The kernels stand in ``irregular_kernels.py``, which imports Numba's CUDA target: that takes a second, and is done where
they are compiled and not where they were before.
"""

from __future__ import annotations

import math

import numpy as np

from ..flats import Array
from . import loader

THREADS = 128
CHUNK = 32 * THREADS  # rows of a block
PASSES = 16  # the smallest entries are looked for one after another up to this many, by sorting beyond
MASK = 0xFFFFFFFF
INFINITY = math.inf


def sample_rows(weights: Array, m: int, rng: np.random.Generator) -> Array:
    """Up to m distinct rows, int64, one after another with probability proportional to the weights that are left.

    An exponential race: row i arrives at time Exp(1) / w_i, and the first to arrive are such a draw.
    """
    seed = int(rng.integers(2**63 - 1))
    return smallest(_race(weights, seed & MASK, seed >> 32), m)


def lower_distances(distances: Array, trials: Array, weights: Array) -> Array:
    """Lower trials (n, p) to at most distances (n,), in place, and return their weighted sums (p,), float64."""
    xp, (n, p), blocks = loader.namespace(trials), trials.shape, _blocks(trials)
    distances, weights = xp.ascontiguousarray(distances), xp.ascontiguousarray(weights)
    by_columns = trials.flags.f_contiguous
    lying = trials.T if by_columns else xp.ascontiguousarray(trials)
    strides = (1, n) if by_columns else (p, 1)
    partial, totals = xp.empty(blocks * p), xp.zeros(p)
    shape = [np.int64(number) for number in (n, p, *strides)]
    _launch("lower", blocks, distances, lying.reshape(-1), weights, *shape, partial)
    _launch("fold", p if n else 0, partial, np.int64(blocks), np.int64(p), totals)
    if not (by_columns or trials.flags.c_contiguous):
        trials[...] = lying
    return totals


def changed_rows(old: Array, new: Array) -> Array:
    """Rows whose label differs, ascending, int64. The host waits to learn how many they are."""
    xp, blocks = loader.namespace(old), _blocks(old)
    labels = xp.ascontiguousarray(old), xp.ascontiguousarray(new), np.int64(len(old))
    counts = xp.zeros(blocks, np.int64)
    _launch("count_changed", blocks, *labels, counts)
    ends = xp.cumsum(counts)
    rows = xp.empty(int(ends[-1]) if blocks else 0, np.int64)
    _launch("list_changed", blocks if len(rows) else 0, *labels, ends, rows)
    return rows


def largest(costs: Array, m: int) -> Array:
    """Rows of the m largest positive costs, largest first, lower rows first where they are equal, int64."""
    costs = costs.astype(np.float64)
    return smallest(loader.namespace(costs).where(costs > 0, -costs, INFINITY), m)


def smallest(keys: Array, m: int) -> Array:
    """Rows of the m smallest keys, smallest first, lower rows first where they are equal; infinite keys never.

    The host waits to learn how many they are.
    """
    xp, n, blocks = loader.namespace(keys), len(keys), _blocks(keys)
    m = min(m, n)
    if m > PASSES:
        rows = xp.argsort(keys, kind="stable")[:m]
        return rows[: int((keys[rows] < INFINITY).sum())]
    found, rows = xp.empty(m), xp.empty(m, np.int64)
    block_keys, block_rows = xp.empty(blocks), xp.empty(blocks, np.int64)
    for turn in range(m):
        _launch("least_of_blocks", blocks, keys, np.int64(n), found, rows, np.int64(turn), block_keys, block_rows)
        _launch("least_of_all", 1, block_keys, block_rows, np.int64(blocks), np.int64(turn), found, rows)
    return rows[: int((rows >= 0).sum())]


def _race(weights: Array, seed_low: int, seed_high: int) -> Array:
    """Logarithms of the times at which rows arrive."""
    xp, n = loader.namespace(weights), len(weights)
    arrivals = xp.empty(n)
    seeds = np.int64(seed_low), np.int64(seed_high)
    _launch("arrivals", _blocks(weights), xp.ascontiguousarray(weights), np.int64(n), *seeds, arrivals)
    return arrivals


def _blocks(rows: Array) -> int:
    return -(-len(rows) // CHUNK)


def _launch(kernel: str, blocks: int, *args: loader.Argument) -> None:
    loader.numba_kernel("irregular", kernel)((blocks,), (THREADS,), args)
