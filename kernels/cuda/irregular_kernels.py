"""The kernels of ``irregular.py``, for Numba to compile."""

from __future__ import annotations

import math

import numpy as np

from .. import libraries
from .irregular import CHUNK, INFINITY, MASK, THREADS

cuda = libraries.numba_cuda()

# Functions that kernels call are inlined: Numba would compile them for whatever device it finds, and for it alone.


@cuda.jit(device=True, inline="always")
def _random(row, seed_low, seed_high):  # type: ignore[no-untyped-def]
    """Four random numbers of 32 bits: Philox 4x32 with 10 rounds (Salmon et al. 2011), ``row`` counting."""
    a, b, c, d = row & MASK, row >> 32, 0, 0
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c  # 64 bits each, whether or not the sign is among them
        a, b, c, d = (high >> 32 & MASK) ^ b ^ seed_low, high & MASK, (low >> 32 & MASK) ^ d ^ seed_high, low & MASK
        seed_low = seed_low + 0x9E3779B9 & MASK
        seed_high = seed_high + 0xBB67AE85 & MASK
    return a, b, c, d


def arrivals(weights, n, seed_low, seed_high, arrivals):  # type: ignore[no-untyped-def]
    first = cuda.blockIdx.x * CHUNK
    for row in range(first + cuda.threadIdx.x, min(first + CHUNK, n), THREADS):
        a, b, _, _ = _random(row, seed_low, seed_high)
        uniform = ((a << 20 | b >> 12) + 0.5) * 2.0**-52  # neither 0 nor 1
        weight = np.float64(weights[row])
        arrivals[row] = math.log(-math.log(uniform)) - math.log(weight) if weight > 0 else INFINITY


@cuda.jit(device=True, inline="always")
def _sum_of_block(parts):  # type: ignore[no-untyped-def]
    """Add up what the threads left in shared memory, into its first entry."""
    t = cuda.threadIdx.x
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if t < step:
            parts[t] += parts[t + step]
        step //= 2
    cuda.syncthreads()


def lower(distances, trials, weights, n, p, next_row, next_column, partial):  # type: ignore[no-untyped-def]
    parts = cuda.shared.array(THREADS, np.float64)
    first = cuda.blockIdx.x * CHUNK
    for column in range(p):
        total = 0.0
        for row in range(first + cuda.threadIdx.x, min(first + CHUNK, n), THREADS):
            lowered = min(trials[row * next_row + column * next_column], distances[row])
            trials[row * next_row + column * next_column] = lowered
            total += np.float64(weights[row]) * np.float64(lowered)
        parts[cuda.threadIdx.x] = total
        _sum_of_block(parts)
        if cuda.threadIdx.x == 0:
            partial[cuda.blockIdx.x * p + column] = parts[0]
        cuda.syncthreads()


def fold(partial, blocks, p, totals):  # type: ignore[no-untyped-def]
    parts = cuda.shared.array(THREADS, np.float64)
    total = 0.0
    for block in range(cuda.threadIdx.x, blocks, THREADS):
        total += partial[block * p + cuda.blockIdx.x]
    parts[cuda.threadIdx.x] = total
    _sum_of_block(parts)
    if cuda.threadIdx.x == 0:
        totals[cuda.blockIdx.x] = parts[0]


def count_changed(old, new, n, counts):  # type: ignore[no-untyped-def]
    parts = cuda.shared.array(THREADS, np.int64)
    first = cuda.blockIdx.x * CHUNK
    count = 0
    for row in range(first + cuda.threadIdx.x, min(first + CHUNK, n), THREADS):
        if old[row] != new[row]:
            count += 1
    parts[cuda.threadIdx.x] = count
    _sum_of_block(parts)
    if cuda.threadIdx.x == 0:
        counts[cuda.blockIdx.x] = parts[0]


def list_changed(old, new, n, ends, rows):  # type: ignore[no-untyped-def]
    """``ends``: changed rows up to and including each block."""
    places = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    first = cuda.blockIdx.x * CHUNK
    base = ends[cuda.blockIdx.x - 1] if cuda.blockIdx.x > 0 else 0
    for start in range(first, min(first + CHUNK, n), THREADS):
        row = start + t
        changed = row < n and old[row] != new[row]
        places[t] = 1 if changed else 0
        step = 1
        while step < THREADS:  # running totals, over twice as many threads each time
            cuda.syncthreads()
            before = places[t - step] if t >= step else 0
            cuda.syncthreads()
            places[t] += before
            step *= 2
        if changed:
            rows[base + places[t] - 1] = row
        cuda.syncthreads()
        base += places[THREADS - 1]
        cuda.syncthreads()


@cuda.jit(device=True, inline="always")
def _least_of_block(keys, rows):  # type: ignore[no-untyped-def]
    """Bring the least (key, row) that the threads left in shared memory into its first entry; row -1 is none."""
    t = cuda.threadIdx.x
    step = THREADS // 2
    while step > 0:
        cuda.syncthreads()
        if t < step and rows[t + step] >= 0:
            less = keys[t + step] < keys[t] or (keys[t + step] == keys[t] and rows[t + step] < rows[t])
            if rows[t] < 0 or less:
                keys[t] = keys[t + step]
                rows[t] = rows[t + step]
        step //= 2
    cuda.syncthreads()


def least_of_blocks(keys, n, found, found_rows, turn, block_keys, block_rows):  # type: ignore[no-untyped-def]
    """Each block's least (key, row) beyond the one that was found in the turn before."""
    least = cuda.shared.array(THREADS, np.float64)
    where = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    first = cuda.blockIdx.x * CHUNK
    last = found[turn - 1] if turn > 0 else -INFINITY
    last_row = found_rows[turn - 1] if turn > 0 else -1
    least[t] = INFINITY
    where[t] = -1
    for row in range(first + t, min(first + CHUNK, n), THREADS):
        key = keys[row]
        if key < least[t] and (key > last or (key == last and row > last_row)):
            least[t] = key
            where[t] = row
    _least_of_block(least, where)
    if t == 0:
        block_keys[cuda.blockIdx.x] = least[0]
        block_rows[cuda.blockIdx.x] = where[0]


def least_of_all(block_keys, block_rows, blocks, turn, found, found_rows):  # type: ignore[no-untyped-def]
    least = cuda.shared.array(THREADS, np.float64)
    where = cuda.shared.array(THREADS, np.int64)
    t = cuda.threadIdx.x
    least[t] = INFINITY
    where[t] = -1
    for block in range(t, blocks, THREADS):
        if block_keys[block] < least[t]:  # of equal keys the first stays, and blocks are in order of their rows
            least[t] = block_keys[block]
            where[t] = block_rows[block]
    _least_of_block(least, where)
    if t == 0:
        found[turn] = least[0]
        found_rows[turn] = where[0]
