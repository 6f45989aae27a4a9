"""Compression in a metric: against the closed form for one cluster, and the error that it is to make small."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import import_or_skip

from ksubspaces import compress
from ksubspaces.metric import compress_in_metric, metric_roots

N, D = 90, 12


def case(seed=0, rank=D):
    """A weight, and inputs whose directions are not alike."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, rank)) @ np.diag(0.6 ** np.arange(rank)) @ np.linalg.qr(rng.normal(size=(D, D)))[0][:rank]
    return rng.normal(size=(N, D)), X, X.T @ X / len(X)


def output_error(W, V, X):
    return np.square(X @ (W - V).T).sum() / np.square(X @ W.T).sum()


@pytest.mark.parametrize("seed", range(3))
def test_one_cluster_is_the_truncated_svd_of_the_outputs(seed):
    """The least error of any matrix of that rank, which the SVD of all outputs has."""
    W, X, M = case(seed)
    factors = compress_in_metric(W, M, n_parameters=5 * (N + D), k=1)
    values = np.linalg.svd(X @ W.T, compute_uv=False) ** 2
    least = values[5:].sum() / values.sum()
    assert output_error(W, factors.reconstruct(), X) == pytest.approx(least, rel=1e-3, abs=1e-6)
    assert factors.relative_error == pytest.approx(least, rel=1e-2, abs=1e-5)
    plain = compress(W, n_parameters=5 * (N + D), k=1)
    assert output_error(W, plain.reconstruct(), X) > 2 * least


@pytest.mark.parametrize("affine", [False, True])
def test_several_clusters_and_directions_that_were_never_seen(affine):
    W, X, M = case(rank=4)
    factors = compress_in_metric(W, M, 0.4, k=2, seed=0, affine=affine)
    assert factors.n_parameters <= 0.6 * N * D
    assert output_error(W, factors.reconstruct(), X) < 1e-4
    assert np.abs(factors.reconstruct()).max() < 100 * np.abs(W).max()


@pytest.mark.parametrize("exact", [[3], [5, 7, 60], list(range(2 * D))])
def test_exact_rows(exact):
    W, _, M = case()
    factors = compress_in_metric(W, M, 0.3, k=1, exact_rows=exact, seed=0)
    np.testing.assert_array_equal(factors.reconstruct()[exact], W[exact])


def test_roots():
    _, _, M = case()
    root, inverse = metric_roots(M, D)
    np.testing.assert_allclose(root @ root, M + 1e-6 * np.trace(M) / D * np.eye(D), atol=1e-12)
    np.testing.assert_allclose(root @ inverse, np.eye(D), atol=1e-9)
    for bad, message in [
        (np.eye(D - 1), r"must have shape \(12, 12\), .* got \(11, 11\)"),
        (np.triu(np.ones((D, D))), "symmetric"),
        (np.zeros((D, D)), "not zero"),
        (np.diag([-1.0] + [1.0] * (D - 1)), "positive semidefinite, but its least eigenvalue is -1"),
        (np.full((D, D), np.nan), "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric_roots(bad, D)


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
