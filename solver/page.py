"""The page of a compressed model: one HTML file with nothing outside it, for any screen, light or dark."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files

from ._version import __version__
from .charts import Line, legend, line_chart
from .curve import WEIGHTED, CompressionCurve
from .integrations._model_report import ModelReport, ModuleReport, RowLoss
from .storage import write_whole

__all__ = ["render_page", "write_page"]

NAMES = {"svd": "SVD", "ours": "ksubspaces"}


def write_page(path: str | os.PathLike[str], report: ModelReport, **options: object) -> None:
    """Write :func:`render_page` to a file, whole or not at all.

    Raises
    ------
    OSError
        When the folder is missing, read-only or full; a file that was there before is left as it was.
    """
    write_whole(path, render_page(report, **options).encode())  # type: ignore[arg-type]


def render_page(
    report: ModelReport,
    *,
    token: Callable[[int], str] | None = None,
    curves: Mapping[str, CompressionCurve] | None = None,
    made: Mapping[str, object] | None = None,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    report : ModelReport
    token : callable, optional
        Text of a row's token, in tables with weights; other rows, and all without it, go by their numbers.
    curves : mapping of str to CompressionCurve, optional
        Error against size of a module's table, by the module's name.
    made : mapping, optional
        How the model was made, name by name: the command, versions.

    Examples
    --------
    >>> from ksubspaces.integrations._model_report import ModelReport
    >>> from ksubspaces.page import render_page
    >>> report = ModelReport("BertModel", (), 100, 60, 400, 240, 1.5, {})
    >>> page = render_page(report, made={"command": "ksubspaces compress bert --ratio 0.4"})
    >>> page.startswith("<!doctype html>"), "BertModel, compressed" in page, "http" in page
    (True, True, False)
    """
    title = f"{escape(report.model)}, compressed"
    parts = [
        f"<header><h1>{title}</h1><p>{_lead(report)}</p></header>",
        f'<dl class="tiles">{"".join(_tile(*tile) for tile in _headline(report))}</dl>',
        *(
            _module(module, token, (curves or {}).get(module.name), alone=len(report.modules) == 1)
            for module in report.modules
        ),
        _making(report, made or {}),
    ]
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n'
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _lead(report: ModelReport) -> str:
    many = "One table of the model is" if len(report.modules) == 1 else f"{len(report.modules)} tables of the model are"
    return f"{many} now stored as clusters of rows, each with a small basis of its own: what that saved, what it lost."


def _headline(report: ModelReport) -> list[tuple[str, str, str]]:
    whole = f"{report.nbytes_before / 1e6:,.1f} MB before, {_fewer(report.nbytes_before, report.nbytes)}"
    tiles = [("Whole model", f"{report.nbytes / 1e6:,.1f} MB", whole)]
    unit = "parameters" if all(m.bits is None for m in report.modules) else "bytes"
    prefix = "n_parameters" if unit == "parameters" else "nbytes"
    before, after = (sum(getattr(m, prefix + when) for m in report.modules) for when in ("_before", ""))
    tiles.append(("Compressed tables", _fewer(before, after), f"{before:,} {unit} before, {after:,} after"))
    if len(report.modules) == 1:  # several have theirs beside their names
        tiles += _errors(report.modules[0])
    return tiles


def _errors(module: ModuleReport) -> list[tuple[str, str, str]]:
    """Names, values, and the SVD's in their place."""
    found = [("Error, all rows alike", module.relative_error, module.svd_relative_error)]
    if module.weighted_error is not None and module.svd_weighted_error is not None:
        found.insert(0, ("Error, frequent tokens count more", module.weighted_error, module.svd_weighted_error))
    return [(name, f"{error:.4f}", f"SVD of the same size: {svd:.4f}") for name, error, svd in found]


def _fewer(before: int, after: int) -> str:
    saved = 1 - after / before if before else 0.0
    return f"{abs(saved):.1%} {'smaller' if saved >= 0 else 'larger'}"


