"""Modules that share a weight share their factors, and other models are left alone."""

from __future__ import annotations

import pytest
from models import D, N, bart, bert, compressed, gemma, gpt2, modernbert, t5, torch
from torch import nn

from ksubspaces.integrations._model_report import ModelReport
from ksubspaces.integrations._scaling import PLAIN
from ksubspaces.integrations.torch import SubspaceLinear


class TestTies:
    def test_of_a_gpt2(self):
        model = gpt2()
        dense = model.transformer.wte.weight.detach().clone()
        report = compressed(model)
        assert isinstance(model.lm_head, SubspaceLinear)
        assert model.lm_head.factors is model.transformer.wte is model.get_input_embeddings()
        assert report.modules[0].tied == ("lm_head",)
        x = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.lm_head(x), x @ model.transformer.wte.to_dense().T)
        assert (model.transformer.wte.to_dense() - dense).norm() < dense.norm()

    def test_of_a_bert_keep_the_decoders_bias_tied_as_well(self):
        model = bert()
        head = model.cls.predictions
        with torch.no_grad():
            head.bias.fill_(0.25)
        compressed(model)
        assert head.decoder.factors is model.bert.embeddings.word_embeddings
        assert head.decoder.bias is head.bias
        assert model.get_input_embeddings().padding_idx == 0
        model.tie_weights()  # which transformers calls where it likes: nothing is untied, nothing fails
        assert head.decoder.factors is model.bert.embeddings.word_embeddings

    def test_of_several_embeddings_and_a_head(self):
        model = t5()
        compressed(model)
        assert model.encoder.embed_tokens is model.decoder.embed_tokens is model.shared is model.lm_head.factors

    @pytest.mark.parametrize("make", [gpt2, bert, modernbert, t5, bart, gemma])
    def test_hold_after_a_step_of_training(self, make):
        model = make().train()
        compressed(model)
        assert model.training
        assert model.get_input_embeddings().training
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        before = model.get_input_embeddings().to_dense().detach().clone()
        ids = torch.arange(12).view(2, 6)
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
        table = model.get_input_embeddings().to_dense()
        assert not torch.equal(table, before)
        torch.testing.assert_close(model.get_output_embeddings().weight, table)
        assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))

    @pytest.mark.parametrize("make", [bart, gemma])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_looked_up_is_multiplied_as_it_was_and_heads_are_not(self, make, dtype):
        model = make().to(dtype)
        dense = model.get_input_embeddings()
        compressed(model, 0.2)
        layer = model.get_input_embeddings()
        table = layer.to_dense().detach()
        ids = torch.arange(12).view(2, 6)
        scaled, scaling, layer.scaling = layer(ids).detach(), layer.scaling, PLAIN
        assert scaling.factor > 5
        plain = layer(ids).detach()  # by the same products, so the multiplication alone is compared bit for bit
        torch.testing.assert_close(plain, table[ids])
        dense.weight = nn.Parameter(table.index_put((ids,), plain))
        torch.testing.assert_close(scaled, dense(ids).detach(), rtol=0, atol=0)
        x = torch.randn(3, D, generator=torch.Generator().manual_seed(0)).to(dtype)
        torch.testing.assert_close(model.lm_head(x), x @ table.T, rtol=1e-5, atol=10 * torch.finfo(dtype).eps)

    def test_untied_heads_are_left_alone_or_compressed_by_name(self):
        model = gpt2(tie_word_embeddings=False)
        assert compressed(model).modules[0].tied == ()
        assert type(model.lm_head) is nn.Linear
        report = compressed(model, modules=["lm_head"])
        assert (report.modules[0].kind, report.modules[0].weights) == ("linear", "given")
        assert model.lm_head.factors is not model.transformer.wte
        assert [module.name for module in model.compression_report.modules] == ["transformer.wte", "lm_head"]

    def test_an_untied_head_is_told_of_and_compressed_if_asked_for(self):
        model = gpt2(tie_word_embeddings=False)
        report = compressed(model)
        assert report.left == ("lm_head",)
        assert "lm_head is not tied to the embedding, and was left; modules='embeddings+heads'" in str(report)
        assert ModelReport.from_dict(report.to_dict()) == report
        compressed(model, modules=["lm_head"])
        assert model.compression_report.left == ()
        both = gpt2(tie_word_embeddings=False)
        report = compressed(both, modules="embeddings+heads")
        assert ([module.name for module in report.modules], report.left) == (["transformer.wte", "lm_head"], ())
        assert sum(module.n_parameters for module in report.modules) <= N * D
        tied = gpt2()
        report = compressed(tied, modules="embeddings+heads")
        assert ([module.name for module in report.modules], report.left) == (["transformer.wte"], ())

    def test_other_models_of_the_same_config_are_left_alone(self, tmp_path):
        model = gpt2()
        other = type(model)(model.config)
        compressed(model)
        assert model.config is model.transformer.config is not other.config
        assert not hasattr(other.config, "quantization_config")
        other.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        torch.testing.assert_close(again.transformer.wte.weight, other.transformer.wte.weight)

    def test_a_head_named_means_the_table_it_shares(self):
        model = gpt2()
        report = compressed(model, modules=["lm_head", "transformer.wte"])
        assert [module.name for module in report.modules] == ["transformer.wte"]
