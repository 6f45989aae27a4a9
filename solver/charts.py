"""Line charts as SVG for a page. The page's style colours them, so they follow its dark mode."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Line", "legend", "line_chart"]

Point = tuple[float, float]

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 50, 20, 12, 44
MARKS = (  # a shape for each line, around the origin: lines are told apart without colours too
    "M-4-4H4V4H-4Z",
    "M0-5.5L5 4H-5Z",
    "M0-5.5L5.5 0L0 5.5L-5.5 0Z",
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0",
    "M0 5.5L5-4H-5Z",
)


class Line(NamedTuple):
    """A line of a chart.

    Attributes
    ----------
    name : str
    style : str
        Its classes in the page's style.
    points : sequence of (share, error)
    """

    name: str
    style: str
    points: Sequence[Point]


def legend(lines: Sequence[Line]) -> str:
    """The names of lines, each with its line and mark, as a list."""
    entries = (
        f'<li><svg class="{line.style}" viewBox="-14 -7 28 14" aria-hidden="true"><path class="line" d="M-13 0H13"/>'
        f'<path class="mark" d="{MARKS[i % len(MARKS)]}"/></svg>{escape(line.name)}</li>'
        for i, line in enumerate(lines)
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def line_chart(lines: Sequence[Line], marked: Point | None, alt: str) -> str:
    """Error (logarithmic where all are positive) against the share of parameters, a line with marks for each method.

    Parameters
    ----------
    lines : sequence of Line
    marked : point, optional
        To be ringed.
    alt : str
        What the picture shows, for those who do not see it.

    Examples
    --------
    >>> from ksubspaces.charts import Line, line_chart
    >>> chart = line_chart([Line("SVD", "svd", [(0.2, 0.5), (0.6, 0.1)])], None, "error against size")
    >>> chart.count('class="mark"')
    2
    """
    points = [point for line in lines for point in line.points] + ([marked] if marked else [])
    shares, errors = [x for x, _ in points], [y for _, y in points]
    logarithmic = min(errors) > 0
    low, high, ticks = _logarithmic(errors) if logarithmic else _linear(errors)
    # A hair of slack: what keeps 59.99% is drawn at 60%, not in a tenth of its own.
    first, last = math.floor(10 * min(shares) + 0.05) / 10, math.ceil(10 * max(shares) - 0.05) / 10

    def x(share: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (share - first) / (last - first or 1)

    def y(error: float) -> float:
        height = math.log(error / low) / math.log(high / low) if logarithmic else (error - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * height

    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 12}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    step = 2 if last - first > 0.65 else 1
    for tenth in range(round(10 * first), round(10 * last) + 1, step):
        place = f'x="{x(tenth / 10):.1f}" y="{HEIGHT - BOTTOM + 18}"'
        parts.append(f'<text {place} text-anchor="middle">{10 * tenth}%</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">parameters kept</text>')
    for i, line in enumerate(lines):
        ordered = sorted(line.points)
        path = "L".join(f"{x(share):.1f} {y(error):.1f}" for share, error in ordered)
        marks = "".join(
            f'<path class="mark" transform="translate({x(share):.1f} {y(error):.1f})" d="{MARKS[i % len(MARKS)]}"/>'
            for share, error in ordered
        )
        parts.append(f'<g class="{line.style}"><path class="line" d="M{path}"/>{marks}</g>')
    if marked:
        parts.append(f'<circle class="ring" cx="{x(marked[0]):.1f}" cy="{y(marked[1]):.1f}" r="9"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">{"".join(parts)}</svg>'


def _logarithmic(errors: Sequence[float]) -> tuple[float, float, list[float]]:
    """Limits and ticks: 1, 2 and 5 of every power of ten within, or the powers alone where those would be many."""
    steps = (1, 2, 5) if max(errors) / min(errors) < 500 else (1,)
    powers = range(math.floor(math.log10(min(errors))), math.ceil(math.log10(max(errors))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    low = max((tick for tick in ticks if tick <= min(errors) * 1.0001), default=min(ticks))
    high = min((tick for tick in ticks if tick >= max(errors) * 0.9999), default=max(ticks))
    if low == high:
        low, high = low / 2, high * 2
    return low, high, [tick for tick in ticks if low <= tick <= high]


def _linear(errors: Sequence[float]) -> tuple[float, float, list[float]]:
    high = max(errors) or 1.0
    step = 10.0 ** math.floor(math.log10(high))
    step = step if high / step >= 3 else step / 4
    count = math.ceil(high / step)
    return 0.0, count * step, [round(i * step, 12) for i in range(count + 1)]
