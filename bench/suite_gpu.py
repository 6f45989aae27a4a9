"""Rows measured on a card: assignment, a step, a whole fit, batched eigenproblems, each against that card's libraries.

Times are between CUDA events on the current stream, so launches count and waiting for the host does too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ksubspaces import fit_subspaces, kernels
from ksubspaces.kernels import Flats
from ksubspaces.problem import Problem
from ksubspaces.refit import Refit

from .compare import Row, not_above, ratio_row
from .data import planted, random_partition
from .peers import projections

REPEATS = 7
RESIDUAL_TOLERANCE = 3e-6
"""Of |x|^2: what a float32 residual may differ by from its float64 value."""
TABLE = {"n": 50265, "d": 768, "k": 5, "j": 408}
PATCHES = {"n": 1_000_000, "d": 64, "k": 512, "j": 8}
STEP_TARGET = 6e-3
"""Seconds of one step (assignment, moments, refit) of the table."""


def rows(*, quick: bool = False) -> Iterator[Row]:
    """Every comparison, the cheap ones first; ``quick`` shrinks the shapes."""
    table = {"n": 3000, "d": 96, "k": 3, "j": 51} if quick else TABLE
    patches = {"n": 20_000, "d": 64, "k": 32, "j": 8} if quick else PATCHES
    yield from _eigenspaces(8 if quick else 512)
    yield from _assignment("table", table, 1.5, per_cluster=True)
    yield from _assignment("patches", patches, 5.0, per_cluster=False)
    yield from _steps(table)
    yield from _whole_fits(table, steps=2 if quick else 5)


def card() -> str:
    """The card's name."""
    import cupy

    return cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()


def timed_on_card(*runs: Callable[[], Any], repeats: int = REPEATS) -> list[list[float]]:
    """Seconds of each run, the runs taken in turn in every repeat; one untimed round compiles and warms up."""
    import cupy

    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, taken in zip(runs, seconds, strict=True):
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            cupy.cuda.Device().synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken.append(cupy.cuda.get_elapsed_time(begin, end) / 1e3)
    return seconds


def _data(shape: dict[str, int]) -> tuple[Any, Any, Flats]:
    """Rows on the card, labels of a few steps of a fit, and its flats."""
    import cupy

    X = cupy.asarray(planted(**shape, noise=0.5).X)
    labels = cupy.asarray(random_partition(shape["n"], shape["k"]), dtype=np.int32)
    problem = Problem(X, None, (shape["j"],) * shape["k"], False)
    refit = Refit(problem)
    for _ in range(2):
        flats = refit(labels)
        labels, _ = kernels.assign(X, flats)
    return X, labels, flats


def _probes(flats: Flats) -> list[tuple[Any, bool]]:
    """What both sides multiply by: the complement where there is one."""
    return [(V if W is None else W, W is not None) for V, W in zip(flats.bases, flats.complements, strict=True)]


