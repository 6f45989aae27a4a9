"""How ``from_pretrained`` of transformers learns of factored layers.

Transformers lets a method of quantisation put its own layers in the place of others before weights are loaded, which is
just what factored layers need: no dense table is ever made. The method is registered as "ksubspaces"; its entry in
``config.json`` tells the shapes of the layers, and which of them share their factors.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Mapping

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ..storage import Facts
from ._entries import describe_layers, empty, of_class
from ._factors import Blocks, Factors
from ._manifest import METHOD, report_beside
from ._methods import take_over
from ._modules import factored_layers, put, tied_linear
from ._packed import PackedFactors
from ._saving import NOTICE
from ._types import AnyModule

VERSION = 4  # 1 knew of no scaling, 2 of no clusters that are fixed, 3 of no packed bits


@register_quantization_config(METHOD)
class FactoredConfig(QuantizationConfigMixin):
    """The factored layers of a model, by name, as :mod:`._entries` tells them."""

    def __init__(self, modules: Mapping[str, Facts] | None = None, version: int = VERSION, **_: object) -> None:
        if version > VERSION:
            raise ValueError(
                f"the model was compressed by a later version of ksubspaces (format {version}); upgrade it"
            )
        self.quant_method = METHOD  # type: ignore[assignment]
        self.version = version
        self.modules = dict(modules or {})


@register_quantizer(METHOD)
class FactoredLoader(HfQuantizer):
    """Puts factored layers into a model that is about to be loaded, and ties them when it is."""

    quantization_config: FactoredConfig
    is_trainable = True
    is_qat_trainable = True
    is_compileable = True
    state_dict: Mapping[str, torch.Tensor] | None = None
    """What is to be saved in the place of the model's own, as that is in shards."""

    def update_attn_implementation(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """The one call before weights are looked for, which has a copy of the config: the notice is not for us."""
        vars(config).pop(NOTICE, None)
        return config

    update_tp_plan = update_attn_implementation  # the call before transformers 5.18

    def is_serializable(self, *_: object, **__: object) -> bool:
        return True

    def get_state_dict_and_metadata(self, model: PreTrainedModel, *_: object) -> tuple[dict[str, torch.Tensor], Facts]:
        """What ``save_pretrained`` writes: factors that are shared, once."""
        state_dict = model.state_dict() if self.state_dict is None else self.state_dict
        attach(model)
        tied = tuple(
            f"{name}.factors." if entry["kind"] == "linear" else f"{name}."
            for name, entry in model.config.quantization_config.modules.items()
            if "tied_to" in entry
        )
        return {key: tensor for key, tensor in state_dict.items() if not key.startswith(tied)}, {}

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Iterable[str | os.PathLike[str]] | None = None, **_: object
    ) -> None:
        files = [str(file) for file in checkpoint_files or ()]
        if pickled := [file for file in files if not file.endswith(".safetensors")]:
            raise ValueError(f"{pickled[0]} is no file of safetensors, which alone are read: others can run code")
        modules = of_class(model, self.quantization_config.modules, files)
        self.quantization_config.modules = modules
        layers = {name: empty(entry) for name, entry in modules.items()}
        put(model, layers)
        _untie(model, modules)
        # A list, or a set from transformers 5.18 on.
        ignored: AnyModule = model._keys_to_ignore_on_load_unexpected
        empty_before = [
            rf"\b{re.escape(f'{name}.{c}')}$"
            for layer, part in layers.items()
            for name, blocks in part.named_modules(prefix=layer.rpartition(".")[2])
            if isinstance(blocks, Blocks)
            for c in blocks.empty_names()  # which files of earlier versions have
        ]
        model._keys_to_ignore_on_load_unexpected = (list if ignored is None else type(ignored))(
            [*(ignored or ()), *empty_before]
        )

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: object) -> None:
        for name, entry in self.quantization_config.modules.items():
            if "tied_to" in entry:
                waiting: AnyModule = model.get_submodule(name)
                layer: AnyModule = model.get_submodule(entry["tied_to"])
                if entry["kind"] == "linear":
                    layer = tied_linear(layer).train(layer.training)
                    layer.bias = waiting.bias
                put(model, {name: layer})
        for part in model.modules():
            if isinstance(part, Factors):
                part.places = part.places.int()  # of 16 bits in files of earlier versions
            elif isinstance(part, PackedFactors):
                part.refresh()
        # Factors train, cast and move as any parameters do, which transformers refuses for what it holds for quantised.
        model.is_quantized = False  # type: ignore[assignment]
        del model.quantization_method
        attach(model)
        model.compression_report = report_beside(model.name_or_path)  # type: ignore[assignment, arg-type]


def attach(model: PreTrainedModel) -> None:
    """Attach the entries of a model's factored layers, which its ``save_pretrained`` and ``tie_weights`` use."""
    modules = describe_layers(model)
    loader = FactoredLoader(FactoredConfig(modules))
    if not isinstance(getattr(model.config, "quantization_config", None), FactoredConfig):
        _own_config(model)
    model.config.quantization_config = loader.quantization_config
    _untie(model, modules)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and factored_layers(part):
            part.hf_quantizer = loader  # type: ignore[assignment]
            take_over(part)


def _own_config(model: PreTrainedModel) -> None:
    """Give a model a copy of its config: other models, which are not compressed, may have been made from the same."""
    shared, own = model.config, copy.deepcopy(model.config)
    for part in model.modules():
        if getattr(part, "config", None) is shared:
            part.config = own  # type: ignore[assignment]


def _untie(model: PreTrainedModel, modules: Mapping[str, Facts]) -> None:
    """Take out of transformers' own ties those that are now ties of factors."""
    for prefix, part in model.named_modules():
        if isinstance(part, PreTrainedModel):
            start = f"{prefix}." if prefix else ""
            weights = {f"{name.removeprefix(start)}.weight" for name in modules if name.startswith(start)}
            for attribute in ("_tied_weights_keys", "all_tied_weights_keys"):
                ties = getattr(part, attribute, None)
                if isinstance(ties, Mapping):
                    left = {key: source for key, source in ties.items() if not weights & {key, source}}
                    setattr(part, attribute, left)
