"""What ``config.json`` tells of a model's factored layers: an entry for each, by its name.

An entry has the shape of the table, the kind of layer, and either the shapes of its clusters or, as ``tied_to``, the
name of the layer whose factors it shares: its owner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from ..storage import Facts
from ._bag import Bags, PackedEmbeddingBag
from ._factors import Factors
from ._linear import SubspaceLinear
from ._modules import KINDS, LAYERS, factored_layers
from ._packed import PackedEmbedding, PackedFactors
from ._scaling import PLAIN
from ._types import AnyModule


def describe_layers(model: nn.Module) -> dict[str, Facts]:
    """Entries of a model's factored layers by name: shapes and options, or the owner of the factors they share."""
    found: dict[str, Facts] = {}
    owners: dict[int, str] = {}
    layers = factored_layers(model)
    for name, layer in sorted(layers.items(), key=lambda entry: isinstance(entry[1], SubspaceLinear)):
        factors: Factors | PackedFactors = layer.factors if isinstance(layer, SubspaceLinear) else layer
        entry: Facts = {"shape": list(factors.shape)}
        if not isinstance(layer, SubspaceLinear):
            entry |= {"kind": "embedding", "padding_idx": layer.padding_idx}
            if isinstance(layer, Bags):
                entry |= {"kind": "bag", "mode": layer.mode, "include_last_offset": layer.include_last_offset}
            if layer.scaling != PLAIN:
                entry["scaling"] = list(layer.scaling)
        else:
            entry |= {"kind": "linear", "by": layer.by, "bias": layer.bias is not None}
        if id(factors) in owners:
            entry["tied_to"] = owners[id(factors)]
        else:
            owners[id(factors)] = name
            entry |= _describe_packed(factors) if isinstance(factors, PackedFactors) else _describe_factors(factors)
        found[name] = entry
    return found


def _describe_factors(factors: Factors) -> Facts:
    dtype = str(factors.bases.tensors()[0].dtype).removeprefix("torch.")
    entry = {
        "counts": list(factors.counts),
        "dims": list(factors.dims),
        "affine": factors.offsets is not None,
        # None follows the dtype that the model is loaded in
        "storage": None if factors.storage == dtype else factors.storage,
    }
    return {**entry, "n_fixed": factors.n_fixed} if factors.n_fixed else entry


def _describe_packed(factors: PackedFactors) -> Facts:
    shapes = factors.parameter_shapes
    entry = {"packed_bytes": factors.stored.numel()}
    return entry if shapes is None else {**entry, "unfrozen": {name: list(shape) for name, shape in shapes.items()}}


class Waiting(nn.Linear):
    """Holds the place, and the bias, of a layer until the factors that it shares are loaded."""

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """Takes values and keeps none: models fill the weights of their heads before they load what is tied."""
        return torch.empty(self.out_features, self.in_features, device="meta")


def empty(entry: Facts) -> nn.Module:
    """The layer of an entry, before it is loaded."""
    if "tied_to" in entry:
        return Waiting(*_features(entry), entry.get("bias", False))
    if "packed_bytes" in entry:
        return _empty_packed(entry)
    clusters: Facts = {name: entry[name] for name in ("counts", "dims", "affine", "storage")}
    if entry["kind"] != "linear":
        return LAYERS[entry["kind"]][1](*entry["shape"], **clusters, **_options(entry))
    return SubspaceLinear(*_features(entry), **clusters, by=entry["by"], bias=entry["bias"])


def _empty_packed(entry: Facts) -> nn.Module:
    (n, d), nbytes, unfrozen = entry["shape"], entry["packed_bytes"], entry.get("unfrozen")
    if entry["kind"] != "linear":
        kind = PackedEmbeddingBag if entry["kind"] == "bag" else PackedEmbedding
        return kind(n, d, nbytes, unfrozen=unfrozen, **_options(entry))
    bias = torch.zeros(_features(entry)[1]) if entry["bias"] else None
    return SubspaceLinear.around(PackedFactors(n, d, nbytes, unfrozen=unfrozen), by=entry["by"], bias=bias)


def _options(entry: Facts) -> Facts:
    """Of an embedding or a bag, whatever its table is stored as."""
    names = ("padding_idx", "scaling", "n_fixed", "mode", "include_last_offset")
    return {name: entry[name] for name in names if name in entry}


def _features(entry: Facts) -> tuple[int, int]:
    """In and out, as of a linear layer with the weight of the entry."""
    n, d = entry["shape"]
    return (n, d) if entry.get("by") == "columns" else (d, n)


def of_class(model: PreTrainedModel, entries: Mapping[str, Facts], files: Iterable[str]) -> dict[str, Facts]:
    """Entries for a model of any class. It may lack heads of the class that was saved, and tie other ones.

    Raises
    ------
    ValueError
        When a table that was compressed has no place in the model, or is dense in the files that are to be loaded.
    """
    holders: dict[str, AnyModule] = dict(model.named_modules(remove_duplicate=False))
    base, dense = f"{model.base_model_prefix}.", _dense(files)

    def names(name: str) -> tuple[str, ...]:
        """Of the same module in a body alone and in one with a head."""
        return name, name.removeprefix(base), base + name

    def is_dense(name: str) -> bool:
        return not dense.isdisjoint(names(name))

    def place(name: str, entry: Facts) -> str | None:
        found = next((candidate for candidate in names(name) if candidate in holders), None)
        holder = holders.get(found or "")
        if found is None or not isinstance(holder, KINDS):
            return None
        shape, compressed = tuple(holder.weight.shape), _features(entry)[::-1]
        if shape != compressed:
            raise ValueError(
                f"{found} has a weight of shape {shape} in this {type(model).__name__}, and {compressed} was compressed"
            )
        return found

    places = {name: place(name, entry) for name, entry in entries.items()}
    found: dict[str, Facts] = {}
    for name, entry in entries.items():
        owner = entry.get("tied_to", name)
        if places.get(owner) is None and (places[name] is not None or entry["kind"] == "embedding"):
            raise ValueError(
                f"{type(model).__name__} has no {owner}, which was compressed; load the class that was saved"
            )
        if is_dense(name):
            raise ValueError(
                f"{name} is factored as config.json tells, but dense in the weights; if the model was made from the "
                "config of a compressed one, take quantization_config out of config.json"
            )
        if (here := places[name]) is not None:
            found[here] = {**entry, "tied_to": places[owner]} if "tied_to" in entry else entry
    for name, owner in list(_ties(model, found)):
        if not is_dense(name):  # then it is not tied, whatever the class says
            found[name] = {
                "shape": found[owner]["shape"],
                "kind": "linear" if isinstance(holders[name], nn.Linear) else "embedding",
                "bias": getattr(holders[name], "bias", None) is not None,
                "tied_to": owner,
            }
    return found


def _ties(model: PreTrainedModel, entries: Mapping[str, Facts]) -> Iterator[tuple[str, str]]:
    """Modules without an entry that the model ties to an embedding with one, and the owner of its factors."""
    for pair in model.all_tied_weights_keys.items():
        tied = [key.removesuffix(".weight") for key in pair]
        for name, other in (tied, tied[::-1]):
            entry = entries.get(other, {})
            if name not in entries and entry.get("kind") == "embedding":
                yield name, entry.get("tied_to", other)


def _dense(files: Iterable[str]) -> set[str]:
    """Names of the modules that have a weight in files of safetensors."""
    found = set()
    for file in files:
        with safe_open(file, framework="pt") as weights:
            found |= {key.removesuffix(".weight") for key in weights.keys() if key.endswith(".weight")}  # noqa: SIM118
    return found
