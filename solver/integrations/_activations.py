"""Second moments of the inputs of linear layers, over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..tokens import Tokenizer
from ._modules import check_model
from ._saved import outer_models

_BATCH = 32


@torch.no_grad()
def activation_metric(
    model: nn.Module, modules: Iterable[str], texts: Iterable[str], tokenizer: Tokenizer | None = None
) -> dict[str, NDArray[np.float64]]:
    """Second moments ``E[x^T x]`` of the inputs of linear layers, as ``metric`` of ``compress_model``.

    Parameters
    ----------
    model : transformers.PreTrainedModel or sentence_transformers.SentenceTransformer
    modules : iterable of str
        Names of modules, each an ``nn.Linear``.
    texts : iterable of str
        Texts like those the model will read; a few hundred sentences do. Longer ones than the model takes are cut.
    tokenizer : optional
        Of the model; one of sentence-transformers has its own.

    Returns
    -------
    dict of str to ndarray of shape (in, in)

    Raises
    ------
    TypeError, ValueError
        When a module is not there or no linear layer, there are no texts, or nothing came into one of them.

    Examples
    --------
    >>> from ksubspaces.demo import minilm_folder  # doctest: +SKIP
    >>> metric = activation_metric(model, ["encoder.layer.0.output.dense"], ["A cat sleeps."])  # doctest: +SKIP
    >>> compress_model(model, 0.3, modules=list(metric), metric=metric)  # doctest: +SKIP
    """
    check_model(model)
    parts = list(outer_models(model).values())
    tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
    if not parts or tokenizer is None:
        raise ValueError("activation_metric needs a model of transformers or sentence-transformers, and its tokenizer")
    layers = {}
    for name in modules:
        layer = dict(model.named_modules(remove_duplicate=False)).get(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"modules names {name!r}, which is no nn.Linear of the model")
        layers[name] = layer
    sums = {
        name: torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for name, layer in layers.items()
    }
    counts = dict.fromkeys(layers, 0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].detach().flatten(0, -2).double()
            sums[name] += (x.T @ x).cpu()
            counts[name] += len(x)

        return add

    limit = min(getattr(tokenizer, "model_max_length", 512), getattr(model, "max_seq_length", None) or 512)
    ids = sorted((tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts), key=len)
    if not ids:
        raise ValueError("there are no texts to measure activations over")
    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    try:
        for _, same in groupby(ids, key=len):  # texts of one length need no padding, which would count
            batch = torch.tensor(list(same), device=next(parts[0].parameters()).device)
            for part in batch.split(_BATCH):
                parts[0](input_ids=part, attention_mask=torch.ones_like(part))
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    if unseen := [name for name, count in counts.items() if not count]:
        raise ValueError(f"nothing came into {unseen[0]} as these texts were read")
    return {name: (total / counts[name]).numpy() for name, total in sums.items()}
