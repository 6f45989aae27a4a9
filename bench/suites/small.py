"""Rows on planted subspaces and digits: recovery, k-means, kspaces, and the memory of a large fit."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from ksubspaces import fit_subspaces

from ..lib.compare import Row, honest, not_above, ratio_row, spread, timed
from ..lib.data import digits, planted, random_partition
from ..lib.memory import measure
from ..lib.peers import authors, kmeans, kspaces

SHAPES = ((4000, 64, 8, 16), (5000, 100, 20, 5))
NOISE = 0.1
SEEDS = 5
MB = 1e6


def rows(*, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    for n, d, k, j in SHAPES:
        yield recovery(n, d, k, j, starts=1 if quick else 10)
    yield against_kmeans("digits", digits()[0], 10, repeats=3 if quick else 9)
    if not quick:
        yield against_kmeans("planted", planted(100_000, 64, 50, 4, seed=0).X, 50, repeats=3, max_iter=20)
    yield small_fits(5 if quick else 40)
    yield against_kspaces(repeats=1 if quick else 3)
    yield memory(20_000 if quick else 200_000)


def recovery(n: int, d: int, k: int, j: int, starts: int) -> Row:
    """Are the planted clusters found, with default arguments? The authors' algorithm beside it."""
    ours: dict[str, list[float]] = {"nmi": [], "seconds": []}
    peer: dict[str, list[float]] = {"nmi": [], "seconds": []}
    failed = ""
    for seed in range(SEEDS):
        data = planted(n, d, k, j, noise=NOISE, seed=seed)
        seconds, fit = timed(lambda X=data.X, seed=seed: fit_subspaces(X, k, j, seed=seed))
        ours["seconds"].append(seconds)
        ours["nmi"].append(float(normalized_mutual_info_score(data.labels, np.asarray(fit.labels))))
        other = authors(data.X, k, j, starts=starts, seed=seed)
        peer["seconds"].append(other.seconds)
        peer["nmi"].append(float(normalized_mutual_info_score(data.labels, other.labels)))
        failed = failed or not_above(fit.objective, other.objective) or honest(data.X, fit)
    mean = statistics.fmean(ours["nmi"])
    ratios = [p / o for o, p in zip(ours["seconds"], peer["seconds"], strict=True)]
    return Row(
        f"planted n={n} d={d} k={k} j={j} noise {NOISE}",
        "mean NMI with the truth, default arguments",
        result=f"NMI {mean:.4f}; {spread(ratios, '.1f')} x faster",
        ours=f"NMI {spread(ours['nmi'], '.4f')}\n{spread(ours['seconds'], '.3g')} s",
        peer=f"NMI {spread(peer['nmi'], '.4f')}\n{spread(peer['seconds'], '.3g')} s",
        target=">= 0.99",
        reached=mean >= 0.99,
        failed=failed,
        note=f"seeds 0 to {SEEDS - 1}; authors' algorithm, {starts} start(s) of 10 steps",
        raw={"ours": ours, "peer": peer},
    )


def against_kmeans(case: str, X: np.ndarray, k: int, repeats: int, max_iter: int = 100) -> Row:
    """j = 0 with offsets is k-means: the same centres from the same start, ours against scikit-learn's Lloyd."""
    labels = random_partition(len(X), k)
    centres = np.stack([X[labels == c].mean(axis=0) for c in range(k)])
    mine, theirs, failed = [], [], ""
    for repeat in range(repeats + 1):
        seconds, fit = timed(lambda: fit_subspaces(X, k, 0, affine=True, init=labels, tol=0.0, max_iter=max_iter))
        peer = kmeans(X, centres, tol=0.0, max_iter=max_iter)
        failed = failed or not_above(fit.objective, peer.objective) or honest(X, fit)
        if repeat:  # the first warms both up
            mine.append(seconds)
            theirs.append(peer.seconds)
    agreement = float(np.mean(np.asarray(fit.labels) == peer.labels))
    return ratio_row(
        f"{case} {X.shape[0]} x {X.shape[1]} k={k}, j=0 affine",
        "k-means from the same centres, against scikit-learn",
        mine,
        theirs,
        failed=failed,
        note=f"{fit.n_iter} and {peer.steps} steps; objective {fit.objective:.6g} and {peer.objective:.6g}; "
        f"{agreement:.2%} of the labels equal",
        raw={"objective": [fit.objective, peer.objective], "steps": [fit.n_iter, peer.steps]},
    )


