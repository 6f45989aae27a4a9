"""Compressed models saved and loaded: the same model, in another process, as another class."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np
import pytest
from models import (
    SMALL,
    D,
    N,
    assert_same_model,
    assert_same_tensors,
    bart,
    bert,
    compressed,
    dtypes,
    gemma,
    gpt2,
    modernbert,
    outputs,
    seeded,
    t5,
    tokenizer,
    torch,
    transformers,
)
from safetensors.torch import load_file, save_file
from torch import nn

from ksubspaces.checksums import checksum_facts, checksum_file
from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear
from ksubspaces.integrations.transformers import load_compressed, save_compressed


class TestFolders:
    @pytest.mark.parametrize("make", [gpt2, bert, modernbert, t5, bart, gemma])
    @pytest.mark.parametrize("storage", [None, "float16", "int8"])
    def test_round_trip(self, tmp_path, make, storage):
        model = make()
        report = compressed(model, storage=storage)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded) is type(model)
        assert not loaded.training
        torch.testing.assert_close(outputs(loaded), outputs(model))
        assert loaded.get_output_embeddings().factors is loaded.get_input_embeddings()
        assert loaded.get_input_embeddings().storage == storage or storage is None
        assert dtypes(loaded) == dtypes(model)
        assert loaded.compression_report == report
        save_compressed(loaded, tmp_path / "again")  # what was loaded is as good as what was compressed
        torch.testing.assert_close(outputs(load_compressed(tmp_path / "again")), outputs(model))

    def test_in_another_process(self, tmp_path):
        model = bert()
        compressed(model)
        save_compressed(model, tmp_path / "model", tokenizer())
        program = f"""
