"""Layers in packed bits: lookups by all their ways, what trains and its gradients, dtypes, compilation, export."""

import copy
import io

import numpy as np
import pytest
from contract.problems import packed_rows
from helpers import import_or_skip

torch = import_or_skip("torch", install="'ksubspaces[torch]'")
packed_lookup = import_or_skip("ksubspaces.integrations._packed_lookup")

from torch import nn  # noqa: E402

from ksubspaces.integrations._packed import PackedFactors  # noqa: E402
from ksubspaces.integrations.torch import PackedEmbedding, SubspaceLinear  # noqa: E402
from ksubspaces.kernels import reference  # noqa: E402

N, D = 90, 13
SHAPES = {
    "all": {"dims": [9, 1, 0, 13], "columns": 2, "affine": True, "kept": 7},
    "plain": {"dims": [13, 5], "columns": 0, "affine": False, "kept": 0},
    "one gain": {"dims": [6], "columns": 1, "affine": False, "kept": 3},
}
shapes = pytest.mark.parametrize("shape", SHAPES)


def layer(shape="all", n=N, d=D, **options):
    packed, _ = packed_rows(n, d, **SHAPES[shape])
    return PackedEmbedding(n, d, **options).take(packed), packed


def numbers(*shape):
    return torch.from_numpy(np.random.default_rng(len(shape)).integers(0, N, shape))


def close(found, want, rtol=1e-5):
    torch.testing.assert_close(found.double(), want.double(), rtol=0, atol=rtol * max(1.0, float(want.abs().max())))


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_each_way_is_the_reference(shape, dtype):
    embedding, packed = layer(shape, dtype=dtype)
    ids = numbers(4, 9).int()
    want = torch.from_numpy(reference.decode(ids.numpy().ravel(), packed)).view(4, 9, D)
    tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)
    own = embedding.packed()
    for found in (
        embedding(ids),
        packed_lookup.decode_static(ids, own, embedding.longest),
        packed_lookup.decode_grouped(ids.view(-1), own).view(4, 9, D),
        embedding.weight[ids],
        embedding.rows(0, N)[ids],
    ):
        close(found, want, tolerance)
    assert embedding(ids).dtype == dtype
    assert embedding.rows(3, 5).dtype == torch.promote_types(dtype, torch.float32)


def test_odd_requests():
    embedding, _ = layer()
    assert embedding(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3, D)
    assert embedding(torch.tensor(5)).shape == (D,)
    assert embedding(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, D)
    for wrong in (-1, N):
        with pytest.raises(IndexError, match=f"ids must be from 0 to {N - 1}, got {wrong}"):
            embedding(torch.tensor([wrong]))
    with pytest.raises(TypeError, match=r"int32 or int64, got torch\.float32"):
        embedding(torch.ones(3))
    with pytest.raises(ValueError, match=f"padding_idx must be a row from 0 to {N - 1}, got {N}"):
        layer(padding_idx=N)


@shapes
@pytest.mark.parametrize("padding_idx", [None, 4])
def test_gradients_of_what_trains(shape, padding_idx):
    embedding, _ = layer(shape, dtype=torch.float64, padding_idx=padding_idx)
    assert embedding.is_frozen
    assert not list(embedding.parameters())
    embedding.unfreeze()
    ids = torch.cat([numbers(5, 7), torch.full((1, 7), 4)])
    gradient = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 7, D)))
    parameters = dict(embedding.named_parameters())
    assert {"bases", "scales", "levels"} <= parameters.keys() <= set(packed_lookup.FLOATS)
    found = torch.autograd.grad(embedding(ids), parameters.values(), gradient)
    counted = gradient if padding_idx is None else gradient * (ids != padding_idx).unsqueeze(-1)
    plain = packed_lookup.decode_static(ids, embedding.packed(), embedding.longest)
    for name, own, want in zip(
        parameters, found, torch.autograd.grad(plain, parameters.values(), counted), strict=True
    ):
        assert want.abs().max() > 0, name
        torch.testing.assert_close(own, want, rtol=0, atol=1e-12 * float(want.abs().max()), msg=lambda m, n=name: n + m)


def test_plain_operations_have_the_gradients_of_differences():
    embedding, _ = layer(n=12, d=5)
    names = [name for name in packed_lookup.FLOATS if getattr(embedding, name) is not None]
    floats = [getattr(embedding, name).double().requires_grad_() for name in names]
    ids = torch.arange(12)

    def decoded(*given):
        own = embedding.packed()._replace(**dict(zip(names, given, strict=True)))
        return packed_lookup.decode_static(ids, own, embedding.longest)

    torch.autograd.gradcheck(decoded, floats, fast_mode=True)


