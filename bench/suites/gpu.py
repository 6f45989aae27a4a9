"""Rows measured on a card, each by name: the operations, a step, seeding and whole fits beside that card's libraries.

`python -m bench gpu ROW ...` measures some of them and reports each as it is there; `rented/plan.py` says in which
order and within which time. Times are between CUDA events on the current stream, so launches count and waiting for the
host does too.
"""

from __future__ import annotations

import argparse
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ksubspaces import fit_subspaces, kernels
from ksubspaces.alternation import FixedDims, State
from ksubspaces.kernels import Flats
from ksubspaces.kernels.packed import PackedRows
from ksubspaces.problem import Problem
from ksubspaces.seeding import kmeans_plusplus

from ..lib import machine
from ..lib.cases_gpu import Case, card, case_of, timed_on_card
from ..lib.compare import TOLERANCE, Row, cost_row, not_above, ratio_row, time_row
from ..lib.packed import random_packed_rows
from ..lib.peers import exact_objective, projections
from ..lib.peers_gpu import (
    CACHED,
    EIGENSOLVERS,
    WHOLE,
    Absent,
    SplitHalves,
    assign_by_cluster,
    assign_by_rows,
    torch_alternation,
    torch_there,
)
from ..lib.results import emit

RESIDUAL_TOLERANCE = 3e-6
"""Of |x|^2: what a float32 residual may differ by from its float64 value."""
HALVES_TOLERANCE = 1e-5
"""The same of the peer that multiplies in float16."""
EIGENVALUE_TOLERANCE = 1e-5
"""Of the largest eigenvalue."""
DECODED_TOLERANCE = 1e-5
"""Of the largest number that is decoded."""
WARM_STEPS = slice(3, None)
"""Of a fit's steps: the first ones begin without bases and moments to go on from."""

PATCHES_ERROR = 0.6154
"""Relative error of a default fit of the patches, by the first version that was measured on a card."""
BREATHING_ERRORS = {"patches": 0.613, "clear-patches": 1.002 * 0.2121}
"""What breathing has to reach: below the default fit, and the planted flats' error within .2%."""


# --- operations ---


def assign_against_float32(case: Case, by: Callable[[Any, Flats], tuple[Any, Any]], target: float, goal: float) -> Row:
    import cupy

    X, (_, flats) = case.X, case.fitted
    rows = kernels.Rows(X)  # a fit has them from its first step on, with what the card prepares of them
    labels, found = kernels.assign(X, flats)
    exact = _residuals(X, labels, flats)
    error = float((cupy.abs(found - exact) / case.lengths).max())
    gap = float(((exact - _residuals(X, by(X, flats)[0], flats)) / case.lengths).max())
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.total_bytes()
    kernels.assign(rows, flats, residuals=False)
    extra = pool.total_bytes() - before
    ours, peer = timed_on_card(lambda: kernels.assign(rows, flats, residuals=False), lambda: by(X, flats))
    flops = 2 * case.n * case.d * case.k * min(case.j, case.d - case.j)
    return ratio_row(
        case.text,
        f"labels against cuBLAS float32 product + reduction, {by.__name__.replace('_', ' ').removeprefix('assign ')}",
        ours,
        peer,
        target=target,
        within=goal,
        failed=_too_far(error, gap, RESIDUAL_TOLERANCE),
        note=f"{flops / statistics.median(ours) / 1e12:.0f} TFLOP/s; residuals within {error:.1e} |x|^2 of float64; "
        f"extra memory {extra / 1e6:.0f} MB",
        raw={"residual_error": error, "label_gap": gap, "extra_bytes": extra},
    )


def assign_against_float16(case: Case) -> Row:
    import cupy

    X, (_, flats) = case.X, case.fitted
    halves = SplitHalves(X, flats)
    exact = _residuals(X, kernels.assign(X, flats)[0], flats)
    labels, found = (cupy.from_dlpack(part) for part in halves(WHOLE))
    theirs = _residuals(X, labels.astype(np.int32), flats)
    error = float((cupy.abs(found - theirs) / case.lengths).max())
    gap = float(((exact - theirs) / case.lengths).max())
    ours, *peers = timed_on_card(lambda: kernels.assign(X, flats), *(partial(halves, size) for size in (WHOLE, CACHED)))
    size, peer = min(zip((WHOLE, CACHED), peers, strict=True), key=lambda pair: statistics.median(pair[1]))
    return ratio_row(
        case.text,
        "assign against cuBLAS float16 products of split halves + reduction",
        ours,
        peer,
        failed=_too_far(error, gap, HALVES_TOLERANCE),
        note=f"the peer's residuals within {error:.1e} |x|^2 of float64; {size >> 20} MB of products at a time",
        raw={"peer_residual_error": error, "label_gap": gap, "peers_seconds": peers},
    )


