"""A fit of a large file in little memory: `python -m bench limited --gigabytes 4 --k 8 --j 4`.

Prints one JSON object. A generator writes planted rows to a file, block after block. A process that may have a quarter
of that in data (RLIMIT_DATA: the heap and what is mapped to be written, libraries included) fits them.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from .compare import timed
from .memory import high_water, in_a_process

COLUMNS, NOISE = 64, 0.1
BLOCK_ROWS = 1 << 18
SHARE = 0.25
"""Of the file's bytes, that the process may have."""


def measure(gigabytes: float, k: int, j: int) -> dict:
    """Write the file, fit it in a process of little memory, remove it."""
    free = shutil.disk_usage(tempfile.gettempdir()).free
    size = int(gigabytes * 2**30)
    if free < 2 * size:
        raise RuntimeError(
            f"the file takes {gigabytes} GiB in {tempfile.gettempdir()}, where {free / 2**30:.1f} are free"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        seconds, _ = timed(lambda: write(file, size // (4 * COLUMNS), k, j))
        limit = int(SHARE * size)
        found = in_a_process("limited", f"--file={file}", f"--limit={limit}", f"--k={k}", f"--j={j}")
    return {**found, "file_bytes": size, "limit_bytes": limit, "writing_seconds": seconds}


def write(file: Path, n: int, k: int, j: int) -> None:
    """Planted rows, a block at a time."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((COLUMNS, j)))[0].T.astype(np.float32) for _ in range(k)]
    with file.open("wb") as out:
        header = {"shape": (n, COLUMNS), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(out, header)
        for size in _sizes(n):
            block = rng.standard_normal((size, COLUMNS), dtype=np.float32)
            block *= NOISE
            for c, rows in enumerate(np.array_split(block, k)):
                rows += rng.standard_normal((len(rows), j), dtype=np.float32) @ bases[c]
            block.tofile(out)


def _sizes(n: int) -> Iterator[int]:
    yield from (min(BLOCK_ROWS, n - first) for first in range(0, n, BLOCK_ROWS))


def main(arguments: Sequence[str]) -> None:
    """Write and fit; or, with a file and a limit, fit in this process."""
    parser = argparse.ArgumentParser(prog="python -m bench limited", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--j", type=int, default=4)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.file is None:
        print(json.dumps(measure(options.gigabytes, options.k, options.j)))
        return
    resource.setrlimit(resource.RLIMIT_DATA, (options.limit, options.limit))
    print(json.dumps(_fit(options.file, options.k, options.j, options.limit)))


def _fit(file: Path, k: int, j: int, limit: int) -> dict:
    from ksubspaces import fit_subspaces
    from ksubspaces.row_files import open_rows

    try:
        np.ones(limit // 8)
    except MemoryError:
        pass
    else:
        raise RuntimeError(f"{sys.platform} does not hold a process to RLIMIT_DATA")
    X = open_rows(str(file))
    seconds, model = timed(lambda: fit_subspaces(X, k, j, seed=0))
    return {
        "seconds": seconds,
        "objective": model.objective,
        "expected": NOISE**2 * X.shape[0] * (COLUMNS - j),
        "steps": model.n_iter,
        "rows": X.shape[0],
        "blocks": X.numblocks[0],
        "resident_bytes": high_water(),
    }
