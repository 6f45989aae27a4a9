"""Rows on more rows than memory: fits over the blocks of a Dask array beside those in memory, and peers of both."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ksubspaces import fit_subspaces

from ..lib import limited
from ..lib.compare import Row, cost_row, honest, not_above, ratio_row, timed
from ..lib.data import planted, random_partition
from ..lib.memory import in_a_process
from ..lib.peers import kspaces
from ..lib.sides import BLOCKS, POINT_STEPS, WORKERS
from .small import against_kmeans

NOISE = 0.1
SLOWER = 1.5
"""Times the seconds of the fit in memory that the one over blocks may take."""
MB = 1e6


@dataclass(frozen=True)
class Size:
    """Rows, columns, flats and their dimension; rows for points; and for kspaces, and its steps."""

    n: int = 1_000_000
    d: int = 64
    k: int = 64
    j: int = 8
    points: int = 250_000
    few: int = 20_000
    few_steps: int = 3
    gigabytes: float = 4
    file_k: int = 8
    file_j: int = 4

    def __str__(self) -> str:
        return f"planted n={self.n} d={self.d} k={self.k} j={self.j} noise {NOISE}"


WHOLE, QUICK = Size(), Size(30_000, 32, 8, 4, 20_000, 2000, 2, gigabytes=3)


def rows(*, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    size = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        X = planted(size.n, size.d, size.k, size.j, noise=NOISE).X
        np.save(file, X)
        memory, blocks = (side(name, file, size.k, size.j) for name in ("in-memory", "blocks"))
        yield against_memory(size, memory, blocks)
        yield peaks(size, memory, blocks)
        yield against_minibatch(size, file, blocks)
        np.save(file, X[: size.points])
        yield against_dask_ml(size, file)
    yield against_kspaces(size, X[: size.few])
    yield in_little_memory(size)
    yield against_kmeans("planted", X[: min(size.n, 100_000)], size.k, repeats=1 if quick else 3, max_iter=20)


def side(name: str, file: Path, k: int, j: int) -> dict:
    """One side in a process of its own."""
    return in_a_process("side", name, str(file), f"--k={k}", f"--j={j}")


def told_otherwise(found: dict) -> str:
    """Empty when the objective that a fit told is the one recomputed."""
    if np.isclose(found["reported"], found["objective"], rtol=1e-5):
        return ""
    return f"the fit reports {found['reported']:.8g}, recomputed it is {found['objective']:.8g}"


def against_memory(size: Size, memory: dict, blocks: dict) -> Row:
    """Blocks on two workers beside the default fit of the array in memory, on the same cores."""
    return cost_row(
        str(size),
        f"{BLOCKS} blocks on {WORKERS} Dask workers, against the array in memory; default arguments",
        [blocks["seconds"]],
        [memory["seconds"]],
        target=SLOWER,
        failed=not_above(blocks["objective"], memory["objective"]) or told_otherwise(blocks) or told_otherwise(memory),
        note=f"objective {blocks['objective']:.6g} and {memory['objective']:.6g}; "
        f"{blocks['steps']} and {memory['steps']} steps over all rows",
        raw={"blocks": blocks, "memory": memory},
    )


def peaks(size: Size, memory: dict, blocks: dict) -> Row:
    """Most memory of the same fits: of the client and of each worker."""
    client, *workers = (held / MB for held in (blocks["client_bytes"], *blocks["worker_bytes"]))
    table = blocks["x_bytes"] / MB
    shares = ", ".join(f"{own / table:.2f}" for own in workers)
    return Row(
        str(size),
        "peak memory beyond what was held before: client and workers; peer: the fit in memory, beyond the array",
        result=f"client {client / table:.2f} of the array, workers {shares}",
        ours=f"client {client:.0f} MB, workers {', '.join(f'{own:.0f}' for own in workers)} MB",
        peer=f"{memory['client_bytes'] / MB:.0f} MB",
        note=f"the array is {table:.0f} MB, a block {table / BLOCKS:.0f} MB; {blocks['how']}",
        raw={"blocks": blocks, "memory": memory},
    )


def against_minibatch(size: Size, file: Path, blocks: dict) -> Row:
    """Blocks beside scikit-learn's way with large data."""
    peer = side("minibatch", file, size.k, size.j)
    return ratio_row(
        str(size),
        f"{BLOCKS} blocks on {WORKERS} Dask workers, against MiniBatchKMeans and PCA of each cluster in memory",
        [blocks["seconds"]],
        [peer["seconds"]],
        failed=not_above(blocks["objective"], peer["objective"]),
        note=f"objective {blocks['objective']:.6g} and {peer['objective']:.6g}, which has offsets, too",
        raw={"blocks": blocks, "peer": peer},
    )


