"""Products of matrices on the CPU, side by side on the threads that there are.

A product is made of ones so small that BLAS takes each on the thread that asks for it. Its own threads share one
product and wait for one another: where another program keeps a core busy they take several times as long, and their
number can show in the last bits. Here neither matters, and nobody's thread count is touched.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from threading import local
from typing import TypeVar

import numpy as np

from .flats import Array, namespace

SMALL = (1 << 19) - 1  # multiplications up to which BLAS shares no product among threads
ROWS = 32  # of A in a product V A^T
FEWEST = 8  # rows of a part of a product A B
LONG_ROW = 1 << 11  # columns from which V A^T is left to BLAS as a whole: its parts would be too small
TILE, TALL = 64, 120  # columns of a part of A^T A, and rows that it sums over
LARGE = 1 << 24  # multiplications that are worth a thread

Task = TypeVar("Task")
Result = TypeVar("Result")


def count_threads() -> int:
    """Threads that this process may use: its cores, or ``OMP_NUM_THREADS`` where that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) else cores


def side_by_side(
    work: Callable[[Task], Result], tasks: Iterable[Task], multiplications: float = LARGE
) -> Iterator[Result]:
    """The results of all tasks, in their order, of which few wait to be taken. Little work stays on this thread, and so
    does work within a task."""
    threads = 1 if getattr(_here, "works", False) or multiplications < LARGE else count_threads()
    if threads == 1:
        yield from map(work, tasks)
        return
    pool, waiting = _workers(threads, os.getpid()), deque[Future[Result]]()
    try:
        for task in tasks:
            waiting.append(pool.submit(work, task))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # after an error nothing goes on behind the caller's back
        for future in waiting:
            future.cancel()
        wait(waiting)


_here = local()


@lru_cache
def _workers(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay, one pool for a process: memory that a thread has freed is used again by that thread alone, so
    with new threads for each call it adds up. A process that was forked has none of its parent's threads."""
    return ThreadPoolExecutor(threads, "ksubspaces", initializer=lambda: setattr(_here, "works", True))


def multiply(V: np.ndarray, A: np.ndarray, out: np.ndarray) -> np.ndarray:
    """``V A^T`` of V (p, d) and A (m, d) into ``out`` (p, m)."""
    (p, d), m = V.shape, len(A)
    if not 0 < d < LONG_ROW or m == 0:
        return np.matmul(V, A.T, out=out)
    if m < ROWS:
        return project(V, A.T, out)
    height, whole = max(SMALL // (d * ROWS) & ~7, 8), m - m % ROWS
    # BLAS is fastest where neither factor is transposed.
    columns = np.ascontiguousarray(A[:whole].reshape(-1, ROWS, d).transpose(0, 2, 1))
    for first in range(0, p, height):
        rows = slice(first, first + height)
        parts = out[rows, :whole].reshape(-1, whole // ROWS, ROWS).transpose(1, 0, 2)
        np.matmul(V[rows], columns, out=parts)
        if whole < m:
            np.matmul(V[rows], A[whole:].T, out=out[rows, whole:])
    return out


def project(A: Array, B: Array, out: Array | None = None) -> Array:
    """``A B`` (m, p) of rows A (m, d) and few columns B (d, p), into ``out`` if given; on any device."""
    size = SMALL // B.size
    if not isinstance(A, np.ndarray) or size < FEWEST:
        return A @ B if out is None else namespace(A).matmul(A, B, out=out)
    out = np.empty((len(A), B.shape[1]), A.dtype) if out is None else out
    if B.shape[1] == 1:  # of a product with one vector BLAS shares far less
        out[:] = project(A, np.repeat(B, 2, axis=1))[:, :1]
        return out
    B = np.ascontiguousarray(B)
    for first in range(0, len(A), size):
        np.matmul(A[first : first + size], B, out=out[first : first + size])
    return out


def gram(A: np.ndarray) -> np.ndarray:
    """``A^T A`` (d, d) of A (m, d)."""
    m, d = A.shape
    product, whole = np.empty((d, d), A.dtype), m - m % TALL
    stack, rest = A[:whole].reshape(whole // TALL, TALL, d), A[whole:]
    for first in range(0, d, TILE):
        rows = slice(first, first + TILE)
        left = np.ascontiguousarray(stack[:, :, rows].transpose(0, 2, 1))
        for second in range(first, d, TILE):
            columns = slice(second, second + TILE)
            tile = np.matmul(left, stack[:, :, columns]).sum(axis=0)
            tile += rest[:, rows].T @ rest[:, columns]
            if first == second:
                tile = 0.5 * (tile + tile.T)  # BLAS sums the two halves of odd sizes in different orders
            product[rows, columns] = tile
            product[columns, rows] = tile.T
    return product


def measure_captured(S: np.ndarray, V: np.ndarray) -> np.ndarray:
    """What each row v of V (q, d) captures of S (d, d), symmetric: ``v S v^T``, (q,) float64, never negative."""
    scale = np.trace(S) or 1.0  # second moments of tame float32 rows can leave float32's range
    products = multiply(V, (S / scale).astype(V.dtype, copy=False), np.empty((len(V), len(S)), V.dtype))
    return (np.einsum("ij,ij->i", products, V).astype(np.float64) * scale).clip(0)
