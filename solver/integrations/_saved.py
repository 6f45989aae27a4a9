"""Compressed models in folders, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn
from torch.types import Device
from transformers import PreTrainedModel
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from ..checks import Passed
from ..folders import Holding, whole_folder
from ..storage import Facts
from ..tokens import Tokenizer
from ._entries import describe_layers
from ._loading import attach
from ._manifest import MANIFEST, read_manifest
from ._methods import take_over
from ._model_report import ModelReport
from ._modules import check_model, factored_layers
from ._saving import class_of, completing, is_pipeline, open_pipeline, save_transformer
from ._types import AnyClass, AnyModule

MODEL = Holding("a compressed model", lambda folder: (folder / MANIFEST).is_file())
VARIANT = "ksubspaces"  # of the names of weights in folders of the first two versions


def outer_models(model: nn.Module) -> dict[str, PreTrainedModel]:
    """The transformers models in a module that are not within another one, by name."""
    found: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        within = any(name.startswith(f"{other}.") or other == "" for other in found)
        if isinstance(module, PreTrainedModel) and not within:
            found[name] = module
    return found


def save_compressed(
    model: nn.Module, path: str | os.PathLike[str], tokenizer: Tokenizer | None = None, *, overwrite: bool = False
) -> None:
    """Save a compressed model as a folder, whole or not at all.

    The folder is that of the model's own ``save_pretrained``, and complete: a plain ``from_pretrained``, a pipeline or
    sentence-transformers open it, once this module is imported, and otherwise say so. With the model's own files there
    are a model card, ``README.md``, and ``ksubspaces.json``, which records the class, every factored layer (shapes,
    clusters, storage, what it is tied to), the report of the compression, the versions of all packages, and a checksum
    of every file but pages for people (``*.md``). Saved by ``save_pretrained`` or a ``Trainer`` it is the same, but
    that the folder is filled file by file, and that only what the model wrote has a checksum.

    Parameters
    ----------
    model : transformers.PreTrainedModel or sentence_transformers.SentenceTransformer
        With factored layers.
    path : path
        Of the folder to be made, in one that exists.
    tokenizer : optional
        Saved beside a transformers model; a sentence-transformers model has its own.
    overwrite : bool, default False
        Replace a compressed model. A folder with anything else is never replaced.

    Raises
    ------
    FileExistsError
        When path is a file, a folder with something else than a compressed model, or one with a compressed model that
        is not to be replaced.
    OSError
        When the place is missing, read-only or full; nothing is left behind, and what was there is as it was.
    TypeError, ValueError
        When the model is of another kind or not compressed, or has factors that are not finite.
    """
    check_model(model)
    if not isinstance(model, PreTrainedModel) and not is_pipeline(type(model)):
        raise TypeError(
            f"only models of transformers and sentence-transformers are saved as folders, got {type(model).__name__}; "
            "save its state_dict, and load that into layers of the same shapes"
        )
    layers = factored_layers(model)
    if not layers:
        raise ValueError("model has no factored layers; compress it first, or use its own save_pretrained")
    inner = outer_models(model)
    savers = [*inner.values(), *(part for part in model.modules() if hasattr(part, "saves_factors"))]
    saved = {id(module) for saver in savers for module in saver.modules()}  # by whatever names
    if outside := [name for name, layer in layers.items() if id(layer) not in saved]:
        raise ValueError(
            f"{outside[0]} is outside of the transformers model and cannot be saved; leave it out of modules"
        )
    _check_finite(model)
    for part in inner.values():
        if factored_layers(part):
            attach(part)
    with whole_folder(path, MODEL, overwrite) as folder, completing(model, folder):
        try:
            if isinstance(model, PreTrainedModel):
                save_transformer(model, folder)
            else:
                type(model).save(model, str(folder), create_model_card=False)  # type: ignore[attr-defined]
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        except SafetensorError as error:  # which is what a full disk raises there
            raise OSError(f"could not write {path}: {error}") from error


def _check_finite(model: nn.Module) -> None:
    """Refuse factors with numbers that are not finite."""
    for name, layer in factored_layers(model).items():
        for part, tensor in layer.state_dict().items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            if not all(map(torch.isfinite, torch.aminmax(tensor))):  # a tenth of the time that all entries would take
                raise ValueError(f"{name}.{part} has numbers that are not finite")


def load_compressed(
    path: str | os.PathLike[str],
    device: Device = "cpu",
    dtype: torch.dtype | str | None = None,
    *,
    model_class: AnyClass | None = None,
    verify: bool = True,
    **options: Passed,
) -> AnyModule:
    """Load what :func:`save_compressed`, ``save_pretrained`` or a ``Trainer`` wrote, without a network.

    The layers are factored from the beginning; no dense table is made. Ties are ties again.

    A model can be loaded as another class, to be fine-tuned for a task for instance::

        model = load_compressed("minilm-small", model_class=AutoModelForSequenceClassification, num_labels=5)

    Heads that this class does not have are left out, those that the folder does not have begin afresh, and what the
    class ties to the embedding is tied to its factors.

    Parameters
    ----------
    path : path
        Of the folder.
    device : str or torch.device, default "cpu"
    dtype : torch.dtype, optional
        Of the model; by default the one that it was saved in. Coefficients with a storage of their own keep it.
    model_class : class, optional
        Of transformers (an Auto class too), of sentence-transformers, or derived from one of theirs; by default the one
        that was saved.
    verify : bool, default True
        Refuse a folder in which a file is missing or is not what was written, by its checksum, and factors that are not
        finite. More files may be there, and pages for people (``*.md``) may change.
    **options
        More arguments of that class's ``from_pretrained``, or of its constructor in sentence-transformers.

    Returns
    -------
    model
        Of that class, in evaluation mode; ``model.compression_report`` is the ModelReport.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        When there is no such folder.
    ValueError
        When it holds no compressed model, a damaged one, one of a later version, one of a class of somebody's own that
        is not given as model_class, or what was compressed is not in that class.
    TypeError
        When model_class is no class of either library.
    ImportError
        When it is of sentence-transformers, and that is not installed.
    """
    folder = Path(path)
    manifest = read_manifest(folder, verify)
    kind = _class_to_load(folder, manifest, model_class)
    variant = VARIANT if any(folder.rglob(f"*.{VARIANT}*.safetensors")) else None
    own = {"variant": variant, "dtype": _dtype(dtype)}
    try:
        if is_pipeline(kind):
            own |= options.pop("model_kwargs", None) or {}
            options = {"device": "cpu", "local_files_only": True, "model_kwargs": own, **options}
            model = open_pipeline(kind, str(folder), **options)
            take_over(model)
        else:
            model, info = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **{**own, **options}
            )
            # What else is missing was so in the model saved (a pooler, say): transformers makes it anew and warns.
            factors = tuple(f"{name}." for name, entry in describe_layers(model).items() if "tied_to" not in entry)
            for what in ("missing", "unexpected"):
                if keys := sorted(key for key in info[f"{what}_keys"] if key.startswith(factors)):
                    raise ValueError(f"{', '.join(keys)} {what}")
        layers = describe_layers(model)
        if not layers:
            raise ValueError(
                f"a {type(model).__name__} has nothing of what was compressed, or is too small a part of a "
                f"{manifest['class']} to know of it; load that, and take the part of it"
            )
        if model_class is None and _shapes(layers) != _shapes(manifest["modules"]):
            raise ValueError(f"its config.json and {MANIFEST} tell of different layers")
        if verify:
            _check_finite(model)
        report = manifest["report"]
        model.compression_report = None if report is None else ModelReport.from_dict(report)
    except MemoryError:
        raise
    except Exception as error:  # of any kind: the libraries raise many of their own about folders that do not fit
        if model_class is not None or options:
            raise ValueError(f"{folder} could not be loaded as {kind.__name__}: {error}") from error
        raise ValueError(f"{folder} is damaged, its parts are missing or do not fit: {error}") from error
    return model.to(device)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """As ``from_pretrained`` takes it."""
    if dtype in (None, "auto"):
        return "auto"
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype must be a floating point dtype of Torch, or its name, got {dtype!r}")
    return found


def _shapes(modules: Mapping[str, Facts]) -> list[Facts]:
    """Entries without what may change: names differ between releases of other packages, storage between dtypes."""
    return [{k: v for k, v in entry.items() if k not in ("storage", "tied_to")} for entry in modules.values()]


def _class_to_load(folder: Path, manifest: Facts, model_class: AnyClass | None) -> AnyClass:
    """The class asked for, or else the one saved."""
    if model_class is None:
        library, name = manifest["library"], manifest["class"]
        of_library = manifest["is_of_library"]
        pipeline = folder / "config_sentence_transformers.json"
        if library == "transformers" and pipeline.exists():  # it was saved by its pipeline
            library, name, of_library = (
                "sentence_transformers",
                json.loads(pipeline.read_bytes()).get("model_type"),
                True,
            )
        kind = class_of(library, name)
        if kind is None or not of_library:
            raise ValueError(
                f"{folder} holds a {name}, which is no class of {library}; import it and give it as model_class"
            )
        return kind
    known = isinstance(model_class, type) and (
        issubclass(model_class, (PreTrainedModel, _BaseAutoModelClass)) or is_pipeline(model_class)
    )
    if not known:
        raise TypeError(
            "model_class must be a class of transformers or sentence-transformers (AutoModelForTokenClassification, "
            f"say), got {model_class!r}"
        )
    return model_class
