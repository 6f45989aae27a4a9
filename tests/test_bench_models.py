"""Benchmarks of models at small size: both sides of a row are checked, and what is broken on the way is told."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import import_or_skip

import_or_skip("transformers", "5")
import_or_skip("sentence_transformers", "6")

from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: E402

from bench.lib.tables import Table, bags  # noqa: E402
from bench.suites import metric, static_models  # noqa: E402

N, D = 300, 16


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    A = (rng.normal(size=(N, 5)) @ rng.normal(size=(5, D)) + 0.1 * rng.normal(size=(N, D))).astype(np.float32)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(N)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    table = Table("random", A, np.ones(N), np.arange(40), bags(A))
    return static_models.Case(table, words, [f"{i} {i + 1} {7 * i}" for i in range(40)])


@pytest.mark.parametrize("setting", static_models.SETTINGS[:2], ids=["ratio", "bits"])
def test_static_models(case, setting):
    row = static_models.compared(case, *setting)
    assert not row.failed
    ours, peer = row.raw["ours"], row.raw["peer"]
    assert peer["nbytes"] == N * D * setting[1] // 8 + 2 * N
    assert 0.3 < ours["recall"] <= 1
    assert 0.9 < ours["cosine"] <= 1 + 1e-6
    assert 0.3 < peer["recall"] <= 1


def test_what_opens_as_another_table_fails(case, monkeypatch):
    def tampered(path):
        model = load(path)
        next(model.parameters()).data.add_(1e-3)
        return model

    load = static_models.load_compressed
    monkeypatch.setattr(static_models, "load_compressed", tampered)
    row = static_models.compared(case, *static_models.SETTINGS[0])
    assert row.failed == "the opened table is not the one that was saved"


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_no_matrix_of_that_rank_has_less_error_of_outputs_than_the_svd_in_the_metric(shape):
    rng = np.random.default_rng()
    W, X = rng.normal(size=shape), rng.normal(size=(200, shape[1])) * 0.8 ** np.arange(shape[1])
    approximation, spent = metric._svd_in_metric(W, X.T @ X / 200, 0.3)
    rank = spent // sum(shape)
    assert spent <= 0.7 * W.size
    values = np.linalg.svd(X @ W.T, compute_uv=False)
    error = np.square(X @ (W - approximation).T).sum()
    assert error == pytest.approx(np.square(values[rank:]).sum(), rel=1e-3)
    assert error < np.square(X @ (W - metric._svd(W, None, 0.3)[0]).T).sum()
