"""Factored layers in Torch: they compute what the dense table would, in every way that Torch runs and keeps modules."""

import copy
import functools
import io
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
from compiling import COMPILER
from helpers import assert_same_factors, import_or_skip

from ksubspaces import Factorization, fit_subspaces

torch = import_or_skip("torch")
safetensors = import_or_skip("safetensors.torch")

from torch import nn  # noqa: E402

from ksubspaces.integrations.torch import SubspaceEmbedding, SubspaceLinear  # noqa: E402

N, D = 90, 12
CASES = {
    "equal": {"dims": (4, 4, 4)},
    "ragged": {"dims": (0, 3, 12)},
    "empty": {"dims": (5, 2, 0, 4), "empty": (1, 2)},
    "affine": {"dims": (2, 7, 0), "affine": True},
}
STORAGES = [None, "float32", "float16", "bfloat16", "int8"]


def factored(case="ragged", seed=0, dtype=np.float64):
    """Random coefficients and labels, orthonormal bases."""

    def make(dims, affine=False, empty=()):
        rng = np.random.default_rng(seed)
        labels = rng.choice([c for c in range(len(dims)) if c not in empty], N).astype(np.int32)
        blocks = [rng.normal(size=((labels == c).sum(), j)).astype(dtype) for c, j in enumerate(dims)]
        bases = [np.linalg.qr(rng.normal(size=(D, D)))[0][:j].astype(dtype) for j in dims]
        return Factorization(labels, blocks, bases, rng.normal(size=(len(dims), D)).astype(dtype) if affine else None)

    return make(**CASES[case])


def embedding(case="ragged", seed=0, dtype=np.float64, **options):
    return SubspaceEmbedding.from_factorization(factored(case, seed, dtype), **options)


def dense(layer, **options):
    return nn.Embedding.from_pretrained(layer.to_dense().detach(), freeze=False, **options)


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbers(*shape, seed=0):
    return torch.randint(N, shape, generator=torch.Generator().manual_seed(seed))


def gradients(layer, outputs, direction):
    return torch.autograd.grad(outputs, [p for p in layer.parameters() if p.requires_grad], direction)


def assert_close(ours, expected, rtol=1e-12):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * (1 + float(b.detach().abs().max()) if b.numel() else 0))


def assert_same_tensors(again, module):
    """What is kept is there bit for bit; what it computes depends on where tensors lie in memory."""
    torch.testing.assert_close(dict(again.state_dict()), dict(module.state_dict()), rtol=0, atol=0)


@functools.cache
def why_torch_cannot_compile():
    """What is wrong where not even a plain function can be compiled; empty where it can."""
    if COMPILER is None:
        return "g++ is missing, which torch.compile takes: apt-get install g++"
    try:
        torch.compile(lambda x: x.tanh() + 1)(random(4, 16))
    except Exception as error:
        return f"this Torch compiles nothing for this processor: install another release of it ({type(error).__name__})"
    return ""


@pytest.fixture(params=CASES)
def case(request):
    return request.param


