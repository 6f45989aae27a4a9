"""The picture of the fronts: what is lost against bytes, ours and every peer, a panel for each table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ksubspaces.storage import write_whole

STYLES = {  # Okabe and Ito: told apart with any colour vision
    "ours": ("#D55E00", "o"),
    "ours-relative": ("#D55E00", "s"),
    "int-32": ("#E69F00", "s"),
    "int-64": ("#E69F00", "o"),
    "pq": ("#0072B2", "o"),
    "opq": ("#0072B2", "s"),
    "rotated": ("#009E73", "o"),
    "rotated-even": ("#009E73", "s"),
    "svd": ("#999999", "o"),
    "messi": ("#999999", "s"),
    "factored": ("#CC79A7", "o"),
}
PANELS = (
    ("MiniLM", "cosine", "MiniLM 30522 x 384: sentence vectors", "1 − cosine to the original's"),
    ("GloVe", "recall", "GloVe 60000 x 50: ten nearest words", "neighbours lost, 1 − recall@10"),
    ("wordllama", "cosine", "wordllama 32000 x 256: means of 20 tokens", "1 − cosine to the original's"),
)
BITS = (1, 1.5, 2, 3, 4)
MOST = 5  # with more bits every method is near to the original


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Both axes in logarithms; a point is the median over seeds, those up to MOST bits."""
    figure = Figure(figsize=(15, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(PANELS))
    for axes, (name, measure, title, label) in zip(all_axes, PANELS, strict=True):
        own = [row for row in rows if row["table"] == name and row["bits"] < MOST]
        for method, (colour, marker) in STYLES.items():
            sizes: dict[float, list[Mapping[str, Any]]] = {}
            for row in own:
                if row["method"] == method:
                    sizes.setdefault(row["size"], []).append(row)
            found = sorted(
                (median(row["bits"] for row in group), 1 - median(row[measure] for row in group))
                for group in sizes.values()
            )
            if found:
                ours = method.startswith("ours")
                style = {"lw": 2.6 if ours else 1.3, "ms": 7 if ours else 4.5, "zorder": 3 if ours else 2}
                line = "--" if marker == "s" else "-"
                axes.plot(
                    *zip(*found, strict=True), line, color=colour, marker=marker, label=_title(own, method), **style
                )
        axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
        axes.set(xscale="log", yscale="log", xlim=(0.85, MOST), xlabel="bits a number, all told", ylabel=label)
        axes.set_xticks(BITS, [f"{bits:g}" for bits in BITS])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="both", color="0.9", linewidth=0.8)
        if own:
            number = own[0]["nbytes"] / own[0]["bits"]
            above = axes.secondary_xaxis(
                "top", functions=(lambda x, s=number: x * s / 1e6, lambda x, s=number: x / s * 1e6)
            )
            above.set_xticks([bits * number / 1e6 for bits in BITS], [f"{bits * number / 1e6:.2g} MB" for bits in BITS])
            above.xaxis.set_minor_formatter(NullFormatter())
            above.tick_params(labelsize="small", colors="0.4")
    handles = {label: line for axes in all_axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    titles = {row["title"]: list(STYLES).index(row["method"]) for row in rows if row["method"] in STYLES}
    shown = sorted(handles, key=lambda title: titles[title])
    figure.legend([handles[title] for title in shown], shown, loc="outside right center", frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130)
    write_whole(path, picture.getvalue())


def _title(rows: Sequence[Mapping[str, Any]], method: str) -> str:
    return next(row["title"] for row in rows if row["method"] == method)
