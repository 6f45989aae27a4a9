"""Tables of the fine-tuned models in packed bits, swapped in without retraining, beside peers of at least their bytes.

Each method stores a table as it does for the front in bytes (`suites/bytes.py`), once for each fine-tuned model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import numpy as np
from rich.table import Table

from ksubspaces.tokens import token_weights

from ..lib.encoder import dense, training_counts
from ..lib.tables import Weighted
from ..lib.units import once
from ..suites.bytes import HEADER, METHODS
from . import models
from .figures import Runs, correlation, difference
from .plan import Plan, data_of
from .report import figures_of, gain_of, original_figures, verdict
from .work import Original, table_of

OURS = "ours"
SIZES: dict[float, dict[str, float]] = {
    2: {OURS: 2, "rotated": 2, "pq": 4, "int-64": 2},
    1: {OURS: 1, "rotated": 1, "pq": 8},
}
"""For each number of bits the methods, with the sizes at which they take so many or more."""
LOSS_GOALS = {2: 0.004, 1: 0.012}
"""Correlation that ours may lose."""


@dataclass(frozen=True)
class Unit:
    """The table of a fine-tuned model, stored one way."""

    model: Original
    bits: float
    method: str

    @property
    def size(self) -> float:
        """That of the method."""
        return SIZES[self.bits][self.method]

    @property
    def name(self) -> str:
        return f"model{self.model.seed}-coded-{self.method}-{self.size:g}"


def units(plan: Plan) -> list[Unit]:
    """All that is to be stored."""
    models = [Original(plan, seed) for seed in plan.seeds]
    return [Unit(model, bits, method) for bits, methods in SIZES.items() for method in methods for model in models]


def measure(unit: Unit) -> dict[str, Any]:
    """Store the table; the model's answers with what the stored bytes decode to, if that is what was meant."""
    plan = unit.model.plan

    def make() -> dict[str, Any]:
        table = Weighted("MiniLM", table_of(unit.model), token_weights(training_counts()))
        code = METHODS[unit.method].make(table, unit.size, unit.model.seed)
        decoded = code.reopened()
        classifier = models.load_classifier(unit.model.checkpoint)
        models.swap(classifier, dense(decoded[data_of(plan).vocabulary.rows]))
        lost, energies = (np.square(X).sum(axis=1, dtype=np.float64) for X in (decoded - table.A, table.A))
        return {
            "nbytes": code.nbytes,
            "bits": 8 * code.nbytes / table.A.size,
            "weighted_error": float(table.weights @ lost / (table.weights @ energies)),
            "failed": code.fault(decoded) or _unfair(unit, code.nbytes, table.A.size),
            "swapped": [round(float(logit), 5) for logit in models.logits(classifier, data_of(plan).test.ids)],
        }

    return once(plan.folder / f"{unit.name}.json", make)


def _unfair(unit: Unit, nbytes: int, numbers: int) -> str:
    """Empty when ours takes at most what was asked for, and a peer nearly as much or more."""
    asked = unit.bits * numbers / 8
    if unit.method == OURS:
        return f"takes {nbytes - asked:.0f} bytes more than were asked for" if nbytes > asked + HEADER else ""
    return f"takes only {nbytes} of {asked:.0f} bytes" if nbytes < 0.995 * asked else ""


def collect(
    originals: Mapping[int, Mapping[str, Any]], measured: Mapping[Unit, Mapping[str, Any]], scores: np.ndarray
) -> dict[str, Any]:
    """All figures, as they go into the results file: arguments as of :func:`report.collect`."""
    uncompressed: Runs = {seed: [found["swapped"]] for seed, found in originals.items()}
    rows = []
    for bits, methods in SIZES.items():
        found = {
            method: {u: r for u, r in measured.items() if (u.bits, u.method) == (bits, method)} for method in methods
        }
        runs = {
            method: {unit.model.seed: [np.array(result["swapped"])] for unit, result in results.items()}
            for method, results in found.items()
        }
        for method, results in found.items():
            row: dict[str, Any] = {"method": method, "title": METHODS[method].title, "budget": bits}
            row |= {
                name: mean(each[name] for each in results.values()) for name in ("nbytes", "bits", "weighted_error")
            }
            row["failed"] = next((each["failed"] for each in results.values() if each["failed"]), "")
            row["swapped"] = figures_of(runs[method], uncompressed, scores)
            if method != OURS:
                row["ours_over_it"] = asdict(difference(correlation, runs[OURS], runs[method], scores))
            rows.append(row)
    return {"sentences": len(scores), "original": original_figures(uncompressed, scores), "rows": rows}


def table(results: Mapping[str, Any]) -> Table:
    """What each method keeps of the task."""
    before = results["original"]
    grid = Table(
        title=f"{results['sentences']} held-out movie reviews, swapped in: gain over the original (correlation "
        f"{before['correlation']:.4f}, accuracy {before['accuracy']:.2%}) ± paired standard error",
        title_justify="left",
    )
    for heading in (
        "method",
        "MB",
        "bits",
        "weighted error",
        "correlation",
        "accuracy",
        "agreement",
        "ours is ahead by",
    ):
        grid.add_column(heading, justify="left" if heading == "method" else "right")
    for row in results["rows"]:
        kept, ahead = row["swapped"], row.get("ours_over_it")
        grid.add_row(
            row["title"],
            *(f"{row['nbytes'] / 1e6:.2f}", f"{row['bits']:.2f}", f"{row['weighted_error']:.4f}"),
            *(gain_of(name, kept[name]["gain"], kept[name]["error"]) for name in ("correlation", "accuracy")),
            f"{kept['agreement']:.1%}",
            gain_of("correlation", ahead["value"], ahead["error"]) if ahead else "",
            style="bold" if row["method"] == OURS else None,
        )
    return grid


def checks(results: Mapping[str, Any]) -> Iterator[str]:
    """Whether each goal is reached, a line for each, and what failed."""
    for row in results["rows"]:
        if row["failed"]:
            yield f"FAILED   {row['title']}: {row['failed']}"
        if row["method"] == OURS:
            gain, goal = row["swapped"]["correlation"]["gain"], LOSS_GOALS[row["budget"]]
            yield verdict(
                gain >= -goal, f"{row['budget']:g} bits, swapped in: correlation {gain:+.4f} (goal {-goal:+})"
            )