class TestLookup:
    def test_rows_are_the_factorizations(self, case):
        A = factored(case)
        layer = SubspaceEmbedding.from_factorization(A)
        rows = A.reconstruct()
        np.testing.assert_allclose(layer.weight.detach().numpy(), rows, atol=1e-12)
        for ids in (numbers(4, 7), numbers(3, 2, 5, seed=1), torch.arange(N), numbers(500), torch.full((6,), 5)):
            np.testing.assert_allclose(layer(ids).detach().numpy(), rows[ids.numpy()], atol=1e-12)
        assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (N, D, None)

    @pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0, 3), (2, 3), (1, 1, 1, 4)])
    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_shapes_are_those_of_an_embedding(self, case, shape, dtype):
        layer = embedding(case, padding_idx=3)
        ids = numbers(*shape).to(dtype)
        expected = dense(layer, padding_idx=3)(ids)
        assert_close([layer(ids)], [expected])
        layer(ids).sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())

    def test_ids_out_of_range(self):
        layer = embedding()
        for bad in (-1, N, 10 * N):
            for ids in (torch.tensor(bad), torch.tensor([0, bad])):
                with pytest.raises(IndexError):
                    layer(ids)
        for bad in (torch.tensor([1.0]), torch.tensor([True]), [1, 2], 3):
            with pytest.raises(TypeError, match="ids must be"):
                layer(bad)

    def test_views_and_strides(self):
        layer = embedding()
        ids = numbers(8, 6)
        assert_close([layer(ids.T), layer(ids[::2, 1::3])], [layer(ids).transpose(0, 1), layer(ids)[::2, 1::3]])

    def test_same_bits_each_time(self):
        layer = embedding(dtype=np.float32)
        ids, state = numbers(400), torch.random.get_rng_state()
        first, second = (gradients(layer, layer(ids), random(400, D, dtype=torch.float32)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_many_rows(self):
        n = 40_000
        labels = np.random.default_rng(0).integers(0, 2, n).astype(np.int32)
        blocks = [np.random.default_rng(c).normal(size=((labels == c).sum(), 1)) for c in range(2)]
        A = Factorization(labels, blocks, [np.eye(2)[:1], np.eye(2)[1:]])
        layer = SubspaceEmbedding.from_factorization(A)
        ids = torch.tensor([0, n - 1, 33_000, 7])
        np.testing.assert_array_equal(layer(ids).detach().numpy(), A[ids.numpy()])
        np.testing.assert_array_equal(layer.labels.numpy(), labels)


class TestGradients:
    def test_gradcheck(self, case):
        layer = embedding(case)
        ids = numbers(5, 4)
        names = [name for name, p in layer.named_parameters() if p.numel()]
        factors = [p.detach().clone().requires_grad_() for p in layer.parameters() if p.numel()]

        def run(*factors):
            return torch.func.functional_call(layer, dict(zip(names, factors, strict=True)), ids)

        assert torch.autograd.gradcheck(run, factors)
        assert torch.autograd.gradgradcheck(run, factors)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("padding_idx", [None, 7, -1])
    def test_is_the_dense_tables_taken_through_the_product(self, case, padding_idx, seed):
        layer = embedding(case, seed, padding_idx=padding_idx)
        ids = numbers(6, 20, seed=seed)
        ids[0, :3] = torch.tensor([7, N - 1, 7])
        direction = random(6, 20, D, seed=seed)
        table = dense(layer, padding_idx=padding_idx)
        of_table = torch.autograd.grad(table(ids), table.weight, direction)
        expected = gradients(layer, layer.to_dense(), of_table)
        assert_close(gradients(layer, layer(ids), direction), expected)

    def test_padding_row_passes_none_on(self, case):
        layer = embedding(case, padding_idx=-N + 7)
        assert layer.padding_idx == 7
        layer(torch.full((5,), 7)).sum().backward()
        assert all(not p.grad.any() for p in layer.parameters())
        np.testing.assert_allclose(layer(torch.tensor(7)).detach().numpy(), factored(case)[7], atol=1e-12)
        layer(torch.arange(N)).sum().backward()
        assert any(p.grad.any() for p in layer.parameters())

    def test_a_padding_row_not_asked_for_takes_none_away(self, case):
        layer, unpadded = embedding(case, padding_idx=7), embedding(case)
        ids = torch.arange(N)[torch.arange(N) != 7]
        direction = random(N - 1, D)
        expected = gradients(unpadded, unpadded(ids), direction)
        assert_close(gradients(layer, layer(ids), direction), expected)

    def test_training_changes_the_factors_and_lowers_the_loss(self, case):
        layer, goal, ids = embedding(case), random(40, D), numbers(40)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (layer(ids) - goal).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.9 * losses[0]

    def test_the_factorization_stays_as_it_was(self):
        A = factored()
        before = A.reconstruct()
        layer = SubspaceEmbedding.from_factorization(A.to("torch"))
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(1)
        np.testing.assert_array_equal(A.reconstruct(), before)


class TestStorage:
    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("storage", STORAGES)
    def test_error_is_bounded_by_the_rounding(self, case, storage, seed):
        A = factored(case, seed, np.float32)
        layer = SubspaceEmbedding.from_factorization(A, storage=storage)
        assert layer.storage == (storage or "float32")
        assert layer(numbers(3)).dtype == torch.float32
        epsilon = {"float16": 2**-11, "bfloat16": 2**-8}.get(storage, 0)
        error = layer.weight.detach().numpy() - A.reconstruct()
        for i in range(N):
            u, j = A.coefficients[i], A.dims[A.labels[i]]
            # Bases are orthonormal, so a row errs by as much as its coefficients: half a code each, or their rounding.
            code = np.abs(u).max(initial=0) / 127 if storage == "int8" else 0
            bound = np.sqrt(j) * code / 2 + epsilon * np.linalg.norm(u) + 1e-5
            assert np.linalg.norm(error[i]) <= bound
        assert np.abs(error).max() > 0 or storage in (None, "float32")

    def test_size(self):
        A = factored(dtype=np.float32)
        sizes = {kind: SubspaceEmbedding.from_factorization(A, storage=kind) for kind in STORAGES}
        coefficients = sum(block.size for block in A.blocks)
        rest = 4 * sum(V.size for V in A.bases) + 4 * N  # bases and places
        assert sizes[None].nbytes == sizes["float32"].nbytes == 4 * coefficients + rest
        assert sizes["float16"].nbytes == sizes["bfloat16"].nbytes == 2 * coefficients + rest
        assert sizes["int8"].nbytes == coefficients + 4 * N + rest
        assert sizes[None].n_parameters == A.n_parameters == sizes["int8"].n_parameters - N

    def test_codes_are_not_trained_and_bases_are(self):
        layer = embedding(storage="int8").requires_grad_(True)
        assert {name.partition(".")[0] for name, _ in layer.named_parameters()} == {"bases"}
        codes = [block.clone() for block in layer.coefficients.tensors()]
        ids, before = numbers(30), layer.weight.detach()
        direction = random(30, D)
        table = dense(layer)
        of_table = torch.autograd.grad(table(ids), table.weight, direction)
        assert_close(gradients(layer, layer(ids), direction), gradients(layer, layer.to_dense(), of_table))
        layer(ids).backward(direction)
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        assert not torch.equal(layer.weight, before)
        assert all(map(torch.equal, layer.coefficients.tensors(), codes))

    @pytest.mark.parametrize("storage", ["float16", "bfloat16"])
    def test_halves_train(self, storage):
        layer = embedding("equal", dtype=np.float32, storage=storage)
        layer(numbers(30)).square().sum().backward()
        assert all(p.grad.dtype == p.dtype and p.grad.any() for p in layer.parameters())

    @pytest.mark.parametrize("storage", STORAGES)
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_to_another_dtype(self, storage, dtype):
        layer = embedding(dtype=np.float32, storage=storage)
        moved = copy.deepcopy(layer).to(dtype)
        ids = numbers(20)
        assert moved(ids).dtype == moved.weight.dtype == dtype
        assert moved.storage == ("int8" if storage == "int8" else str(dtype).removeprefix("torch."))
        assert torch.equal(moved.places, layer.places)
        tolerance = 0.05 if dtype != torch.float64 else 1e-5
        torch.testing.assert_close(moved(ids).double(), layer(ids).double(), atol=tolerance, rtol=tolerance)
        assert copy.deepcopy(layer).half()(ids).dtype == torch.float16

    def test_dtype_asked_for(self):
        A = factored(dtype=np.float32)
        layer = SubspaceEmbedding.from_factorization(A, dtype=torch.float64, storage="bfloat16")
        assert (layer(numbers(2)).dtype, layer.storage) == (torch.float64, "bfloat16")

    @pytest.mark.parametrize("storage", STORAGES)
    def test_zeros_stay_zeros(self, storage):
        X = np.zeros((10, 3), np.float32)
        A = fit_subspaces(X, 2, 1, seed=0).factorize(X)
        assert not SubspaceEmbedding.from_factorization(A, storage=storage).weight.any()


class TestKeeping:
    @pytest.mark.parametrize("storage", STORAGES)
    def test_state_dict(self, case, storage):
        layer = embedding(case, padding_idx=2, storage=storage)
        options = {"affine": case == "affine", "padding_idx": 2, "storage": storage, "dtype": torch.float64}
        again = SubspaceEmbedding(N, D, layer.counts, layer.dims, **options)
        assert not again.weight.any()
        state = io.BytesIO()
        torch.save(layer.state_dict(), state)
        state.seek(0)
        again.load_state_dict(torch.load(state, weights_only=True))
        assert_same_tensors(again, layer)
        assert_close([again(numbers(50))], [layer(numbers(50))])
        assert torch.equal(again.labels, layer.labels)
        assert "places" in layer.state_dict()
        assert all(part.numel() for part in layer.state_dict().values())
        assert all(part.numel() for part in layer.parameters())

    @pytest.mark.parametrize("storage", STORAGES)
    def test_safetensors(self, case, storage, tmp_path):
        layer = embedding(case, storage=storage)
        model = nn.ModuleDict({"embedding": layer, "head": SubspaceLinear.tied_to(layer, bias=random(N))})
        safetensors.save_model(model, tmp_path / "model.safetensors")
        blank = SubspaceEmbedding(
            N, D, layer.counts, layer.dims, affine=case == "affine", storage=storage, dtype=torch.float64
        )
        again = nn.ModuleDict({"embedding": blank, "head": SubspaceLinear.tied_to(blank, bias=torch.zeros(N))})
        missing, unexpected = safetensors.load_model(again, tmp_path / "model.safetensors")
        assert not missing
        assert not unexpected
        ids = numbers(9)
        assert_same_tensors(again, model)
        assert_close([again["embedding"](ids)], [layer(ids)])
        assert_close([again["head"](random(4, D))], [model["head"](random(4, D))])

    def test_state_dicts_of_earlier_versions(self, case):
        """They had places of 16 bits, and matrices without entries."""
        layer = embedding(case)
        blank = SubspaceEmbedding(N, D, layer.counts, layer.dims, affine=case == "affine", dtype=torch.float64)
        state = layer.state_dict() | {"places": layer.places.to(torch.int16)}
        for c, (m, j) in enumerate(zip(layer.counts, layer.dims, strict=True)):
            state.setdefault(f"bases.{c}", torch.empty(j, D))
            state.setdefault(f"coefficients.{c}", torch.empty(m, j))
        for assign in (False, True):
            blank.load_state_dict(state, assign=assign)
            assert blank.places.dtype == torch.int32
            assert_same_tensors(blank, layer)

    def test_meta_device(self):
        layer = embedding()
        blank = SubspaceEmbedding(N, D, layer.counts, layer.dims, device="meta", dtype=torch.float64)
        assert blank(torch.zeros(2, 3, dtype=torch.long, device="meta")).shape == (2, 3, D)
        assert blank.weight.shape == (N, D)
        blank.load_state_dict(layer.state_dict(), assign=True)
        assert_same_tensors(blank, layer)
        assert_close([blank(numbers(9))], [layer(numbers(9))])

    def test_other_shapes_are_refused(self):
        layer = embedding()
        with pytest.raises(RuntimeError, match="size mismatch"):
            SubspaceEmbedding(N, D, layer.counts, (1, 2, 12)).load_state_dict(layer.state_dict())

    def test_copies(self, case):
        layer = embedding(case, padding_idx=1, storage="int8")
        for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert_same_tensors(again, layer)
            assert_close([again(numbers(9))], [layer(numbers(9))])
            assert again.padding_idx == 1
            with torch.no_grad():
                for p in again.parameters():
                    p.add_(1)
            assert not torch.equal(again.weight, layer.weight)

    def test_the_weight_is_no_parameter(self):
        layer = embedding()
        for value in (torch.zeros(N, D), nn.Parameter(torch.zeros(N, D))):
            with pytest.raises((AttributeError, KeyError), match="weight"):
                layer.weight = value

    def test_back_to_a_factorization(self, case):
        A = factored(case)
        layer = SubspaceEmbedding.from_factorization(A)
        again = layer.to_factorization()
        assert_same_factors(again, A)
        np.testing.assert_allclose(again.reconstruct().numpy(), A.reconstruct(), atol=1e-12)
        again.blocks[1].zero_()
        np.testing.assert_allclose(layer.weight.detach().numpy(), A.reconstruct(), atol=1e-12)
        codes = SubspaceEmbedding.from_factorization(A, storage="int8")
        np.testing.assert_allclose(codes.to_factorization().reconstruct(), codes.weight.detach(), atol=1e-5)
        assert SubspaceEmbedding.from_factorization(A).half().to_factorization().bases[1].dtype == torch.float32

    def test_text(self):
        text = repr(embedding(dtype=np.float32, padding_idx=4, storage="int8"))
        assert text.startswith("SubspaceEmbedding(90, 12, 3 clusters of dimension 0 to 12, int8, ")
        assert "padding_idx=4" in text
        assert "3 affine clusters" in repr(embedding("affine"))


class TestWaysToRun:
    @pytest.fixture(autouse=True)
    def fresh(self):
        yield
        torch.compiler.reset()

    def compiled(self, module):
        if trouble := why_torch_cannot_compile():
            pytest.skip(trouble)
        return torch.compile(module, fullgraph=True)

    @pytest.mark.parametrize(("case", "storage"), [*((case, None) for case in CASES), ("affine", "int8")])
    def test_compile(self, case, storage):
        layer = embedding(case, padding_idx=7, storage=storage)
        compiled = self.compiled(layer)
        for seed, shape in enumerate([(3, 9), (5, 30), (8,)]):
            ids = numbers(*shape, seed=seed)
            ids.view(-1)[:2] = 7
            direction = random(*shape, D, seed=seed)
            assert_close([compiled(ids)], [layer(ids)])
            expected = gradients(layer, layer(ids), direction)
            assert_close(gradients(layer, compiled(ids), direction), expected)
        with pytest.raises(IndexError):
            compiled(torch.tensor([N]))

    def test_compiled_model(self):
        layer = embedding("affine")
        model = nn.Sequential(layer, nn.Tanh(), SubspaceLinear.tied_to(layer))
        compiled, ids, direction = self.compiled(model), numbers(4, 5), random(4, 5, N)
        assert_close([compiled(ids)], [model(ids)])
        assert_close(gradients(model, compiled(ids), direction), gradients(model, model(ids), direction))

    def test_the_operation_keeps_its_promises(self, case):
        from ksubspaces.integrations._lookup import lookup

        layer = embedding(case, padding_idx=7)
        torch.library.opcheck(lookup, (numbers(3, 5), *layer.table(), 7))
        codes = embedding(case, storage="int8")
        torch.library.opcheck(lookup, (numbers(3, 5), *codes.table(), -1))

    def test_autocast(self, case):
        layer = embedding(case, dtype=np.float32)
        head, ids = SubspaceLinear.tied_to(layer, bias=torch.ones(N)), numbers(6)
        linear, x = nn.Linear(D, N), random(2, D, dtype=torch.float32)
        columns = SubspaceLinear.from_factorization(factored(case, dtype=np.float32), by="columns", bias=torch.ones(D))
        expected, products = layer(ids), x @ layer.weight.T + 1
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer(ids), expected)
            assert layer.weight.dtype == nn.Embedding(N, D)(ids).dtype == torch.float32
            assert head(x).dtype == columns(head(x)).dtype == linear(x).dtype == torch.bfloat16
            torch.testing.assert_close(head(x).float(), products, atol=0.2, rtol=0.05)
            layer(ids).sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())

    @pytest.mark.parametrize("storage", [None, "int8"])
    def test_export(self, case, storage):
        layer = embedding(case, storage=storage)
        model = nn.Sequential(layer, SubspaceLinear.tied_to(layer))
        sizes = {"input": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
        exported = torch.export.export(model, (numbers(3, 5),), dynamic_shapes=sizes).module()
        assert "ksubspaces" not in exported.code  # nothing that another runtime does not know
        assert_close([exported(numbers(4, 7, seed=1))], [model(numbers(4, 7, seed=1))])

    def test_trace(self, case):
        layer = embedding(case)
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            traced = torch.jit.trace(layer, (numbers(3, 5),))
        assert_close([traced(numbers(8, 2, seed=1))], [layer(numbers(8, 2, seed=1))])

    @pytest.mark.parametrize("dynamo", [True, False])
    def test_onnx(self, dynamo, tmp_path):
        import_or_skip("onnxscript")
        runtime = import_or_skip("onnxruntime")
        layer = embedding("affine", dtype=np.float32, storage="int8")
        model = nn.Sequential(layer, SubspaceLinear.tied_to(layer)).eval()
        path, ids = tmp_path / "model.onnx", numbers(4, 7, seed=1)
        sizes = {"dynamic_shapes": {"input": {0: "b", 1: "s"}}} if dynamo else {"dynamic_axes": {"ids": [0, 1]}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (numbers(3, 5),), str(path), input_names=["ids"], dynamo=dynamo, verbose=False, **sizes
            )
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"ids": ids.numpy()})
        np.testing.assert_allclose(found, model(ids).detach().numpy(), rtol=1e-4, atol=1e-4)


