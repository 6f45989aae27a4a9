"""``ksubspaces compress``: the tables of a whole model."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..curve import CompressionCurve, compression_curve
from ..folders import folders_around
from ..page import write_page
from ..tables import is_table
from ..terminal import lay_out
from ..tokens import Tokenizer, token_weights
from .common import (
    Commands,
    add_options,
    add_out_options,
    check_out,
    check_parent,
    gather_options,
    open_console,
    or_auto,
    several,
    status,
)
from .compress_table import compress_table
from .texts import open_texts

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from torch.nn import Module

    from ..integrations._embedding import SubspaceEmbedding
    from ..integrations._model_report import ModelReport, ModuleReport

BUDGETS = ("ratio", "bits", "max_error", "min_cosine")  # those that are no whole numbers
_CURVE_RATIOS = (0.2, 0.5, 0.8)
_CURVE_METHODS = ("svd", "messi-5", "ours")
_CURVE_WEIGHTED = ("svd", "messi-5", "svd-weighted", "ours-weighted")  # ours is what the model was compressed by


def add(commands: Commands) -> None:
    """Add the command to the parser's."""
    about = (
        "Compress the embedding table of a model, or other tables of it, and save the model. Tokens count by how often "
        "they occur: in --texts, or else as their place in the vocabulary tells. Special tokens stay as they are."
    )
    parser = commands.add_parser("compress", help="make a model folder smaller", description=about)
    parser.add_argument(
        "model",
        metavar="MODEL_DIR",
        type=Path,
        help="a folder of transformers or sentence-transformers; or a table: x.npy, x.npz::name, "
        "model.safetensors::tensor_name, x.csv, or vectors of words as text, x.txt or x.vec",
    )
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--ratio", type=float, help="share of the table's parameters to save, as 0.4")
    budget.add_argument("--bits", type=float, help="bits to spend for each number of the table, as 2")
    budget.add_argument("--nbytes", type=int, metavar="BYTES", help="bytes to spend for all tables")
    budget.add_argument("--max-error", type=float, help="the smallest in bits of at most this relative error, as 0.05")
    budget.add_argument(
        "--min-cosine",
        type=float,
        help="the smallest in bits with which sentence vectors of --texts, held back, keep this mean cosine, as 0.99",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="texts like those to be read, one a line, to count; - for the standard input",
    )
    add_out_options(parser, "the model")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page of what was saved and lost")
    parser.add_argument(
        "--modules",
        type=several(str),
        help="names of layers, with commas between, to compress in place of the input embedding",
    )
    parser.add_argument(
        "--storage", choices=("float32", "float16", "bfloat16", "int8"), help="of coefficients (default: the model's)"
    )
    parser.add_argument("--k", type=or_auto, default="auto", help="number of clusters, or auto (%(default)s)")
    parser.set_defaults(command=compress)
    add_options(parser, "the curve in --report, which takes most of its time")


def compress(options: argparse.Namespace) -> None:
    """Compress, show, save."""
    if is_table(str(options.model)):
        compress_table(options)
        return
    console = open_console(options)
    with status(console, "loading Torch and transformers"):
        from ..integrations import transformers as models  # it tells what to install
        from ..integrations._saved import MODEL

    check_out(options, MODEL)
    if options.report is not None:
        _check_report(options)
    if options.min_cosine is not None and options.texts is None:
        raise ValueError("--min-cosine is measured on texts; give --texts FILE")
    if str(options.device).startswith("cuda") and not models.torch.cuda.is_available():
        raise RuntimeError(f"--device {options.device}: this Torch finds no CUDA device; leave it out to use the CPU")
    with open_texts(options.texts) as texts, _quiet_models(options.quiet):
        _run(options, texts, console)


def _run(options: argparse.Namespace, texts: Iterable[str] | None, console: Console | None) -> None:
    from ..integrations import transformers as models
    from ..integrations._folders import open_model

    with status(console, f"opening {options.model}"):
        model, tokenizer = open_model(options.model)
        model.to(options.device or "cpu")
    given = gather_options(options, *BUDGETS, "nbytes", "storage", "k", "seed")
    given |= {"texts": texts, "tokenizer": tokenizer, "modules": options.modules or "embeddings"}
    report = models.compress_model(model, progress=console is not None, **given)
    written = []
    if options.out is not None:
        with status(console, "saving the model"), folders_around(options.out):
            own = tokenizer if getattr(model, "tokenizer", None) is None else None
            models.save_compressed(model, options.out, own, overwrite=options.overwrite)
        written.append(str(options.out))
    if console:
        console.print(_render(report))
    if options.report is not None:
        drawn = options.plot and options.ratio is not None  # the curve is one of parameters
        curves = _curves(model, report, tokenizer, texts, options, console) if drawn else {}
        write_page(options.report, report, token=_texts(tokenizer), curves=curves, made=_made(options))
        written.append(str(options.report))
    if console and written:
        console.print(f"\nwrote {' and '.join(written)}", markup=False, soft_wrap=True)