def test_training_lowers_the_loss_and_keeps_the_codes():
    embedding, _ = layer()
    embedding.unfreeze()
    target, codes = torch.randn(N, D, generator=torch.Generator().manual_seed(0)), embedding.codes.clone()
    optimizer, losses = torch.optim.Adam(embedding.parameters(), lr=0.05), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(embedding(torch.arange(N)), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(embedding.codes, codes)


@shapes
@pytest.mark.parametrize("unfrozen", [False, True])
def test_compiled_as_one_operation(shape, unfrozen):
    embedding, _ = layer(shape, padding_idx=3)
    if unfrozen:
        embedding.unfreeze()
    compiled = torch.compile(embedding, fullgraph=True, backend="aot_eager")
    ids = numbers(3, 4)
    assert torch.equal(compiled(ids), embedding(ids))
    if unfrozen:
        parameters = list(embedding.parameters())
        found, want = (torch.autograd.grad(f(ids).sum(), parameters) for f in (compiled, embedding))
        for a, b in zip(found, want, strict=True):
            assert torch.equal(a, b)


def test_operations_keep_torch_s_rules():
    embedding, _ = layer()
    own = embedding.unfreeze().packed()
    count = len(packed_lookup.INTEGERS)
    torch.library.opcheck(packed_lookup.decode, (numbers(20), list(own[:count]), *own[count:], 3))


@shapes
@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_exported_to_onnx(shape, dynamo, tmp_path):
    runtime = import_or_skip("onnxruntime")
    import_or_skip("onnx")
    if dynamo:
        import_or_skip("onnxscript")
    embedding, packed = layer(shape)
    path = str(tmp_path / "layer.onnx")
    if dynamo:
        sizes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
        options = {"dynamic_shapes": sizes, "dynamo": True, "verbose": False}
    else:
        options = {"dynamic_axes": {"ids": {0: "batch", 1: "length"}}, "dynamo": False, "opset_version": 18}
    torch.onnx.export(embedding, (numbers(2, 3),), path, input_names=["ids"], **options)
    session = runtime.InferenceSession(path)
    for ids in (numbers(5, 7), numbers(1, 2)):
        (found,) = session.run(None, {"ids": ids.numpy()})
        want = reference.decode(ids.numpy().ravel(), packed).reshape(*ids.shape, D)
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("unfrozen", [False, True])
def test_copies_and_pickles(unfrozen):
    embedding, _ = layer()
    if unfrozen:
        embedding.unfreeze()
    file = io.BytesIO()
    torch.save(embedding, file)
    file.seek(0)
    for again in (copy.deepcopy(embedding), torch.load(file, weights_only=False)):
        assert torch.equal(again(numbers(9)), embedding(numbers(9)))
        assert again.codes.data_ptr() != embedding.codes.data_ptr()


def test_autocast_leaves_rows_as_they_are():
    embedding, _ = layer()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(numbers(9)), embedding(numbers(9)).float())
        assert embedding(numbers(9)).dtype == torch.float32


@pytest.mark.parametrize("by", ["rows", "columns"])
def test_linear_layers(by):
    packed, _ = packed_rows(N, D, **SHAPES["all"])
    factors = PackedFactors(N, D).take(packed)
    bias = torch.randn(N if by == "rows" else D, generator=torch.Generator().manual_seed(1))
    linear = SubspaceLinear.around(factors, by=by, bias=bias)
    x = torch.randn(4, linear.in_features, generator=torch.Generator().manual_seed(2))
    close(linear(x), nn.functional.linear(x, linear.weight, bias), 1e-4)
    factors.unfreeze()
    parameters = [factors.bases, factors.scales]
    found = torch.autograd.grad(linear(x).square().sum(), parameters)
    want = torch.autograd.grad(nn.functional.linear(x, linear.weight, bias).square().sum(), parameters)
    for a, b in zip(found, want, strict=True):
        close(a, b, 1e-4)


def test_a_tied_head_has_the_very_factors():
    embedding, _ = layer()
    head = SubspaceLinear.tied_to(embedding)
    assert head.factors is embedding
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(0))
    close(head(x), x @ embedding.weight.T, 1e-4)


def test_facts():
    embedding, packed = layer("all")
    labels = np.append(packed.clusters, 4)[packed.groups]
    assert embedding.counts == (*np.bincount(labels, minlength=5),)
    owners = np.repeat(packed.clusters, np.diff(packed.bounds))
    assert embedding.dims == (*(len(set(packed.directions[owners == c])) for c in range(4)), 0)
    assert layer("plain")[0].counts == (*np.bincount(packed_rows(N, D, **SHAPES["plain"])[0].groups // 2),)
