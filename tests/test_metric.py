"""A metric: against the closed form for one cluster, rows times M^(1/2) by hand, and the errors that it makes small."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import import_or_skip

from ksubspaces import Subspaces, compress, fit_subspaces
from ksubspaces.kernels import Streamed
from ksubspaces.metric import Metric

N, D = 90, 12


def case(seed=0, rank=D):
    """A weight, and inputs whose directions are not alike."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, rank)) @ np.diag(0.6 ** np.arange(rank)) @ np.linalg.qr(rng.normal(size=(D, D)))[0][:rank]
    return rng.normal(size=(N, D)), X, X.T @ X / len(X)


def two_subspaces(seed=None):
    """Rows in a subspace of four dimensions and rows in one of five, with little noise."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(N // 2, j)) @ rng.normal(size=(j, D)) for j in (4, 5)]
    return np.concatenate(parts) + 0.05 * rng.normal(size=(N, D))


def output_error(W, V, X):
    return np.square(X @ (W - V).T).sum() / np.square(X @ W.T).sum()


def root(M):
    """M^(1/2) of M with its ridge, by an SVD."""
    U, values, _ = np.linalg.svd(M + 1e-6 * np.trace(M) / len(M) * np.eye(len(M)))
    return (U * np.sqrt(values)) @ U.T


class TestCompress:
    @pytest.mark.parametrize("seed", range(3))
    def test_one_cluster_is_the_truncated_svd_of_the_outputs(self, seed):
        """The least error of any matrix of that rank, which the SVD of all outputs has."""
        W, X, M = case(seed)
        factors = compress(W, n_parameters=5 * (N + D), k=1, metric=M)
        values = np.linalg.svd(X @ W.T, compute_uv=False) ** 2
        least = values[5:].sum() / values.sum()
        assert output_error(W, factors.reconstruct(), X) == pytest.approx(least, rel=1e-3, abs=1e-6)
        assert factors.relative_error == pytest.approx(least, rel=1e-2, abs=1e-5)
        plain = compress(W, n_parameters=5 * (N + D), k=1)
        assert output_error(W, plain.reconstruct(), X) > 2 * least

    @pytest.mark.parametrize("affine", [False, True])
    def test_several_clusters_and_directions_that_were_never_seen(self, affine):
        _, X, M = case(rank=4)
        W = two_subspaces(0)
        factors = compress(W, 0.4, k=2, seed=0, affine=affine, metric=M)
        assert factors.n_parameters <= 0.6 * N * D
        assert output_error(W, factors.reconstruct(), X) < 1e-4
        assert np.abs(factors.reconstruct()).max() < 100 * np.abs(W).max()

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("options", [{"k": 3}, {"k": 3, "dims": "equal"}, {"k": 2, "affine": True}])
    def test_it_is_the_compression_of_rows_times_the_root(self, options, dtype):
        W, M = two_subspaces(), case(seed=None)[2]
        R, weights = root(M), np.linspace(1, 3, N)
        options = {"ratio": 0.4, "seed": 0, "dtype": dtype, "sample_weight": weights, **options}
        ours, by_hand = compress(W, metric=M, **options), compress(W @ R, **options)
        tolerance = 1e-9 if dtype == "float64" else 1e-2
        assert ours.relative_error == pytest.approx(by_hand.relative_error, rel=tolerance)
        if dtype == "float64":
            np.testing.assert_array_equal(ours.labels, by_hand.labels)
            np.testing.assert_allclose(ours.reconstruct() @ R, by_hand.reconstruct(), atol=1e-9)
        left = (W - ours.reconstruct()) @ R
        told = weights @ np.square(left).sum(1)
        assert ours.objective == pytest.approx(told, rel=1e-3)

    @pytest.mark.parametrize("exact", [[3], [5, 7, 60], list(range(2 * D))])
    def test_exact_rows(self, exact):
        W, _, M = case()
        factors = compress(W, 0.3, k=1, exact_rows=exact, seed=0, metric=M)
        np.testing.assert_array_equal(factors.reconstruct()[exact], W[exact])

    def test_no_bits(self):
        with pytest.raises(ValueError, match="metric is for factors of numbers; give ratio"):
            compress(case()[0], bits=3.0, metric=np.eye(D))


class TestFit:
    @pytest.mark.parametrize("affine", [False, True])
    def test_it_is_the_fit_of_rows_times_the_root(self, affine):
        X, _, M = case(seed=None)
        R, options = root(M), {"k": 3, "j": 2, "affine": affine, "seed": 0}
        ours, by_hand = fit_subspaces(X, metric=M, **options), fit_subspaces(X @ R, **options)
        assert ours.objective == pytest.approx(by_hand.objective, rel=1e-9)
        np.testing.assert_array_equal(ours.labels, by_hand.labels)
        for V in ours.bases:
            np.testing.assert_allclose(V @ R @ R @ V.T, np.eye(2), atol=1e-9)
        Y = case(seed=None)[0]
        np.testing.assert_array_equal(ours.predict(Y), by_hand.predict(Y @ R))
        np.testing.assert_allclose(ours.sqdistances(Y), by_hand.sqdistances(Y @ R), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(ours.residuals(Y), by_hand.residuals(Y @ R), rtol=1e-7, atol=1e-9)
        points = ours.reconstruct(ours.transform(Y), ours.predict(Y))
        left = ((Y - points) @ R) ** 2
        np.testing.assert_allclose(left.sum(1), ours.residuals(Y), rtol=1e-7, atol=1e-9)
        factors = ours.factorize(X)
        np.testing.assert_allclose(np.square((X - factors.reconstruct()) @ R).sum(), ours.objective, rtol=1e-7)

    def test_it_goes_on_from_given_flats(self):
        X, _, M = case()
        first = fit_subspaces(X, 3, 2, metric=M, seed=0)
        for init in (first, first.bases):
            again = fit_subspaces(X, 3, 2, metric=M, init=init, seed=0)
            assert again.objective <= first.objective * (1 + 1e-9)
            assert again.n_iter <= 2
        with pytest.raises(ValueError, match=r"init\[0\] must be a basis \(j, 12\)"):
            fit_subspaces(X, 3, 2, metric=M, init=[np.eye(11)[:2]] * 3)

    def test_saved_and_moved(self, tmp_path):
        torch = import_or_skip("torch")
        X, _, M = case()
        fit = fit_subspaces(torch.from_numpy(X).float(), 3, 2, metric=torch.from_numpy(M), seed=0)
        assert all(isinstance(part, torch.Tensor) for part in (*fit.bases, fit.metric, fit.labels))
        assert fit.residuals(X).sum() == pytest.approx(fit.objective, rel=1e-4)
        fit.save(tmp_path / "fit.safetensors")
        again = Subspaces.load(tmp_path / "fit.safetensors")
        np.testing.assert_array_equal(again.sqdistances(X), fit.sqdistances(X))
        plain = fit_subspaces(X, 3, 2, seed=0)
        plain.save(tmp_path / "plain.safetensors")
        assert Subspaces.load(tmp_path / "plain.safetensors").metric is None


def test_kinds_of_arrays():
    torch = import_or_skip("torch")
    W, M = two_subspaces(0), case()[2]
    want = compress(W.astype("float32"), 0.4, k=1, seed=0, metric=M)
    found = compress(torch.from_numpy(W).float(), 0.4, k=1, seed=0, metric=torch.from_numpy(M))
    assert isinstance(found.bases[0], torch.Tensor)
    assert found.bases[0].dtype == torch.float32
    np.testing.assert_array_equal(found.reconstruct().numpy(), want.reconstruct())
    given, metric = W.copy(), M.copy()
    compress(given, 0.4, k=2, seed=0, metric=metric, exact_rows=[2])
    fit_subspaces(given, 2, 2, seed=0, metric=metric)
    np.testing.assert_array_equal(given, W)
    np.testing.assert_array_equal(metric, M)


def test_roots():
    _, _, M = case()
    own = Metric.of(M, D)
    np.testing.assert_allclose(own.root, root(M), atol=1e-12)
    np.testing.assert_allclose(own.root @ own.inverse, np.eye(D), atol=1e-9)
    np.testing.assert_allclose(own.restore(own.whiten(M)), M, atol=1e-9)
    streamed = own.whiten(Streamed(M, np, 3 * M[0].nbytes, exponent=2))
    np.testing.assert_allclose(streamed[np.arange(D)], 4 * M @ own.root, rtol=1e-12)
    np.testing.assert_allclose(Metric.of(1e300 * np.eye(D), D).root, 1e150 * np.eye(D), rtol=1e-5)
    asymmetric = np.eye(D)
    asymmetric[0, 1] = 0.5
    for bad, message in [
        (np.eye(D - 1), r"must have shape \(12, 12\), as rows have 12 columns; got \(11, 11\)"),
        (np.ones(D), r"must have shape \(12, 12\)"),
        (asymmetric, "metric must be symmetric, but differs from its transpose by 0.5"),
        (np.zeros((D, D)), "metric is zero"),
        (np.diag([-1.0] + [1.0] * (D - 1)), "positive semidefinite, but its least eigenvalue is -1"),
        (np.full((D, D), np.nan), r"must be finite, but entry \(0, 0\) is nan"),
    ]:
        for call in (lambda M: compress(case()[0], 0.4, metric=M), lambda M: fit_subspaces(case()[0], 2, 2, metric=M)):
            with pytest.raises(ValueError, match=message):
                call(bad)
    for bad, message in [(np.eye(D) * 1j, "metric is complex"), ([["a"]], "metric has dtype")]:
        with pytest.raises(TypeError, match=message):
            compress(case()[0], 0.4, metric=bad)


class TestModels:
    def test_activations_are_those_of_a_model_run_by_hand(self, monkeypatch):
        torch = import_or_skip("torch")
        from models import SENTENCES, bert, tokenizer

        from ksubspaces.integrations.transformers import activation_metric

        monkeypatch.setattr("ksubspaces.integrations._activations._TOKENS", 20)  # several batches
        model, words = bert(vocab_size=40), tokenizer()
        block, name = model.bert.encoder.layer[0], "bert.encoder.layer.0.output.dense"
        block.first, block.second = torch.nn.Linear(32, 2), torch.nn.Linear(32, 2)
        names = [name, "bert.encoder.layer.0.first", "bert.encoder.layer.0.second"]

        def look(_, inputs):  # at the first token of a text, and at each second
            block.first(inputs[0][:, 0])
            block.second(inputs[0][:, ::2])

        block.register_forward_pre_hook(look)
        found = activation_metric(model.train(), names, [*SENTENCES, ""], words)
        assert model.training
        model.eval()
        rows = {key: [] for key in names}
        for key, own in rows.items():
            model.get_submodule(key).register_forward_pre_hook(
                lambda _, inputs, own=own: own.append(inputs[0].flatten(0, -2).double())
            )
        with torch.no_grad():
            for text in [*SENTENCES, ""]:
                model(**words(text, return_tensors="pt"))
        for key, own in rows.items():
            x = torch.cat(own)
            np.testing.assert_allclose(found[key], (x.T @ x / len(x)).numpy(), rtol=1e-4, atol=1e-6, err_msg=key)
        with pytest.raises(ValueError, match=r"'bert\.nothing', which is no nn\.Linear"):
            activation_metric(model, ["bert.nothing"], SENTENCES, words)
        with pytest.raises(ValueError, match="no texts"):
            activation_metric(model, [name], [], words)
        with pytest.raises(ValueError, match="and its tokenizer"):
            activation_metric(model, [name], SENTENCES)

    def test_outputs_are_nearer_with_it(self):
        torch = import_or_skip("torch")
        from models import SENTENCES, bert, tokenizer

        from ksubspaces.integrations.transformers import activation_metric, compress_model

        words, errors = tokenizer(), []
        names = ["bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"]
        batch = words(SENTENCES, padding=True, return_tensors="pt")
        for with_metric in (False, True):
            model = bert(vocab_size=40, intermediate_size=64)
            with torch.no_grad():
                before = model(**batch)[0]
            metric = activation_metric(model, names, SENTENCES, words) if with_metric else None
            compress_model(model, 0.3, modules=names, metric=metric, k=1, seed=0, token_weights=None)
            with torch.no_grad():
                errors.append(float((model(**batch)[0] - before).square().sum()))
        assert errors[1] < 0.5 * errors[0]
        with pytest.raises(ValueError, match="metric names 'bert', which is not among the linear layers"):
            compress_model(bert(), 0.3, modules=names, metric={"bert": np.eye(3)})