class TestLinear:
    @pytest.mark.parametrize("by", ["rows", "columns"])
    @pytest.mark.parametrize("storage", [None, "bfloat16", "int8"])
    @pytest.mark.parametrize("biased", [True, False])
    def test_is_the_dense_layer(self, case, by, storage, biased):
        inputs, outputs = (D, N) if by == "rows" else (N, D)
        bias = random(outputs) if biased else None
        layer = SubspaceLinear.from_factorization(factored(case), by=by, bias=bias, storage=storage)
        assert (layer.in_features, layer.out_features) == (inputs, outputs)
        assert layer.weight.shape == (outputs, inputs)
        for shape in ((), (5,), (2, 3), (0,)):
            x = random(*shape, inputs)
            expected = nn.functional.linear(x, layer.to_dense(), bias)
            assert_close([layer(x)], [expected], 1e-11)
            direction = random(*shape, outputs)
            assert_close(
                gradients(layer, layer(x), direction),
                gradients(layer, nn.functional.linear(x, layer.to_dense(), layer.bias), direction),
                1e-11,
            )

    @pytest.mark.parametrize("by", ["rows", "columns"])
    def test_gradcheck(self, case, by):
        layer = SubspaceLinear.from_factorization(factored(case), by=by, bias=random(N if by == "rows" else D))
        names = [name for name, p in layer.named_parameters() if p.numel()]
        factors = [p.detach().clone().requires_grad_() for p in layer.parameters() if p.numel()]
        x = random(2, layer.in_features).requires_grad_()

        def run(x, *factors):
            return torch.func.functional_call(layer, dict(zip(names, factors, strict=True)), x)

        assert torch.autograd.gradcheck(run, (x, *factors), fast_mode=True)

    def test_tied_stays_tied(self, case):
        layer = embedding(case)
        head = SubspaceLinear.tied_to(layer, bias=torch.zeros(N))
        model = nn.ModuleDict({"embedding": layer, "head": head})
        assert len(list(model.parameters())) == len(list(layer.parameters())) + 1
        ids, before = numbers(20), layer.weight.detach()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        nn.functional.cross_entropy(head(layer(ids)), ids).backward()
        optimizer.step()
        assert not torch.equal(layer.weight, before)
        x = random(3, D)
        for module in (model, copy.deepcopy(model), copy.deepcopy(model).float().double()):
            expected = x @ module["embedding"].weight.T + module["head"].bias
            torch.testing.assert_close(module["head"](x), expected, atol=1e-5, rtol=1e-5)
            assert module["head"].factors is module["embedding"]
        assert head.n_parameters == layer.n_parameters + N
        assert head.nbytes == layer.nbytes + 8 * N

    @pytest.mark.parametrize("by", ["rows", "columns"])
    def test_state_dict(self, by):
        layer = SubspaceLinear.from_factorization(factored(), by=by)
        features = (layer.in_features, layer.out_features)
        again = SubspaceLinear(*features, layer.factors.counts, layer.factors.dims, by=by, bias=False).double()
        again.load_state_dict(layer.state_dict())
        assert_same_tensors(again, layer)
        assert_close([again(random(3, features[0]))], [layer(random(3, features[0]))])
        assert again.to_factorization().shape == (N, D)

    @pytest.mark.parametrize("by", ["rows", "columns"])
    def test_from_linear(self, by):
        weight = torch.from_numpy(factored("equal", dtype=np.float32).reconstruct())
        linear = nn.Linear(D, N) if by == "rows" else nn.Linear(N, D)
        linear.weight = nn.Parameter(weight if by == "rows" else weight.T.contiguous(), requires_grad=False)
        layer = SubspaceLinear.from_linear(linear.eval(), 0.2, by=by, k=3, seed=0)
        x = random(5, linear.in_features, dtype=torch.float32)
        assert layer.factors.n_parameters <= 8 * N * D // 10
        assert torch.equal(layer.bias, linear.bias)
        assert layer.bias.data_ptr() != linear.bias.data_ptr()
        assert not layer.training
        assert layer.bias.requires_grad
        assert not any(p.requires_grad for p in layer.factors.parameters())
        assert_close([layer(x)], [nn.functional.linear(x, layer.weight, linear.bias)], 1e-5)
        error = (layer.weight - linear.weight).square().sum() / linear.weight.square().sum()
        assert error < 0.05


