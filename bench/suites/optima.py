"""Rows on better optima: breathing beside raced starts, in the same time and with more, and curves of both.

`python -m bench optima` records them; `python -m bench curves FILE` draws the curves of a results file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ksubspaces import Step, Subspaces, fit_subspaces

from ..lib.compare import TOLERANCE, Row, honest, spread, timed
from ..lib.data import blobs, colours, digits, minilm, patches, planted
from ..lib.peers import breathing_kmeans, raced_kmeans
from ..lib.results import RESULTS

SEEDS = 5
EFFORT = 5
SLOWER = 1.1
"""Times the seconds of raced starts that breathing may take."""


@dataclass(frozen=True)
class Case:
    """Data, k, j, and the relative errors to reach in the time of raced starts and with effort 5, if any."""

    name: str
    X: Callable[[], np.ndarray]
    k: int
    j: int
    target: float | None = None
    target_with_effort: float | None = None


CASES = (
    Case("digits k=10 j=8", lambda: digits()[0], 10, 8, 0.0413, 0.0411),
    Case("patches of a photograph, 40000 x 64, k=64 j=8", patches, 64, 8, 0.2840, 0.2815),
    Case("MiniLM k=5 j=215", minilm, 5, 215, 0.1338, 0.1322),
    Case("planted n=20000 k=32 j=8 noise .5", lambda: planted(20_000, 64, 32, 8, noise=0.5).X, 32, 8, 0.5650),
    Case("planted n=20000 k=64 j=8 noise .3", lambda: planted(20_000, 64, 64, 8, noise=0.3).X, 64, 8, 0.3550),
    Case(
        "planted n=100000 k=128 j=8 noise .5", lambda: planted(100_000, 64, 128, 8, noise=0.5).X, 128, 8, 0.623, 0.613
    ),
    Case("planted n=4000 k=8 j=16 noise .1", lambda: planted(4000, 64, 8, 16).X, 8, 16),
    Case("planted n=5000 d=100 k=20 j=5 noise .1", lambda: planted(5000, 100, 20, 5).X, 20, 5),
)
QUICK = (
    Case("digits k=10 j=8", lambda: digits()[0], 10, 8),
    Case("planted n=1000 k=6 j=3 noise .3", lambda: planted(1000, 24, 6, 3, noise=0.3).X, 6, 3),
)
POINTS = (
    ("points: digits k=10", lambda: digits()[0].astype(np.float64), 10),
    ("points: colours of a photograph k=64", colours, 64),
    ("points: blobs in 8 dimensions k=50", blobs, 50),
)


def rows(*, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    for case in QUICK if quick else CASES:
        yield from of_case(case, 2 if quick else SEEDS)
    for name, X, k in POINTS[: 1 if quick else None]:
        yield of_points(name, X(), k, 2 if quick else SEEDS)


def of_case(case: Case, seeds: int = SEEDS) -> Iterator[Row]:
    """In the time of raced starts; then with more effort, and what both reach as time goes."""
    X = case.X()
    fit_subspaces(X[: 4 * case.k * case.j], case.k, case.j, seed=0)  # compiles what Numba compiles
    yield in_the_same_time(case, X, seeds)
    if case.target is not None or seeds < SEEDS:
        yield with_effort(case, X, seeds)


def in_the_same_time(case: Case, X: np.ndarray, seeds: int) -> Row:
    """The default fit beside raced starts, one seed after another."""
    ours, peer = _Fits(X, case), _Fits(X, case, search="starts")
    for seed in range(seeds):
        ours.add(seed)
        peer.add(seed)
    ratios = [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)]
    wanted = [] if case.target is None else [f"<= {case.target}"]
    return Row(
        case.name,
        "mean relative error, default arguments; peer: search='starts'",
        result=f"{1 - ours.mean / peer.mean:.2%} lower, {spread(ratios, '.2f')} x faster",
        ours=ours.told,
        peer=peer.told,
        target=", ".join([*wanted, f"<= {SLOWER} x its time"]),
        reached=ours.mean <= (case.target or TOLERANCE * peer.mean) and statistics.median(ratios) >= 1 / SLOWER,
        failed=ours.complaint or peer.complaint,
        note=f"seeds 0 to {seeds - 1}",
        raw={"ours": ours.raw, "peer": peer.raw},
    )


def with_effort(case: Case, X: np.ndarray, seeds: int) -> Row:
    """Five times the effort; raced starts of five times the number beside the first seed."""
    ours, peer = _Fits(X, case, effort=EFFORT), _Fits(X, case, search="starts", effort=EFFORT)
    for seed in range(seeds):
        ours.add(seed)
    peer.add(0)
    return Row(
        case.name,
        f"mean relative error, effort={EFFORT}; peer: search='starts', effort={EFFORT}, seed 0 alone",
        result=f"{1 - ours.mean / peer.mean:.2%} lower",
        ours=ours.told,
        peer=peer.told,
        target="" if case.target_with_effort is None else f"<= {case.target_with_effort}",
        reached=None if case.target_with_effort is None else ours.mean <= case.target_with_effort,
        failed=ours.complaint or peer.complaint,
        note=f"seeds 0 to {seeds - 1}",
        raw={"ours": ours.raw, "peer": peer.raw},
    )


class _Fits:
    """Fits of a case by one way: errors, seconds, and the least error as time goes."""

    def __init__(self, X: np.ndarray, case: Case, **options: Any) -> None:
        self.X, self.case, self.options = X, case, options
        self.errors: list[float] = []
        self.seconds: list[float] = []
        self.curves: list[list[tuple[float, float]]] = []
        self.complaint = ""

    def add(self, seed: int) -> None:
        steps: list[Step] = []

        def keep(step: Step) -> None:
            steps.append(step)

        def fit() -> Subspaces:
            return fit_subspaces(self.X, self.case.k, self.case.j, seed=seed, callback=keep, **self.options)

        seconds, model = timed(fit)
        self.errors.append(model.relative_error)
        self.seconds.append(seconds)
        least = accumulate((step.best / model.energy for step in steps), min)
        self.curves.append([(step.seconds, error) for step, error in zip(steps, least, strict=True)])
        self.complaint = self.complaint or honest(self.X, model)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.errors)

    @property
    def told(self) -> str:
        return f"mean {self.mean:.5f}\n{spread(self.errors, '.5f')}\n{spread(self.seconds, '.3g')} s"

    @property
    def raw(self) -> dict[str, Any]:
        return {"errors": self.errors, "seconds": self.seconds, "curve": self.curves[0]}


def of_points(name: str, X: np.ndarray, k: int, seeds: int) -> Row:
    """Flats of dimension 0: k-means, against breathing k-means and scikit-learn's best of ten."""
    found: dict[str, list[float]] = {"ours": [], "bkmeans": [], "scikit-learn": []}
    seconds: dict[str, list[float]] = {way: [] for way in found}
    failed = ""
    for seed in range(seeds):
        time, fit = timed(lambda seed=seed: fit_subspaces(X, k, 0, affine=True, seed=seed))
        failed = failed or honest(X, fit)
        peers = breathing_kmeans(X, k, seed), raced_kmeans(X, k, seed)
        for way, value, spent in zip(
            found,
            (fit.objective, *(peer.objective for peer in peers)),
            (time, *(peer.seconds for peer in peers)),
            strict=True,
        ):
            found[way].append(value)
            seconds[way].append(spent)
    ours, bkmeans, sklearn = (statistics.fmean(values) for values in found.values())
    return Row(
        name,
        "mean objective of k-means, default arguments; peers: bkmeans; scikit-learn, n_init=10",
        result=f"{ours / bkmeans:.4f} and {ours / sklearn:.4f} of theirs",
        ours=f"{ours:.6g}\n{spread(seconds['ours'], '.3g')} s",
        peer=f"{bkmeans:.6g}; {sklearn:.6g}\n"
        f"{spread(seconds['bkmeans'], '.3g')} s; {spread(seconds['scikit-learn'], '.3g')} s",
        target="<= 1.001, < 1",
        reached=ours <= TOLERANCE * bkmeans and ours < sklearn,
        failed=failed,
        note=f"seeds 0 to {seeds - 1}",
        raw={"objectives": found, "seconds": seconds},
    )


