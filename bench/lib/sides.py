"""One side of a comparison of the suite `scale`, in a process of its own: `python -m bench side NAME FILE --k 64 ...`.

Prints one JSON object: seconds of the fit, the objective recomputed from its flats and labels, steps, and peak memory
beyond what was held before, of this process and of each worker. The rows are in a `.npy` file. A side that works in
memory has loaded it before its clock runs; one that works in blocks reads them in each pass.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ksubspaces import fit_subspaces

from .compare import timed
from .memory import high_water, peak_extra_bytes, reset_high_water
from .peers import Flats, exact_objective, minibatch_pca

WORKERS, BLOCKS = 2, 16
WARM_UP_ROWS = 20_000
POINT_STEPS = 10


def in_memory(file: Path, k: int, j: int) -> Callable[[], Flats]:
    """The default fit of an array in memory."""
    X = np.load(file)
    fit_subspaces(X[:WARM_UP_ROWS], k, j, seed=0, max_iter=2)
    return lambda: Flats.of(fit_subspaces(X, k, j, seed=0))


def over_blocks(file: Path, k: int, j: int) -> Callable[[], Flats]:
    """The default fit of a Dask array."""
    X = in_blocks(file)
    return lambda: Flats.of(fit_subspaces(X, k, j, seed=0))


def points_over_blocks(file: Path, k: int, j: int) -> Callable[[], Flats]:
    """Points, in as many steps over all rows as dask-ml takes."""
    X = in_blocks(file)
    return lambda: Flats.of(fit_subspaces(X, k, j, affine=True, max_iter=POINT_STEPS, tol=0, seed=0))


def dask_ml(file: Path, k: int, j: int) -> Callable[[], Flats]:
    """dask-ml's KMeans: k-means|| and Lloyd's steps over the same blocks, on the same workers."""
    from dask_ml.cluster import KMeans

    X = in_blocks(file)

    def fit() -> Flats:
        model = KMeans(k, max_iter=POINT_STEPS, tol=0, random_state=0).fit(X)
        return Flats([np.empty((j, X.shape[1]))] * k, model.cluster_centers_, model.labels_, int(model.n_iter_))

    return fit


def minibatch(file: Path, k: int, j: int) -> Callable[[], Flats]:
    """scikit-learn's MiniBatchKMeans, then its PCA of each cluster."""
    X = np.load(file)
    return lambda: minibatch_pca(X, k, j)


SIDES = {
    "in-memory": (in_memory, False),
    "blocks": (over_blocks, True),
    "minibatch": (minibatch, False),
    "points-over-blocks": (points_over_blocks, True),
    "dask-ml": (dask_ml, True),
}
"""What prepares each side and gives its fit, and whether it has workers."""


def in_blocks(file: Path) -> Any:
    """The rows as a Dask array, each block of which is read where it is worked on."""
    import dask
    import dask.array as da

    n, d = np.load(file, mmap_mode="r").shape
    bounds = np.linspace(0, n, BLOCKS + 1).astype(int).tolist()
    read = dask.delayed(_read)
    spans = itertools.pairwise(bounds)
    return da.concatenate([da.from_delayed(read(file, a, b), (b - a, d), np.float32) for a, b in spans])


def _read(file: Path, first: int, end: int) -> np.ndarray:
    return np.array(np.load(file, mmap_mode="r")[first:end])


@contextmanager
def two_workers(peaks: list[int]) -> Iterator[None]:
    """A cluster of two processes of one thread each; their peaks beyond what they held before go into the list."""
    import dask.array as da
    from distributed import Client, LocalCluster

    cluster = LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        for affine in (False, True):  # loads and compiles
            warm = da.random.default_rng(0).normal(size=(WARM_UP_ROWS, 16), chunks=(WARM_UP_ROWS // BLOCKS, -1))
            fit_subspaces(warm.astype(np.float32), 4, 0 if affine else 2, affine=affine, seed=0, max_iter=2)
        before = client.run(reset_high_water)
        yield
        after = client.run(high_water)
        peaks.extend(after[worker] - before[worker] for worker in before)


def measure(side: str, file: Path, k: int, j: int) -> dict:
    """Seconds, objective and memory of one side."""
    prepare, has_workers = SIDES[side]
    workers: list[int] = []
    made: list[tuple[float, Flats]] = []
    with two_workers(workers) if has_workers else nullcontext():
        fit = prepare(file, k, j)
        extra, how = peak_extra_bytes(lambda: made.append(timed(fit)))
        ((seconds, found),) = made
        labels = np.asarray(found.labels)
    X = np.load(file, mmap_mode="r")
    return {
        "seconds": seconds,
        "objective": exact_objective(X, found.bases, labels, found.offsets),
        "reported": found.objective,
        "steps": found.steps,
        "client_bytes": extra,
        "worker_bytes": workers,
        "x_bytes": X.nbytes,
        "how": how,
    }


def main(arguments: Sequence[str]) -> None:
    """Measure one side."""
    parser = argparse.ArgumentParser(prog="python -m bench side", description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("file", type=Path)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--j", type=int, required=True)
    print(json.dumps(measure(**vars(parser.parse_args(arguments)))))
