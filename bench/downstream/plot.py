"""The downstream benchmark's picture: what is lost against how much is saved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ksubspaces.storage import write_whole

COLOURS = {  # Okabe and Ito: told apart with any colour vision
    "svd": "#999999",
    "svd-exact": "#000000",
    "svd-weighted": "#CC79A7",
    "messi-3": "#56B4E9",
    "messi-5": "#0072B2",
    "ours": "#009E73",
    "ours-prior": "#E69F00",
    "ours-counts": "#D55E00",
}


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Sentence cosine, and correlation lost without and with fine-tuning, of each method at each ratio."""
    panels = [
        ("cosine", None, "Sentence vectors, pretrained", "mean cosine to the original's"),
        ("swapped", "correlation", "Swapped in, no retraining", "correlation with the score, lost"),
        ("tuned", "correlation", "Fine-tuned in factored form", "correlation with the score, lost"),
    ]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels))
    for axes, (key, what, title, label) in zip(all_axes, panels, strict=True):
        for method in dict.fromkeys(row["method"] for row in rows):
            points = [row for row in rows if row["method"] == method and row.get(key) is not None]
            if not points:
                continue
            ratios = [row["ratio"] for row in points]
            values = [row[key] if what is None else -row[key][what]["gain"] for row in points]
            errors = None if what is None else [row[key][what]["error"] for row in points]
            style = {"color": COLOURS[method], "label": points[0]["title"], "marker": "o", "markersize": 4, "lw": 1.4}
            axes.errorbar(ratios, values, errors, capsize=2, **style)
        axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
        axes.set(xlabel="parameters saved", ylabel=label, xticks=sorted({row["ratio"] for row in rows}))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.9", linewidth=0.8)
        if what is not None:
            axes.axhline(0, color="0.4", lw=0.8)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())