def main(arguments: Sequence[str]) -> None:
    """Draw the curves of a results file."""
    parser = argparse.ArgumentParser(prog="python -m bench curves", description=main.__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=RESULTS / "optima.png", help="the picture (default: %(default)s)")
    options = parser.parse_args(arguments)
    draw(json.loads(options.file.read_text())["rows"], options.out)
    print(f"written: {options.out}")


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Least error against seconds, a panel for each case that was given more effort."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if f"effort={EFFORT}" in row["what"] and row["raw"]][:6]
    figure = Figure(figsize=(9.6, 2.9 * -(-len(shown) // 3)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, row in zip(figure.subplots(-(-len(shown) // 3), 3, squeeze=False).flat, shown, strict=False):
        for way, label, colour in (("ours", "breathing", "#D55E00"), ("peer", "raced starts", "#0072B2")):
            seconds, errors = zip(*row["raw"][way]["curve"], strict=True)
            axes.step(seconds, errors, where="post", color=colour, label=label)
        settled = [min(errors) for way in ("ours", "peer") if (errors := [e for _, e in row["raw"][way]["curve"]])]
        axes.set_ylim(0.998 * min(settled), max(1.02 * max(settled), 1.05 * min(settled)))
        axes.set_title(row["case"], loc="left", fontsize="small")
        axes.set_xlabel("seconds", fontsize="small")
        axes.tick_params(labelsize="small")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(shown) :]:
        axes.set_axis_off()
    figure.axes[0].set_ylabel("least relative error so far", fontsize="small")
    figure.axes[0].legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
