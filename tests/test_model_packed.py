"""Models in packed bits: what a budget buys, ties, folders, dtypes, the command; and what is refused."""

import numpy as np
import pytest
from helpers import import_or_skip

torch = import_or_skip("torch", install="'ksubspaces[torch]'")
transformers = import_or_skip("transformers", install="'ksubspaces[transformers]'")

import models  # noqa: E402

from ksubspaces import QuantizedFactorization, compress  # noqa: E402
from ksubspaces.cli import main  # noqa: E402
from ksubspaces.integrations.torch import PackedEmbedding, SubspaceEmbedding, SubspaceLinear  # noqa: E402
from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed  # noqa: E402

HEADER = 2048  # bytes, at most
TWO = ["bert.embeddings.word_embeddings", "bert.embeddings.position_embeddings"]
DENSE = "bert.encoder.layer.0.attention.self.query"


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


def test_one_budget_over_several_tables():
    """Never above it; and no other way to share it tried leaves a smaller sum of relative errors."""
    model, nbytes = models.bert(max_position_embeddings=200), 6000
    tables = [model.get_submodule(name).weight.detach().numpy().copy() for name in TWO]
    tables[1] *= np.geomspace(1, 1e-3, models.D)  # which takes far fewer bits
    with torch.no_grad():
        model.get_submodule(TWO[1]).weight.copy_(torch.from_numpy(tables[1]))
    options = {"token_weights": np.ones(models.N), "exact_rows": None, "coder": "scalar"}
    report = in_bits(model, bits=None, nbytes=nbytes, modules=TWO, **options)
    codes = [model.get_submodule(name).to_factorization() for name in TWO]
    assert 0.97 * nbytes <= sum(code.nbytes for code in codes) <= nbytes
    assert [module.name for module in report.modules] == TWO
    assert codes[1].bits < 0.7 * codes[0].bits
    errors = sum(code.measure_error(table) for code, table in zip(codes, tables, strict=True))
    for moved in (-700, 700):
        others = [
            compress(table, nbytes=code.nbytes + sign * moved, coder="scalar", seed=0)
            for table, code, sign in zip(tables, codes, (1, -1), strict=True)
        ]
        assert errors < sum(code.measure_error(table) for code, table in zip(others, tables, strict=True))


def test_linear_layers_and_tables_under_one_budget():
    model = models.bert()
    report = in_bits(model, bits=6.0, modules=[TWO[0], DENSE])
    codes = [model.get_submodule(TWO[0]), model.get_submodule(DENSE).factors]
    assert sum(code.to_factorization().nbytes for code in codes) <= 6 * (models.N * models.D + models.D**2) / 8
    assert [module.kind for module in report.modules] == ["embedding", "linear"]


def test_what_does_not_go_together():
    model = models.bert()
    with pytest.raises(ValueError, match="leave out ratio and storage"):
        in_bits(model, ratio=0.5, storage="int8")
    with pytest.raises(ValueError, match="100 bytes are too few"):
        in_bits(model, bits=None, nbytes=100, modules=TWO, coder="scalar")
    with pytest.raises(ValueError, match="give one budget; got bits and min_cosine"):
        in_bits(model, min_cosine=0.99)
    with pytest.raises(ValueError, match="k is for factors of numbers"):
        in_bits(model, modules=TWO, k=3)
    with pytest.raises(ValueError, match="leave out metric"):
        in_bits(model, modules=[*TWO, DENSE], metric={DENSE: np.eye(models.D)})
    in_bits(model)
    with pytest.raises(ValueError, match=r"keeps its .* rows"):
        model.resize_token_embeddings(model.config.vocab_size + 3)