def against_dask_ml(size: Size, file: Path) -> Row:
    """Points over blocks: as many steps over all rows."""
    ours, peer = (side(name, file, size.k, 0) for name in ("points-over-blocks", "dask-ml"))
    return ratio_row(
        f"planted n={size.points} d={size.d}, points k={size.k}",
        f"k-means over {BLOCKS} blocks on {WORKERS} Dask workers, against dask-ml's KMeans",
        [ours["seconds"]],
        [peer["seconds"]],
        failed=not_above(ours["objective"], peer["objective"]) or told_otherwise(ours),
        note=f"objective {ours['objective']:.6g} and {peer['objective']:.6g}; {ours['steps']} and {peer['steps']} "
        f"steps, of {POINT_STEPS} at most",
        raw={"ours": ours, "peer": peer},
    )


def against_kspaces(size: Size, X: np.ndarray) -> Row:
    """kspaces on as many rows as it can do, from the same labels. Ours takes a step more: while labels move its refits
    are not exact, and after as many steps its objective is a little above."""
    labels = random_partition(len(X), size.k)
    how = {"affine": True, "tol": 0.0, "max_iter": size.few_steps + 1, "search": "starts"}
    fit_subspaces(X[: 20 * size.k], size.k, size.j, init=labels[: 20 * size.k], **how)
    seconds, fit = timed(lambda: fit_subspaces(X, size.k, size.j, init=labels, **how))
    peer = kspaces(X, size.k, size.j, labels, tol=0.0, max_iter=size.few_steps)
    return ratio_row(
        f"planted n={len(X)} d={size.d} k={size.k} j={size.j}, affine",
        f"{size.few_steps + 1} steps from the same labels, against {size.few_steps} of kspaces ('closest')",
        [seconds],
        [peer.seconds],
        failed=not_above(fit.objective, peer.objective) or honest(X, fit),
        note=f"objective {fit.objective:.6g} and {peer.objective:.6g}; kspaces works in memory alone",
    )


def in_little_memory(size: Size) -> Row:
    """A file that is fitted in a quarter of its bytes."""
    found = limited.measure(size.gigabytes, size.file_k, size.file_j)
    near = np.isclose(found["objective"], found["expected"], rtol=0.01)
    return Row(
        f"planted n={found['rows']} d={limited.COLUMNS} k={size.file_k} j={size.file_j} noise {limited.NOISE}, "
        f"a .npy file of {found['file_bytes'] / 2**30:.3g} GiB",
        f"fit in blocks, in a process held to {limited.SHARE:g} of the file's bytes (RLIMIT_DATA), libraries included",
        result=f"{found['resident_bytes'] / found['file_bytes']:.2f} of the file resident at most",
        ours=f"{found['seconds']:.0f} s, {found['resident_bytes'] / MB:.0f} MB",
        target=f"<= {limited.SHARE:g}",
        reached=found["resident_bytes"] <= limited.SHARE * found["file_bytes"],
        failed="" if near else f"the objective is {found['objective']:.6g}, what was planted {found['expected']:.6g}",
        note=f"{found['steps']} steps over {found['blocks']} blocks; {found['writing_seconds']:.0f} s to make the file",
        raw=found,
    )
