"""Second moments of the inputs of linear layers, over texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..tokens import Tokenizer
from ._modules import check_model
from ._reading import evaluating, pad
from ._saved import outer_models

_TOKENS = 4096  # of a batch

Ids = list[int]


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
    limit = min(getattr(tokenizer, "model_max_length", 512), getattr(model, "max_seq_length", None) or 512)
    ids = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    ids = sorted(filter(None, ids), key=len)
    if not ids:
        raise ValueError("there are no texts to measure activations over")
    with evaluating(model):
        moments = _measure(parts[0], layers, _batches(ids))
        if mixed := {name: layers[name] for name, moment in moments.items() if moment.is_mixed}:
            moments |= _measure(parts[0], mixed, _batches_of_one_length(ids))
    if unseen := [name for name, moment in moments.items() if not moment.count]:
        raise ValueError(f"nothing came into {unseen[0]} as these texts were read")
    return {name: (moment.total / moment.count).numpy() for name, moment in moments.items()}


class _Moment:
    """The sum of x^T x over the rows x that come into a layer: products of a batch, added up in float64.

    Attributes
    ----------
    total : (d, d) tensor of float64
    count : int
        Rows.
    is_mixed : bool
        Whether padding may be among them: there were more rows or fewer than tokens, and not one for each text.
    """

    def __init__(self, d: int) -> None:
        self.total = torch.zeros(d, d, dtype=torch.float64)
        self.count = 0
        self.is_mixed = False

    def add(self, x: Tensor, shown: Tensor) -> None:
        """The rows of a batch in which these tokens (texts, length) are shown and others are padding."""
        rows = x.detach().flatten(0, -2)
        if len(rows) == shown.numel():
            rows = rows[shown.flatten()]
        elif len(rows) != len(shown) and not bool(shown.all()):
            self.is_mixed = True
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        self.total += (rows.T @ rows).cpu()
        self.count += len(rows)


def _measure(part: nn.Module, layers: Mapping[str, nn.Linear], batches: Iterable[Sequence[Ids]]) -> dict[str, _Moment]:
    """What comes into layers of a model as it reads batches of texts."""
    moments = {name: _Moment(layer.in_features) for name, layer in layers.items()}
    device = next(part.parameters()).device
    shown = torch.empty(0)

    def watch(moment: _Moment) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: moment.add(inputs[0], shown)

    hooks = [layer.register_forward_pre_hook(watch(moments[name])) for name, layer in layers.items()]
    try:
        for batch in batches:
            padded, shown = pad(batch, device)
            part(input_ids=padded, attention_mask=shown.long())
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def _batches(ids: Sequence[Ids]) -> Iterator[Sequence[Ids]]:
    """Texts, the shortest first, in batches of so many tokens with padding."""
    batch: list[Ids] = []
    for text in ids:
        if batch and len(text) * (len(batch) + 1) > _TOKENS:
            yield batch
            batch = []
        batch.append(text)
    yield batch


def _batches_of_one_length(ids: Sequence[Ids]) -> Iterator[Sequence[Ids]]:
    for _, same in groupby(ids, key=len):
        yield from _batches(list(same))
