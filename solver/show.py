"""Results for the eye, those of a fit and those of a curve: tables for the terminal, pictures for files."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .curve import WEIGHTED, CompressionCurve, CurvePoint
from .report import FitReport, SVDCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import RenderableType

__all__ = ["plot", "plot_curve", "render", "render_curve", "require"]

_SVD_COLOUR, _FIT_COLOUR = "#0072B2", "#D55E00"  # Okabe and Ito: told apart with any colour vision
_OTHER_COLOURS, _OTHER_MARKERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "^vDP"
_LISTED_CLUSTERS = 16
_SMALL_ERROR = 0.05  # below it a linear axis shows nothing
_WIDE = 5  # errors further apart than this want a logarithmic axis


def require(*modules: str) -> None:
    """Import optional modules; an `ImportError` says what to install where one is missing."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f'{module} is not installed: pip install "ksubspaces[cli]"', name=module) from error


def render(report: FitReport) -> RenderableType:
    """Lay the numbers out for a rich console: one table for the fit, one for its clusters.

    Raises
    ------
    ImportError
        rich (extra ``cli``) is not installed.
    """
    require("rich")
    from rich.console import Group
    from rich.table import Table

    n, d = report.shape
    fewer = f"{abs(report.ratio):.1%} {'fewer' if report.ratio >= 0 else 'more'}"
    summary = Table(show_header=False, box=None, pad_edge=False)
    summary.add_column(style="bold")
    summary.add_column()
    for name, value in (
        ("table", f"{n:,} x {d:,}"),
        ("objective", f"{report.objective:.6g}  (sum of squared distances)"),
        ("relative error", f"{report.relative_error:.4f}"),
        ("SVD's, same parameters", f"{report.svd_relative_error:.4f}"),
        ("parameters", f"{report.n_parameters:,}  ({fewer} than {n * d:,})"),
        ("steps", f"{report.n_iter}  ({'converged' if report.converged else 'stopped at max_iter'})"),
        ("seconds", f"{report.seconds:.2f}"),
    ):
        summary.add_row(name, value)
    if report.n_reseeded:
        summary.add_row("clusters re-seeded", str(report.n_reseeded))
    return Group(summary, "", _cluster_table(report))


def _cluster_table(report: FitReport) -> RenderableType:
    from rich.table import Table

    clusters = Table(box=None, pad_edge=False, title=None)
    for heading in ("cluster", "rows", "share", "dimension"):
        clusters.add_column(heading, justify="right", header_style="bold")
    listed = zip(report.counts[:_LISTED_CLUSTERS], report.dims, strict=False)
    for number, (count, dim) in enumerate(listed):
        clusters.add_row(str(number), f"{count:,}", f"{count / report.shape[0]:.1%}", str(dim))
    hidden = len(report.counts) - _LISTED_CLUSTERS
    if hidden > 0:
        low, high = min(report.counts), max(report.counts)
        clusters.caption = f"and {hidden} more; sizes {low:,} to {high:,}"
        clusters.caption_justify = "left"
    return clusters


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
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    by_size, by_step = figure.subplots(1, 2)
    for axes, title in ((by_size, "Error against size"), (by_step, "Error after each step of the fit")):
        _furnish(axes, title)
        axes.set_ylabel("relative squared error")
        axes.ticklabel_format(axis="y", useOffset=False)

    entries = report.shape[0] * report.shape[1]
    size = report.n_parameters / entries
    marker: dict[str, Any] = {"marker": "o", "markersize": 7, "markeredgecolor": "white", "zorder": 3}
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


def render_curve(curve: CompressionCurve) -> RenderableType:
    """Lay a curve out for a rich console: a table for each kind of number, with a row for each ratio.

    Raises
    ------
    ImportError
        rich (extra ``cli``) is not installed.
    """
    require("rich")
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [
        _curve_table(curve, "relative error", lambda point: f"{point.relative_error:.4f}", _best(curve, False))
    ]
    if curve.is_weighted:
        parts += ["", _curve_table(curve, "weighted error", lambda p: f"{p.weighted_error:.4f}", _best(curve, True))]
    parts += ["", _curve_table(curve, "clusters and seconds", lambda point: f"{point.k} / {point.seconds:.1f} s")]
    for method, reason in curve.ended.items():
        parts += ["", Text(f"{method} ends where it no longer fits: {reason}")]
    return Group(*parts)


