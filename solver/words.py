"""Vectors of words, as they are, in factors or in packed bits, looked up by word."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from .arrays import AnyArray
from .bits.quantized import QuantizedFactorization
from .factorization import Factorization
from .folders import Holding, whole_folder
from .storage import holds, write_whole
from .text_tables import read_words

__all__ = ["WordVectors"]

FACTORS, WORDS = "factorization.safetensors", "words.txt"
WORD_VECTORS = Holding.of_files("vectors of words", FACTORS, WORDS)


@dataclass(frozen=True)
class WordVectors:
    """Words and their vectors, as they are, in factors or in packed bits.

    Attributes
    ----------
    words : tuple of n str
        No two alike.
    vectors : (n, d) array, Factorization or QuantizedFactorization
        Row i is the vector of word i.

    Raises
    ------
    ValueError
        When there are not as many words as vectors, or a word is there twice.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import compress
    >>> from ksubspaces.words import WordVectors
    >>> vectors = np.random.default_rng(0).normal(size=(90, 12)).astype("float32")
    >>> table = WordVectors([f"w{i}" for i in range(90)], compress(vectors, 0.3, k=1, seed=0))
    >>> table["w7"].shape, table[["w7", "w9"]].shape, "dog" in table
    ((12,), (2, 12), False)
    """

    words: Sequence[str]
    vectors: AnyArray | Factorization | QuantizedFactorization

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if len(self.words) != len(self.vectors):
            raise ValueError(f"there are {len(self.words)} words for {len(self.vectors)} vectors")
        if len(self._numbers) < len(self.words):
            twice = next(word for i, word in enumerate(self.words) if self._numbers[word] != i)
            raise ValueError(f"the word {twice!r} is there twice")

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._numbers

    def __getitem__(self, words: str | Iterable[str]) -> AnyArray:
        """The vector (d,) of a word, or those (m, d) of several.

        Raises
        ------
        KeyError
            When a word is not there.
        """
        if isinstance(words, str):
            return self.vectors[self._numbers[words]]
        return self.vectors[np.array([self._numbers[word] for word in words], dtype=np.int64)]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder of factors or bits and of words, whole or not at all.

        Raises
        ------
        TypeError
            When the vectors are as they are.
        FileExistsError
            When something else is there, or it is not to be replaced.
        ValueError
            When a word has a line break in it.
        """
        with whole_folder(path, WORD_VECTORS, overwrite) as folder:
            self.write(folder)

    def write(self, folder: Path) -> None:
        """Write the files of :meth:`save` into a folder that is there."""
        if not isinstance(self.vectors, (Factorization, QuantizedFactorization)):
            raise TypeError(f"vectors must be a Factorization to be saved, got {type(self.vectors).__name__}")
        if broken := next((word for word in self.words if "\n" in word), None):
            raise ValueError(f"words are saved one a line, and {broken!r} is not one line")
        self.vectors.save(folder / FACTORS)
        text = "".join(f"{word}\n" for word in self.words)
        write_whole(folder / WORDS, text.encode("utf-8", "surrogateescape"))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> WordVectors:
        """Read a text file of word2vec, GloVe or fastText, as :func:`ksubspaces.text_tables.read_words` does."""
        return cls(*read_words(Path(path)))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WordVectors:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            When the folder is not there, or is damaged.
        """
        file = Path(path) / FACTORS
        in_bits = holds(file, QuantizedFactorization._KIND)
        factors = QuantizedFactorization.load(file) if in_bits else Factorization.load(file)
        text = (Path(path) / WORDS).read_bytes().decode("utf-8", "surrogateescape")
        return cls(text.split("\n")[:-1], factors)
