"""Tables that grow or shrink after they were compressed, and ties that are made anew."""

from __future__ import annotations

from typing import Any

import pytest
from models import D, N, assert_same_model, bart, bert, compressed, gemma, gpt2, outputs, t5, torch
from torch import nn

from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear
from ksubspaces.integrations.transformers import load_compressed, save_compressed


def decoded(model: Any, make: Any) -> Any:
    """A dense model with the table of a compressed one."""
    dense = make()
    with torch.no_grad():
        dense.get_input_embeddings().weight.copy_(model.get_input_embeddings().weight)
    return dense


@pytest.mark.parametrize("storage", [None, "int8"])
@pytest.mark.parametrize("make", [gpt2, bert, t5, bart, gemma])
def test_new_rows_are_those_of_transformers_exactly(tmp_path, make, storage):
    model = make()
    compressed(model, storage=storage)
    dense = decoded(model, make)
    before = outputs(model)
    for sizes in (
        {"new_num_tokens": N + 7},
        {"new_num_tokens": N + 60, "mean_resizing": False},
        {"new_num_tokens": N + 61, "pad_to_multiple_of": 64},
    ):
        tables = []
        for own in (model, dense):
            with torch.random.fork_rng():
                torch.manual_seed(1)
                tables.append(own.resize_token_embeddings(**sizes).weight)
        torch.testing.assert_close(tables[0], tables[1], rtol=0, atol=1e-6)
    n = model.get_input_embeddings().num_embeddings
    assert n == len(tables[0]) == model.config.vocab_size == 384
    assert torch.equal(tables[0][N + 60 :], tables[1][N + 60 :])
    assert model.get_output_embeddings().factors is model.get_input_embeddings()
    torch.testing.assert_close(outputs(model)[..., :N], before)
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=1e-4, atol=1e-5)
    save_compressed(model, tmp_path / "model")
    loaded = load_compressed(tmp_path / "model")
    assert_same_model(loaded, model)


def test_new_rows_train_and_tied_heads_come_along():
    model = bert()
    compressed(model)
    head_bias = model.cls.predictions.bias.detach().clone()
    table = model.resize_token_embeddings(N + 3)
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias
    assert torch.equal(model.cls.predictions.bias[:N], head_bias)
    before = table.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = torch.tensor([[N, N + 1, N + 2, 5]])
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert (table.weight - before)[N:].abs().amax(1).min() > 0


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("make", [gpt2, bert])
def test_shrinking(tmp_path, make, affine):
    model = make()
    compressed(model, affine=affine)
    table = model.get_input_embeddings().weight.detach()
    ids = torch.tensor([[3, 8, 2]])
    with torch.no_grad():
        before = model(ids)[0]
    model.resize_token_embeddings(40)
    with torch.no_grad():
        torch.testing.assert_close(model(ids)[0], before[..., :40])
    torch.testing.assert_close(model.get_input_embeddings().weight.detach(), table[:40])
    model.resize_token_embeddings(44)
    torch.testing.assert_close(model.get_input_embeddings().weight.detach()[:40], table[:40])
    save_compressed(model, tmp_path / "model")
    torch.testing.assert_close(load_compressed(tmp_path / "model")(ids)[0], model(ids)[0])


def test_a_padding_row_that_is_cut_off_is_none():
    model = bert(pad_token_id=250)
    compressed(model)
    assert (model.get_input_embeddings().padding_idx, model.get_input_embeddings().n_fixed) == (250, 1)
    model.resize_token_embeddings(200)
    assert (model.get_input_embeddings().padding_idx, model.get_input_embeddings().n_fixed) == (None, 0)


def test_heads_that_are_not_tied():
    for modules in (["lm_head"], ["transformer.wte"], ["lm_head", "transformer.wte"]):
        model = gpt2(tie_word_embeddings=False)
        compressed(model, modules=modules)
        before = outputs(model)
        model.resize_token_embeddings(N + 5)
        assert outputs(model).shape[-1] == N + 5
        torch.testing.assert_close(outputs(model)[..., :N], before)
        assert isinstance(model.lm_head, SubspaceLinear) == ("lm_head" in modules)
    model = gpt2(tie_word_embeddings=False)
    compressed(model, modules=["lm_head"], by="columns", token_weights=None)
    with pytest.raises(ValueError, match="compressed by columns"):
        model.resize_token_embeddings(N + 5)


def test_another_embedding_is_tied_to_as_in_transformers(tmp_path):
    model, other = gpt2(), gpt2()
    compressed(model)
    compressed(other, 0.7)
    small, dense = other.get_input_embeddings(), nn.Embedding(N, D)
    for embedding in (small, dense):
        model.set_input_embeddings(embedding)
        model.tie_weights()
        tied = model.lm_head.factors if embedding is small else model.lm_head.weight
        assert tied is (embedding if embedding is small else embedding.weight)
        torch.testing.assert_close(model.lm_head(torch.ones(D)), embedding.weight.sum(1))
    model.set_input_embeddings(small)
    model.tie_weights()
    save_compressed(model, tmp_path / "model")
    loaded = load_compressed(tmp_path / "model")
    assert isinstance(loaded.get_input_embeddings(), SubspaceEmbedding)
    assert_same_model(loaded, model)


def test_a_part_of_a_model_saves_itself_whole(tmp_path):
    model = bert()
    compressed(model)
    model.bert.save_pretrained(tmp_path / "part")
    part = load_compressed(tmp_path / "part")
    ids = torch.arange(6).view(1, 6)
    with torch.no_grad():
        torch.testing.assert_close(part(ids)[0], model.bert(ids)[0])
    save_compressed(model, tmp_path / "model")
    assert_same_model(load_compressed(tmp_path / "model"), model)
