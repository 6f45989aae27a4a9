"""``ksubspaces.json`` in a model's folder: facts about the model, and lengths and checksums of its files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..checksums import checksum_facts, checksum_file
from ..storage import Facts, naming, write_json
from ._model_report import ModelReport

FORMAT = "ksubspaces compressed model"
VERSION = 3  # 1 knew the sums of weights only, and none of its own; until 2 the names of weights had a variant
MANIFEST = "ksubspaces.json"
METHOD = "ksubspaces"  # of quantisation, as config.json tells transformers
_PAGES = ".md"  # model cards are for people, who may write in them
_FACTS = ("library", "class", "is_of_library", "modules", "report")
_REMEDY = "copy it or compress the model anew, or load it with verify=False if it was changed on purpose"


def write_manifest(folder: Path, facts: Facts, files: Iterable[Path]) -> None:
    """Record facts about a model, and these files of its folder, once they are there."""
    names = {path.relative_to(folder).as_posix(): path for path in files}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **facts,
        "files": {
            name: {"bytes": path.stat().st_size, "crc32": checksum_file(path)}
            for name, path in names.items()
            if not name.endswith(_PAGES) and path.name != MANIFEST
        },
    }
    manifest["crc32"] = checksum_facts(manifest)
    write_json(folder / MANIFEST, manifest)


def report_beside(folder: str) -> ModelReport | None:
    """The report in the manifest of a folder, if there is one that can be read."""
    try:
        return ModelReport.from_dict(json.loads((Path(folder) / MANIFEST).read_bytes())["report"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def read_manifest(folder: Path, verify: bool) -> Facts:
    """The manifest of a folder, whose files are all what was written unless ``verify`` is false.

    Where there is none, since only what transformers wrote was copied, its ``config.json`` tells what is needed.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, ValueError
        When there is no such folder, or it holds no compressed model, a damaged one, or one of a later version.
    """
    if not folder.exists():
        raise FileNotFoundError(f"no such folder: {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name the folder that save_compressed wrote")
    if not (folder / MANIFEST).exists() and (facts := _facts_of_config(folder)):
        return facts
    try:
        with naming(folder / MANIFEST):
            manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']!r}")
        if (version := manifest["version"]) < 1:
            raise ValueError(f"version {version}")
    except FileNotFoundError:
        raise ValueError(
            f"{folder} is not a compressed model: it has no {MANIFEST}, nor a config.json with factored layers"
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder} is not a compressed model, or damaged: its {MANIFEST} is not readable ({error})"
        ) from None
    if version > VERSION:
        raise ValueError(f"{folder} was written by a later version of ksubspaces; upgrade it to read this")
    for name in (*_FACTS, *(("files", "crc32") if version > 1 else ("weights",))):
        if name not in manifest:
            raise ValueError(f"{folder} is damaged: its {MANIFEST} lacks {name}")
    if verify:
        if version > 1 and checksum_facts({k: v for k, v in manifest.items() if k != "crc32"}) != manifest["crc32"]:
            raise ValueError(f"{folder} is damaged: {MANIFEST} is not what was written; {_REMEDY}")
        for name, length, checksum in _list_files(manifest):
            _verify(folder, name, length, checksum)
    return manifest


def _facts_of_config(folder: Path) -> Facts | None:
    for path in sorted(folder.rglob("config.json"), key=lambda path: len(path.parts)):
        try:
            config = json.loads(path.read_bytes())
            layers = config["quantization_config"]
            if layers["quant_method"] == METHOD:
                facts = {"library": "transformers", "class": config["architectures"][0], "is_of_library": True}
                return {"version": VERSION, **facts, "modules": layers["modules"], "report": None}
        except (ValueError, LookupError, TypeError):
            continue
    return None


def _list_files(manifest: Facts) -> list[tuple[str, int, int | None]]:
    """Name, length and checksum of each file that a manifest tells of."""
    if manifest["version"] > 1:
        return [(name, entry["bytes"], entry["crc32"]) for name, entry in manifest["files"].items()]
    return [(name, length, manifest.get("crc32", {}).get(name)) for name, length in manifest["weights"].items()]


def _verify(folder: Path, name: str, length: int, checksum: int | None) -> None:
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{folder} is damaged: {name} is missing; {_REMEDY}")
    if (found := path.stat().st_size) != length:
        raise ValueError(f"{folder} is damaged: {name} has {found} bytes, expected {length}; {_REMEDY}")
    with naming(path):
        same = checksum in (None, checksum_file(path))
    if not same:
        raise ValueError(f"{folder} is damaged: {name} is not what was written; {_REMEDY}")
