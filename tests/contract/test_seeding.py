"""A start in one operation, where a backend has it."""

import numpy as np
import pytest
from planted import planted
from sklearn.metrics import normalized_mutual_info_score


@pytest.mark.operation("seed")
def test_seed(backend, dtype):
    X, truth = planted(400, 16, 4, 3, noise=0.02, dtype=dtype)
    weights = np.where(np.arange(400) % 9, 0.5, 0.0)
    labels, again = (backend.seed(X, [3, 2, 3, 3], weights, np.random.default_rng(1)) for _ in range(2))
    if labels is not None:
        assert labels.dtype == np.int32
        assert normalized_mutual_info_score(truth, labels) > 0.8
        np.testing.assert_array_equal(labels, again)


@pytest.mark.operation("seed_directions")
def test_seed_directions(backend, dtype):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    X = ((np.eye(8)[truth] + 0.05 * rng.normal(size=(400, 8))) * 10 ** rng.uniform(-3, 3, (400, 1))).astype(dtype)
    X[:9] = 0
    weights = np.where(np.arange(400) % 9, 0.5, 0.0)
    labels, again = (backend.seed_directions(X, 3, weights, np.random.default_rng(1)) for _ in range(2))
    if labels is not None:
        assert normalized_mutual_info_score(truth[9:], labels[9:]) > 0.99
        np.testing.assert_array_equal(labels, again)
