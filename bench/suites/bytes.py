"""`python -m bench bytes`: the front of bytes against what a table is used for, ours and every peer.

Three real tables (lib/tables.py) are stored by every method (lib/quantisers.py) at several sizes, with three seeds
where a method depends on chance. All bytes are counted: codes, codebooks, scales, labels, bases. What is measured is
the table that the stored bytes decode to, after a check that it is the one the encoder meant.

Every finished point is kept in the user's cache, so that a run that was killed goes on where it was, and each table has
a results file of its own, so that one can be recorded at a time; the plot is of all that are recorded. Bytes and
qualities are recorded, which depend on no other load; seconds are not.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from ksubspaces import compress

from ..lib import machine, quantisers, texts
from ..lib.compare import Row, spread
from ..lib.compare import table as table_of_rows
from ..lib.fronts import draw
from ..lib.quantisers import Code
from ..lib.results import RESULTS, now, write
from ..lib.tables import QUICK, TABLES, Weighted, table
from ..lib.units import cache_folder, in_parallel, once

PLOT = "bytes.png"
HEADER = 4096
"""Bytes that the header of a file of ours may take beyond the budget, which is that of its arrays."""
MEASURES = ("cosine", "spearman", "recall")


@dataclass(frozen=True)
class Method:
    """A way to store a table: `make(table, size, seed)`, what its sizes are, and those that a quick run takes."""

    title: str
    size: str
    sizes: tuple[float, ...]
    make: Callable[[Weighted, float, int], Code]
    chance: bool = True
    quick: tuple[float, ...] = (2,)


def _integers(group: int) -> Callable[[Weighted, float, int], Code]:
    return lambda t, bits, _: quantisers.integers(t.A, int(bits), min(group, t.A.shape[1]))


def _evenly(t: Weighted, bits: float, seed: int) -> Code:
    """The same bits for every row, beside those of its scale and its number of bits."""
    d, squares = t.A.shape[1], np.square(t.A).sum(axis=1, dtype=np.float64)
    return quantisers.rotated(t.A, bits + 20 / d, 1 / np.maximum(squares, np.finfo(np.float32).tiny), seed)


def _svd(t: Weighted, bits: float, _: int) -> Code:
    n, d = t.A.shape
    return quantisers.svd(t.A, int((bits * n * d - 16 * n) / (8 * n + 16 * d)), t.weights)


def _messi(t: Weighted, ratio: float, seed: int) -> Code:
    factors = compress(t.A, ratio, k=5, dims="equal", sample_weight=t.weights, n_init=1, seed=seed)
    return quantisers.factored(factors)


def _factored(t: Weighted, ratio: float, seed: int) -> Code:
    return quantisers.factored(compress(t.A, ratio, sample_weight=t.weights, seed=seed))


def _ours(t: Weighted, bits: float, seed: int) -> Code:
    return quantisers.saved(compress(t.A, bits=bits, sample_weight=t.weights, seed=seed))


def _ours_relative(t: Weighted, bits: float, seed: int) -> Code:
    return quantisers.saved(compress(t.A, bits=bits, relative=True, seed=seed))


BITS = (4, 3, 2, 1.5, 1)
METHODS = {
    "float16": Method("float16", "bits", (16,), lambda t, *_: quantisers.float16(t.A), chance=False, quick=(16,)),
    "int-32": Method("int, groups of 32", "bits", (8, 4, 3, 2), _integers(32), chance=False, quick=()),
    "int-64": Method("int, groups of 64", "bits", (8, 4, 3, 2), _integers(64), chance=False, quick=(4, 2)),
    "pq": Method("faiss PQ", "columns", (2, 3, 4, 6, 8), lambda t, c, s: quantisers.product(t.A, int(c), t.weights, s)),
    "opq": Method(
        "faiss OPQ",
        "columns",
        (4, 8),
        lambda t, c, s: quantisers.product(t.A, int(c), t.weights, s, optimised=True),
        quick=(),
    ),
    "rotated": Method(
        "rotated Lloyd-Max, bits by weight", "bits", BITS, lambda t, b, s: quantisers.rotated(t.A, b, t.weights, s)
    ),
    "rotated-even": Method("rotated Lloyd-Max, even bits", "bits", (4, 3, 2, 1), _evenly),
    "svd": Method("SVD + int8", "bits", (4, 3, 2, 1), _svd, chance=False),
    "messi": Method("MESSI k=5 + int8", "ratio", (0.4, 0.6, 0.8), _messi, quick=()),
    "factored": Method("compress(ratio) + int8", "ratio", (0.4, 0.6, 0.8), _factored, quick=()),
    "ours": Method("compress(bits), by weight", "bits", BITS, _ours),
    "ours-relative": Method("compress(bits, relative=True)", "bits", (3, 2, 1), _ours_relative),
}
OURS = ("ours", "ours-relative")


@dataclass(frozen=True)
class Point:
    """One table stored one way."""

    table: str
    method: str
    size: float
    seed: int
    quick: bool = False

    @property
    def file(self) -> str:
        return f"{self.table}-{self.method}-{self.size:g}-{self.seed}.json"


def points(tables: Sequence[str], methods: Sequence[str], seeds: int, *, quick: bool) -> list[Point]:
    """All that is to be measured, the first seed of everything first."""
    return [
        Point(name, method, size, seed, quick)
        for seed in range(seeds)
        for name in tables
        for method in methods
        if seed == 0 or METHODS[method].chance
        for size in (METHODS[method].quick if quick else METHODS[method].sizes)
    ]


def measure(point: Point) -> dict[str, Any]:
    """Store, check that the stored bytes decode to what was meant, measure what they decode to."""
    data, method = table(point.table, quick=point.quick), METHODS[point.method]
    code = method.make(data, point.size, point.seed)
    decoded = code.reopened()
    bits = 8 * code.nbytes / data.A.size
    failed = code.fault(decoded)
    if method.size == "bits" and point.method.startswith(("ours", "svd")):
        over = code.nbytes - HEADER * (point.method in OURS) - point.size * data.A.size / 8
        failed = failed or (f"takes {over:.0f} bytes more than were asked for" if over > 0 else "")
    return {"nbytes": code.nbytes, "bits": bits, **asdict(data.measure(decoded)), "failed": failed}


def folder(*, quick: bool) -> Path:
    """Where finished points are kept."""
    return cache_folder("front-quick" if quick else "front")


def _unit(point: Point) -> dict[str, Any]:
    return once(folder(quick=point.quick) / point.file, lambda: measure(point))


def main(arguments: Sequence[str]) -> int:
    """Measure what is not yet measured, print fronts and goals, write results and plot; 1 when a check fails."""
    parser = argparse.ArgumentParser(prog="python -m bench bytes", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, few sizes, small tables; writes no results")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--seeds", type=int, help="for each method that depends on chance (default: 3, quick 1)")
    parser.add_argument("--processes", type=int, default=machine.cores(), help="of one thread each (default: cores)")
    parser.add_argument("--fresh", action="store_true", help="measure again what an earlier run has measured")
    parser.add_argument(
        "--finished", action="store_true", help="write what earlier runs have measured, measure nothing"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"of the results and the plot (default: {RESULTS})")
    options = parser.parse_args(arguments)
    console = Console(width=150)
    seeds = options.seeds or (1 if options.quick else 3)
    out = options.out or (None if options.quick else RESULTS)
    failed: list[str] = []
    for name in options.tables:
        if not _at_hand(name, console):
            continue
        wanted = points([name], options.methods, seeds, quick=options.quick)
        kept = folder(quick=options.quick)
        if options.finished:
            wanted = [point for point in wanted if (kept / point.file).exists()]
        elif options.fresh:
            for point in wanted:
                (kept / point.file).unlink(missing_ok=True)
        rows = _measured(wanted, options.processes, console)
        console.print(front(rows, name))
        judged = [] if options.quick else goals(rows)
        if judged:
            console.print(table_of_rows(judged, f"{name}: goals"))
        if out is not None:
            about = machine.describe() | {"date": now(), "table": name, "seeds": seeds, "quick": options.quick}
            write(out / file(name), {**about, "rows": rows, "goals": [row.as_json() for row in judged]})
            console.print(f"written: {out / file(name)}")
        failed += [f"{_point(row).file}: {row['failed']}" for row in rows if row["failed"]]
    if out is not None:
        draw(out / PLOT, recorded(out))
    for line in failed:
        console.print(f"check failed: {line}", style="red", markup=False)
    return 1 if failed else 0


def _measured(wanted: Sequence[Point], processes: int, console: Console) -> list[dict[str, Any]]:
    """The rows of these points, in their order; each is told as it ends."""
    found: list[dict[str, Any]] = []
    for point, result in in_parallel(_unit, wanted, processes):
        del result["unit_seconds"]
        found.append({**asdict(point), "title": METHODS[point.method].title, **result})
        said = f"{point.file.removesuffix('.json')}: {result['bits']:.2f} bits, cosine {result['cosine']:.4f}"
        console.print(f"{len(found)}/{len(wanted)} {said} {result['failed']}", markup=False, highlight=False)
    return sorted(found, key=lambda row: wanted.index(_point(row)))


def file(name: str) -> str:
    """Of a table's results."""
    return f"bytes-{name.lower()}.json"


