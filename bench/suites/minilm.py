"""Rows on the word embeddings of a real sentence encoder (30522 x 384)."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from ksubspaces import Step, Subspaces, fit_subspaces

from ..lib.compare import Row, honest, not_above, ratio_row, timed
from ..lib.data import random_partition
from ..lib.peers import PeerFit, authors, parameter_count, projections, svd_error

EARLY = 3
"""Steps taken as early, from the second on: the first includes the checks of the input and has a row of its own."""
LATE_SHARE = 0.02
"""A step is late when at most this share of the rows moved in the step before it."""


def rows(X: np.ndarray, *, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    fit_subspaces(X[:2000], 3, 221, seed=0, max_iter=2)  # compiles what Numba compiles
    yield from steps(X, repeats=1 if quick else 5)
    yield time_to_objective(X, starts=2 if quick else 10, steps=3 if quick else 10, repeats=3 if quick else 5)
    yield from default_quality(X, quick=quick)


def recorded_fit(X: np.ndarray, k: int, j: int, labels: np.ndarray, **options: object) -> tuple[Subspaces, list[Step]]:
    """A fit from given labels, and the record of each of its steps."""
    records: list[Step] = []

    def keep(step: Step) -> None:
        records.append(step)

    return fit_subspaces(X, k, j, init=labels, callback=keep, **options), records


def steps(X: np.ndarray, repeats: int, k: int = 3, j: int = 221) -> Iterator[Row]:
    """Seconds of a step: ours early, late and on average over a whole fit, against both peers from the same labels."""
    case = f"MiniLM k={k} j={j}"
    labels = random_partition(len(X), k)
    ours: dict[str, list[float]] = {"early": [], "late": [], "whole fit": []}
    peers: dict[str, list[float]] = {"authors": [], "projections": []}
    first: list[float] = []
    failures: dict[str, str] = {}
    raw: dict[str, list] = {"our_step_seconds": [], "our_moved_rows": [], "peer_step_seconds": []}
    for _ in range(repeats):
        wall, (fit, records) = timed(lambda: recorded_fit(X, k, j, labels))
        seconds = [b.seconds - a.seconds for a, b in pairwise(records)]
        # What a step costs depends on how many rows the step before it moved: those its refit has to account for.
        late = [s for s, before in zip(seconds, records, strict=False) if before.moved <= LATE_SHARE * len(X)]
        first.append(records[0].seconds)
        ours["early"].append(statistics.median(seconds[:EARLY]))
        ours["late"].append(statistics.median(late or seconds[-1:]))
        ours["whole fit"].append(wall / len(records))
        raw["our_step_seconds"].append(seconds)
        raw["our_moved_rows"].append([record.moved for record in records])
        for name, run in {"authors": _authors_steps, "projections": projections}.items():
            peer = run(X, k, j, labels, steps=EARLY)
            peers[name].append(statistics.median(peer.step_seconds))
            raw["peer_step_seconds"].append({name: peer.step_seconds})
            # The peer's history begins with the flats of the starting labels, which are our first step's.
            pairs = zip(records, peer.history, strict=False)
            complaints = [failures.get(name, ""), *(not_above(a.objective, b) for a, b in pairs), honest(X, fit)]
            failures[name] = next(filter(None, complaints), "")
    moved = raw["our_moved_rows"][0]
    notes = {
        "early": f"steps 2 to {EARLY + 1}; {min(moved[:EARLY])} to {max(moved[:EARLY])} of {len(X)} rows move",
        "late": f"at most {LATE_SHARE:.0%} of the rows move",
        "whole fit": f"all {len(moved)} steps from the same random labels, checks, final refit and all, per step",
    }
    for stage, mine in ours.items():
        for name, title, target in (("authors", "authors' step", 10), ("projections", "projections + thin SVD", 6)):
            asked = target if stage == "early" else None
            data = raw if stage == "early" and name == "authors" else {}
            what = f"one step, {stage}, against {title}"
            yield ratio_row(
                case, what, mine, peers[name], target=asked, failed=failures[name], note=notes[stage], raw=data
            )
    yield ratio_row(
        case,
        "one step, late (ours) against the first of the same fit (peer)",
        ours["late"],
        first,
        target=1,
        note="the first step takes the moments of all rows, and the fit's checks of its input; late ones update them",
    )


def _authors_steps(X: np.ndarray, k: int, j: int, labels: np.ndarray, *, steps: int) -> PeerFit:
    return authors(X, k, j, labels=labels, steps=steps)


def time_to_objective(X: np.ndarray, starts: int, steps: int, repeats: int, k: int = 3, j: int = 221) -> Row:
    """Seconds until our default fit is as good as the authors' result; seeding and everything else included."""
    peer = authors(X, k, j, starts=starts, steps=steps)
    mine, failed = [], ""
    for seed in range(repeats):
        seconds, fit = timed(
            lambda seed=seed: fit_subspaces(X, k, j, seed=seed, callback=lambda step: step.objective <= peer.objective)
        )
        mine.append(seconds)
        failed = failed or not_above(fit.objective, peer.objective) or honest(X, fit)
    full = (starts, steps) == (10, 10)
    ratio = "" if full else "; quick: fewer starts and steps than the authors' default, so no target"
    return ratio_row(
        f"MiniLM k={k} j={j}",
        "time to the authors' objective, default arguments",
        mine,
        [peer.seconds] * repeats,
        target=60 if full else None,
        failed=failed,
        note=f"authors: best of {starts} starts of {steps} steps; ours: seeds 0 to {repeats - 1}{ratio}",
        raw={"objective": peer.objective, "peer_step_seconds": peer.step_seconds},
    )


