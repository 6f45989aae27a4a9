"""How much each row of an embedding table matters: by how often its token occurs, or is likely to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arrays import AnyArray, import_array, to_numpy

__all__ = ["count_tokens", "token_weights", "zipf_counts"]

Tokenizer: TypeAlias = Any
"""Of transformers, sentence-transformers or tokenizers, or a callable that gives ``input_ids``: they share no type."""

_BATCH_TEXTS, _BATCH_CHARACTERS = 1000, 1 << 20
_PLACEHOLDER = re.compile(r"\[\w[^\[\]]*\]|<[^<>]+>")  # [unused7], <extra_id_0>, <0x0A>
_ALPHABET = 32  # this many one-character tokens in a row are an alphabet, in the order of its codes
_PROSE = ".,'as-ti()?:;!\""  # the characters of prose, most frequent first
_ASCII_PLACE = 1000  # how many words come before the other ASCII characters


def token_weights(
    tokenizer_or_counts: Tokenizer | AnyArray,
    texts: Iterable[str] | None = None,
    *,
    power: float = 0.5,
    floor: float = 1.0,
    n_rows: int | None = None,
) -> NDArray[np.float64]:
    """Weight of each row of an embedding table, ``(count + floor) ** power``.

    Few tokens make up most of any text, so a table compressed without weights spends its parameters on rows that
    nobody uses. The weights are meant for ``sample_weight``, where only their ratios matter; they are not normalised.

    Parameters
    ----------
    tokenizer_or_counts : tokenizer or array of shape (n,)
        A tokenizer (see :func:`count_tokens`), or how often each row occurs, counted elsewhere.
    texts : iterable of str, optional
        Texts like those the model will read; a few thousand sentences do. Read once, in batches. Without them (and
        without counts) a Zipf prior over the order of the vocabulary stands in for the counts: :func:`zipf_counts`.
    power : float
        How far weights follow the counts: 0 is all rows alike, 1 the plain count. A half keeps rows that these texts
        happen to lack; see ``bench/suites/token_weights.py`` for what was tried.
    floor : float
        Added to each count, so that no row is worth nothing.
    n_rows : int, optional
        Rows of the table, where they are more than the tokenizer knows tokens or the counts have entries; the others
        count 0. Needed for a bare callable, which does not tell how many tokens it knows.

    Returns
    -------
    ndarray of shape (n_rows,), float64

    Raises
    ------
    TypeError, ValueError
        An argument is not what is described here; the text says which, what was given and what to do.

    Examples
    --------
    >>> from ksubspaces.tokens import token_weights
    >>> token_weights([99, 0, 8])
    array([10.,  1.,  3.])
    >>> token_weights([99, 0, 8], power=1, floor=0.5, n_rows=4)
    array([99.5,  0.5,  8.5,  0.5])
    """
    _check_number("power", power)
    _check_number("floor", floor)
    counts = _counts(tokenizer_or_counts, texts, n_rows)
    with np.errstate(over="ignore"):  # refused below
        weights = (counts + floor) ** power
    if not weights.any():
        raise ValueError("floor=0 and no token was counted, so every weight is 0; pass a floor above 0, or texts")
    if not np.isfinite(weights).all():
        raise ValueError(f"power={power} makes weights too large for a float; pass a lower power")
    return weights


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str], n_rows: int | None = None) -> NDArray[np.float64]:
    """How often each token occurs in texts, as the model meets them: special tokens included, padding left out.

    Parameters
    ----------
    tokenizer : tokenizer
        Of transformers or sentence-transformers, a ``tokenizers.Tokenizer``, or any callable that takes a list of
        texts and gives their ``input_ids`` (in a mapping, perhaps beside an ``attention_mask``, or the lists alone).
    texts : iterable of str
        Read once, in batches, so that a generator over a large corpus never lies in memory.
    n_rows : int, optional
        As for :func:`token_weights`.

    Returns
    -------
    ndarray of shape (n_rows,), float64

    Examples
    --------
    >>> from ksubspaces.tokens import count_tokens
    >>> def letters(texts):
    ...     return {"input_ids": [[ord(letter) - ord("a") for letter in text] for text in texts]}
    >>> count_tokens(letters, ["abba", "cab"], n_rows=5)
    array([3., 3., 1., 0., 0.])
    """
    encode, n = _encoder(tokenizer), _rows(tokenizer, n_rows)
    counts = np.zeros(n, dtype=np.int64)
    empty = True
    for batch in _batches(texts):
        ids = encode(batch)
        if ids.size and not 0 <= ids.min() <= ids.max() < n:
            raise ValueError(
                f"the tokenizer gives token {ids.max() if ids.min() >= 0 else ids.min()}, but there are {n} rows; "
                "pass the tokenizer that belongs to this table, or its number of rows as n_rows"
            )
        counts += np.bincount(ids, minlength=n)
        empty = False
    if empty:
        raise ValueError("texts holds no text (a generator that was read before?); leave it out for the Zipf prior")
    return counts.astype(np.float64)


def zipf_counts(
    tokenizer: Tokenizer, n_rows: int | None = None, *, exponent: float = 1.0, total: float = 1e6
) -> NDArray[np.float64]:
    """Counts to expect of each token by its place in the vocabulary alone: Zipf's law, ``count ~ rank ** -exponent``.

    The vocabularies of WordPiece, BPE and unigram tokenizers are ordered roughly by frequency. So the rank is the
    token's number, except that

    - tokens that the tokenizer adds to every text ([CLS], [SEP], <s>) come first;
    - placeholders and other special tokens ([unused7], <extra_id_0>, [PAD]) count 0;
    - an alphabet (32 one-character tokens or more in a row) is in the order of codes, not of frequency: from it, the
      characters that prose is full of (``.,'as-ti()?:;!"``) take turns with the first words, the rest of ASCII comes
      after the thousandth word, and everything else last.

    For a vocabulary that is an alphabet (bert-base-chinese) this says little: count real texts there.

    Parameters
    ----------
    tokenizer : tokenizer
        Of transformers or sentence-transformers, or a ``tokenizers.Tokenizer``.
    n_rows : int, optional
        As for :func:`token_weights`; rows that are no token's count 0.
    exponent : float
        Of Zipf's law. Texts counted over a WordPiece vocabulary follow 0.9 to 1.
    total : float
        Tokens that are imagined to be counted, which the floor of :func:`token_weights` is to be seen against.

    Returns
    -------
    ndarray of shape (n_rows,), float64
    """
    _check_number("exponent", exponent)
    _check_number("total", total)
    if not hasattr(tokenizer, "get_vocab"):
        raise TypeError(
            f"tokenizer must list its vocabulary (get_vocab) for the Zipf prior, got {type(tokenizer).__name__}; "
            "pass texts to count, or counts"
        )
    n = _rows(tokenizer, n_rows)
    ranked = [token for token in _by_frequency(tokenizer) if token < n]
    counts = np.zeros(n)
    shares = np.arange(1, len(ranked) + 1, dtype=np.float64) ** -exponent
    counts[ranked] = total * shares / shares.sum()
    return counts


def _counts(given: Tokenizer | AnyArray, texts: Iterable[str] | None, n_rows: int | None) -> NDArray[np.float64]:
    if hasattr(given, "encode_batch") or hasattr(given, "get_vocab") or callable(given):
        return zipf_counts(given, n_rows) if texts is None else count_tokens(given, texts, n_rows)
    if isinstance(given, (str, bytes)) or given is None:
        raise TypeError(f"tokenizer_or_counts must be a tokenizer or an array of counts, got {given!r}")
    if texts is not None:
        raise TypeError("texts were given beside counts; pass the tokenizer to count them, or the counts alone")
    counts = to_numpy(import_array(given, "tokenizer_or_counts"))
    if counts.ndim != 1 or counts.dtype.kind not in "fiub":
        raise TypeError(
            "tokenizer_or_counts must be a tokenizer or one count for each row, "
            f"got {type(given).__name__} of shape {counts.shape} and dtype {counts.dtype}"
        )
    counts = counts.astype(np.float64)
    wrong = ~(np.isfinite(counts) & (counts >= 0))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"counts must be finite and nonnegative, but the count of row {row} is {counts[row]}")
    n = _check_rows(n_rows) or len(counts)
    if not 0 < len(counts) <= n:
        raise ValueError(f"there are {len(counts)} counts for {n} rows; pass one count for each row of the table")
    return np.pad(counts, (0, n - len(counts)))


def _encoder(tokenizer: Tokenizer) -> Callable[[list[str]], NDArray[np.int64]]:
    """A function from texts to the numbers of all their tokens, one after the other, without padding."""
    if hasattr(tokenizer, "encode_batch") and not callable(tokenizer):  # tokenizers.Tokenizer

        def encode(texts: list[str]) -> NDArray[np.int64]:
            found = tokenizer.encode_batch(texts)
            return _flat([e.ids for e in found], [e.attention_mask for e in found])

        return encode
    if not callable(tokenizer):
        raise TypeError(
            f"tokenizer must be a tokenizer or a callable that gives input_ids, got {type(tokenizer).__name__}"
        )
    # transformers' warns of texts longer than the model reads, which do no harm here
    quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}

    def call(texts: list[str]) -> NDArray[np.int64]:
        found = tokenizer(texts, **quiet)
        named = hasattr(found, "keys")
        if named and "input_ids" not in found:
            raise TypeError(f"tokenizer must give input_ids, got {', '.join(map(str, found.keys()))}")
        ids = found["input_ids"] if named else found
        if len(ids) != len(texts):
            raise TypeError(f"tokenizer must give input_ids of each text: {len(ids)} came back for {len(texts)} texts")
        return _flat(ids, found["attention_mask"] if named and "attention_mask" in found else None)

    return call


def _flat(ids: Iterable[AnyArray], mask: Iterable[AnyArray] | None) -> NDArray[np.int64]:
    try:
        rows = [np.asarray(row) for row in ids]
        if any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
            raise ValueError("some are nested, or no whole numbers")
        flat = np.concatenate(rows).astype(np.int64)
        return flat if mask is None else flat[np.concatenate([np.asarray(row, dtype=bool) for row in mask])]
    except (TypeError, ValueError, IndexError) as error:
        raise TypeError(f"tokenizer must give a list of whole numbers for each text: {error}") from None


def _rows(tokenizer: Tokenizer, n_rows: int | None) -> int:
    given = _check_rows(n_rows)
    if given is not None:
        return given
    if not hasattr(tokenizer, "get_vocab"):
        raise ValueError(
            "n_rows is needed: a bare callable does not tell how many tokens it knows; pass the rows of the table"
        )
    return 1 + max(tokenizer.get_vocab().values())


def _check_rows(n_rows: int | None) -> int | None:
    if n_rows is None:
        return None
    if isinstance(n_rows, bool) or not isinstance(n_rows, (int, np.integer)) or n_rows < 1:
        raise ValueError(f"n_rows must be the table's number of rows, got {n_rows!r}")
    return int(n_rows)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 <= value < np.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(
            f"texts must be an iterable of strings, got {type(texts).__name__}; a single text goes in [...]"
        )
    batch: list[str] = []
    room = _BATCH_CHARACTERS
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must give strings, but text {number} is of type {type(text).__name__}")
        batch.append(text)
        room -= len(text)
        if len(batch) == _BATCH_TEXTS or room <= 0:
            yield batch
            batch, room = [], _BATCH_CHARACTERS
    if batch:
        yield batch


def _by_frequency(tokenizer: Tokenizer) -> list[int]:
    """Numbers of the tokens to be expected, from the most to the least frequent; see :func:`zipf_counts`."""
    frame = list(dict.fromkeys(_encoder(tokenizer)([""]).tolist()))  # an empty text is what is added to every text
    words, alphabet = _words_and_alphabet(tokenizer.get_vocab(), set(frame))
    prose = [alphabet.pop(character) for character in _PROSE if character in alphabet]
    in_turns = [t for pair in zip_longest(prose, words[: len(prose)]) for t in pair if t is not None]
    words = words[len(prose) :]
    ascii_tokens = [alphabet.pop(character) for character in list(alphabet) if character.isascii()]
    return [
        *frame,
        *in_turns,
        *words[:_ASCII_PLACE],
        *ascii_tokens,
        *words[_ASCII_PLACE:],
        *alphabet.values(),
    ]


def _words_and_alphabet(vocabulary: dict[str, int], frame: set[int]) -> tuple[list[int], dict[str, int]]:
    """Tokens in the vocabulary's order, without placeholders; those of alphabets apart, by their character."""
    words: list[int] = []
    alphabet: dict[str, int] = {}
    run: dict[str, int] = {}

    def close() -> None:
        if len(run) >= _ALPHABET:
            alphabet.update(run)
        else:
            words.extend(run.values())
        run.clear()

    for text, token in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        if token in frame or _PLACEHOLDER.fullmatch(text):
            continue
        if len(text) == 1:
            run[text] = token
            continue
        close()
        words.append(token)
    close()
    return words, alphabet
