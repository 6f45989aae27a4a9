"""How ``from_pretrained`` of transformers learns of factored layers.

Transformers lets a method of quantisation put its own layers in the place of others before weights are loaded, which is
just what factored layers need: no dense table is ever made. The method is registered as "ksubspaces"; its entry in
``config.json`` tells the shapes of the layers, and which of them share their factors.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from ._embedding import SubspaceEmbedding
from ._linear import SubspaceLinear
from ._modules import factored_layers, put, tied_linear
from ._scaling import PLAIN

METHOD = "ksubspaces"
VERSION = 2  # 1 knew of no scaling


@register_quantization_config(METHOD)
class FactoredConfig(QuantizationConfigMixin):
    """The factored layers of a model, by name, as :func:`described` tells them."""

    def __init__(self, modules: Mapping[str, Any] | None = None, version: int = VERSION, **_: Any) -> None:
        if version > VERSION:
            raise ValueError(
                f"the model was compressed by a later version of ksubspaces (format {version}); upgrade it"
            )
        self.quant_method: Any = METHOD
        self.version = version
        self.modules = dict(modules or {})


@register_quantizer(METHOD)
class FactoredLoader(HfQuantizer):
    """Puts factored layers into a model that is about to be loaded, and ties them when it is."""

    quantization_config: FactoredConfig
    is_trainable = True
    is_qat_trainable = True
    is_compileable = True

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return True

    def get_state_dict_and_metadata(
        self, model: PreTrainedModel, *_: Any
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What ``save_pretrained`` writes: factors that are shared, once."""
        attach(model)
        tied = tuple(
            f"{name}.factors." if entry["kind"] == "linear" else f"{name}."
            for name, entry in model.config.quantization_config.modules.items()
            if "tied_to" in entry
        )
        return {key: tensor for key, tensor in model.state_dict().items() if not key.startswith(tied)}, {}

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        modules = _of_class(model, self.quantization_config.modules)
        self.quantization_config.modules = modules
        put(model, {name: _empty(entry) for name, entry in modules.items()})
        _untie(model, modules)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        for name, entry in self.quantization_config.modules.items():
            if "tied_to" in entry:
                waiting: Any = model.get_submodule(name)
                layer: Any = model.get_submodule(entry["tied_to"])
                if entry["kind"] == "linear":
                    layer = tied_linear(layer).train(layer.training)
                    layer.bias = waiting.bias
                put(model, {name: layer})
        # Factors train, cast and move as any parameters do, which transformers refuses for what it holds for quantised.
        model.is_quantized = False  # type: ignore[assignment]
        del model.quantization_method


def _of_class(model: PreTrainedModel, modules: Mapping[str, Any]) -> dict[str, Any]:
    """The factored layers of a model of the class saved or another: heads may be gone, and others be tied now."""
    holders: dict[str, Any] = dict(model.named_modules(remove_duplicate=False))
    base = f"{model.base_model_prefix}."
    renamed = {}
    for name in modules:
        candidates = (name, name.removeprefix(base), base + name)
        renamed[name] = next((candidate for candidate in candidates if candidate in holders), None)
    found = {}
    for name, entry in modules.items():
        here, owner = renamed[name], renamed[entry.get("tied_to", name)]
        if owner is None and (here is not None or entry["kind"] == "embedding"):
            raise ValueError(
                f"{type(model).__name__} has no {name}, which was compressed; load the class that was saved"
            )
        if here is not None:
            found[here] = {**entry, "tied_to": owner} if "tied_to" in entry else entry
    for pair in model.all_tied_weights_keys.items():
        names = [key.removesuffix(".weight") for key in pair]
        for name, other in (names, names[::-1]):
            if name not in found and other in found:
                entry = found[other]
                found[name] = {
                    "shape": entry["shape"],
                    "kind": "linear" if isinstance(holders[name], nn.Linear) else "embedding",
                    "bias": getattr(holders[name], "bias", None) is not None,
                    "tied_to": entry.get("tied_to", other),
                }
    return found


class _Waiting(nn.Linear):
    """In the place of a layer until the factors that it shares are loaded; its bias is its own."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = entry["shape"]
        bias = nn.Parameter(torch.empty(self.out_features)) if entry.get("bias") else None
        self.register_parameter("bias", bias)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """Takes values and keeps none: models fill the weights of their heads before they load what is tied."""
        return torch.empty(self.out_features, self.in_features, device="meta")


def _empty(entry: Mapping[str, Any]) -> nn.Module:
    if "tied_to" in entry:
        return _Waiting(entry)
    (n, d), clusters = entry["shape"], (entry["counts"], entry["dims"])
    options: dict[str, Any] = {"affine": entry["affine"], "storage": entry["storage"]}
    if entry["kind"] == "embedding":
        options |= {"padding_idx": entry["padding_idx"], "scaling": entry.get("scaling", PLAIN)}
        return SubspaceEmbedding(n, d, *clusters, **options)
    features = (d, n) if entry["by"] == "rows" else (n, d)
    return SubspaceLinear(*features, *clusters, by=entry["by"], bias=entry["bias"], **options)


def described(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The factored layers of a model by name: shapes and options, or only whose factors they share."""
    found: dict[str, dict[str, Any]] = {}
    owners: dict[int, str] = {}
    layers = factored_layers(model)
    for name, layer in sorted(layers.items(), key=lambda entry: isinstance(entry[1], SubspaceLinear)):
        factors: Any = layer if isinstance(layer, SubspaceEmbedding) else layer.factors
        entry: dict[str, Any] = {"shape": list(factors.shape)}
        if isinstance(layer, SubspaceEmbedding):
            entry |= {"kind": "embedding", "padding_idx": layer.padding_idx}
            if layer.scaling != PLAIN:
                entry["scaling"] = list(layer.scaling)
        else:
            entry |= {"kind": "linear", "by": layer.by, "bias": layer.bias is not None}
        if id(factors) in owners:
            entry["tied_to"] = owners[id(factors)]
        else:
            owners[id(factors)] = name
            dtype = str(factors.bases.tensors()[0].dtype).removeprefix("torch.")
            entry |= {
                "counts": list(factors.counts),
                "dims": list(factors.dims),
                "affine": factors.offsets is not None,
                # None follows the dtype that the model is loaded in
                "storage": None if factors.storage == dtype else factors.storage,
            }
        found[name] = entry
    return found


def attach(model: PreTrainedModel) -> None:
    """Tell a model what is factored in it, for its own ``save_pretrained`` and ``tie_weights`` to know."""
    modules = described(model)
    loader = FactoredLoader(FactoredConfig(modules))
    model.hf_quantizer = loader  # type: ignore[assignment]
    if not isinstance(getattr(model.config, "quantization_config", None), FactoredConfig):
        _own_config(model)
    model.config.quantization_config = loader.quantization_config
    _untie(model, modules)


def _own_config(model: PreTrainedModel) -> None:
    """Give a model a copy of its config: other models, which are not compressed, may have been made from the same."""
    shared, own = model.config, copy.deepcopy(model.config)
    for part in model.modules():
        if getattr(part, "config", None) is shared:
            part.config = own  # type: ignore[assignment]


def _untie(model: PreTrainedModel, modules: Mapping[str, Any]) -> None:
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
