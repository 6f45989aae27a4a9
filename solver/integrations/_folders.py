"""Opens folders of transformers and sentence-transformers models, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from safetensors import SafetensorError

from ..storage import Facts
from ..tokens import Tokenizer
from ._manifest import MANIFEST
from ._saving import sentence_class
from ._types import AnyModule

TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model", "tokenizer.model")


def open_model(folder: Path) -> tuple[AnyModule, Tokenizer | None]:
    """A model on the CPU in the dtype that it is saved in, and its tokenizer, None if it has none beside it.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, ValueError
        When there is no such folder, or it holds no model, one that is compressed already, or one of a class of
        somebody's own.
    ImportError
        When it is of sentence-transformers, and that is not installed.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name the folder of a model")
    if (folder / MANIFEST).exists():
        raise ValueError(f"{folder} is compressed already; compress the original model anew")
    try:
        return _load_dense(folder)
    except (SafetensorError, TypeError, LookupError, AttributeError) as error:  # what the libraries make of damage
        raise ValueError(f"{folder} could not be opened, something in it is damaged or missing: {error}") from error


def _load_dense(folder: Path) -> tuple[AnyModule, Tokenizer | None]:
    if (folder / "modules.json").exists():
        name = _facts(folder / "config_sentence_transformers.json").get("model_type")
        kind = sentence_class(name)
        if kind is None:
            raise ValueError(f"{folder} holds a {name}, which is no class of sentence-transformers")
        model = kind(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "auto"})
        return model, getattr(model, "tokenizer", None)
    config = folder / "config.json"
    if not config.exists():
        raise ValueError(f"{folder} holds no model of transformers or sentence-transformers: it has no config.json")
    name = next(iter(_facts(config).get("architectures") or ["AutoModel"]))
    kind = getattr(transformers, name, None)
    if kind is None:
        raise ValueError(f"{folder} holds a {name}, which is no class of transformers; compress it with compress_model")
    model = kind.from_pretrained(folder, local_files_only=True, dtype="auto")
    if not any((folder / file).exists() for file in TOKENIZERS):
        return model, None
    return model, transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _facts(path: Path) -> Facts:
    try:
        facts = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error})") from None
    return facts if isinstance(facts, dict) else {}
