"""Pipelines of sentence-transformers, compressed, saved and loaded whole."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import import_or_skip
from models import SENTENCES, D, assert_same_tensors, sentence_model, torch, transformers
from torch import nn

from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed


class TestSentenceTransformers:
    def test_round_trip_of_the_whole_pipeline(self, tmp_path):
        model = sentence_model(tmp_path / "dense")
        before = model.encode(SENTENCES)
        report = compress_model(model, 0.1, texts=SENTENCES, seed=0)
        assert (report.modules[0].weights, report.modules[0].n_exact) == ("counted in texts", 5)
        vectors = model.encode(SENTENCES)
        assert (vectors * before).sum(1).min() > 0.9
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        assert type(loaded) is type(model)
        np.testing.assert_allclose(loaded.encode(SENTENCES), vectors, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(loaded.encode(SENTENCES), axis=1), 1, atol=1e-5)
        assert [type(part) for part in loaded] == [type(part) for part in model]
        assert (loaded.prompts["query"], loaded.max_seq_length) == ("the ", 24)
        assert loaded.compression_report == report
        save_compressed(loaded, tmp_path / "model", overwrite=True)
        np.testing.assert_allclose(load_compressed(tmp_path / "model").encode(SENTENCES), vectors, atol=1e-6)

    def test_packed_bits_open_by_every_door(self, tmp_path):
        sentence_transformers = import_or_skip("sentence_transformers")
        model = sentence_model(tmp_path / "dense")
        report = compress_model(model, bits=6.0, texts=SENTENCES, seed=0)
        vectors = model.encode(SENTENCES)
        save_compressed(model, tmp_path / "model")
        loaded = load_compressed(tmp_path / "model")
        np.testing.assert_allclose(loaded.encode(SENTENCES), vectors, atol=1e-6)
        assert loaded.compression_report == report
        again = sentence_transformers.SentenceTransformer(str(tmp_path / "model"), device="cpu")
        np.testing.assert_allclose(again.encode(SENTENCES), vectors, atol=1e-6)
        encoder = transformers.AutoModel.from_pretrained(tmp_path / "model")
        assert_same_tensors(encoder, model[0].auto_model)

    def test_as_another_class(self, tmp_path):
        """A pipeline's transformer alone, a transformer as a pipeline, and a pipeline of one's own class."""
        sentence_transformers = import_or_skip("sentence_transformers")

        class Own(sentence_transformers.SentenceTransformer):
            pass

        model = sentence_model(tmp_path / "dense")
        compress_model(model, 0.1, seed=0)
        save_compressed(model, tmp_path / "model")
        kinds = (Own, transformers.AutoModel, sentence_transformers.SentenceTransformer)
        own, encoder = (load_compressed(tmp_path / "model", model_class=kind) for kind in kinds[:2])
        assert type(own) is Own
        assert type(encoder) is transformers.BertModel
        np.testing.assert_allclose(own.encode(SENTENCES), model.encode(SENTENCES), atol=1e-6)
        ids = torch.arange(10).view(2, 5)
        with torch.no_grad():
            torch.testing.assert_close(encoder(ids)[0], model[0].auto_model(ids)[0])
        assert_same_tensors(encoder, model[0].auto_model)
        for name, saved in (("own", own), ("encoder", encoder)):
            save_compressed(saved, tmp_path / name, None if saved is own else model.tokenizer)
        with pytest.raises(ValueError, match="holds a Own, which is no class of sentence_transformers"):
            load_compressed(tmp_path / "own")
        pipeline = load_compressed(tmp_path / "encoder", model_class=kinds[2])
        table = pipeline[0].auto_model.get_input_embeddings()
        torch.testing.assert_close(table.to_dense(), encoder.get_input_embeddings().to_dense())

    def test_a_tower_that_is_shared_is_saved_once_and_opens_with_both_names(self, tmp_path):
        sentence_transformers = import_or_skip("sentence_transformers", "6")
        from sentence_transformers.base.modules import Router

        tower = sentence_model(tmp_path / "dense")
        router = Router.for_query_document(query_modules=[*tower], document_modules=[*tower])
        model = sentence_transformers.SentenceTransformer(modules=[router], device="cpu")
        compress_model(model, 0.1, tokenizer=tower.tokenizer, seed=0)
        save_compressed(model, tmp_path / "model")
        assert len(list((tmp_path / "model").rglob("model.safetensors"))) == 1
        loaded = load_compressed(tmp_path / "model")
        for encode in ("encode_query", "encode_document"):
            found, expected = (getattr(m, encode)(SENTENCES, prompt="") for m in (loaded, model))
            np.testing.assert_allclose(found, expected, atol=1e-6)
        query, document = (loaded[0].sub_modules[name][0].auto_model for name in ("query", "document"))
        assert query is document

    def test_layers_outside_of_the_transformer_cannot_be_saved(self, tmp_path):
        model = sentence_model(tmp_path / "dense")
        model.append(nn.Linear(D, D))
        compress_model(model, 0.05, modules=["3"], k=1, seed=0)
        with pytest.raises(ValueError, match="3 is outside of the transformers model"):
            save_compressed(model, tmp_path / "model")
