"""Long measurements in small units: each is written when it is done, so that a run that was killed goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from ksubspaces.demo import _default_cache
from ksubspaces.storage import write_whole

Item = TypeVar("Item")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


def cache_folder(*names: str) -> Path:
    """A folder of the user's cache, made where it is missing."""
    folder = _default_cache().joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run wrote at `path`; else what `make()` returns and how long it took, which is written there."""
    if path.exists():
        return json.loads(path.read_text())
    begin = time.perf_counter()
    made = make()
    made = {**made, "unit_seconds": time.perf_counter() - begin}
    write_whole(path, json.dumps(made, indent=1).encode())
    return made


def in_parallel(work: Callable[[Item], Any], items: Sequence[Item], processes: int) -> Iterator[tuple[Item, Any]]:
    """Each item and what `work` makes of it, in the order in which they end; one thread for each process.

    Several processes of one thread do more than one process of several: most of the work is many small operations.
    """
    kept = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the libraries as a process starts
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)
    try:
        futures = {pool.submit(work, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
