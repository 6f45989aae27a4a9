"""The downstream benchmark's figures, method by method, and its tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np
from rich.table import Table

from .figures import Difference, Runs, accuracy, agreement, correlation, difference, mean_value
from .methods import METHODS
from .work import Unit

OURS = "ours-counts"
FIGURES = {"correlation": correlation, "accuracy": accuracy}
WAYS = {"swapped": "swapped in", "tuned": "fine-tuned"}
FIDELITY_GOALS = {OURS: {0.4: (0.996, 0.994), 0.6: (0.976, 0.970), 0.8: (0.91, 0.89)}, "ours-prior": {0.4: (0.991, 0)}}
LOSS_GOALS = {0.4: 0.005, 0.6: 0.012}
"""Correlation that may be lost, swapped in, by ours weighted by counts."""


def collect(
    originals: Mapping[int, Mapping[str, np.ndarray]], measured: Mapping[Unit, Mapping[str, Any]], scores: np.ndarray
) -> dict[str, Any]:
    """All figures, as they go into the results file.

    Parameters
    ----------
    originals : mapping
        For each seed of a fine-tuned model its logits, "swapped" (as it is) and "tuned" (after the epoch more).
    measured : mapping
        What was found for each unit.
    scores : ndarray of shape (n,)
        People's scores of the same sentences.
    """
    uncompressed: dict[str, Runs] = {way: {seed: [found[way]] for seed, found in originals.items()} for way in WAYS}
    runs = {
        (way, unit.method, unit.ratio): _runs(measured, way, unit.method, unit.ratio)
        for unit in measured
        for way in WAYS
    }
    rows = []
    for method, ratio in dict.fromkeys((unit.method, unit.ratio) for unit in measured):
        found = [result for unit, result in measured.items() if (unit.method, unit.ratio) == (method, ratio)]
        row: dict[str, Any] = {"method": method, "title": METHODS[method].title, "ratio": ratio}
        for name in ("n_parameters", "relative_error", "count_weighted_error", "seconds"):
            row[name] = mean(result[name] for result in found)
        kept = [result["fidelity"] for result in found if "fidelity" in result]
        for name in ("cosine", "spearman"):
            row[name] = mean(each[name] for each in kept)
            row[f"{name}_range"] = [min(each[name] for each in kept), max(each[name] for each in kept)]
        for way in WAYS:
            own = runs[way, method, ratio]
            row[way] = figures_of(own, uncompressed[way], scores) if own else None
        rows.append(row)
    return {
        "sentences": len(scores),
        "original": {way: original_figures(uncompressed[way], scores) for way in WAYS},
        "rows": sorted(rows, key=lambda row: (row["ratio"], list(METHODS).index(row["method"]))),
        "ours_over_others": list(_comparisons(runs, scores)),
    }


def _runs(measured: Mapping[Unit, Mapping[str, Any]], way: str, method: str, ratio: float) -> Runs:
    runs: dict[int, list[np.ndarray]] = {}
    for unit, result in sorted(measured.items(), key=lambda item: item[0].partition):
        if unit.model is not None and (unit.method, unit.ratio) == (method, ratio) and way in result:
            runs.setdefault(unit.model.seed, []).append(result[way])
    return dict(sorted(runs.items()))


def original_figures(runs: Runs, scores: np.ndarray) -> dict[str, float]:
    """The figures of the models before compression."""
    return {name: mean_value(figure, runs, scores) for name, figure in FIGURES.items()}


def figures_of(own: Runs, original: Runs, scores: np.ndarray) -> dict[str, Any]:
    """Those of compressed models, beside their originals."""
    found: dict[str, Any] = {"agreement": agreement(own, original)}
    for name, figure in FIGURES.items():
        gained = difference(figure, own, original, scores)
        found[name] = {"value": mean_value(figure, own, scores), "gain": gained.value, "error": gained.error}
    return found


def _comparisons(runs: Mapping[tuple[str, str, float], Runs], scores: np.ndarray) -> Iterator[dict[str, Any]]:
    order = sorted(runs, key=lambda key: (list(WAYS).index(key[0]), key[2], list(METHODS).index(key[1])))
    for way, method, ratio in order:
        other = runs[way, method, ratio]
        ours = runs.get((way, OURS, ratio))
        if method != OURS and ours and other:
            for name, figure in FIGURES.items():
                gained = difference(figure, ours, other, scores)
                yield {"way": way, "ratio": ratio, "over": method, "figure": name, **asdict(gained)}


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    """What each method keeps of table and sentence vectors, what of the task, and how far ours is ahead of each."""
    kept = _grid("Tables of word embeddings, and the pretrained encoder's sentence vectors")
    for name in ("parameters", "error", "count-weighted error", "mean cosine", "pair Spearman", "seconds"):
        kept.add_column(name, justify="right")
    for row in results["rows"]:
        cells = [f"{row[name]:.4f}" for name in ("relative_error", "count_weighted_error", "cosine", "spearman")]
        _add(kept, row, f"{row['n_parameters']:,.0f}", *cells, f"{row['seconds']:.0f}")
    yield kept
    before, after = (results["original"][way] for way in WAYS)
    lost = _grid(
        f"{results['sentences']} held-out movie reviews: gain over the original ± paired standard error.\n"
        f"The original's correlation with people's scores is {before['correlation']:.4f}, its accuracy "
        f"{before['accuracy']:.2%}; after the epoch more {after['correlation']:.4f}, {after['accuracy']:.2%}"
    )
    for way in WAYS.values():
        for name in (*FIGURES, "agreement"):
            lost.add_column(f"{way}:\n{name}", justify="right")
    for row in results["rows"]:
        cells = []
        for way in WAYS:
            if row[way] is None:
                cells += ["", "", ""]
            else:
                cells += [gain_of(name, row[way][name]["gain"], row[way][name]["error"]) for name in FIGURES]
                cells += [f"{row[way]['agreement']:.1%}"]
        _add(lost, row, *cells)
    yield lost
    compared = {(c["way"], c["ratio"], c["over"], c["figure"]): c for c in results["ours_over_others"]}
    if not compared:
        return
    ahead = Table(title=f"{METHODS[OURS].title}: ahead of the others by", title_justify="left")
    for column in ("", "fewer", "other", *FIGURES):
        ahead.add_column(column)
    for way, ratio, over in dict.fromkeys(key[:3] for key in compared):
        cells = []
        for name in FIGURES:
            found = compared[way, ratio, over, name]
            apart = "" if _difference(found).separates else ", not separated"
            cells.append(gain_of(name, found["value"], found["error"]) + apart)
        ahead.add_row(WAYS[way], f"{ratio:.0%}", METHODS[over].title, *cells)
    yield ahead


def _grid(title: str) -> Table:
    grid = Table(title=title, title_justify="left")
    grid.add_column("fewer", justify="right")
    grid.add_column("method", no_wrap=True)
    return grid


def _add(grid: Table, row: Mapping[str, Any], *cells: str) -> None:
    grid.add_row(f"{row['ratio']:.0%}", row["title"], *cells, end_section=row["method"] == OURS)


def gain_of(figure: str, value: float, error: float) -> str:
    """A difference of a figure and its standard error, as tables show it."""
    return f"{value:+.4f} ±{error:.4f}" if figure == "correlation" else f"{value:+.2%} ±{error:.2%}"


def _difference(found: Mapping[str, Any]) -> Difference:
    return Difference(found["value"], found["error"])


def verdict(reached: bool, text: str) -> str:
    """A line of the checks."""
    return f"{'reached' if reached else 'MISSED '}  {text}"


def checks(results: Mapping[str, Any]) -> Iterator[str]:
    """Whether each goal is reached, a line for each."""
    rows = {(row["method"], row["ratio"]): row for row in results["rows"]}

    for method, goals in FIDELITY_GOALS.items():
        for ratio, (cosine, spearman) in goals.items():
            if (row := rows.get((method, ratio))) is not None:
                reached = row["cosine"] >= cosine and row["spearman"] >= spearman
                kept = f"cosine / Spearman {row['cosine']:.4f} / {row['spearman']:.4f}"
                goal = f"(goal {cosine}" + (f" / {spearman})" if spearman else ")")
                yield verdict(reached, f"{ratio:.0%} fewer, {row['title']}: {kept} {goal}")
    for ratio, goal in LOSS_GOALS.items():
        if (row := rows.get((OURS, ratio))) is not None:
            gain = row["swapped"]["correlation"]["gain"]
            yield verdict(gain >= -goal, f"{ratio:.0%} fewer, swapped in: correlation {gain:+.4f} (goal {-goal:+})")
    for found in results["ours_over_others"]:
        asked = found["over"] in ("svd-exact", "messi-3", "messi-5") and found["ratio"] >= 0.6
        if asked and (found["way"], found["figure"]) == ("swapped", "correlation"):
            ahead = found["value"] > 0 and _difference(found).separates
            title = METHODS[found["over"]].title
            yield verdict(ahead, f"{found['ratio']:.0%} fewer, swapped in: ahead of {title} by {found['value']:+.4f}")
    if (row := rows.get((OURS, 0.4))) is not None and row["tuned"] is not None:
        found = row["tuned"]["correlation"]
        fine = found["gain"] > -2 * found["error"]
        yield verdict(
            fine, f"40% fewer, fine-tuned: correlation {found['gain']:+.4f} ± {found['error']:.4f} (goal: no loss)"
        )
