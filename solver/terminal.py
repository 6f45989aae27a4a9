"""Results on the terminal: what a fit achieved, and a curve, as tables of rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .curve import CompressionCurve, CurvePoint
from .extras import require
from .front import Front
from .report import FitReport

if TYPE_CHECKING:
    from rich.console import JustifyMethod, RenderableType
    from rich.table import Table
    from rich.text import TextType

__all__ = ["render", "render_curve", "render_front"]

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

    n, d = report.shape
    fewer = f"{abs(report.ratio):.1%} {'fewer' if report.ratio >= 0 else 'more'}"
    facts = [
        ("table", f"{n:,} x {d:,}"),
        ("objective", f"{report.objective:.6g}  (sum of squared distances)"),
        ("relative error", f"{report.relative_error:.4f}"),
        ("SVD's, same parameters", f"{report.svd_relative_error:.4f}"),
        ("parameters", f"{report.n_parameters:,}  ({fewer} than {n * d:,})"),
        ("steps", f"{report.n_iter}  ({'converged' if report.converged else 'stopped at max_iter'})"),
        ("seconds", f"{report.seconds:.2f}"),
        *([("clusters re-seeded", str(report.n_reseeded))] if report.n_reseeded else []),
    ]
    summary = lay_out(("", ""), ((f"[bold]{name}[/]", value) for name, value in facts), left=2)
    summary.show_header = False
    return Group(summary, "", _cluster_table(report))


def lay_out(
    headings: Sequence[str],
    rows: Iterable[Iterable[str]],
    title: TextType | None = None,
    *,
    left: int = 0,
    no_wrap: bool = False,
) -> Table:
    """A table of rich without rules: the first ``left`` columns begin at the left, the others end at the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        justify: JustifyMethod = "left" if number < left else "right"
        table.add_column(heading, justify=justify, header_style="bold", no_wrap=no_wrap)
    for row in rows:
        table.add_row(*row)
    return table


def _cluster_table(report: FitReport) -> Table:
    listed = enumerate(zip(report.counts[:_LISTED_CLUSTERS], report.dims, strict=False))
    rows = [(str(c), f"{count:,}", f"{count / report.shape[0]:.1%}", str(dim)) for c, (count, dim) in listed]
    clusters = lay_out(("cluster", "rows", "share", "dimension"), rows)
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


def render_front(front: Front) -> RenderableType:
    """Lay a front of bytes out for a rich console: a table with a row for each size and method.

    Raises
    ------
    ImportError
        rich (extra ``cli``) is not installed.
    """
    require("rich")
    weighted = front.is_weighted
    rows = (
        (
            point.method,
            f"{point.bits:g}",
            f"{point.nbytes:,}",
            f"{point.relative_error:.4f}",
            *([f"{point.weighted_error:.4f}"] if weighted else []),
            point.winner,
        )
        for point in front.points
    )
    errors = ("relative error", *(["weighted error"] if weighted else []))
    return lay_out(("", "bits", "bytes", *errors, "won by"), rows, left=1)


def _curve_table(
    curve: CompressionCurve, title: str, tell: Callable[[CurvePoint], str], bold: Iterable[CurvePoint] = ()
) -> Table:
    by_method, marked = [curve.of(method) for method in curve.methods], set(bold)

    def cell(point: CurvePoint | None) -> str:
        return "" if point is None else f"[bold]{tell(point)}[/]" if point in marked else tell(point)

    rows = [(f"{100 * ratio:g}%", *(cell(points.get(ratio)) for points in by_method)) for ratio in curve.ratios]
    return lay_out(("saved", *curve.methods), rows, title, no_wrap=True)


def _best(curve: CompressionCurve, weighted: bool) -> list[CurvePoint]:
    """The point of least error at each ratio."""
    return [
        min((point for point in curve.points if point.ratio == ratio), key=lambda point: point.error(weighted))
        for ratio in curve.ratios
    ]
