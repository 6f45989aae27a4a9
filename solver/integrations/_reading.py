"""How a model is made to read texts, whatever it is doing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; parts that were trained are trained again after it."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


def pad(ids: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens of texts (texts, length) with zeros behind the shorter ones, and which of them are not these."""
    lengths = torch.tensor([len(text) for text in ids], device=device)
    shown = torch.arange(max(map(len, ids)), device=device) < lengths[:, None]
    padded = torch.zeros(shown.shape, dtype=torch.long, device=device)
    padded[shown] = torch.tensor([token for text in ids for token in text], device=device)
    return padded, shown
