"""Folders that are damaged, or hold no compressed model, are refused and say why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from files import rewrite
from models import assert_same_model, bert, compressed, gpt2, seeded, torch, transformers

from ksubspaces.integrations.transformers import load_compressed, save_compressed


def test_what_the_model_never_had_is_not_damage(tmp_path):
    model = seeded(lambda config: transformers.BertModel(config, add_pooling_layer=False), bert().config)
    compressed(model)
    save_compressed(model, tmp_path / "model")
    assert_same_model(load_compressed(tmp_path / "model"), model, ("pooler.dense.weight", "pooler.dense.bias"))


class TestDamage:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        model = gpt2()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        return tmp_path / "model"

    def refused(self, folder: Path, match: str, error: type[Exception] = ValueError, verify: bool = True) -> None:
        with pytest.raises(error, match=match):
            load_compressed(folder, verify=verify)

    def test_dtypes(self, folder):
        for bad in ("foo", torch.int8, 16):
            with pytest.raises(ValueError, match="dtype must be a floating point dtype of Torch, or its name, got"):
                load_compressed(folder, dtype=bad)
        assert load_compressed(folder, dtype="bfloat16").dtype == torch.bfloat16
        assert load_compressed(folder, dtype="auto").dtype == torch.float32

    def test_no_folder_or_no_model(self, tmp_path):
        self.refused(tmp_path / "none", "no such folder", FileNotFoundError)
        (tmp_path / "file").write_text("")
        self.refused(tmp_path / "file", "is a file", NotADirectoryError)
        self.refused(tmp_path, "is not a compressed model: it has no ksubspaces.json, nor a config.json with")
        gpt2().save_pretrained(tmp_path / "dense")
        self.refused(tmp_path / "dense", "is not a compressed model")

    def test_manifests(self, folder):
        path = folder / "ksubspaces.json"
        whole = path.read_text()
        rewrite(path, version=99)
        self.refused(folder, "later version of ksubspaces; upgrade")
        rewrite(path, version="x")
        self.refused(folder, "is not a compressed model, or damaged")
        rewrite(path, version=1, format="something")
        self.refused(folder, "is not a compressed model, or damaged")
        path.write_text(whole[: len(whole) // 2])
        self.refused(folder, "is not a compressed model, or damaged")
        path.write_text(whole)
        rewrite(path, **{"class": "NoSuchModel"})
        self.refused(folder, "is damaged: ksubspaces.json is not what was written")
        self.refused(folder, "holds a NoSuchModel, which is no class of transformers", verify=False)

    def test_weights(self, folder):
        path = folder / "model.safetensors"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        self.refused(folder, r"damaged: model.safetensors has \d+ bytes, expected")
        path.write_bytes(b"\xff" * len(whole))
        self.refused(folder, "is damaged")
        path.write_bytes(whole[:-50] + b"\x7f" * 50)
        self.refused(folder, "is damaged: model.safetensors is not what was written")
        path.unlink()
        self.refused(folder, "damaged: model.safetensors is missing")

    def test_configs_that_do_not_fit_the_weights(self, folder):
        config = json.loads((folder / "config.json").read_text())
        layers = config["quantization_config"]["modules"]
        for name in ("dims", "tied_to"):
            changed = json.loads(json.dumps(layers))
            if name == "dims":
                changed["transformer.wte"]["dims"][0] += 1
            else:
                changed["lm_head"]["tied_to"] = "transformer.nothing"
            rewrite(folder / "config.json", quantization_config={**config["quantization_config"], "modules": changed})
            self.refused(folder, "is damaged: config.json")
            self.refused(folder, "is damaged", verify=False)
        model = gpt2()
        compressed(model, storage="int8")
        save_compressed(model, folder, overwrite=True)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"]["modules"]["transformer.wte"]["storage"] = None
        rewrite(folder / "config.json", **config)
        self.refused(folder, "is damaged: config.json")
        self.refused(folder, r"is damaged", verify=False)
        rewrite(folder / "config.json", quantization_config={**config["quantization_config"], "version": 99})
        self.refused(folder, "later version of ksubspaces", verify=False)