def _tile(name: str, value: str, note: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd><strong>{escape(value)}</strong><span>{escape(note)}</span></dd></div>"


def _module(
    module: ModuleReport, token: Callable[[int], str] | None, curve: CompressionCurve | None, *, alone: bool
) -> str:
    (n, d), in_bits = module.shape, module.bits is not None
    if module.weighted_error is None:  # then its rows are no tokens: those that are have weights
        token = None
    facts = [
        ("shape", f"{n:,} × {d:,}, {module.kind}"),
        ("shared with", ", ".join(module.tied)),
        (
            "parameters",
            "" if in_bits else f"{module.n_parameters_before:,} before, {module.n_parameters:,} after",
        ),
        (
            "bytes",
            f"{module.nbytes_before:,} before, {module.nbytes:,} after, "
            f"{'' if in_bits else 'coefficients in '}{module.storage}",
        ),
        ("weights of rows", module.weights),
        ("rows kept exactly", f"{module.n_exact:,}" if module.n_exact else ""),
        *((name.lower(), f"{error} ({note})") for name, error, note in _errors(module) if not alone),
        ("seconds", f"{module.seconds:.1f}"),
    ]
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
    return (
        f"<section><h2><code>{escape(module.name)}</code></h2>"
        f'<dl class="facts">{rows}</dl>{_curve(module, curve)}{_clusters(module)}{_lost(module, token)}</section>'
    )


def _curve(module: ModuleReport, curve: CompressionCurve | None) -> str:
    if curve is None or not curve.points:
        return ""
    entries = curve.shape[0] * curve.shape[1]
    here = module.n_parameters / entries
    kinds: list[tuple[str, str, float | None]] = [("All rows alike", "relative_error", module.relative_error)]
    if curve.is_weighted:
        kinds.insert(0, ("Frequent tokens count more", "weighted_error", module.weighted_error))
    charts, lines = [], []
    for title, name, own in kinds:
        lines = [
            Line(
                _name(method),
                _style(method),
                [(point.n_parameters / entries, getattr(point, name)) for point in curve.of(method).values()],
            )
            for method in curve.methods
        ]
        marked = None if own is None else (here, own)
        alt = f"{title}: relative squared error against the share of parameters kept, by method; numbers below."
        charts.append(f"<figure><figcaption>{title}</figcaption>{line_chart(lines, marked, alt)}</figure>")
    return (
        "<h3>Error against size</h3><p>Relative squared error, on a logarithmic scale, against the share of the "
        "table's numbers that is kept. Lower is better. The ring is this model.</p>"
        f'<div class="pair">{"".join(charts)}</div>{legend(lines)}{_numbers(curve)}'
    )


def _style(method: str) -> str:
    way = method.removesuffix(WEIGHTED)
    colour = way if way in NAMES else "messi"
    return f"{colour} weighted" if method.endswith(WEIGHTED) else colour


def _name(method: str) -> str:
    way = method.removesuffix(WEIGHTED)
    name = NAMES.get(way) or way.replace("messi-", "MESSI, k = ")
    return f"{name}, weighted" if method.endswith(WEIGHTED) else name


def _numbers(curve: CompressionCurve) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", "saved", "weighted", "all alike", "clusters"))
    rows = []
    for point in curve.points:
        weighted = "" if point.weighted_error is None else f"{point.weighted_error:.4f}"
        rows.append(
            f'<tr><th scope="row">{escape(_name(point.method))}</th><td>{point.ratio:.0%}</td><td>{weighted}</td>'
            f"<td>{point.relative_error:.4f}</td><td>{point.k}</td></tr>"
        )
    return (
        f'<details><summary>The numbers</summary><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _clusters(module: ModuleReport) -> str:
    most_rows, most_dims = max(module.counts), max(1, *module.dims)
    rows = []
    exact = len(module.dims) - 1 if module.n_exact else None
    for number, (count, dim) in enumerate(zip(module.counts, module.dims, strict=True)):
        name = "exact" if number == exact else str(number + 1)
        rows.append(
            f'<tr><th scope="row">{name}</th>{_bar(count, most_rows, "rows")}{_bar(dim, most_dims, "dims")}</tr>'
        )
    return (
        "<h3>Clusters</h3><p>Every cluster has the dimension that its rows are worth.</p>"
        '<table class="bars"><thead><tr><th scope="col">cluster</th><th scope="col">rows</th>'
        f'<th scope="col">dimension</th></tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _bar(value: int, most: int, kind: str) -> str:
    share = value / most if most else 0
    return f'<td><span class="bar {kind}" style="--share:{share:.3f}"></span>{value:,}</td>'


def _lost(module: ModuleReport, token: Callable[[int], str] | None) -> str:
    if not module.most_lost:
        return ""
    n, noun = module.shape[0], "tokens" if token else "rows"
    weighted = ", weighted" if module.weighted_error is not None else ""
    tables = (
        _rows(n, module.most_lost, f"The {noun} that lost most{weighted}", "share", token),
        _rows(n, module.most_distorted, f"The {noun} that changed most for their length", "relative_error", token),
    )
    return f'<h3>What was hurt most</h3><div class="pair">{"".join(tables)}</div>'


def _rows(n: int, losses: Sequence[RowLoss], caption: str, by: str, token: Callable[[int], str] | None) -> str:
    heading = {"share": "loss, × mean", "relative_error": "relative error"}
    columns = ("share", "relative_error") if by == "share" else ("relative_error", "share")
    tell = {"share": lambda loss: f"{n * loss.share:.1f}", "relative_error": lambda loss: f"{loss.relative_error:.3f}"}
    head = "".join(f'<th scope="col">{heading[name]}</th>' for name in columns)
    rows = []
    for loss in losses:
        text = f"<bdi><code>{escape(_visible(token(loss.row)))}</code></bdi> " if token else ""
        cells = "".join(f"<td>{tell[name](loss)}</td>" for name in columns)
        rows.append(f'<tr><th scope="row">{text}<small>{loss.row}</small></th>{cells}</tr>')
    first = "token" if token else "row"
    return (
        f'<table><caption>{caption}</caption><thead><tr><th scope="col">{first}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _visible(text: str) -> str:
    """A token's text with escapes for what shows nothing, or is not to be in a page."""
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    return repr(shown) if shown.isspace() else shown


def _making(report: ModelReport, made: Mapping[str, object]) -> str:
    told = {"ksubspaces": __version__, **made, **report.options, "seconds": f"{report.seconds:.1f}"}
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in told.items())
    return f'<section><h2>How it was made</h2><dl class="facts">{rows}</dl></section>'