def _too_far(error: float, gap: float, allowed: float) -> str:
    """The complaint when residuals, or the distances that two sides' labels lead to, differ too much."""
    return "" if max(error, gap) <= allowed else f"residuals are off by {error:.1e}, labels by {gap:.1e} of |x|^2"


def _residuals(X: Any, labels: Any, flats: Flats) -> Any:
    return kernels.residuals(X, kernels.group_rows(labels, flats.k), flats)


def residuals(case: Case, goal: float | None = None) -> Row:
    import cupy

    labels, flats = case.fitted
    few = slice(0, 50_000)
    found = float(_residuals(case.X, labels, flats)[few].sum())
    wanted = exact_objective(case.rows[few], flats.layout.split(cupy.asnumpy(flats.bases)), cupy.asnumpy(labels[few]))
    (seconds,) = timed_on_card(lambda: _residuals(case.X, labels, flats))
    same = np.isclose(found, wanted, rtol=1e-9)
    failed = "" if same else f"the first rows' add up to {found:.12g}, on the host to {wanted:.12g}"
    return time_row(case.text, "float64 residuals of all rows", seconds, within=goal, failed=failed)


def moments(case: Case) -> Row:
    labels, _ = case.fitted
    (seconds,) = timed_on_card(lambda: kernels.second_moments(case.X, kernels.group_rows(labels, case.k)))
    return time_row(case.text, "second moments of all rows, from scratch", seconds)


def eigenspaces(quick: bool, count: int, d: int, peer: str, target: float | None = None) -> Row:
    import cupy

    if quick:
        count, d = min(count, 8), min(d, 128)
    A = cupy.asarray(np.random.default_rng(d).normal(size=(count, 2 * d, d)).astype(np.float32))
    S, dims = cupy.matmul(A.transpose(0, 2, 1), A), [8] * count
    got, (_, vectors) = kernels.top_eigenspaces(S, dims), EIGENSOLVERS[peer](S)
    few = slice(0, 4)
    values = cupy.asnumpy(got.eigenvalues[few])
    want = np.linalg.eigvalsh(cupy.asnumpy(S[few]).astype(np.float64))[:, ::-1]
    error = float(np.abs(values - want).max() / want.max())
    ours, theirs = timed_on_card(lambda: kernels.top_eigenspaces(S, dims), lambda: EIGENSOLVERS[peer](S))
    off = {"ours": _off_orthonormal(got.bases.reshape(count, -1, d)), "the peer's": _off_orthonormal(vectors)}
    return ratio_row(
        f"{count} matrices {d} x {d}",
        f"batched eigenspaces against {'syevjBatched (CuPy)' if peer == 'cupy' else 'XsyevBatched'}",
        ours,
        theirs,
        target=target,
        failed="" if error < EIGENVALUE_TOLERANCE else f"eigenvalues are off by {error:.1e} of the largest",
        note="off orthonormal: " + ", ".join(f"{whose} {much:.1e}" for whose, much in off.items()),
        raw={"eigenvalue_error": error, "off_orthonormal": off},
    )


def _off_orthonormal(bases: Any) -> float:
    import cupy

    bases = bases.astype(np.float64)
    grams = cupy.matmul(bases, bases.transpose(0, 2, 1))
    return float(cupy.abs(grams - cupy.eye(bases.shape[1])).max())


# --- packed bits ---