def _curve_table(
    curve: CompressionCurve, title: str, tell: Callable[[CurvePoint], str], bold: Iterable[CurvePoint] = ()
) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in ("saved", *curve.methods):
        table.add_column(heading, justify="right", header_style="bold", no_wrap=True)
    by_method = [curve.of(method) for method in curve.methods]
    marked = set(bold)
    for ratio in curve.ratios:
        points = [points.get(ratio) for points in by_method]
        cells = ["" if p is None else f"[bold]{tell(p)}[/]" if p in marked else tell(p) for p in points]
        table.add_row(f"{100 * ratio:g}%", *cells)
    return table


def _best(curve: CompressionCurve, weighted: bool) -> list[CurvePoint]:
    """The point of least error at each ratio."""
    return [
        min((point for point in curve.points if point.ratio == ratio), key=lambda point: _error(point, weighted))
        for ratio in curve.ratios
    ]


def _error(point: CurvePoint, weighted: bool) -> float:
    return point.weighted_error or 0.0 if weighted else point.relative_error


def plot_curve(path: str | os.PathLike[str], curve: CompressionCurve) -> None:
    """Draw a curve into an image file: error against size, beside it the weighted error where there are weights.

    The legend tells the seconds that each method took for all its sizes.

    Parameters
    ----------
    path : path
        Of the image; its ending chooses the format (.png, .pdf, .svg).
    curve : CompressionCurve

    Raises
    ------
    ImportError
        matplotlib (extra ``cli``) is not installed.
    """
    require("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MultipleLocator, NullLocator, PercentFormatter

    panels = [("Relative squared error", False)]
    if curve.is_weighted:
        panels.append(("Relative squared error, rows weighted", True))
    figure = Figure(figsize=(9.6 if len(panels) > 1 else 6.0, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    entries = curve.shape[0] * curve.shape[1]
    errors = [_error(point, weighted) for point in curve.points for _, weighted in panels]
    wide = min(errors) > 0 and max(errors) > _WIDE * min(errors)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    for axes, (title, weighted) in zip(grid[0], panels, strict=True):
        _furnish(axes, title)
        for method, style in _styles(curve.methods).items():
            points = curve.of(method).values()
            sizes = [point.n_parameters / entries for point in points]
            label = f"{_label(method)}  ({sum(point.seconds for point in points):.0f} s)"
            axes.plot(sizes, [_error(point, weighted) for point in points], label=label, **style)
        axes.set_xlabel("parameters, of the table's n × d")
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
    title = "seconds are those of all sizes together"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, title=title)
    figure.savefig(path, dpi=150)


def _styles(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each method; by weights, the same with a broken line and a hollow marker."""
    ways = dict.fromkeys(method.removesuffix(WEIGHTED) for method in methods)
    others = [way for way in ways if way not in ("svd", "ours")]
    looks = {"svd": (_SVD_COLOUR, "s"), "ours": (_FIT_COLOUR, "o")}
    for number, way in enumerate(others):
        looks[way] = _OTHER_COLOURS[number % len(_OTHER_COLOURS)], _OTHER_MARKERS[number % len(_OTHER_MARKERS)]
    styles = {}
    for method in methods:
        colour, marker = looks[method.removesuffix(WEIGHTED)]
        weighted = method.endswith(WEIGHTED)
        styles[method] = {
            "color": colour,
            "marker": marker,
            "markersize": 5,
            "linestyle": "--" if weighted else "-",
            "markerfacecolor": "white" if weighted else colour,
            "zorder": 3 if method.startswith("ours") else 2,
        }
    return styles


def _label(method: str) -> str:
    way = method.removesuffix(WEIGHTED)
    name = "SVD" if way == "svd" else way.replace("messi-", "MESSI, k = ")
    return f"{name}, weighted" if method.endswith(WEIGHTED) else name


def _furnish(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
