"""Weights of a table's rows where they are tokens, and the rows to keep exactly."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..arrays import AnyArray
from ..checks import check_weights
from ..decoded import row_numbers
from ..tokens import Tokenizer, token_weights

SPECIAL = "special"


@dataclass(frozen=True)
class TokenRows:
    """Weights of rows (None: all alike), where they are from, and the numbers of rows to keep (None: none)."""

    weights: NDArray[np.float64] | None
    source: str
    exact: NDArray[np.int64] | None

    def first(self, n: int) -> TokenRows:
        """Those of the first n rows."""
        weights = None if self.weights is None else self.weights[:n]
        exact = None if self.exact is None else self.exact[self.exact < n]
        return TokenRows(weights, self.source, None if exact is None or not len(exact) else exact)


ALIKE = TokenRows(None, "none: all rows alike", None)


def token_rows(
    sizes: Sequence[int],
    given: AnyArray | None,
    texts: Iterable[str] | None,
    tokenizer: Tokenizer | None,
    exact_rows: AnyArray | str | None,
) -> TokenRows:
    """Weights and exact rows for tables of these sizes, from the arguments of ``compress_model``.

    Raises
    ------
    TypeError, ValueError
        When what was given does not fit.
    """
    if isinstance(exact_rows, str) and exact_rows != SPECIAL:
        raise ValueError(f"exact_rows must be 'special', None or numbers of rows, got {exact_rows!r}")
    if given is not None and texts is not None:
        raise ValueError("token_weights and texts were both given; leave one out")
    if not sizes:
        if given is not None or texts is not None:
            name = "texts" if given is None else "token_weights"
            raise ValueError(f"{name} are for tables of tokens, but modules names neither input nor output embedding")
        return ALIKE
    n = max(sizes)
    exact = _exact(exact_rows, tokenizer, n)
    if given is not None:
        return TokenRows(_pad_weights(given, n, tokenizer), "given", exact)
    if tokenizer is not None:
        source = "Zipf prior over the vocabulary" if texts is None else "counted in texts"
        return TokenRows(token_weights(tokenizer, texts, n_rows=n), source, exact)
    if texts is not None:
        raise ValueError("texts are counted by a tokenizer; pass the model's as tokenizer")
    warnings.warn(
        "all tokens count alike, as there is no tokenizer to tell which are frequent and which are special; "
        "pass the model's as tokenizer, best with texts",
        stacklevel=3,
    )
    return TokenRows(None, ALIKE.source, exact)


def _pad_weights(given: AnyArray, n: int, tokenizer: Tokenizer) -> NDArray[np.float64]:
    """Weights of a table's n rows, those beyond the vocabulary with the least that a token has."""
    values = given.detach().to("cpu", torch.float64) if isinstance(given, torch.Tensor) else given
    try:
        weights = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"token_weights must be an array of numbers, got {type(given).__name__}") from None
    known = min(n, 1 + max(tokenizer.get_vocab().values())) if hasattr(tokenizer, "get_vocab") else n
    if weights.ndim != 1 or not known <= len(weights) <= n:
        tokens = f", or for the {known} tokens of the tokenizer" if known < n else ""
        raise ValueError(f"token_weights must hold a weight for each of {n} rows{tokens}; got shape {weights.shape}")
    check_weights(weights, len(weights), "cpu", "token_weights")
    return np.pad(weights, (0, n - len(weights)), constant_values=weights.min())


def _exact(given: AnyArray | str | None, tokenizer: Tokenizer | None, n: int) -> NDArray[np.int64] | None:
    if given is None or (isinstance(given, str) and tokenizer is None):
        return None
    if isinstance(given, str):
        return np.unique([token for token in _special(tokenizer) if 0 <= token < n]).astype(np.int64)
    try:
        return np.unique(row_numbers(given, n))
    except (IndexError, TypeError) as error:
        raise ValueError(
            f"exact_rows must be 'special', None, a mask, or numbers of rows from 0 to {n - 1}: {error}"
        ) from None


def _special(tokenizer: Tokenizer) -> list[int]:
    if hasattr(tokenizer, "all_special_ids"):  # which has those with a name: others are marked in the vocabulary
        named = [token for token in tokenizer.all_special_ids if token is not None]  # a name that is no token
        return [*named, *_find_marked(getattr(tokenizer, "added_tokens_decoder", {}))]
    if hasattr(tokenizer, "get_added_tokens_decoder"):  # of the package tokenizers
        return _find_marked(tokenizer.get_added_tokens_decoder())
    raise ValueError(
        f"exact_rows='special' needs a tokenizer that tells its special tokens, got {type(tokenizer).__name__}; "
        "pass their numbers, or None"
    )


def _find_marked(added: Mapping[int, Tokenizer]) -> list[int]:
    return [token for token, entry in added.items() if entry.special]
