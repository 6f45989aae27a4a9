"""Rows of the benchmark table: what was compared, the ratio and its spread, the target, and whether the check held."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from ksubspaces import Subspaces

from .peers import exact_objective

TOLERANCE = 1.001
"""Ours may lie this much above the peer's objective, and no more, for a comparison to count."""
DISTURBED = 0.15
"""Cores in use by others from which on the table says so."""


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    case, what : str
        The data and shape; the thing compared.
    ours, peer, result : str
        Both sides and their ratio (or the figure that the target speaks of), with units.
    target : str
        What this must reach; empty when nothing is asked.
    reached : bool or None
    failed : str
        Why the two sides are not comparable; empty when they are. Makes the command fail.
    note : str
        What the figures refer to.
    others : float
        Cores that other processes kept busy meanwhile, on average. Two programs that each use every core slow one
        another far more than twofold, so a row measured beside another program says little.
    raw : dict
        Every timing and value behind the line, for the results file.
    """

    case: str
    what: str
    result: str
    ours: str = ""
    peer: str = ""
    target: str = ""
    reached: bool | None = None
    failed: str = ""
    note: str = ""
    others: float = 0.0
    raw: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, row: dict[str, Any]) -> Row:
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name in row})


def ratio_row(
    case: str,
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    target: float | None = None,
    within: float | None = None,
    failed: str = "",
    note: str = "",
    raw: dict[str, Any] | None = None,
) -> Row:
    """How many times longer the peer took; `ours` and `peer` hold the seconds of repeats taken in turn.

    Each repeat gives one ratio, of two runs that followed one another; the row shows their median and range. `within`
    is a target for our own seconds.
    """
    ratios = [p / o for o, p in zip(ours, peer, strict=True)]
    asked = {} if target is None else {f">= {target:g} x": statistics.median(ratios) >= target}
    if within is not None:
        asked[f"<= {1e3 * within:g} ms"] = statistics.median(ours) <= within
    return Row(
        case,
        what,
        result=f"{spread(ratios, '.1f')} x faster",
        ours=f"{spread(ours, '.3g')} s",
        peer=f"{spread(peer, '.3g')} s",
        target=", ".join(asked),
        reached=all(asked.values()) if asked else None,
        failed=failed,
        note=note,
        raw={"ours_seconds": list(ours), "peer_seconds": list(peer), "ratios": ratios, **(raw or {})},
    )


def cost_row(
    case: str,
    what: str,
    ours: list[float],
    peer: list[float],
    *,
    target: float | None = None,
    failed: str = "",
    note: str = "",
    raw: dict[str, Any] | None = None,
) -> Row:
    """How many times the peer's seconds ours took: one ratio per repeat, their median and range."""
    ratios = [o / p for o, p in zip(ours, peer, strict=True)]
    milliseconds = [[1e3 * s for s in side] for side in (ours, peer)]
    return Row(
        case,
        what,
        result=f"{spread(ratios, '.2f')} x its time",
        ours=f"{spread(milliseconds[0], '.3g')} ms",
        peer=f"{spread(milliseconds[1], '.3g')} ms",
        target="" if target is None else f"<= {target:g} x",
        reached=None if target is None else statistics.median(ratios) <= target,
        failed=failed,
        note=note,
        raw={"ours_seconds": ours, "peer_seconds": peer, "ratios": ratios, **(raw or {})},
    )


def time_row(
    case: str, what: str, seconds: Sequence[float], *, within: float | None = None, failed: str = "", note: str = ""
) -> Row:
    """How long something took that has no peer, and the seconds it should take at most."""
    return Row(
        case,
        what,
        result=f"{spread([1e3 * s for s in seconds], '.3g')} ms",
        target="" if within is None else f"<= {1e3 * within:g} ms",
        reached=None if within is None else statistics.median(seconds) <= within,
        failed=failed,
        note=note,
        raw={"ours_seconds": list(seconds)},
    )


def spread(values: Sequence[float], fmt: str) -> str:
    """`median (lowest-highest)`, or the value alone when there is one."""
    if len(values) == 1:
        return format(values[0], fmt)
    return f"{statistics.median(values):{fmt}} ({min(values):{fmt}}-{max(values):{fmt}})"


def not_above(ours: float, peer: float, what: str = "objective") -> str:
    """Empty when ours is at most 0.1% above the peer's, else the complaint."""
    if ours <= TOLERANCE * peer:
        return ""
    return f"our {what} {ours:.6g} is {100 * (ours / peer - 1):.2f}% above the peer's {peer:.6g}"


def honest(X: np.ndarray, fit: Subspaces) -> str:
    """Empty when the objective that a fit reports is the one recomputed from its bases and labels."""
    offsets = None if fit.offsets is None else list(fit.offsets)
    value = exact_objective(X, fit.bases, np.asarray(fit.labels), offsets)
    if np.isclose(fit.objective, value, rtol=1e-5):
        return ""
    return f"the fit reports {fit.objective:.8g}, recomputed it is {value:.8g}"


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `run()` took, and what it returned."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


def table(rows: Sequence[Row], title: str) -> Table:
    """The rows as a rich table."""
    grid = Table(title=title, title_justify="left", show_lines=True, expand=True)
    shares = {"data": 4, "compared": 8, "ours": 4, "peer": 4, "result: median (range)": 4, "target": 3}
    for name, share in shares.items():
        grid.add_column(name, ratio=share)
    for row in rows:
        verdict = {None: "", True: "  [green]reached[/]", False: "  [red]missed[/]"}[row.reached]
        failure = f"\n[bold red]check failed: {escape(row.failed)}[/]" if row.failed else ""
        note = f"\n[dim]{escape(row.note)}[/]" if row.note else ""
        beside = f"\n[yellow]others used {row.others:.1f} cores: do not trust[/]" if row.others > DISTURBED else ""
        grid.add_row(row.case, row.what + note + beside + failure, row.ours, row.peer, row.result, row.target + verdict)
    return grid