class TestFromEmbedding:
    def table(self, **options):
        rows = torch.from_numpy(factored("equal", dtype=np.float32).reconstruct())
        return nn.Embedding.from_pretrained(rows, freeze=False, **options)

    def test_saves_what_is_asked(self):
        table = self.table(padding_idx=3)
        layer = SubspaceEmbedding.from_embedding(table, 0.3, k=3, seed=0)
        assert layer.n_parameters <= 7 * N * D // 10
        assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (N, D, 3)
        assert (layer.weight - table.weight).square().sum() <= 0.05 * table.weight.square().sum()
        assert layer.training
        exact = SubspaceEmbedding.from_embedding(table, n_parameters=2000, k=1, seed=0)
        torch.testing.assert_close(exact.weight, table.weight, atol=1e-4, rtol=1e-4)

    def test_weights_move_the_error(self):
        table = nn.Embedding.from_pretrained(random(N, D, dtype=torch.float32))
        heavy = np.where(np.arange(N) < 10, 1000.0, 1.0)
        errors = []
        for weights in (None, heavy):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                layer = SubspaceEmbedding.from_embedding(table, 0.3, token_weights=weights, k=2, seed=0)
            errors.append((layer.weight - table.weight)[:10].square().sum())
        assert errors[1] < 0.5 * errors[0]

    def test_takes_over_dtype_mode_and_freezing(self):
        table = self.table().to(torch.bfloat16).eval().requires_grad_(False)
        layer = SubspaceEmbedding.from_embedding(table, 0.3, k=3, seed=0, storage="int8")
        assert layer(torch.tensor([1])).dtype == torch.bfloat16
        assert not layer.training
        assert not any(p.requires_grad for p in layer.parameters())
        assert layer.storage == "int8"

    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.parametrize("storage", [None, "int8"])
    def test_a_padding_row_of_zeros_stays_zero(self, affine, storage):
        table = self.table(padding_idx=5)
        with torch.no_grad():
            table.weight += 1
            table.weight[5] = 0
        layer = SubspaceEmbedding.from_embedding(table, 0.3, k=2, affine=affine, seed=0, storage=storage)
        assert not layer(torch.tensor([5])).any()
        assert bool(layer.weight.any(dim=1).sum() == N - 1)
        assert (layer.weight - table.weight).square().sum() <= 0.1 * table.weight.square().sum()
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        layer(torch.arange(N)).square().sum().backward()
        optimizer.step()
        assert not layer(torch.tensor([5])).any()

    @pytest.mark.parametrize("affine", [False, True])
    @pytest.mark.parametrize("storage", [None, "int8"])
    @pytest.mark.parametrize("exact_rows", [None, [5], [2, 5, 8], list(range(2 * D))])
    def test_a_padding_row_stays_as_it_is_while_others_train(self, affine, storage, exact_rows):
        table = self.table(padding_idx=5)
        with torch.no_grad():
            table.weight[5] = table.weight.mean(0)
        if storage and exact_rows and len(exact_rows) > D:
            return  # which is refused
        layer = SubspaceEmbedding.from_embedding(
            table, 0.3, k=2, affine=affine, seed=0, storage=storage, exact_rows=exact_rows
        )
        scales = N if storage else 0
        assert layer.n_parameters - scales <= 0.7 * N * D + (len(exact_rows or ()) > D)
        assert torch.equal(layer.weight[5], table.weight[5])
        again = SubspaceEmbedding(
            N, D, layer.counts, layer.dims, affine=affine, padding_idx=5, storage=storage, n_fixed=1
        )
        again.load_state_dict(layer.state_dict())
        head = SubspaceLinear.tied_to(again)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
        for _ in range(3):
            head(again(torch.arange(N))).square().sum().backward()
            optimizer.step()
        assert torch.equal(again(torch.tensor([5]))[0], table.weight[5])
        assert torch.equal(again.weight[5], table.weight[5])
        assert not torch.isclose(again.weight[6:], table.weight[6:], atol=0.05).all(1).any()

    @pytest.mark.parametrize(
        "options", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}], ids=lambda o: next(iter(o))
    )
    def test_refuses_what_factors_cannot_do(self, options):
        with pytest.raises(ValueError, match=f"with {next(iter(options))} cannot be factored"):
            SubspaceEmbedding.from_embedding(nn.Embedding(N, D, **options), 0.3)


