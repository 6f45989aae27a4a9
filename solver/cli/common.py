"""What commands share: options, the console, the folder of results, the weights of a table's rows."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..extras import require
from ..folders import Holding, check_folder, folders_around, whole_folder
from ..progress import waiting
from ..storage import Facts
from ..tokens import Tokenizer, token_weights
from .texts import open_texts

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_options(parser: argparse.ArgumentParser, plot: str) -> None:
    """Options of commands that draw; ``plot`` is the name of the image it draws."""
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (%(default)s)")
    parser.add_argument("--no-plot", dest="plot", action="store_false", help=f"leave out {plot}")
    add_output_options(parser)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """How much to print."""
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_out_options(parser: argparse.ArgumentParser, what: str, default: Path | None = None) -> None:
    """Where to save, for :func:`prepare` and :func:`results`."""
    told = "default: save nothing" if default is None else "%(default)s"
    parser.add_argument("--out", type=Path, metavar="DIR", default=default, help=f"save {what} here ({told})")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it is there")


def add_weight_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that weigh rows, for :func:`row_weights`."""
    parser.add_argument("--weights", type=Path, metavar="FILE.npy", help="a weight for each row, as sample_weight")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FOLDER",
        help="weigh rows by how often their tokens occur; the folder has the tokenizer.json of the table's model",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="FILE",
        help="count tokens in these texts, one a line; - for the standard input (default: Zipf's law)",
    )


def several(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A type for argparse: values separated by commas."""
    name = "number" if kind in (int, float) else "name"

    def parse(text: str) -> list[T]:
        try:
            if not all(parts := [part.strip() for part in text.split(",")]):
                raise ValueError
            return [kind(part) for part in parts]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected a {name} or {name}s separated by commas, got '{text}'"
            ) from None

    return parse


def or_auto(text: str) -> int | str:
    """A type for argparse: a whole number or "auto"."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got '{text}'") from None


def prepare(options: argparse.Namespace, holding: Holding) -> Console | None:
    """Check before the work that its results can be shown and saved."""
    check_out(options, holding)
    if options.out is not None and options.plot:
        require("matplotlib")
    return open_console(options)


def open_console(options: argparse.Namespace) -> Console | None:
    """The console to print on, none if all is to be quiet."""
    if options.quiet:
        return None
    require("rich")
    from rich.console import Console

    return Console(highlight=False)


def check_out(options: argparse.Namespace, holding: Holding) -> None:
    """Refuse an ``--out`` that could not be written in the end."""
    if options.out is not None:
        check_parent("--out", options.out)
        if options.out.exists():
            check_folder(options.out, holding, options.overwrite)


def check_parent(name: str, path: Path) -> None:
    """Refuse a place in a folder that cannot be written to, or that cannot be made."""
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise PermissionError(f"{name} {path}: {folder} is not a folder that can be written to")


@contextmanager
def results(options: argparse.Namespace, holding: Holding) -> Iterator[Path]:
    """A folder to save results in, which is ``--out`` once they are all there."""
    with folders_around(options.out), whole_folder(options.out, holding, options.overwrite) as folder:
        yield folder


def status(console: Console | None, text: str) -> AbstractContextManager[object]:
    """A line on the console for as long as something takes."""
    return waiting(text, console is not None)


def gather_options(options: argparse.Namespace, *names: str) -> Facts:
    """Options by name, paths as text: for a file of results, or to pass on."""
    given = {name: getattr(options, name) for name in names}
    return {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}


def row_weights(options: argparse.Namespace, n: int, own: Path | None = None) -> NDArray[np.float64] | None:
    """Weights of a table's n rows, as the options of :func:`add_weight_options` have it.

    ``own`` is the folder of the tokenizer to use where they name none; without it there are no weights then.
    """
    if options.weights is not None:
        if options.tokenizer is not None or options.texts is not None:
            raise ValueError("--weights are weights already; leave out --tokenizer and --texts")
        return _read_weights(options.weights, n)
    folder = options.tokenizer or own
    if folder is None:
        if options.texts is not None:
            raise ValueError("--texts are for a tokenizer to count the tokens of; give --tokenizer FOLDER")
        return None
    with open_texts(options.texts) as texts:
        return token_weights(_read_tokenizer(folder), texts, n_rows=n)


def _read_weights(path: Path, n: int) -> NDArray[np.float64]:
    try:
        weights = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise ValueError(f"{path} is not a readable npy file of plain numbers ({error})") from None
    if weights.shape != (n,) or weights.dtype.kind not in "fiub":
        raise ValueError(
            f"{path} holds {weights.dtype} of shape {weights.shape}; expected one number for each of the {n} rows"
        )
    return weights.astype(np.float64)


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json" if folder.is_dir() else folder
    if not path.is_file():
        raise FileNotFoundError(
            f"no such file: {path} (tokenizers of transformers write it into a folder by save_pretrained)"
        )
    require("tokenizers")
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing more particular
        raise ValueError(f"{path} is not a readable tokenizer ({error})") from None