def decode_packed(quick: bool, layer: bool, lookups: int = 8192) -> Row:
    """Rows of packed bits, by the kernel alone or by the Torch layer, beside ``nn.Embedding`` on a float16 table."""
    import cupy

    torch = torch_there()
    shape, lookups = ((600, 96), 200) if quick else ((30522, 384), lookups)
    packed, rng = random_packed_rows(*shape), np.random.default_rng(0)
    ids = rng.integers(0, shape[0], lookups)
    want = kernels.decode(ids, packed)
    numbers = torch.from_dlpack(cupy.asarray(ids))
    table = torch.nn.Embedding(*shape, device=numbers.device, dtype=torch.float16)
    if layer:
        from ksubspaces.integrations.torch import PackedEmbedding

        embedding = PackedEmbedding(*shape, device=numbers.device).take(packed)

        def run() -> Any:
            return embedding(numbers)

        found = run().cpu().numpy()
    else:
        parts = {name: part if part is None else cupy.asarray(part) for name, part in vars(packed).items()}
        there, asked = PackedRows(**parts), cupy.asarray(ids)

        def run() -> Any:
            return kernels.decode(asked, there)

        found = cupy.asnumpy(run())
    error = float(np.abs(found - want).max() / np.abs(want).max())
    with torch.no_grad():
        ours, peer = timed_on_card(run, lambda: table(numbers))
    terms = float(np.diff(packed.bounds).mean())
    return cost_row(
        f"{lookups} rows of {shape[0]} x {shape[1]} in packed bits",
        f"{'the layer' if layer else 'decoding'}, against nn.Embedding in float16",
        ours,
        peer,
        target=None if quick else 3.0,
        failed="" if error < DECODED_TOLERANCE else f"rows are off by {error:.1e} of the largest number",
        note=f"{terms:.0f} terms a group, {len(packed.clusters)} groups; within {error:.1e} of the host's",
        raw={"error": error},
    )


# --- steps, starts, fits ---


def warm_step(case: Case, goal: float) -> Row:
    """Steps of a fit by its own clock, which the host reads when it knows whether to stop."""
    ends: list[float] = []
    fit_subspaces(
        case.X, case.k, case.j, init=case.start, max_iter=12, tol=0, callback=lambda step: ends.append(step.seconds)
    )
    seconds = np.diff(ends)[WARM_STEPS].tolist() or np.diff([0.0, *ends])[-1:].tolist()
    what = "one warm step of a fit from a random partition: refit, assign, the host's wait"
    return time_row(case.text, what, seconds, within=goal)


def greedy_start(case: Case, goal: float) -> Row:
    few, starts = Problem(case.X[:20_000], None, (case.j,) * 4, False), []

    def run(problem: Problem) -> None:
        starts.append(kmeans_plusplus(problem, np.random.default_rng(0)))

    (seconds,) = timed_on_card(lambda: run(case.problem), repeats=2, warm_up=lambda: run(few))
    ours, peer = (_share_left(case, labels) for labels in (starts[-1], case.start))
    return time_row(
        case.text,
        "one greedy k-means++ start",
        seconds,
        within=goal,
        failed=not_above(ours, peer),
        note=f"{ours:.4f} of |X|^2 is left after one refit; {peer:.4f} from a random partition",
    )


def _share_left(case: Case, labels: Any) -> float:
    import cupy

    _, distances = kernels.assign(case.X, FixedDims(case.problem).refit(State(cupy.asarray(labels))))
    return float(distances.sum(dtype=np.float64) / case.lengths.sum())


def whole_fit(case: Case, goal: float, repeats: int = 3, error: float = np.inf, **options: Any) -> Row:
    fits: list[Any] = []
    (seconds,) = timed_on_card(
        lambda: fits.append(fit_subspaces(case.X, case.k, case.j, seed=0, **options)),
        repeats=repeats,
        warm_up=lambda: fit_subspaces(case.X[:50_000], min(case.k, 16), case.j, seed=0, **options),
    )
    fit = fits[-1]
    above = not case.quick and fit.relative_error > TOLERANCE * error
    return time_row(
        case.text,
        " ".join(["a whole default fit", *(f"but {name}={value!r}" for name, value in options.items())]),
        seconds,
        within=goal,
        failed=f"its relative error {fit.relative_error:.5f} is above {error}" if above else "",
        note=f"relative error {fit.relative_error:.5f}, {fit.n_iter} steps",
    )


def breathing_fit(case: Case, goal: float) -> Row:
    return whole_fit(case, goal, repeats=1, error=BREATHING_ERRORS[case.name], search="breathing", effort=2)


def fit_against_torch(case: Case, steps: int = 5) -> Row:
    torch = torch_there()
    X, labels = torch.from_dlpack(case.X), torch.from_numpy(case.start.astype(np.int64))
    labels = labels.to(X.device)

    def ours() -> Any:
        return _steps_from_start(case, steps)

    objective, peer = ours().objective, torch_alternation(X, case.k, case.j, labels, steps)[0]
    taken, theirs = timed_on_card(ours, lambda: torch_alternation(X, case.k, case.j, labels, steps), repeats=3)
    return ratio_row(
        case.text,
        f"{steps} steps from a random partition against torch.linalg.svd of each cluster",
        taken,
        theirs,
        target=60,
        failed=not_above(objective, peer),
    )