def recorded(out: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows of all tables that are recorded in a folder."""
    paths = [out / file(name) for name in TABLES if (out / file(name)).exists()]
    return [row for path in paths for row in json.loads(path.read_text())["rows"]]


def _point(row: dict[str, Any]) -> Point:
    return Point(**{name: row[name] for name in Point.__dataclass_fields__})


def _at_hand(name: str, console: Console) -> bool:
    """Whether a table is here; it is fetched once, not by each process."""
    try:
        if name == "MiniLM":
            texts.load_all()
        TABLES[name](QUICK[name])
    except RuntimeError as error:
        console.print(f"{name} is left out: {error}", style="yellow", markup=False)
        return False
    return True


def by_size(rows: Sequence[dict[str, Any]], name: str) -> dict[tuple[str, float], list[dict[str, Any]]]:
    """The rows of a table, seeds of the same method and size together, from the most bytes to the fewest."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        if row["table"] == name:
            groups.setdefault((row["method"], row["size"]), []).append(row)
    return dict(sorted(groups.items(), key=lambda group: -group[1][0]["nbytes"]))


def cells(group: Sequence[dict[str, Any]]) -> list[str]:
    """What is said of a method at a size: title, MB, bits a number, and what is kept, median (range) over seeds."""
    size, bits = (median(row[what] for row in group) for what in ("nbytes", "bits"))
    kept = [spread([row[measure] for row in group], ".4f") for measure in (*MEASURES, "weighted_error")]
    return [group[0]["title"], f"{size / 1e6:.2f}", f"{bits:.2f}", *kept]


def front(rows: Sequence[dict[str, Any]], name: str) -> Grid:
    """One table's front, from the most bytes to the fewest."""
    grid = Grid(title=f"{name}: what is kept, by bytes; median (range) over seeds", title_justify="left")
    for heading in ("method", "MB", "bits", *MEASURES, "weighted error"):
        grid.add_column(heading, justify="left" if heading == "method" else "right")
    for (method, _), group in by_size(rows, name).items():
        grid.add_row(*cells(group), style="bold" if method in OURS else None)
    return grid


# --- what ours must reach ---

GOALS = [
    *(
        ("MiniLM", "ours", "cosine", bits, goal)
        for bits, goal in {3: 0.9981, 2: 0.9936, 1.5: 0.9872, 1: 0.9725}.items()
    ),
    *(("GloVe", "ours", "recall", bits, goal) for bits, goal in {4: 0.917, 3: 0.848, 2: 0.702}.items()),
    *(("wordllama", "ours", "cosine", bits, goal) for bits, goal in {3: 0.994, 2: 0.985, 1: 0.952}.items()),
    *(("wordllama", "ours-relative", "recall", bits, goal) for bits, goal in {3: 0.885, 2: 0.785}.items()),
]
"""Table, method, measure, bits, and the least that is asked for."""
LESS_LOSS = {2: 1 / 3, 1: 1 / 2}
"""By how much of the best peer's loss of cosine ours must be below it, on MiniLM."""


def goals(rows: Sequence[dict[str, Any]]) -> list[Row]:
    """A line for each goal that was measured: median over seeds, beside the best peer's at the same bytes."""
    judged = []
    for name, method, measure, bits, goal in GOALS:
        mine = by_size(rows, name).get((method, bits))
        if not mine:
            continue
        values = [row[measure] for row in mine]
        nbytes, value = median(row["nbytes"] for row in mine), median(values)
        peer, title = best_peer(rows, name, measure, nbytes)
        asked, reached = f">= {goal}", value >= goal
        if name == "MiniLM" and bits in LESS_LOSS:
            asked += f"; loss {LESS_LOSS[bits]:.0%} below the peer's"
            reached = reached and 1 - value <= (1 - LESS_LOSS[bits]) * (1 - peer)
        judged.append(
            Row(
                f"{name}, {bits:g} bits",
                f"{measure}; {mine[0]['title']}; best peer at the same bytes: {title}",
                result=f"{(1 - value) / (1 - peer):.2f} x the peer's loss",
                ours=spread(values, ".4f"),
                peer=f"{peer:.4f}",
                target=asked,
                reached=reached,
                failed=next((row["failed"] for row in mine if row["failed"]), ""),
                raw={"nbytes": nbytes, "values": values, "peer": peer},
            )
        )
    return judged


def best_peer(rows: Sequence[dict[str, Any]], name: str, measure: str, nbytes: float) -> tuple[float, str]:
    """The best that any peer keeps in so many bytes, and its title.

    Between two sizes of a peer its loss, 1 - measure, is taken on the straight line of logarithms through both.
    """
    fronts: dict[str, list[tuple[float, float]]] = {}
    for (method, _), group in by_size(rows, name).items():
        if method not in OURS:
            kept = median(row[measure] for row in group), median(row["nbytes"] for row in group)
            fronts.setdefault(group[0]["title"], []).append((kept[1], max(1 - kept[0], 1e-9)))
    best = (0.0, "none")
    for title, sizes in fronts.items():
        x, loss = np.log(sorted(sizes)).T
        if np.log(nbytes) >= x[0]:
            best = max(best, (1 - float(np.exp(np.interp(np.log(nbytes), x, loss))), title))
    return best
