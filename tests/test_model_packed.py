"""Models in packed bits: what a budget buys, ties, folders, dtypes, the command; and what is refused."""

import numpy as np
import pytest
from helpers import import_or_skip

torch = import_or_skip("torch", install="'ksubspaces[torch]'")
transformers = import_or_skip("transformers", install="'ksubspaces[transformers]'")

import models  # noqa: E402

from ksubspaces import QuantizedFactorization  # noqa: E402
from ksubspaces.cli import main  # noqa: E402
from ksubspaces.integrations.torch import PackedEmbedding, SubspaceEmbedding, SubspaceLinear  # noqa: E402
from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed  # noqa: E402

HEADER = 2048  # bytes, at most


def in_bits(model, bits=4.0, **options):
    return compress_model(model, bits=bits, **{"token_weights": models.WEIGHTS, "seed": 0} | options)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    return torch.from_numpy((rng.normal(size=(400, 5)) @ rng.normal(size=(5, 24)) + 0.1).astype(np.float32))


def test_an_embedding_has_what_compress_gives(table):
    embedding = torch.nn.Embedding.from_pretrained(table, padding_idx=3).eval()
    layer = SubspaceEmbedding.from_embedding(embedding, bits=3.0, seed=0)
    assert isinstance(layer, PackedEmbedding)
    code = layer.to_factorization()
    assert code.nbytes <= 3 * table.numel() / 8
    assert code.nbytes < layer.nbytes <= code.nbytes + HEADER
    assert torch.equal(layer.weight, torch.from_numpy(code.reconstruct()))
    assert torch.equal(layer(torch.tensor(3)), table[3])
    assert code.measure_error(table) < 0.1
    assert not layer.training
    assert torch.equal(layer.half().float().weight, torch.from_numpy(code.reconstruct()))
    again = PackedEmbedding(400, 24)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, layer.weight)
    with pytest.raises(ValueError, match="the bytes stored are those of a table of shape"):
        PackedEmbedding(400, 23).load_state_dict(layer.state_dict())


def test_unfrozen_embeddings_are_saved_with_what_trains(table):
    layer = SubspaceEmbedding.from_embedding(torch.nn.Embedding.from_pretrained(table), bits=3.0, seed=0)
    before = layer.weight
    layer.unfreeze()
    with torch.no_grad():
        layer.bases += 0.1
    assert not torch.equal(layer.weight, before)
    again = PackedEmbedding(400, 24, unfrozen=layer.parameter_shapes)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.weight, layer.weight)


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_a_linear_layer(by, table):
    linear = torch.nn.Linear(24, 400)
    with torch.no_grad():
        linear.weight.copy_(table)
    layer = SubspaceLinear.from_linear(linear, bits=4.0, by=by, seed=0)
    x = torch.ones(3, 24)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, layer.weight, linear.bias))
    assert isinstance(layer.to_factorization(), QuantizedFactorization)


@pytest.mark.parametrize("make", [models.bert, models.gpt2])
def test_models_are_saved_and_loaded(make, tmp_path):
    model = make()
    report = in_bits(model)
    (module,) = report.modules
    layer = model.get_submodule(module.name)
    assert module.bits == layer.bits
    assert module.nbytes == layer.nbytes == sum(part.nbytes for part in layer.state_dict().values())
    assert "bits a number" in str(report)
    save_compressed(model, tmp_path / "small")
    loaded = load_compressed(tmp_path / "small")
    models.assert_same_model(loaded, model)
    assert loaded.compression_report == model.compression_report
    for name in module.tied:
        assert loaded.get_submodule(name).factors is loaded.get_submodule(module.name)
    half = load_compressed(tmp_path / "small", dtype=torch.bfloat16)
    assert half.get_submodule(module.name).weight.dtype == torch.bfloat16
    layer.unfreeze()
    save_compressed(model, tmp_path / "trained")
    models.assert_same_model(load_compressed(tmp_path / "trained"), model)


def test_the_command(tmp_path, capsys):
    folder, out, page = tmp_path / "dense", tmp_path / "out", tmp_path / "page.html"
    models.bert().save_pretrained(folder)
    arguments = ["compress", folder, "--bits", 4, "--out", out, "--report", page, "--seed", 0]
    with pytest.warns(UserWarning, match="all tokens count alike"):
        assert main([str(argument) for argument in arguments]) == 0
    loaded = load_compressed(out)
    (module,) = loaded.compression_report.modules
    assert isinstance(loaded.get_submodule(module.name), PackedEmbedding)
    assert f"{module.bits:.2f} bits a number" in capsys.readouterr().out
    html = page.read_text()
    assert f"{module.nbytes:,} after, {module.bits:.2f} bits a number" in html
    assert "--bits 4" in html


def test_what_does_not_go_together():
    model = models.bert()
    with pytest.raises(ValueError, match="leave out ratio and storage"):
        in_bits(model, ratio=0.5, storage="int8")
    names = ["bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings"]
    with pytest.raises(ValueError, match="nbytes is for one table, but there are 2"):
        in_bits(model, bits=None, nbytes=5000, modules=names)
    in_bits(model)
    with pytest.raises(ValueError, match=r"keeps its .* rows"):
        model.resize_token_embeddings(model.config.vocab_size + 3)
