"""Finds the tables of a Torch model, shared ones too, and puts factored layers in their place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ._bag import SubspaceEmbeddingBag
from ._embedding import SubspaceEmbedding
from ._factors import Factors
from ._linear import SubspaceLinear
from ._packed import PackedEmbedding, PackedFactors
from ._scaling import scaling_of
from ._types import AnyClass, AnyModule

LAYERS: Mapping[str, tuple[AnyClass, AnyClass]] = {
    "embedding": (nn.Embedding, SubspaceEmbedding),
    "bag": (nn.EmbeddingBag, SubspaceEmbeddingBag),
    "linear": (nn.Linear, SubspaceLinear),
}
"""Each kind of layer, dense and factored."""
KINDS = tuple(dense for dense, _ in LAYERS.values())
TABLES = (nn.Embedding, nn.EmbeddingBag, SubspaceEmbedding, PackedEmbedding)
Layer = SubspaceEmbedding | PackedEmbedding | SubspaceLinear
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class SharedTable:
    """A table and all that hold it.

    Attributes
    ----------
    name : str
        Of the module that it is compressed as: an embedding if there is one.
    holders : dict of str to module
        All modules with this very weight, by name; a module with two names is there twice.
    """

    name: str
    holders: Mapping[str, nn.Module]

    @property
    def module(self) -> AnyModule:
        return self.holders[self.name]

    @property
    def kind(self) -> str:
        """ "embedding", "bag" or "linear"."""
        return next(name for name, (kind, _) in LAYERS.items() if isinstance(self.module, kind))

    @property
    def tied(self) -> tuple[str, ...]:
        return tuple(name for name in self.holders if name != self.name)

    def replacements(self, layer: Layer) -> dict[str, nn.Module]:
        """The module that replaces each holder of the table. These share the factors as those shared the table."""
        by_module: dict[int, nn.Module] = {}
        for module in self.holders.values():
            if id(module) not in by_module:
                by_module[id(module)] = self._replacement(module, layer)
        return {name: by_module[id(module)] for name, module in self.holders.items()}

    def _replacement(self, module: AnyModule, layer: Layer) -> nn.Module:
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return layer
        head = layer if module is self.module else tied_linear(layer)
        assert isinstance(head, SubspaceLinear)
        head.bias = module.bias  # the same parameter: something else may hold it too, as BERT's head does
        return head.train(module.training)


def tied_linear(layer: nn.Module) -> SubspaceLinear:
    """Another linear layer with the factors of a layer, without a bias."""
    if isinstance(layer, (SubspaceEmbedding, PackedEmbedding)):
        return SubspaceLinear.tied_to(layer)
    assert isinstance(layer, SubspaceLinear)
    return SubspaceLinear.around(layer.factors, by=layer.by)


def check_model(model: object) -> None:
    """Refuse what is no module, or wraps one."""
    if not isinstance(model, nn.Module):
        static = type(model).__name__ == "StaticModel"  # of model2vec, which is arrays of NumPy
        remedy = "; open it as SentenceTransformer(modules=[StaticEmbedding.from_model2vec(PATH)])" if static else ""
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{remedy}")
    if isinstance(model, WRAPPERS):
        raise ValueError(f"model is wrapped in {type(model).__name__}; compress model.module, then wrap it again")
    if isinstance(model, torch.jit.ScriptModule) or hasattr(model, "_orig_mod"):
        raise ValueError("model is compiled; compress the model that it was compiled from, then compile that")


def shared_tables(model: nn.Module, names: Iterable[str]) -> list[SharedTable]:
    """The tables of modules named, each with everything else that holds it.

    Raises
    ------
    ValueError
        When a module is not there or cannot be factored; the text says why and what to do.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    holders: dict[int, list[tuple[str, str]]] = {}
    for name, module in modules.items():
        for entry, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((name, entry))
    tables: dict[int, SharedTable] = {}
    for name in names:
        if name not in modules:
            close = difflib.get_close_matches(name, modules, 3, 0.3)
            raise ValueError(f"modules names {name!r}, which the model does not have; close to it are {close}")
        _check_module(name, modules[name])
        weight: Tensor = modules[name].weight
        if id(weight) in tables:
            continue
        group = {}
        for other, entry in holders[id(weight)]:
            if entry != "weight":
                raise ValueError(f"{name} shares its weight with {other}.{entry}, which cannot be tied to factors")
            _check_module(other, modules[other])
            group[other] = modules[other]
        bags = [key for key, module in group.items() if isinstance(module, nn.EmbeddingBag)]
        if bags and len({id(module) for module in group.values()}) > 1:
            raise ValueError(f"{bags[0]} shares its weight with others ({', '.join(group)}); leave it out of modules")
        embeddings = {key: module for key, module in group.items() if not isinstance(module, nn.Linear)}
        if len({module.padding_idx for module in embeddings.values()}) > 1:
            raise ValueError(f"{', '.join(embeddings)} share a weight but not the padding_idx; make it the same")
        scalings = {key: scaling_of(module) for key, module in embeddings.items()}  # reads the table: once a holder
        for key, scaling in scalings.items():
            if scaling is None:
                raise _computes_in_its_own_way(key, modules[key])
        if len(set(scalings.values())) > 1:
            raise ValueError(f"{', '.join(embeddings)} share a weight but not the embed_scale; make it the same")
        tables[id(weight)] = SharedTable(next(iter(embeddings or group)), group)
    return list(tables.values())


def _check_module(name: str, module: nn.Module) -> None:
    if isinstance(module, (Factors, PackedFactors, SubspaceLinear)):
        raise ValueError(f"{name} is already compressed: {module!r}; load the original model to compress it anew")
    if not isinstance(module, KINDS):
        raise ValueError(
            f"{name} is of type {type(module).__name__}, not an nn.Embedding, nn.EmbeddingBag or nn.Linear; "
            "leave it out of modules"
        )
    if "weight" not in module._parameters:
        raise ValueError(f"{name} computes its weight (a parametrization?); remove that first")
    weight: Tensor = module.weight
    if weight.is_meta:
        raise ValueError(f"{name} has no values yet (its weight is on the meta device); load the model's weights first")
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise ValueError(f"{name} has a weight of {weight.dtype}; compress the model before it is quantised")
    linear = isinstance(module, nn.Linear)
    if linear and (type(module).forward is not nn.Linear.forward or "forward" in vars(module)):
        raise _computes_in_its_own_way(name, module)
    if any(getattr(module, hooks) for hooks in _HOOKS):
        raise ValueError(
            f"{name} has hooks, which would be lost; remove them first and set them again on the new layer"
        )


def _computes_in_its_own_way(name: str, module: nn.Module) -> ValueError:
    return ValueError(
        f"{name} is of type {type(module).__name__}, whose own way of computing would be lost; leave it out of modules"
    )


def put(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Replace modules by name."""
    for name, layer in layers.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)


def factored_layers(model: nn.Module) -> dict[str, Layer]:
    """All factored layers of a model, by every name that they have."""
    found: dict[str, Layer] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        within = name.rpartition(".")[0] in found  # a linear layer's factors may be an embedding's
        if isinstance(module, Layer) and not within:
            found[name] = module
    return found


def size(model: nn.Module) -> tuple[int, int]:
    """Numbers and bytes of a model's parameters and persistent buffers. Shared ones count once."""
    parts = {id(part): part for part in model.state_dict(keep_vars=True).values() if isinstance(part, torch.Tensor)}
    return sum(part.numel() for part in parts.values()), sum(part.nbytes for part in parts.values())
