"""Embedding bags, factored and in packed bits, compute what ``nn.EmbeddingBag`` does with the same table."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip

torch = import_or_skip("torch")

from torch import nn  # noqa: E402

from ksubspaces.integrations.torch import PackedEmbeddingBag, SubspaceEmbedding, SubspaceEmbeddingBag  # noqa: E402

N, D = 90, 12
MODES = ["sum", "mean", "max"]


FACTORED, PACKED = {"ratio": 0.4, "k": 2}, {"bits": 4.0}


def bags(mode: str = "mean", padding_idx: int | None = None, budget: Any = FACTORED, **options: Any) -> tuple[Any, Any]:
    """A smaller bag, and a dense one of its table."""
    generator = torch.Generator().manual_seed(0)
    given = nn.EmbeddingBag(N, D, mode=mode, padding_idx=padding_idx, dtype=torch.float64)
    with torch.no_grad():
        given.weight.copy_(torch.randn(N, D, generator=generator, dtype=torch.float64))
    layer = SubspaceEmbeddingBag.from_embedding(given, seed=0, **budget, **options)
    dense = copy.deepcopy(given)
    with torch.no_grad():
        dense.weight.copy_(layer.weight)
    return layer, dense


def numbers(*shape: int) -> Any:
    return torch.randint(N, shape, generator=torch.Generator().manual_seed(1))


def close(ours: Any, expected: Any) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-12)


budgets = pytest.mark.parametrize("budget", [FACTORED, PACKED], ids=["factored", "packed"])


@budgets
@pytest.mark.parametrize("padding_idx", [None, 7])
@pytest.mark.parametrize("mode", MODES)
class TestBags:
    def test_of_each_form(self, mode, padding_idx, budget):
        layer, dense = bags(mode, padding_idx, budget)
        ids = numbers(40)
        ids[::5] = 7
        for kind in (torch.int64, torch.int32):
            close(layer(ids.view(8, 5).to(kind)), dense(ids.view(8, 5).to(kind)))
            offsets = torch.tensor([0, 3, 3, 20, 40], dtype=kind)  # two bags without ids
            close(layer(ids.to(kind), offsets), dense(ids.to(kind), offsets))
        layer.include_last_offset = dense.include_last_offset = True
        close(layer(ids, torch.tensor([0, 12, 40])), dense(ids, torch.tensor([0, 12, 40])))
        nothing = torch.zeros(0, dtype=torch.int64)
        layer.include_last_offset = dense.include_last_offset = False
        close(layer(nothing, torch.tensor([0, 0])), dense(nothing, torch.tensor([0, 0])))

    def test_gradients_are_the_dense_tables_taken_through_the_product(self, mode, padding_idx, budget):
        layer, dense = bags(mode, padding_idx, budget)
        if budget is PACKED:
            layer.unfreeze()
        ids, offsets = numbers(40), torch.tensor([0, 3, 20])
        ids[::4] = 7
        direction = torch.randn(3, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        (of_table,) = torch.autograd.grad(dense(ids, offsets), [dense.weight], direction)
        parameters = list(layer.parameters())
        close(
            torch.autograd.grad(layer(ids, offsets), parameters, direction),
            torch.autograd.grad(layer.weight, parameters, of_table),
        )

    def test_compiled_as_it_is(self, mode, padding_idx, budget):
        torch.compiler.reset()  # it compiles one function so many times only
        layer, dense = bags(mode, padding_idx, budget)
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        ids, offsets = numbers(40), torch.tensor([0, 3, 20])
        ids[::4] = 7
        close(compiled(ids, offsets), dense(ids, offsets))
        close(compiled(ids.view(8, 5)), dense(ids.view(8, 5)))


def test_weights_of_samples():
    layer, dense = bags("sum", padding_idx=7)
    ids, offsets = numbers(40), torch.tensor([0, 3, 20])
    ids[::4] = 7
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()
    close(layer(ids, offsets, weights), dense(ids, offsets, weights))
    close(*(torch.autograd.grad(bag(ids, offsets, weights).sum(), [weights]) for bag in (layer, dense)))
    with pytest.raises(NotImplementedError, match="per_sample_weights"):
        bags("mean")[0](ids, offsets, weights)


@pytest.mark.parametrize("storage", [None, "int8"])
def test_kept_and_exported(storage, tmp_path):
    layer, _ = bags("mean", padding_idx=7, storage=storage)
    again = SubspaceEmbeddingBag(
        N, D, layer.counts, layer.dims, padding_idx=7, n_fixed=1, storage=storage, dtype=torch.float64
    )
    again.load_state_dict(layer.state_dict())
    ids, offsets = numbers(40), torch.tensor([0, 3, 20])
    close(again(ids, offsets), layer(ids, offsets))
    exported = torch.export.export(layer, (ids.view(8, 5),)).module()
    close(exported(ids.view(8, 5)), layer(ids.view(8, 5)))


def test_kept_and_exported_in_packed_bits():
    layer, _ = bags("sum", 7, PACKED)
    again = PackedEmbeddingBag(N, D, mode="sum", padding_idx=7, dtype=torch.float64)
    again.load_state_dict(layer.state_dict())
    ids, offsets = numbers(40), torch.tensor([0, 3, 20])
    ids[::4] = 7
    close(again(ids, offsets), layer(ids, offsets))
    exported = torch.export.export(layer, (ids, offsets)).module()
    close(exported(ids, offsets), layer(ids, offsets))


@pytest.mark.parametrize(("mode", "budget"), [("sum", FACTORED), ("mean", PACKED)])
def test_onnx(tmp_path, mode, budget):
    runtime = import_or_skip("onnxruntime")
    import_or_skip("onnxscript")
    layer, _ = bags(mode, None, budget)
    layer = layer.float().eval()
    ids, offsets = numbers(40), torch.tensor([0, 3, 20])
    torch.onnx.export(layer, (ids, offsets), tmp_path / "bag.onnx", input_names=["ids", "offsets"], dynamo=True)
    session = runtime.InferenceSession(tmp_path / "bag.onnx")
    (found,) = session.run(None, {"ids": ids.numpy(), "offsets": offsets.numpy()})
    np.testing.assert_allclose(found, layer(ids, offsets).detach().numpy(), atol=1e-5)


def test_refusals():
    with pytest.raises(TypeError, match=r"must be an nn\.EmbeddingBag, got Embedding"):
        SubspaceEmbeddingBag.from_embedding(nn.Embedding(N, D), 0.4)
    with pytest.raises(TypeError, match=r"must be an nn\.Embedding, got EmbeddingBag"):
        SubspaceEmbedding.from_embedding(nn.EmbeddingBag(N, D), 0.4)
    with pytest.raises(ValueError, match="mode must be one of 'sum', 'mean', 'max', got 'median'"):
        SubspaceEmbeddingBag(N, D, [N], [2], mode="median")
    with pytest.raises(TypeError, match="ids must be a tensor of int32 or int64"):
        bags()[0]([1, 2])
    with pytest.raises(IndexError):
        bags()[0](torch.tensor([[N]]))
