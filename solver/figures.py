"""Results as pictures in files: a fit, and lines of error against size."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from .extras import require
from .report import FitReport, SVDCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Series", "plot", "plot_series"]

Style: TypeAlias = "dict[str, str | float]"
"""Arguments of matplotlib's plot."""

_SVD_COLOUR, _FIT_COLOUR = "#0072B2", "#D55E00"  # Okabe and Ito: told apart with any colour vision
_OTHER_COLOURS, _OTHER_MARKERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "^vDP"
_SMALL_ERROR = 0.05  # below it a linear axis shows nothing
_WIDE = 5  # errors further apart than this want a logarithmic axis


def plot(path: str | Path, report: FitReport, svd: SVDCurve, sweep: Sequence[tuple[int, float]] = ()) -> None:
    """Draw error against parameters, and error against step, into an image file.

    Parameters
    ----------
    path : path
        Of the image; its ending chooses the format (.png, .pdf, .svg).
    report : FitReport
    svd : SVDCurve
        Of the same table.
    sweep : sequence of (n_parameters, relative_error)
        Further points of the k-subspaces curve, as from `dimension_sweep`.

    Raises
    ------
    ImportError
        matplotlib (extra ``cli``) is not installed.
    """
    figure = _figure(9.6, 4.2)
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    by_size, by_step = figure.subplots(1, 2)
    for axes, title in ((by_size, "Error against size"), (by_step, "Error after each step of the fit")):
        _furnish(axes, title)
        axes.set_ylabel("relative squared error")
        axes.ticklabel_format(axis="y", useOffset=False)

    entries = report.shape[0] * report.shape[1]
    size = report.n_parameters / entries
    marker: Style = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "zorder": 3}
    by_size.vlines(size, 0, max(report.relative_error, report.svd_relative_error), color="0.5", lw=1, linestyle=":")
    name = f"SVD: {report.svd_relative_error:.4f}"
    by_size.plot(svd.n_parameters / entries, svd.relative_error, color=_SVD_COLOUR, label=name)
    by_size.plot(size, report.svd_relative_error, color=_SVD_COLOUR, **marker)
    points = np.array(sorted([*sweep, (report.n_parameters, report.relative_error)]))
    name = f"{len(report.dims)} subspace{'s' if len(report.dims) > 1 else ''}"
    name += f": {report.relative_error:.4f}"
    by_size.plot(points[:, 0] / entries, points[:, 1], "o-", ms=4, color=_FIT_COLOUR, label=name)
    by_size.plot(size, report.relative_error, color=_FIT_COLOUR, **marker)
    by_size.set(xlim=(0, max(1, 1.05 * points[-1, 0] / entries)), ylim=(0, 1.02))
    by_size.set_xlabel("parameters, of the table's n × d")
    if 0 < report.relative_error < _SMALL_ERROR:
        by_size.set(yscale="log", ylim=(points[points[:, 1] > 0, 1].min() / 3, 1.2))
    by_size.xaxis.set_major_formatter(PercentFormatter(1))
    by_size.legend(frameon=False, title=f"error at {size:.1%} of the size", alignment="left")

    by_step.plot(range(1, len(report.history) + 1), report.history, "o-", ms=4, color=_FIT_COLOUR)
    by_step.set(xlim=(0.5, max(1, len(report.history)) + 0.5), xlabel="step")
    by_step.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.savefig(path, dpi=150)


class Series(NamedTuple):
    """The errors of one method at several sizes.

    Attributes
    ----------
    label : str
        For the legend.
    way : str
        "svd", "ours" or another name; series of the same way share colour and marker.
    weighted : bool
        Whether the method goes by weights: then the line is broken and the markers are hollow.
    sizes : sequence of float
        Parameters, as a part of the table's n d.
    errors : sequence of float
    """

    label: str
    way: str
    weighted: bool
    sizes: Sequence[float]
    errors: Sequence[float]


def plot_series(
    path: str | os.PathLike[str], panels: Mapping[str, Sequence[Series]], legend: str, unit: str | None = None
) -> None:
    """Draw errors against sizes into an image file: panels side by side, which share the axis of the errors.

    Parameters
    ----------
    path : path
        Of the image; its ending chooses the format (.png, .pdf, .svg).
    panels : mapping of str to sequence of Series
        The series of each panel, by its title; those of the first are in the legend.
    legend : str
        Title of the legend.
    unit : str, optional
        What sizes are, if not parameters as a part of the table's.

    Raises
    ------
    ImportError
        matplotlib (extra ``cli``) is not installed.
    """
    figure = _figure(9.6 if len(panels) > 1 else 6.0, 4.8)
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator, PercentFormatter

    errors = [error for panel in panels.values() for series in panel for error in series.errors]
    wide = min(errors) > 0 and max(errors) > _WIDE * min(errors)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (title, panel) in zip(grid[0], panels.items(), strict=True):
        _furnish(axes, title)
        looks = _looks(series.way for series in panel)
        for series in panel:
            style = _style(*looks[series.way], series.weighted)
            axes.plot(series.sizes, series.errors, label=series.label, zorder=3 if series.way == "ours" else 2, **style)
        axes.set_xlabel(unit or "parameters, of the table's n × d")
        if unit is None:
            axes.xaxis.set_major_locator(MultipleLocator(0.1))
            axes.xaxis.set_major_formatter(PercentFormatter(1))
        if wide:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{error:g}"))
        else:
            axes.set_ylim(bottom=0)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, title=legend)
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Figure:
    """A figure that is drawn into files alone, whatever backend is set."""
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _looks(ways: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each way."""
    looks = {"svd": (_SVD_COLOUR, "s"), "ours": (_FIT_COLOUR, "o")}
    for number, way in enumerate(way for way in dict.fromkeys(ways) if way not in ("svd", "ours")):
        looks[way] = _OTHER_COLOURS[number % len(_OTHER_COLOURS)], _OTHER_MARKERS[number % len(_OTHER_MARKERS)]
    return looks


def _style(colour: str, marker: str, weighted: bool) -> Style:
    return {
        "color": colour,
        "marker": marker,
        "markersize": 5,
        "linestyle": "--" if weighted else "-",
        "markerfacecolor": "white" if weighted else colour,
    }


def _furnish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


Panel: TypeAlias = "tuple[Mapping[int, tuple[Sequence[int], Sequence[float]]], tuple[int, int] | None]"
"""Values against k, for each j; and the best (k, j), if there is one."""


def plot_choices(path: str | os.PathLike[str], panels: Mapping[str, Panel]) -> None:
    """Draw criteria of k and j into an image file: a panel for each, with a line for each j and a ring at the best."""
    figure = _figure(3.6 * len(panels), 3.8)
    from matplotlib.ticker import MaxNLocator

    for axes, (title, (lines, best)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _furnish(axes, title)
        for place, (j, (ks, values)) in enumerate(lines.items()):
            colour = str(0.75 - 0.75 * place / max(1, len(lines) - 1))  # the darker, the larger j
            axes.plot(ks, values, "o-", ms=4, color=colour, label=f"{j}")
            if best is not None and best[1] == j:
                at = best[0], values[list(ks).index(best[0])]
                axes.plot(*at, "o", ms=12, markerfacecolor="none", markeredgecolor=_FIT_COLOUR, markeredgewidth=2)
        shown = [value for _, values in lines.values() for value in values if np.isfinite(value)]
        if shown and min(shown) > 0 and max(shown) > _WIDE * min(shown):
            axes.set_yscale("log")
        axes.set_xlabel("k, subspaces")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False, title="j, dimension of each")
    figure.savefig(path, dpi=150)