class TestRefusals:
    def test_vmap_over_ids(self):
        with pytest.raises(RuntimeError, match="vmap"):
            torch.func.vmap(embedding())(numbers(3, 4))

    def test_shapes(self):
        for counts, dims in (((40, 50), (3,)), ((), ()), ((40, 49), (1, 2)), ((-1, 91), (1, 2)), ((40, 50), (-1, 2))):
            with pytest.raises(ValueError, match="counts"):
                SubspaceEmbedding(N, D, counts, dims)
        with pytest.raises(ValueError, match="column"):
            SubspaceEmbedding(N, 0, (N,), (1,))

    def test_options(self):
        A = factored()
        for padding_idx in (N, -N - 1):
            with pytest.raises(ValueError, match="padding_idx must be"):
                SubspaceEmbedding.from_factorization(A, padding_idx=padding_idx)
        for storage in ("int4", 8, ["int8"]):
            with pytest.raises(ValueError, match="storage must be"):
                SubspaceEmbedding.from_factorization(A, storage=storage)
        with pytest.raises(ValueError, match="by must be"):
            SubspaceLinear.from_factorization(A, by="row")
        with pytest.raises(ValueError, match="by must be"):
            SubspaceLinear.from_linear(nn.Linear(3, 3), 0.1, by="column")
        with pytest.raises(ValueError, match="bias must have shape"):
            SubspaceLinear.from_factorization(A, bias=torch.zeros(3))
        with pytest.raises(ValueError, match="bias must have shape"):
            SubspaceLinear.tied_to(embedding(), bias=torch.zeros(3))

    def test_other_objects(self):
        for make in (SubspaceEmbedding.from_factorization, SubspaceLinear.from_factorization):
            with pytest.raises(TypeError, match="must be a ksubspaces"):
                make(np.eye(3))
        with pytest.raises(TypeError, match="must be an nn"):
            SubspaceEmbedding.from_embedding(torch.eye(3), 0.1)
        with pytest.raises(TypeError, match="must be an nn"):
            SubspaceLinear.from_linear(torch.eye(3), 0.1)
        with pytest.raises(TypeError, match="must be a SubspaceEmbedding"):
            SubspaceLinear.tied_to(nn.Embedding(3, 3))

    def test_without_torch(self):
        program = """
import sys
sys.modules["torch"] = None
import ksubspaces
try:
    import ksubspaces.integrations.torch
except ImportError as error:
    print(error)
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert 'pip install "ksubspaces[torch]"' in done.stdout