def default_quality(X: np.ndarray, *, quick: bool, k: int = 5, j: int = 215, steps: int = 17) -> Iterator[Row]:
    """Relative error with default arguments, beside one SVD of the same size and the random partition."""
    case = f"MiniLM k={k} j={j}"
    energy = float(np.square(X, dtype=np.float64).sum())
    seconds, fit = timed(lambda: fit_subspaces(X, k, j, seed=0))
    counts = np.bincount(np.asarray(fit.labels), minlength=k)
    parameters = parameter_count(counts, [len(V) for V in fit.bases], X.shape[1])
    svd = svd_error(X, parameters)
    yield Row(
        case,
        "relative error, default arguments, seed 0; peer: one SVD with as many parameters",
        result=f"{fit.relative_error:.4f} in {seconds:.2f} s",
        ours=f"{fit.relative_error:.4f}",
        peer=f"{svd:.4f}",
        target="<= 0.1370",
        reached=fit.relative_error <= 0.1370,
        failed=not_above(fit.relative_error, svd, "relative error") or honest(X, fit),
        note=f"{parameters} parameters of {X.size}; {fit.n_iter} steps",
        raw={"seconds": seconds, "objective": fit.objective, "svd_error": svd, "counts": counts.tolist()},
    )
    labels = random_partition(len(X), k)
    own_seconds, own = timed(lambda: fit_subspaces(X, k, j, init=labels, n_init=1))
    if quick:
        error, peer_seconds, how = own.relative_error, own_seconds, "our own descent"
    else:
        peer = projections(X, k, j, labels, steps=steps)
        error, peer_seconds, how = peer.objective / energy, peer.seconds, f"{steps} steps of projections + thin SVD"
    yield Row(
        case,
        "relative error, default arguments, seed 0; peer: one random partition",
        result=f"{fit.relative_error / error:.4f} x the peer's error, {peer_seconds / seconds:.1f} x faster",
        ours=f"{fit.relative_error:.4f} in {seconds:.2f} s",
        peer=f"{error:.4f} in {peer_seconds:.2f} s",
        failed=not_above(fit.relative_error, error, "relative error"),
        note=f"from the random partition: {how}; ours from it {own.relative_error:.4f} in {own_seconds:.2f} s",
        raw={"random_partition_error": error, "peer_seconds": peer_seconds, "our_random_error": own.relative_error},
    )