def library_assign(X: Any, flats: Flats, *, per_cluster: bool) -> tuple[Any, Any]:
    """Assignment by cuBLAS products and reductions: a cluster at a time, or all of them for a chunk of rows."""
    import cupy

    lengths, probes = cupy.einsum("ij,ij->i", X, X), _probes(flats)
    labels, best = cupy.empty(len(X), np.int32), cupy.empty(len(X), X.dtype)
    if per_cluster:
        best.fill(np.inf)
        for c, (P, exact) in enumerate(probes):
            squares = cupy.square(X @ P.T).sum(axis=1)
            cost = squares if exact else lengths - squares
            labels = cupy.where(cost < best, np.int32(c), labels)
            best = cupy.minimum(cost, best)
        return labels, best
    stacked, (j, exact) = cupy.concatenate([P for P, _ in probes]), (len(probes[0][0]), probes[0][1])
    chunk = max(1, (1 << 30) // (stacked.shape[0] * X.dtype.itemsize))
    for start in range(0, len(X), chunk):
        span = slice(start, start + chunk)
        squares = cupy.square(X[span] @ stacked.T).reshape(-1, flats.k, j).sum(axis=2)
        cost = squares if exact else lengths[span, None] - squares
        labels[span], best[span] = cost.argmin(axis=1), cost.min(axis=1)
    return labels, best


def _assignment(name: str, shape: dict[str, int], target: float, *, per_cluster: bool) -> Iterator[Row]:
    import cupy

    X, _, flats = _data(shape)
    labels, residuals = kernels.assign(X, flats)
    peer_labels, _ = library_assign(X, flats, per_cluster=per_cluster)
    lengths = cupy.einsum("ij,ij->i", X, X, dtype=np.float64)
    exact = kernels.residuals(X, labels, flats)
    error = float((cupy.abs(residuals - exact) / lengths).max())
    gap = float(((exact - kernels.residuals(X, peer_labels, flats)) / lengths).max())
    failed = "" if max(error, gap) <= RESIDUAL_TOLERANCE else f"residuals are off by {error:.1e}, labels by {gap:.1e}"
    cupy.get_default_memory_pool().free_all_blocks()
    before = cupy.get_default_memory_pool().total_bytes()
    kernels.assign(X, flats)
    extra = cupy.get_default_memory_pool().total_bytes() - before
    ours, peer = timed_on_card(
        lambda: kernels.assign(X, flats), lambda: library_assign(X, flats, per_cluster=per_cluster)
    )
    flops = 2 * len(X) * X.shape[1] * sum(len(P) for P, _ in _probes(flats))
    how = "one cluster at a time" if per_cluster else "in chunks of rows"
    yield ratio_row(
        f"{name} {_text(shape)}",
        f"assign against cuBLAS float32 product + reduction, {how}",
        ours,
        peer,
        target=target,
        failed=failed,
        note=f"{flops / min(ours) / 1e12:.0f} TFLOP/s; residuals within {error:.1e} |x|^2 of float64; "
        f"extra memory {extra / 1e6:.0f} MB for {len(X):,} rows",
        raw={"residual_error": error, "label_gap": gap, "extra_bytes": extra},
    )


def _steps(shape: dict[str, int]) -> Iterator[Row]:
    X, labels, flats = _data(shape)
    problem = Problem(X, None, (shape["j"],) * shape["k"], False)
    parts = {
        "assign": lambda: kernels.assign(X, flats),
        "moments": lambda: kernels.second_moments(X, labels, shape["k"]),
        "full step": lambda: kernels.assign(X, Refit(problem)(labels)),
    }
    for (what, _), seconds in zip(parts.items(), timed_on_card(*parts.values()), strict=True):
        middle = float(np.median(seconds))
        goal = what == "full step"
        yield Row(
            f"table {_text(shape)}",
            f"one {what}" + (": moments from scratch, refit, assign" if goal else ""),
            f"{1e3 * middle:.2f} ms",
            ours=f"{1e3 * min(seconds):.2f}-{1e3 * max(seconds):.2f} ms",
            target=f"<= {1e3 * STEP_TARGET:.0f} ms" if goal else "",
            reached=middle <= STEP_TARGET if goal else None,
            raw={"ours_seconds": seconds},
        )


def torch_alternation(X: Any, k: int, j: int, labels: Any, steps: int) -> tuple[float, Any]:
    """The alternation with one ``torch.linalg.svd`` per cluster and step, on the card: objective and labels."""
    import torch

    lengths = (X * X).sum(dim=1)
    for _ in range(steps):
        cost = torch.empty((len(X), k), device=X.device)
        for c in range(k):
            V = torch.linalg.svd(X[labels == c], full_matrices=False)[2][:j]
            cost[:, c] = lengths - ((X @ V.T) ** 2).sum(dim=1)
        best, labels = cost.min(dim=1)
    return float(best.double().sum()), labels


def _whole_fits(shape: dict[str, int], *, steps: int) -> Iterator[Row]:
    import cupy

    X = planted(**shape, noise=0.5).X
    k, j, start = shape["k"], shape["j"], random_partition(shape["n"], shape["k"])
    there = cupy.asarray(X)

    def ours() -> Any:
        return fit_subspaces(there, k, j, init=start, max_iter=steps, tol=0)

    objective = ours().objective
    case, note = f"table {_text(shape)}", f"{steps} steps from the same random partition"
    try:
        import torch

        on_card = torch.cuda.is_available()
    except ImportError:
        on_card = False
    if on_card:
        tensor, labels = torch.from_numpy(X).cuda(), torch.from_numpy(start.astype(np.int64)).cuda()
        peer, _ = torch_alternation(tensor, k, j, labels, steps)
        taken, theirs = timed_on_card(ours, lambda: torch_alternation(tensor, k, j, labels, steps), repeats=3)
        failed = not_above(objective, peer)
        what = "a whole fit against per-cluster torch.linalg.svd on the card"
        yield ratio_row(case, what, taken, theirs, target=20, failed=failed, note=note)
    else:
        yield Row(case, "a whole fit against torch.linalg.svd: left out, Torch has no CUDA here", result="")
    taken = timed_on_card(ours, repeats=1)[0]
    begin = time.perf_counter()
    host = projections(X, k, j, start.astype(np.int32), steps=1)
    one_step = time.perf_counter() - begin
    few = fit_subspaces(there, k, j, init=start, max_iter=2, tol=0)
    yield ratio_row(
        case,
        "a whole fit against per-cluster NumPy SVD on the host",
        taken,
        [steps * one_step],
        target=100,
        failed=not_above(few.objective, host.objective),
        note=f"the host's time is {steps} times that of its first step",
    )


def _eigenspaces(count: int) -> Iterator[Row]:
    import cupy

    for d in (64, 128):
        A = cupy.asarray(np.random.default_rng(d).normal(size=(count, 2 * d, d)).astype(np.float32))
        S = cupy.matmul(A.transpose(0, 2, 1), A)
        dims = [8] * count
        got = kernels.top_eigenspaces(S, dims)
        want = cupy.linalg.eigvalsh(S.astype(np.float64))[:, ::-1]
        values = cupy.stack(got.eigenvalues)
        error = float(cupy.abs(values - want).max() / want.max())
        failed = "" if error < 1e-5 else f"eigenvalues are off by {error:.1e} of the largest"
        peers: dict[str, Callable[[], Any]] = {"cupy.linalg.eigh": lambda S=S: cupy.linalg.eigh(S)}
        try:
            import torch

            tensor = torch.from_dlpack(S)
            peers["torch.linalg.eigh"] = lambda tensor=tensor: torch.linalg.eigh(tensor)
        except (ImportError, RuntimeError):
            pass
        for name, peer in peers.items():
            ours, theirs = timed_on_card(lambda S=S, dims=dims: kernels.top_eigenspaces(S, dims), peer)
            case, what = f"{count} matrices {d} x {d}", f"batched eigenspaces against {name}"
            yield ratio_row(case, what, ours, theirs, target=2, failed=failed, raw={"eigenvalue_error": error})


def _text(shape: dict[str, int]) -> str:
    return " ".join(f"{name}={value}" for name, value in shape.items())
