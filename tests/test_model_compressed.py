"""A model compressed in place: what is replaced, what stays, and what the report says."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from models import SENTENCES, WEIGHTS, D, N, bert, compressed, gpt2, outputs, tokenizer, torch
from torch import nn

from ksubspaces.integrations._model_report import ModelReport
from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear
from ksubspaces.integrations.transformers import compress_model


class TestCompressing:
    def test_report_counts_everything_once(self):
        model = gpt2()
        before = sum(p.numel() for p in model.parameters())
        report = compressed(model)
        module = report.modules[0]
        assert report.n_parameters_before == before
        assert report.nbytes_before == 4 * before
        assert report.n_parameters_before - report.n_parameters == N * D - module.n_parameters
        assert module.n_parameters <= 0.5 * N * D
        assert sum(module.counts) == N
        dense = gpt2().transformer.wte.weight.detach().double()
        error = (dense - model.transformer.wte.to_dense().detach()).square().sum(1)
        assert module.relative_error == pytest.approx(float(error.sum() / dense.square().sum()), rel=1e-5)
        weights = torch.tensor(WEIGHTS)
        expected = float(weights @ error / (weights @ dense.square().sum(1)))
        assert module.weighted_error == pytest.approx(expected, rel=1e-5)
        assert module.weighted_error < module.svd_weighted_error
        assert module.most_lost[0].row == int((weights * error).argmax())
        assert module.most_distorted[0].row == int((error / dense.square().sum(1)).argmax())
        assert "transformer.wte = lm_head" in str(report)
        assert ModelReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report

    def test_weights_change_what_is_kept(self):
        frequent = slice(0, 5)
        errors = []
        for weights in (WEIGHTS**2, WEIGHTS[::-1] ** 2):
            model = gpt2()
            dense = model.transformer.wte.weight.detach()
            compressed(model, 0.8, token_weights=weights)
            errors.append(float((dense - model.transformer.wte.to_dense().detach())[frequent].norm()))
        assert errors[0] < 0.5 * errors[1]

    def test_special_tokens_without_a_name(self):
        """As those of chats: marked in the vocabulary, but in none of the tokenizer's named places."""
        from tokenizers import AddedToken

        made = tokenizer()
        made.backend_tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True)])
        made.backend_tokenizer.add_tokens(["plain"])
        marked = len(made) - 2
        assert made.convert_ids_to_tokens(marked) == "<|im_start|>"
        assert marked not in made.all_special_ids
        model = gpt2()
        before = model.get_input_embeddings().weight.detach().clone()
        report = compress_model(model, 0.5, tokenizer=made, k=2, seed=0)
        assert report.modules[0].n_exact == 6
        after = model.get_input_embeddings().to_dense()
        kept = [*range(5), marked]
        torch.testing.assert_close(after[kept], before[kept], rtol=0, atol=0)
        assert not torch.equal(after[marked + 1], before[marked + 1])

    def test_a_special_token_without_a_number(self):
        """Where the name of one is not in the vocabulary."""

        class Tokenizer:
            all_special_ids: ClassVar = [None, 3, None]
            added_tokens_decoder: ClassVar = {}

        model = gpt2()
        before = model.get_input_embeddings().weight.detach().clone()
        report = compressed(model, tokenizer=Tokenizer())
        assert report.modules[0].n_exact == 1
        assert torch.equal(model.get_input_embeddings().weight[3], before[3])

    def test_more_exact_rows_than_columns(self):
        """They are stored as coefficients are: exactly, or they are refused."""
        rows = [*range(D + 8)]
        for storage in (None, "float32"):
            model = gpt2()
            before = model.get_input_embeddings().weight.detach().clone()
            compressed(model, exact_rows=rows, storage=storage)
            torch.testing.assert_close(model.get_input_embeddings().to_dense()[rows], before[rows], rtol=0, atol=0)
        for storage in ("int8", "float16"):
            with pytest.raises(ValueError, match=f"exact_rows holds 40 rows, more than the 32 columns, and {storage}"):
                compressed(gpt2(), exact_rows=rows, storage=storage)
            compressed(gpt2(), exact_rows=rows[:D], storage=storage)

    def test_special_tokens_stay_exactly_and_are_paid_for(self):
        model = bert(vocab_size=40)
        dense = model.get_input_embeddings().weight.detach().clone()
        report = compress_model(model, 0.3, tokenizer=tokenizer(), seed=0)
        table = model.get_input_embeddings().to_dense()
        torch.testing.assert_close(table[:5], dense[:5])
        assert report.modules[0].n_exact == 5
        assert report.modules[0].n_parameters <= 0.7 * 40 * D
        again = bert(vocab_size=40)
        assert compress_model(again, 0.3, tokenizer=tokenizer(), seed=0, exact_rows=None).modules[0].n_exact == 0

    def test_weights_from_texts_from_the_prior_or_none(self):
        sources = {}
        for name, options in (("texts", {"texts": iter(SENTENCES)}), ("prior", {})):
            model = bert(vocab_size=48)  # eight rows more than the tokenizer knows
            sources[name] = compress_model(model, 0.3, tokenizer=tokenizer(), seed=0, **options).modules[0].weights
        with pytest.warns(UserWarning, match="all tokens count alike"):
            report = compress_model(bert(vocab_size=48), 0.3, seed=0)
        assert sources == {"texts": "counted in texts", "prior": "Zipf prior over the vocabulary"}
        assert report.modules[0].weights == "none: all rows alike"
        assert report.modules[0].weighted_error is None

    def test_weights_may_leave_out_rows_beyond_the_vocabulary(self):
        report = compress_model(bert(vocab_size=48), 0.3, tokenizer=tokenizer(), token_weights=np.ones(40), seed=0)
        assert report.modules[0].weights == "given"
        with pytest.raises(ValueError, match=r"48 rows, or for the 40 tokens .* got shape \(39,\)"):
            compress_model(bert(vocab_size=48), 0.3, tokenizer=tokenizer(), token_weights=np.ones(39))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype_and_what_is_trained_are_kept(self, dtype):
        model = gpt2().to(dtype)
        model.transformer.wte.weight.requires_grad_(False)
        compressed(model)
        assert {p.dtype for p in model.parameters()} == {dtype}
        assert not any(p.requires_grad for p in model.transformer.wte.parameters())
        assert all(p.requires_grad for p in model.transformer.h.parameters())
        assert outputs(model).dtype == dtype

    def test_linear_layers_anywhere(self):
        model = bert(intermediate_size=64)
        names = ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"]
        before = outputs(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = compress_model(model, 0.02, modules=names, k=1, seed=0)
        assert [(module.kind, module.n_exact) for module in report.modules] == [("linear", 0)] * 2
        assert isinstance(model.get_submodule(names[0]), SubspaceLinear)
        assert type(model.get_input_embeddings()) is nn.Embedding
        assert (outputs(model) - before).norm() < 0.1 * before.norm()

    def test_a_plain_module(self):
        class Bag(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(N, D)
                self.twin = self.table

            def get_input_embeddings(self) -> nn.Module:
                return self.table

        model = Bag()
        compressed(model)
        assert isinstance(model.table, SubspaceEmbedding)
        assert model.twin is model.table

    def test_equal_seeds_equal_models_and_global_random_numbers_untouched(self):
        state = torch.random.get_rng_state()
        first, second = gpt2(), gpt2()
        compressed(first)
        compressed(second)
        assert torch.equal(first.transformer.wte.to_dense(), second.transformer.wte.to_dense())
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_keep_is_ratio_from_the_other_side(self):
        kept, saved = gpt2(), gpt2()
        report = compressed(kept, None, keep=0.5)
        assert report.options["keep"] == 0.5
        assert report.modules == (replace(compressed(saved).modules[0], seconds=report.modules[0].seconds),)
        with pytest.raises(ValueError, match=r"transformer.wte: give either ratio, .* or keep, .* got ratio and keep"):
            compressed(gpt2(), 0.5, keep=0.5)

    def test_a_failure_replaces_nothing(self):
        model = bert()
        names = ["bert.embeddings.word_embeddings", "bert.embeddings.token_type_embeddings"]
        with pytest.raises(ValueError, match=r"bert.embeddings.token_type_embeddings: ratio=0.5 leaves"):
            compressed(model, modules=names)
        assert type(model.get_input_embeddings()) is nn.Embedding
        assert not hasattr(model, "compression_report")
