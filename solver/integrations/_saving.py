"""How a compressed model saves itself: every way to save it gives one complete folder.

It holds what the library writes, and

- in ``config.json``, in the place of the name of the weights, a notice: where transformers does not know of factored
  layers it would fill tables with random numbers; so it stops instead, and says the notice;
- ``ksubspaces.json``, the manifest, see :mod:`._manifest`;
- ``README.md``, the model card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._version import __version__
from ..checks import Passed
from ..storage import Facts, write_whole
from ._bag import Bags
from ._card import write_card
from ._entries import describe_layers
from ._manifest import MANIFEST, write_manifest
from ._types import AnyClass, AnyModule

NOTICE = "transformers_weights"
REMEDY = "this model is compressed: pip install ksubspaces, and import ksubspaces.integrations.transformers before that"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "safetensors")


def save_transformer(
    model: PreTrainedModel,
    folder: str | os.PathLike[str],
    state_dict: Mapping[str, Tensor] | None = None,
    **options: Passed,
) -> None:
    """The ``save_pretrained`` of its class, and the notice."""
    loader: AnyModule = model.hf_quantizer
    loader.state_dict = state_dict
    try:
        type(model).save_pretrained(model, folder, **options)
    finally:
        loader.state_dict = None
    config = Path(folder) / "config.json"
    facts = json.loads(config.read_bytes())
    write_whole(config, f"{json.dumps({**facts, NOTICE: REMEDY}, indent=2, sort_keys=True)}\n".encode())


@contextmanager
def completing(model: nn.Module, folder: Path) -> Iterator[None]:
    """Within it a model is written into a folder. Afterwards the manifest and the card are written."""
    before = _stamps(folder)
    yield
    written = [path for path, stamp in _stamps(folder).items() if before.get(path) != stamp]
    facts = describe(model)
    write_card(folder, facts)
    write_manifest(folder, facts, written)
    for path in written:
        if path.suffix == ".safetensors":  # which safetensors makes readable for its owner alone
            path.chmod((folder / MANIFEST).stat().st_mode)


def describe(model: nn.Module) -> Facts:
    """The facts of a manifest."""
    kind = next(kind for kind in type(model).__mro__ if not kind.__name__.startswith("FSDP"))  # which wraps classes
    library, name = library_of(kind), kind.__name__
    report = getattr(model, "compression_report", None)
    return {
        "library": library,
        "class": name,
        "is_of_library": class_of(library, name) is kind,
        "modules": describe_layers(model),
        "packages": {"ksubspaces": __version__, **dict(_versions())},
        "report": None if report is None else report.to_dict(),
    }


def is_pipeline(kind: type) -> bool:
    """Whether its models are of sentence-transformers: sequences of modules that save themselves."""
    libraries = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return issubclass(kind, nn.Sequential) and "sentence_transformers" in libraries


def take_static(model: nn.Module) -> None:
    """Make the static embeddings of a pipeline, with tables that are factored, ones that save themselves."""
    if not is_pipeline(type(model)):
        return
    for module in model.modules():
        if isinstance(getattr(module, "embedding", None), Bags):
            from .sentence_transformers import StaticEmbedding, SubspaceStaticEmbedding

            if type(module) is StaticEmbedding:
                module.__class__ = SubspaceStaticEmbedding


def open_pipeline(kind: AnyClass, folder: str, **options: Passed) -> AnyModule:
    """A pipeline that may have our modules. Code in the folder's files is not trusted."""
    from .sentence_transformers import SubspaceStaticEmbedding as Static

    load = getattr(kind, "_load_with_module_classes", None)
    if load is None:  # before sentence-transformers 6, which imports modules by their names
        return kind(folder, **options)
    return load(folder, {f"{Static.__module__}.{Static.__name__}": Static}, **options)


def library_of(kind: type) -> str:
    return "transformers" if issubclass(kind, PreTrainedModel) else "sentence_transformers"


def sentence_class(name: str | None) -> AnyClass:
    """A class of sentence-transformers by its name; None if there is none of this name."""
    try:
        import sentence_transformers
    except ImportError:
        raise ImportError('this model needs sentence-transformers: pip install "ksubspaces[transformers]"') from None
    return getattr(sentence_transformers, name or "SentenceTransformer", None)


def class_of(library: str, name: str) -> AnyClass:
    """A class of a library by its public name; None if there is none of this name."""
    return getattr(transformers, name, None) if library == "transformers" else sentence_class(name)


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files of a folder, each with what differs once it is written anew."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path: ((stat := path.stat()).st_mtime_ns, stat.st_ino) for path in files}


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
