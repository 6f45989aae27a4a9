"""Tables in text: files of CSV, and those of word2vec, GloVe and fastText, which have a word in each line."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

WORDS = (".txt", ".vec")


def read_csv(path: Path) -> NDArray[np.float64]:
    """Read a file of numbers with commas between, and perhaps a first line of names.

    Raises
    ------
    ValueError
        When it holds anything else.
    """
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
        try:
            np.array(first.split(","), dtype=np.float64)
            lines = itertools.chain([first], file)
        except ValueError:  # names
            lines = itertools.chain(file)
        try:
            rows = np.loadtxt(lines, delimiter=",", ndmin=2, dtype=np.float64)
        except ValueError as error:
            raise ValueError(f"{path} is not a file of numbers with commas between ({error})") from None
    if not rows.size:
        raise ValueError(f"{path} holds no rows of numbers")
    return rows


def read_words(path: Path) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Read a word a line, and its numbers, with blanks between.

    A first line of two whole numbers (words, dimensions) is the header of word2vec. Of a word that is there twice the
    first counts. Where a word is no UTF-8, its bytes are kept (``surrogateescape``).

    Returns
    -------
    words : tuple of n str
    vectors : ndarray of shape (n, d)

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such file, or a line has not as many numbers as the first.
    """
    vectors: dict[str, NDArray[np.float32]] = {}
    d = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            parts = line.rstrip().split(b" ")
            if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                d = int(parts[1])
                continue
            d = d or len(parts) - 1
            word = b" ".join(parts[:-d] if d else parts).decode("utf-8", "surrogateescape")  # some hold blanks
            try:
                if d < 1 or len(parts) <= d:
                    raise ValueError(f"expected a word and {max(d, 1)} numbers, got {len(parts)} parts")
                row = np.array(parts[-d:], dtype=np.float32)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            vectors.setdefault(word, row)
    if not vectors:
        raise ValueError(f"{path} holds no words")
    return tuple(vectors), np.stack(list(vectors.values()))


def has_words(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one of words, by its ending."""
    return Path(path).suffix in WORDS
