"""Vectors of sentences, by which a compressed model is compared with what it was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..tokens import Tokenizer
from ._reading import evaluating, pad
from ._saving import is_pipeline
from ._types import AnyModule

EVERY = 5  # text is held back ...
MOST = 500  # ... up to so many
LEAST = 10
TOKENS = 256  # of a text that are read
BATCH = 32


def hold_back(texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Texts to count, and those to measure on: every fifth, 500 at most, from the beginning to the end.

    Raises
    ------
    ValueError
        When there are fewer than ten.
    """
    given = list(texts)
    if len(given) < LEAST:
        raise ValueError(f"texts must be {LEAST} at least, some to count and some to measure on; got {len(given)}")
    step = max(EVERY, -(-len(given) // MOST))
    counted = [text for number, text in enumerate(given) if number % step]
    return counted, given[::step]


class SentenceVectors:
    """Vectors of a model for some texts: what they were, and how near later ones come.

    A pipeline of sentence-transformers has its own; of a model of transformers they are the means of the last hidden
    states over the tokens of a text, its first 256, those of the encoder where there is one.
    """

    def __init__(self, model: AnyModule, tokenizer: Tokenizer, texts: Sequence[str]) -> None:
        if not (is_pipeline(type(model)) or isinstance(model, PreTrainedModel)):
            raise ValueError(
                "min_cosine compares sentence vectors, of models of transformers or sentence-transformers; "
                f"{type(model).__name__} is none"
            )
        self.model, self.texts = model, texts
        self._ids = [] if is_pipeline(type(model)) else _ids(model, tokenizer, texts)
        self.before = self._vectors()

    def cosine(self) -> float:
        """Mean cosine of the vectors of now with those of before."""
        return float((self._vectors() * self.before).sum(dim=1).mean())

    @torch.no_grad()
    def _vectors(self) -> Tensor:
        """Unit vectors (texts, d) of float64."""
        if is_pipeline(type(self.model)):
            found = self.model.encode(list(self.texts), convert_to_tensor=True, show_progress_bar=False)
            return F.normalize(found.double(), dim=1)
        with evaluating(self.model):
            means = [_means(self.model, self._ids[i : i + BATCH]) for i in range(0, len(self._ids), BATCH)]
        return F.normalize(torch.cat(means), dim=1)


def _ids(model: AnyModule, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text."""
    if tokenizer is None:
        raise ValueError("min_cosine reads texts by a tokenizer; pass the model's as tokenizer")
    longest = min(TOKENS, getattr(model.config, "max_position_embeddings", None) or TOKENS)
    if hasattr(tokenizer, "encode_batch") and not callable(tokenizer):  # tokenizers.Tokenizer
        found = [[i for i, m in zip(e.ids, e.attention_mask, strict=True) if m] for e in tokenizer.encode_batch(texts)]
    else:
        quiet = {"verbose": False} if hasattr(tokenizer, "model_max_length") else {}
        found = list(tokenizer(list(texts), **quiet)["input_ids"])
    return [list(ids)[:longest] or [0] for ids in found]


def _means(model: AnyModule, ids: Sequence[Sequence[int]]) -> Tensor:
    padded, shown = pad(ids, model.device)
    body: nn.Module = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    states = body(input_ids=padded, attention_mask=shown.long()).last_hidden_state.double()
    inside = shown[..., None]
    return (states * inside).sum(1) / inside.sum(1)