def fit_against_host(case: Case, steps: int = 5) -> Row:
    (taken,) = timed_on_card(lambda: _steps_from_start(case, steps), repeats=1)
    begin = time.perf_counter()
    host = projections(case.rows, case.k, case.j, case.start, steps=1)
    one_step = time.perf_counter() - begin
    return ratio_row(
        case.text,
        f"{steps} steps from a random partition against NumPy's SVD of each cluster, on the host",
        taken,
        [steps * one_step],
        target=100,
        failed=not_above(_steps_from_start(case, 2).objective, host.objective),
        note=f"the host's time is {steps} times that of its first step",
    )


def _steps_from_start(case: Case, steps: int) -> Any:
    return fit_subspaces(case.X, case.k, case.j, init=case.start, max_iter=steps, tol=0)


# --- by name ---


def _of(name: str, measure: Callable[..., Row], **kwargs: Any) -> Callable[[bool], Row]:
    return lambda quick: measure(case_of(name, quick), **kwargs)


ROWS: dict[str, Callable[[bool], Row]] = {
    "assign-tables": _of("tables", assign_against_float32, by=assign_by_cluster, target=1.5, goal=0.7e-3),
    "assign-tables-halves": _of("tables", assign_against_float16),
    "step-tables": _of("tables", warm_step, goal=1.6e-3),
    "residuals-tables": _of("tables", residuals),
    "moments-tables": _of("tables", moments),
    "decode-packed": partial(decode_packed, layer=False),
    "lookup-packed": partial(decode_packed, layer=True),
    "assign-patches": _of("patches", assign_against_float32, by=assign_by_rows, target=5.0, goal=2e-3),
    "step-patches": _of("patches", warm_step, goal=2.3e-3),
    "residuals-patches": _of("patches", residuals, goal=1e-3),
    "assign-patches-halves": _of("patches", assign_against_float16),
    "start-patches": _of("patches", greedy_start, goal=0.15),
    "eigenspaces-512x64-cupy": partial(eigenspaces, count=512, d=64, peer="cupy", target=4),
    "eigenspaces-512x64-cusolver": partial(eigenspaces, count=512, d=64, peer="cusolver", target=3),
    "eigenspaces-512x128-cupy": partial(eigenspaces, count=512, d=128, peer="cupy"),
    "eigenspaces-512x128-cusolver": partial(eigenspaces, count=512, d=128, peer="cusolver"),
    "eigenspaces-64x256-cusolver": partial(eigenspaces, count=64, d=256, peer="cusolver"),
    "eigenspaces-5x768-cusolver": partial(eigenspaces, count=5, d=768, peer="cusolver"),
    "five-steps-torch": _of("tables", fit_against_torch),
    "fit-small": _of("small", whole_fit, goal=0.02),
    "fit-tables": _of("tables", whole_fit, goal=0.12),
    "fit-patches": _of("patches", whole_fit, goal=0.6, repeats=1, error=PATCHES_ERROR),
    "breathing-clear-patches": _of("clear-patches", breathing_fit, goal=0.8),
    "breathing-patches": _of("patches", breathing_fit, goal=1.5),
    "five-steps-host": _of("tables", fit_against_host),
}


def measured(names: Sequence[str], *, quick: bool = False) -> Iterator[tuple[str, Row]]:
    """Each of the rows, by name; one that cannot be measured says why, and the others go on."""
    load = machine.OtherLoad()
    for name in names:
        try:
            row = ROWS[name](quick)
        except Absent as missing:
            row = Row(name, str(missing), result="left out")
        except Exception as error:
            traceback.print_exc()
            row = Row(name, "not measured", result="", failed=f"{type(error).__name__}: {error}")
        row.others = load.since_last()
        yield name, row


def main(arguments: Sequence[str]) -> None:
    """Report the machine, or rows, to whoever started this process."""
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"any of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="small shapes")
    parser.add_argument("--about", action="store_true", help="report the machine and its card")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    if options.about:
        emit({"about": {**machine.describe(), "card": card()}, "slug": machine.slug(card())})
    for name, row in measured(options.rows, quick=options.quick):
        emit({"row": name, **row.as_json()})