@contextmanager
def _quiet_models(quiet: bool) -> Iterator[None]:
    """Within it, transformers and its hub show no bars, if all is to be quiet."""
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    if not (quiet and logging.is_progress_bar_enabled()):
        yield
        return
    hidden = hub.are_progress_bars_disabled()
    logging.disable_progress_bar()  # of the hub too
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if hidden:
            hub.disable_progress_bars()


def _check_report(options: argparse.Namespace) -> None:
    """Refuse, before the work, a page that cannot be written or would replace a file of another kind."""
    path, target = options.report, options.report.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--report {path}: no such folder to write it in")
    check_parent("--report", path)
    if target.exists() and not (target.is_file() and target.suffix.lower() in (".html", ".htm")):
        raise FileExistsError(f"--report {path} is there already and no page; name a file that ends in .html")
    if options.out is not None and target == options.out.resolve():
        raise ValueError(f"--report and --out are both {path}; name a file for the page")


def _curves(
    model: Module,
    report: ModelReport,
    tokenizer: Tokenizer,
    texts: Iterable[str] | None,
    options: argparse.Namespace,
    console: Console | None,
) -> dict[str, CompressionCurve]:
    """Error against size of each table. The original model is opened once more, as it was compressed in place."""
    from ..integrations._folders import open_model

    original, _ = open_model(options.model)
    curves = {}
    for module in report.modules:
        table = original.get_submodule(module.name).weight.detach().float()
        weights = None
        if module.weighted_error is not None:
            weights = token_weights(tokenizer, texts, n_rows=len(table))
        methods, known = _CURVE_METHODS if weights is None else _CURVE_WEIGHTED, {}
        factors = cast("SubspaceEmbedding", model.get_submodule(module.name)).to_factorization().to("cpu")
        if options.k == "auto" and factors.shape == table.shape:
            known[methods[-1], options.ratio] = factors
        curves[module.name] = compression_curve(
            table,
            _ratios(options.ratio),
            methods=methods,
            known=known,
            sample_weight=weights,
            device=options.device,
            warm=True,
            seed=options.seed,
            progress=console is not None,
        )
    return curves


def _ratios(asked: float) -> list[float]:
    """The usual ratios, the nearest replaced by the one asked for; few, as each takes a whole compression."""
    nearest = min(_CURVE_RATIOS, key=lambda ratio: abs(ratio - asked))
    return [asked if ratio == nearest else ratio for ratio in _CURVE_RATIOS]


def _texts(tokenizer: Tokenizer) -> Callable[[int], str] | None:
    """The text of a token by its number."""
    if tokenizer is None:
        return None
    return lambda row: str(tokenizer.convert_ids_to_tokens(row) or "")


def _made(options: argparse.Namespace) -> dict[str, object]:
    command = ["ksubspaces", "compress", str(options.model)]
    for name in BUDGETS:
        if getattr(options, name) is not None:
            command += [f"--{name.replace('_', '-')}", f"{getattr(options, name):g}"]
    for name in ("nbytes", "texts", "out", "report", "modules", "storage", "k", "seed", "device"):
        value = getattr(options, name)
        if value not in (None, "auto"):
            command += [f"--{name}", ",".join(value) if isinstance(value, list) else str(value)]
    return {"command": shlex.join(command), **{name: version(name) for name in ("numpy", "torch", "transformers")}}


def _render(report: ModelReport) -> RenderableType:
    """A table for each module, and the model's size."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    for module in report.modules:
        parts += [_sizes(module), "", _errors(module), "", Text(_clusters_told(module)), ""]
    before, after = report.nbytes_before / 1e6, report.nbytes / 1e6
    if report.cosine is not None:
        parts.append(Text(f"mean cosine of sentence vectors on texts held back: {report.cosine:.4f}"))
    parts.append(Text(f"{report.model}: {before:,.1f} MB before, {after:,.1f} MB after, {report.seconds:.1f} s"))
    return Group(*parts)


def _sizes(module: ModuleReport) -> RenderableType:
    from rich.text import Text

    sizes = (
        ("parameters", module.n_parameters_before, module.n_parameters),
        ("bytes", module.nbytes_before, module.nbytes),
    )[module.bits is not None :]
    rows = ((name, f"{before:,}", f"{after:,}", f"{1 - after / before:.1%}") for name, before, after in sizes)
    return lay_out(("", "before", "after", "saved"), rows, Text(" = ".join([module.name, *module.tied])), left=1)


def _clusters_told(module: ModuleReport) -> str:
    kept = f", {module.n_exact} rows kept exactly" if module.n_exact else ""
    kept += "" if module.bits is None else f", {module.bits:.2f} bits a number"
    clusters = f"{len(module.dims)} clusters of {min(module.dims)} to {max(module.dims)} dimensions"
    return f"{module.shape[0]:,} x {module.shape[1]:,} in {clusters}{kept}; weights: {module.weights}"


def _errors(module: ModuleReport) -> RenderableType:
    rows = [("all rows alike", f"{module.relative_error:.4f}", f"{module.svd_relative_error:.4f}")]
    if module.weighted_error is not None:
        rows.insert(0, ("weighted", f"{module.weighted_error:.4f}", f"{module.svd_weighted_error:.4f}"))
    svd = f"SVD, same {'parameters' if module.bits is None else 'bytes'}"
    return lay_out(("relative squared error", "here", svd), rows, left=1)
