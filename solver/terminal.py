"""Results on the terminal: what a fit achieved, and a curve, as tables of rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from .curve import CompressionCurve, CurvePoint
from .extras import require
from .report import FitReport

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["render", "render_curve"]

_LISTED_CLUSTERS = 16


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
        min((point for point in curve.points if point.ratio == ratio), key=lambda point: point.error(weighted))
        for ratio in curve.ratios
    ]
