"""Methods that a compressed model has in the place of those of its class.

They are set on the model itself, as there is no other seam for them: transformers saves and resizes tables by methods
of the model alone. Copies and pickles of the model keep them.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ._saving import completing, save_transformer


def take_over(model: nn.Module) -> None:
    """Give a model of transformers, or a pipeline of sentence-transformers, the methods of this module."""
    methods = OF_TRANSFORMERS if isinstance(model, PreTrainedModel) else OF_PIPELINES
    for name, method in methods.items():
        setattr(model, name, partial(method, model))


def save_pretrained(
    model: Any,
    save_directory: str | os.PathLike[str],
    is_main_process: bool = True,
    state_dict: dict[str, Any] | None = None,
    push_to_hub: bool = False,
    **options: Any,
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


def save_pipeline(model: Any, path: str | None, *args: Any, **options: Any) -> None:
    """The ``save`` of a pipeline; the folder is complete."""
    if path is None:
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    with completing(model, Path(path)):
        type(model).save(model, path, *args, **options)


OF_TRANSFORMERS = {"save_pretrained": save_pretrained}
OF_PIPELINES = {"save": save_pipeline}
