"""The factor by which embeddings of some models (BART, Gemma and others) scale the rows that they look up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._types import AnyModule

_BLOCK = 1 << 22  # numbers of a table compared at once


class Scaling(NamedTuple):
    """What rows are multiplied by.

    Attributes
    ----------
    factor : float
    rounded : bool
        Whether the factor is rounded to the dtype of the rows first, as Gemma does. BART does not.
    """

    factor: float = 1.0
    rounded: bool = False

    def __call__(self, rows: Tensor) -> Tensor:
        if self.factor == 1:
            return rows
        if self.rounded:
            return rows * torch.full((), self.factor, dtype=rows.dtype, device=rows.device)
        return rows * self.factor


PLAIN = Scaling()


def tell_options(padding_idx: int | None, scaling: Scaling) -> str:
    """What an embedding says of these in its ``repr``."""
    padding = "" if padding_idx is None else f", padding_idx={padding_idx}"
    return padding if scaling == PLAIN else f"{padding}, scaling={tuple(scaling)}"


def scaling_of(embedding: nn.Module) -> Scaling | None:
    """What an embedding multiplies its rows by; None if it does anything else with them.

    Of classes with a forward of their own this is told by their ``embed_scale``, as transformers calls it, and then
    by every row: a class may do something else with but one of them.
    """
    if "forward" in vars(embedding):
        return None
    if type(embedding).forward in (nn.Embedding.forward, nn.EmbeddingBag.forward):
        return PLAIN
    given = getattr(embedding, "embed_scale", None)
    # Where it is a buffer it has been cast with the model; the number that it was made from is beside it.
    for value in (getattr(embedding, "scalar_embed_scale", None), given):
        if isinstance(value, (int, float, Tensor)) and (not isinstance(value, Tensor) or value.numel() == 1):
            scaling = Scaling(float(value), isinstance(given, Tensor))
            if _describes(scaling, embedding):
                return scaling
    return None


@torch.no_grad()
def _describes(scaling: Scaling, embedding: AnyModule) -> bool:
    """Whether what comes out is the rows multiplied by just that, bit for bit."""
    weight = embedding.weight
    for ids in torch.arange(len(weight), device=weight.device).split(max(1, _BLOCK // max(1, weight.shape[1]))):
        try:
            found = embedding(ids)
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # it wants something else
            return False
        if not isinstance(found, Tensor) or not torch.equal(found, scaling(weight[ids])):
            return False
    return True