import socket, torch
def refuse(*args, **kwargs): raise OSError("no network here")
socket.socket.connect = refuse
from ksubspaces.integrations.transformers import load_compressed
model = load_compressed({str(tmp_path / "model")!r})
head = model.cls.predictions
assert head.decoder.factors is model.bert.embeddings.word_embeddings and head.decoder.bias is head.bias
ids = torch.arange(14).view(2, 7) * 17 % {N}
torch.save(model(input_ids=ids, attention_mask=torch.ones_like(ids))[0], {str(tmp_path / "out.pt")!r})
"""
        subprocess.run([sys.executable, "-c", program], check=True)
        torch.testing.assert_close(torch.load(tmp_path / "out.pt"), outputs(model))
        found = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
        assert found("the cat")["input_ids"] == tokenizer()("the cat")["input_ids"]

    def test_manifest_records_everything(self, tmp_path):
        model = bert()
        compressed(model, storage="float16")
        save_compressed(model, tmp_path / "model")
        manifest = json.loads((tmp_path / "model" / "ksubspaces.json").read_text())
        embedding = manifest["modules"]["bert.embeddings.word_embeddings"]
        layer = model.get_input_embeddings()
        assert (manifest["library"], manifest["class"], manifest["version"]) == ("transformers", "BertForMaskedLM", 3)
        assert embedding["counts"] == list(layer.counts)
        assert embedding["dims"] == list(layer.dims)
        assert (embedding["shape"], embedding["storage"], embedding["padding_idx"]) == ([N, D], "float16", 0)
        assert manifest["modules"]["cls.predictions.decoder"]["tied_to"] == "bert.embeddings.word_embeddings"
        assert manifest["report"]["modules"][0]["relative_error"] > 0
        assert {"ksubspaces", "torch", "transformers"} <= set(manifest["packages"])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtypes(self, tmp_path, dtype):
        model = gpt2().to(dtype)
        compressed(model)
        save_compressed(model, tmp_path / "model")
        assert {p.dtype for p in load_compressed(tmp_path / "model").parameters()} == {dtype}
        wide = load_compressed(tmp_path / "model", dtype=torch.float32)
        assert {p.dtype for p in wide.parameters()} == {torch.float32}
        torch.testing.assert_close(outputs(wide), outputs(model.float()))

    def test_what_is_loaded_trains_and_casts(self, tmp_path):
        model = gpt2()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model").train()
        ids = torch.arange(12).view(2, 6)
        loaded(input_ids=ids, labels=ids).loss.backward()
        assert all(p.grad is not None for p in loaded.get_input_embeddings().parameters())
        assert loaded.half().dtype == torch.float16

    def test_its_own_save_pretrained_and_from_pretrained(self, tmp_path):
        model = gpt2()
        compressed(model)
        model.save_pretrained(tmp_path / "model")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert loaded.lm_head.factors is loaded.transformer.wte
        torch.testing.assert_close(outputs(loaded), outputs(model))

    @pytest.mark.parametrize("storage", [None, "int8"])
    def test_folders_of_the_second_version(self, tmp_path, storage):
        """Weights had a variant in their name, places 16 bits, and clusters of dimension 0 matrices without entries."""
        model = gpt2()
        with torch.no_grad():
            model.get_input_embeddings().weight[256:] = 0
        compressed(model, storage=storage, k=3, init=np.repeat([0, 1, 2], [128, 128, 44]).astype(np.int32))
        table = model.get_input_embeddings()
        assert 0 in table.dims
        save_compressed(model, tmp_path / "model")
        folder = tmp_path / "model"
        weights = load_file(folder / "model.safetensors")
        for c, (m, j) in enumerate(zip(table.counts, table.dims, strict=True)):
            weights.setdefault(f"transformer.wte.bases.{c}", torch.empty(j, D))
            weights.setdefault(f"transformer.wte.coefficients.{c}", torch.empty(m, j))
        weights["transformer.wte.places"] = weights["transformer.wte.places"].to(torch.int16)
        save_file(weights, folder / "model.ksubspaces.safetensors", {"format": "pt"})
        (folder / "model.safetensors").unlink()
        config = json.loads((folder / "config.json").read_text())
        del config["transformers_weights"]
        config["quantization_config"]["version"] = 2
        (folder / "config.json").write_text(json.dumps(config))
        manifest = json.loads((folder / "ksubspaces.json").read_text())
        files = {
            path.name: {"bytes": path.stat().st_size, "crc32": checksum_file(path)}
            for path in folder.iterdir()
            if path.name not in ("ksubspaces.json", "README.md")
        }
        manifest |= {"version": 2, "files": files}
        manifest["crc32"] = checksum_facts({name: fact for name, fact in manifest.items() if name != "crc32"})
        (folder / "ksubspaces.json").write_text(json.dumps(manifest))
        loaded = load_compressed(folder)
        assert_same_model(loaded, model)
        assert loaded.get_input_embeddings().places.dtype == torch.int32
        assert not loaded.get_input_embeddings()(torch.tensor([256, 299])).any()
        torch.testing.assert_close(
            outputs(transformers.AutoModelForCausalLM.from_pretrained(folder, variant="ksubspaces")), outputs(model)
        )

    def test_a_head_without_its_embedding(self, tmp_path):
        model = gpt2(tie_word_embeddings=False)
        compressed(model, modules=["lm_head"])
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert isinstance(loaded.lm_head, SubspaceLinear)
        torch.testing.assert_close(outputs(loaded), outputs(model))

    def test_classes_of_ones_own(self, tmp_path):
        class Own(transformers.GPT2LMHeadModel):
            pass

        model = seeded(Own, gpt2().config)
        compressed(model)
        save_compressed(model, tmp_path / "model")
        with pytest.raises(ValueError, match=r"holds a Own, which is no class of transformers; import it and give it"):
            load_compressed(tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=Own)
        assert type(loaded) is Own
        torch.testing.assert_close(outputs(loaded), outputs(model))

    @pytest.mark.parametrize(
        ("make", "other"),
        [
            (bert, "AutoModel"),
            (bert, "BertForSequenceClassification"),
            (lambda: bert("BertModel"), "AutoModelForTokenClassification"),
            (lambda: bert("BertModel"), "BertForMaskedLM"),
            (gpt2, "GPT2Model"),
            (lambda: gpt2().transformer, "AutoModelForCausalLM"),
            (t5, "T5EncoderModel"),
            (bart, "AutoModel"),
            (lambda: bart().model, "BartForConditionalGeneration"),
        ],
    )
    def test_as_another_class(self, tmp_path, make, other):
        """Equal factors and a body that computes the same; heads are gone or new, and tied if the class ties them."""
        model = make()
        compressed(model)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=getattr(transformers, other))
        assert not loaded.training
        own, found = (
            part.get_encoder() if part.config.is_encoder_decoder else part.base_model for part in (model, loaded)
        )
        assert_same_tensors(found.get_input_embeddings(), own.get_input_embeddings())
        ids = torch.arange(14).view(2, 7)
        with torch.no_grad():
            torch.testing.assert_close(found(ids)[0], own(ids)[0])
        head = loaded.get_output_embeddings()
        assert head is None or head.factors is loaded.get_input_embeddings()
        assert all(torch.isfinite(part).all() for part in loaded.parameters())
        save_compressed(loaded, tmp_path / "again")
        again = load_compressed(tmp_path / "again")
        assert type(again) is type(loaded)
        assert_same_tensors(again, loaded)

    def test_options_of_the_class(self, tmp_path):
        model = bert("BertModel")
        compressed(model)
        save_compressed(model, tmp_path / "model")
        kind = transformers.AutoModelForSequenceClassification
        loaded = load_compressed(tmp_path / "model", model_class=kind, num_labels=5)
        assert loaded.classifier.out_features == 5
        assert isinstance(loaded.get_input_embeddings(), SubspaceEmbedding)

    def test_a_head_of_its_own_where_the_config_says_tied(self, tmp_path):
        """As transformers does, which ties nothing that has weights of its own."""

        def untied() -> Any:
            model = gpt2()
            assert model.config.tie_word_embeddings
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
            return model

        for modules in ("embeddings", ["lm_head"], ["lm_head", "transformer.wte"]):
            model = untied()
            compressed(model, modules=modules)
            save_compressed(model, tmp_path / "model", overwrite=True)
            for kind in (None, transformers.AutoModelForCausalLM):
                loaded = load_compressed(tmp_path / "model", model_class=kind)
                assert [type(part) for part in loaded.modules()] == [type(part) for part in model.modules()]
                assert_same_model(loaded, model)

    def test_an_embedding_dense_again(self, tmp_path):
        model = gpt2()
        dense = nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach().clone())
        compressed(model)
        model.set_input_embeddings(dense)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded.get_input_embeddings()) is nn.Embedding
        assert_same_model(loaded, model)

    def test_a_layer_of_the_same_name_is_not_the_same_layer(self, tmp_path):
        config = transformers.RobertaConfig(vocab_size=N, num_labels=40, max_position_embeddings=32, **SMALL)
        model = seeded(transformers.RobertaForTokenClassification, config)
        compressed(model)
        compressed(model, modules=["classifier"], token_weights=None)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=transformers.RobertaForSequenceClassification)
        assert type(loaded.classifier).__name__ == "RobertaClassificationHead"
        assert isinstance(loaded.get_input_embeddings(), SubspaceEmbedding)
        kind = transformers.RobertaForTokenClassification
        with pytest.raises(
            ValueError, match=r"classifier has a weight of shape \(3, 32\) .* \(40, 32\) was compressed"
        ):
            load_compressed(tmp_path / "model", model_class=kind, num_labels=3)

    @pytest.mark.parametrize("by", ["rows", "columns"])
    def test_linear_layers_that_share_a_weight(self, tmp_path, by):
        """Each keeps its bias; the longer side is not the same by rows as by columns."""

        class Own(transformers.BertPreTrainedModel):
            _tied_weights_keys: ClassVar = {"second.weight": "first.weight"}

            def __init__(self, config):
                super().__init__(config)
                self.bert = transformers.BertModel(config)
                self.first, self.second = nn.Linear(D, 60), nn.Linear(D, 60)
                self.post_init()

        model = seeded(Own, bert().config)
        assert model.first.weight is model.second.weight
        with torch.no_grad():
            model.first.bias.fill_(1)
            model.second.bias.fill_(2)
        compressed(model, modules=["first"], by=by, token_weights=None)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model", model_class=Own)
        assert loaded.first.factors is loaded.second.factors
        assert_same_tensors(loaded, model)
        x = torch.linspace(-1, 1, D)
        for layer in ("first", "second"):
            torch.testing.assert_close(getattr(loaded, layer)(x), getattr(model, layer)(x))

    def test_a_dense_model_with_the_config_of_a_compressed_one(self, tmp_path):
        model = gpt2()
        compressed(model)
        seeded(type(model), model.config).save_pretrained(tmp_path / "dense")
        with pytest.raises(ValueError, match=r"dense in the weights; .* take quantization_config out of config\.json"):
            type(model).from_pretrained(tmp_path / "dense")
        config = json.loads((tmp_path / "dense" / "config.json").read_text())
        del config["quantization_config"]
        (tmp_path / "dense" / "config.json").write_text(json.dumps(config))
        type(model).from_pretrained(tmp_path / "dense")

    def test_classes_that_do_not_fit(self, tmp_path):
        model = gpt2(tie_word_embeddings=False)
        compressed(model, modules=["lm_head"])
        save_compressed(model, tmp_path / "model")
        with pytest.raises(ValueError, match=r"could not be loaded as GPT2Model: .* nothing of what was compressed"):
            load_compressed(tmp_path / "model", model_class=transformers.GPT2Model)
        with pytest.raises(ValueError, match="could not be loaded as AutoModelForImageClassification: "):
            load_compressed(tmp_path / "model", model_class=transformers.AutoModelForImageClassification)
        compressed(model)
        save_compressed(model, tmp_path / "model", overwrite=True)
        with pytest.raises(ValueError, match="could not be loaded as T5Model: "):
            load_compressed(tmp_path / "model", model_class=transformers.T5Model)
        with pytest.raises(ValueError, match=r"BertModel has no transformer\.wte, which was compressed"):
            load_compressed(tmp_path / "model", model_class=transformers.BertModel)
        for kind in ("GPT2Model", nn.Linear, model, transformers.AutoTokenizer, transformers.BertConfig):
            with pytest.raises(TypeError, match="model_class must be a class of transformers or sentence-transformers"):
                load_compressed(tmp_path / "model", model_class=kind)

    def test_what_cannot_be_saved(self, tmp_path):
        with pytest.raises(ValueError, match="no factored layers"):
            save_compressed(gpt2(), tmp_path / "model")
        with pytest.raises(TypeError, match="only models of transformers and sentence-transformers"):
            save_compressed(nn.Linear(2, 2), tmp_path / "model")
        assert not list(tmp_path.iterdir())