def against_kspaces(repeats: int, n: int = 2000, d: int = 32, k: int = 4, j: int = 4) -> Row:
    """Affine flats from the same labels, both run until they stop."""
    X = planted(n, d, k, j, noise=NOISE, seed=0).X
    labels = random_partition(n, k)
    mine, theirs, failed = [], [], ""
    for repeat in range(repeats + 1):
        seconds, fit = timed(lambda: fit_subspaces(X, k, j, affine=True, init=labels, tol=0.0))
        peer = kspaces(X, k, j, labels, tol=1e-6, max_iter=100)
        failed = failed or not_above(fit.objective, peer.objective) or honest(X, fit)
        if repeat:
            mine.append(seconds)
            theirs.append(peer.seconds)
    return ratio_row(
        f"planted n={n} d={d} k={k} j={j}, affine",
        "from the same labels to the end, against kspaces ('closest')",
        mine,
        theirs,
        failed=failed,
        note=f"objective {fit.objective:.6g} and {peer.objective:.6g}",
        raw={"objective": [fit.objective, peer.objective]},
    )


def small_fits(count: int, n: int = 120, d: int = 8, k: int = 2, j: int = 2) -> Row:
    """One small problem after another, default arguments: what a fit costs beside its arithmetic."""
    fit_subspaces(planted(n, d, k, j, noise=NOISE, seed=count).X, k, j, seed=0)  # warms up
    mine, theirs, failed = [], [], ""
    objectives = np.zeros(2)
    for seed in range(count):
        X = planted(n, d, k, j, noise=NOISE, seed=seed).X
        seconds, fit = timed(lambda X=X: fit_subspaces(X, k, j, seed=0))
        peer = authors(X, k, j, starts=10, seed=seed)
        failed = failed or honest(X, fit)
        objectives += fit.objective, peer.objective
        mine.append(seconds)
        theirs.append(peer.seconds)
    middle = statistics.median(mine)
    row = ratio_row(
        f"planted n={n} d={d} k={k} j={j} noise {NOISE}",
        "one small fit after another, default arguments, against the authors' (10 starts of 10 steps)",
        mine,
        theirs,
        failed=failed or not_above(*objectives.tolist(), what="mean objective"),
        note=f"{count} problems; mean objective {objectives[0] / count:.6g} and {objectives[1] / count:.6g}",
        raw={"objectives": objectives.tolist()},
    )
    row.target, row.reached = "<= 5 ms", middle <= 5e-3
    return row


def memory(n: int, d: int = 384, k: int = 8, j: int = 64) -> Row:
    """Peak memory of one default fit beyond X, in a fresh process."""
    found = measure(n, d, k, j)
    extra, size = found["extra_bytes"], found["x_bytes"]
    limit = size + 200 * MB
    return Row(
        f"planted n={n} d={d} k={k} j={j} float32",
        "peak memory of a fit beyond X, default arguments",
        result=f"{extra / MB:.0f} MB = {extra / size:.2f} x X",
        ours=f"{extra / MB:.0f} MB\n{found['seconds']:.3g} s",
        peer=f"X: {size / MB:.0f} MB",
        target=f"<= {limit / MB:.0f} MB (X + 200 MB)",
        reached=extra <= limit,
        note=f"fresh process, {found['how']}",
        raw=found,
    )
