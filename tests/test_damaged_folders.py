"""Every file of a compressed model's folder is covered by a checksum, the manifest too."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from files import contents, rewrite
from models import bert, compressed, outputs, sentence_model, tokenizer, torch
from safetensors.torch import load_file, save_file

from ksubspaces.integrations import _manifest
from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed

MANIFEST, WEIGHTS = "ksubspaces.json", "model.safetensors"
OLD_WEIGHTS = "model.ksubspaces.safetensors"
FILES = {
    "transformers": {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS},
    "sentence_transformers": {"config.json", "tokenizer.json", "modules.json", "config_sentence_transformers.json"},
}


@pytest.fixture(scope="module", params=FILES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A library, and a folder of a model of it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    if request.param == "transformers":
        model = bert()
        compressed(model)
        save_compressed(model, folder, tokenizer())
    else:
        model = sentence_model(folder.parent / "dense")
        compress_model(model, 0.1, seed=0)
        save_compressed(model, folder)
    return request.param, folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = bert()
    compressed(model)
    save_compressed(model, tmp_path / "model", tokenizer())
    return tmp_path / "model"


def refusal(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        load_compressed(folder)
    return str(error.value)


def test_each_file_is_refused_by_its_name_when_it_is_changed_or_gone(saved):
    library, folder = saved
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= FILES[library] | {MANIFEST, "README.md"}
    for name in names - {MANIFEST, "README.md"}:
        path = folder / name
        whole = path.read_bytes()
        remedy = "copy it or compress the model anew, or load it with verify=False if it was changed on purpose"
        for position in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            assert refusal(folder) == f"{folder} is damaged: {name} is not what was written; {remedy}"
        path.write_bytes(whole + b"\n")
        assert f"{name} has {len(whole) + 1} bytes, expected {len(whole)}" in refusal(folder)
        path.unlink()
        assert refusal(folder) == f"{folder} is damaged: {name} is missing; {remedy}"
        path.write_bytes(whole)
    load_compressed(folder)


def test_every_bit_of_the_manifest_counts(tmp_path):
    """Each is flipped in turn: the folder is refused, or the manifest tells just what it told."""
    (tmp_path / "a").write_bytes(b"12")
    facts = {"library": "transformers", "class": "A", "is_of_library": True, "modules": {}, "report": [1e-05, "\u00e9"]}
    _manifest.write_manifest(tmp_path, facts, [tmp_path / "a"])
    path = tmp_path / MANIFEST
    whole, expected = path.read_bytes(), _manifest.read_manifest(tmp_path, verify=True)
    assert expected["files"].keys() == {"a"}
    same = 0
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            os.pwrite(file.fileno(), bytes([whole[bit // 8] ^ 1 << bit % 8]), bit // 8)
            try:
                found = _manifest.read_manifest(tmp_path, verify=True)
            except ValueError as error:
                assert str(tmp_path) in str(error)
            else:
                assert found == expected
                same += 1
            os.pwrite(file.fileno(), whole[bit // 8 : bit // 8 + 1], bit // 8)
    assert same < 10  # as 1E-05


def test_what_people_do_to_a_folder(folder):
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMy model")
    (folder / "notes.txt").write_text("mine")
    expected = outputs(load_compressed(folder))
    save_compressed(load_compressed(folder), folder.parent / "again")
    assert "README.md" not in json.loads((folder.parent / "again" / MANIFEST).read_text())["files"]
    rewrite(folder / "config.json", architectures=["BertForMaskedLM"], note="edited by hand")
    (folder / "tokenizer.json").unlink()
    assert "verify=False" in refusal(folder)
    torch.testing.assert_close(outputs(load_compressed(folder, verify=False)), expected, rtol=0, atol=0)


def test_pages_that_were_saved_may_change(tmp_path):
    facts = dict.fromkeys(("library", "class", "is_of_library", "modules", "report"))
    (tmp_path / "README.md").write_text("before")
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text("{}")
    _manifest.write_manifest(tmp_path, facts, [tmp_path / "README.md", tmp_path / "part" / "config.json"])
    (tmp_path / "README.md").write_text("after")
    assert _manifest.read_manifest(tmp_path, verify=True)["files"].keys() == {"part/config.json"}


def as_first_version(folder: Path, **changes: Any) -> None:
    """Make a folder one of the first version: the manifest knew of the weights alone, whose name had a variant."""
    manifest = json.loads((folder / MANIFEST).read_text())
    weights = manifest.pop("files")[WEIGHTS]
    (folder / WEIGHTS).rename(folder / OLD_WEIGHTS)
    config = json.loads((folder / "config.json").read_text())
    del config["transformers_weights"]
    (folder / "config.json").write_text(json.dumps(config))
    sums = {"weights": {OLD_WEIGHTS: weights["bytes"]}, "crc32": {OLD_WEIGHTS: weights["crc32"]}}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "version": 1, **sums, **changes}))


def test_folders_of_the_first_version_load(folder):
    expected = outputs(load_compressed(folder))
    as_first_version(folder)
    for changes in ({}, {"crc32": {}}):
        rewrite(folder / MANIFEST, **changes)
        rewrite(folder / "tokenizer_config.json", note="edited by hand")
        torch.testing.assert_close(outputs(load_compressed(folder)), expected, rtol=0, atol=0)
    (folder / OLD_WEIGHTS).write_bytes((folder / OLD_WEIGHTS).read_bytes()[:-4])
    assert f"{OLD_WEIGHTS} has " in refusal(folder)
    rewrite(folder / MANIFEST, version=0)
    assert "ksubspaces.json is not readable (version 0)" in refusal(folder)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_factors_that_are_not_finite(folder, tmp_path, value):
    as_first_version(folder, crc32={})
    weights = load_file(folder / OLD_WEIGHTS)
    name = next(key for key, tensor in weights.items() if "word_embeddings" in key and tensor.is_floating_point())
    weights[name].view(-1)[3] = float(value)
    save_file(weights, folder / OLD_WEIGHTS, {"format": "pt"})
    assert f"{folder} is damaged, its parts are missing or do not fit: {name} has numbers that are" in refusal(folder)
    model = load_compressed(folder, verify=False)
    with pytest.raises(ValueError, match=f"{name} has numbers that are not finite"):
        save_compressed(model, tmp_path / "again")
    assert "again" not in contents(tmp_path)
