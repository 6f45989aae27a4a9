"""Methods of a compressed model that replace those of its class.

They are set on the model itself, as there is no other seam for them: transformers saves and resizes tables by methods
of the model alone. Copies and pickles of the model keep them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..checks import Passed
from ._embedding import SubspaceEmbedding
from ._factors import Factors
from ._linear import SubspaceLinear
from ._modules import put
from ._packed import PackedEmbedding, PackedFactors
from ._resizing import resize
from ._saving import completing, save_transformer
from ._types import AnyModule


def take_over(model: nn.Module) -> None:
    """Give a model of transformers, or a pipeline of sentence-transformers, its methods."""
    for name, method in (OF_TRANSFORMERS if isinstance(model, PreTrainedModel) else OF_PIPELINES).items():
        setattr(model, name, partial(method, model))


def save_pretrained(
    model: AnyModule,
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    push_to_hub: bool = False,
    **options: Passed,
) -> None:
    """As in transformers; the folder is complete."""
    options |= {"is_main_process": is_main_process, "state_dict": state_dict}
    if push_to_hub:
        raise ValueError(
            "save_pretrained(push_to_hub=True) would upload a folder that is not complete; "
            "leave push_to_hub out, and call model.push_to_hub(repo_id)"
        )
    if not is_main_process or getattr(model, "_hf_peft_config_loaded", False):  # the latter saves adapters alone
        type(model).save_pretrained(model, save_directory, **options)
        return
    Path(save_directory).mkdir(parents=True, exist_ok=True)
    with completing(model, Path(save_directory)):
        save_transformer(model, save_directory, **options)


def save_pipeline(model: AnyModule, path: str | None, *args: Passed, **options: Passed) -> None:
    """The ``save`` of a pipeline; the folder is complete."""
    if path is None:
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    with completing(model, Path(path)):
        type(model).save(model, path, *args, **options)


def get_resized_embeddings(
    model: AnyModule,
    old: nn.Module,
    new_num_tokens: int | None = None,
    pad_to_multiple_of: int | None = None,
    *args: Passed,
    **options: Passed,
) -> nn.Module:
    """As in transformers, which says what new rows are; they are added exactly."""
    method = type(model)._get_resized_embeddings
    _check_resizable(old, new_num_tokens)
    if not isinstance(old, SubspaceEmbedding):
        return method(model, old, new_num_tokens, pad_to_multiple_of, *args, **options)
    dense = nn.Embedding.from_pretrained(old.weight.detach())
    resized = method(model, dense, new_num_tokens, pad_to_multiple_of, *args, **options).weight
    before, after = old.num_embeddings, len(resized)
    if before != after:
        resize(old, after, resized[before:])
        old.num_embeddings = after
        if old.padding_idx is not None and old.padding_idx >= after:
            old.padding_idx = None
    return old


def _check_resizable(factors: nn.Module, n: int | None) -> None:
    if isinstance(factors, PackedFactors) and n not in (None, factors.shape[0]):
        raise ValueError(
            f"a table in packed bits keeps its {factors.shape[0]} rows, and {n} were asked for; resize the model, and "
            "compress it then"
        )


def get_resized_lm_head(
    model: AnyModule, old: nn.Module, new_num_tokens: int | None = None, *args: Passed, **options: Passed
) -> nn.Module:
    """The same for a head; where its factors are those of an embedding, they have changed already."""
    method = type(model)._get_resized_lm_head
    if not isinstance(old, SubspaceLinear) or new_num_tokens is None:
        return method(model, old, new_num_tokens, *args, **options)
    if old.by == "columns":
        raise ValueError("the head was compressed by columns, and its outputs are rows; load it dense to resize it")
    _check_resizable(old.factors, new_num_tokens)
    before, rows = old.out_features, old.weight.detach()
    dense = nn.Linear(old.in_features, before, device="meta")
    dense.weight = nn.Parameter(nn.functional.pad(rows, (0, 0, 0, max(0, before - len(rows))))[:before])
    dense.register_parameter("bias", old.bias)
    resized: AnyModule = method(model, dense, new_num_tokens, *args, **options)
    if old.factors.shape[0] != new_num_tokens:
        assert isinstance(old.factors, Factors)
        resize(old.factors, new_num_tokens, resized.weight[before:])
    old.out_features, old.bias = new_num_tokens, resized.bias
    return old


def tie_weights(model: AnyModule, *args: Passed, **options: Passed) -> None:
    """As in transformers, for a head whose class ties it: to the factors of the embedding, or to a table that is dense
    again.
    """
    type(model).tie_weights(model, *args, **options)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head]
    keys = type(model)._tied_weights_keys or ()
    if not getattr(model.config, "tie_word_embeddings", False) or not any(f"{name}.weight" in keys for name in names):
        return
    if isinstance(embedding, (SubspaceEmbedding, PackedEmbedding)) and getattr(head, "factors", None) is not embedding:
        tied: nn.Module = SubspaceLinear.tied_to(embedding)
    elif isinstance(embedding, nn.Embedding) and isinstance(head, SubspaceLinear):
        tied = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, device="meta")
        tied.weight = embedding.weight
    else:
        return
    tied.register_parameter("bias", head.bias)
    put(model, dict.fromkeys(names, tied.train(head.training)))


OF_TRANSFORMERS: dict[str, Callable[..., object]] = {
    "save_pretrained": save_pretrained,
    "_get_resized_embeddings": get_resized_embeddings,
    "_get_resized_lm_head": get_resized_lm_head,
    "tie_weights": tie_weights,
}
OF_PIPELINES: dict[str, Callable[..., object]] = {"save": save_pipeline}
