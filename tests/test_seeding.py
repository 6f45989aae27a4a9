"""Starts: where they are good, and what they do with weights and degenerate rows."""

import numpy as np
import pytest
from planted import planted
from sklearn.metrics import normalized_mutual_info_score

from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS, kmeans, kmeans_plusplus


def problem(X, k, j, weights=None, affine=False):
    dims = (j,) * k if isinstance(j, int) else tuple(j)
    return Problem(X, weights, dims, affine)


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("kind", ["normal", "zeros", "duplicates", "few"])
def test_labels_are_labels(name, affine, kind):
    rng = np.random.default_rng(0)
    X = {
        "normal": rng.normal(size=(200, 7)),
        "zeros": np.zeros((20, 7)),
        "duplicates": np.repeat(rng.normal(size=(2, 7)), 20, axis=0),
        "few": rng.normal(size=(5, 7)),
    }[kind]
    labels = STARTS[name](problem(X, 5, 3, affine=affine), np.random.default_rng(1))
    assert labels.shape == (len(X),)
    assert labels.dtype == np.int32
    assert 0 <= labels.min() <= labels.max() < 5
    same = STARTS[name](problem(X, 5, 3, affine=affine), np.random.default_rng(1))
    np.testing.assert_array_equal(labels, same)


def test_kmeans_plusplus_finds_planted_subspaces_at_once():
    X, truth = planted(3000, 30, 6, 10, noise=0.05)
    found = [kmeans_plusplus(problem(X, 6, 10), np.random.default_rng(seed)) for seed in range(7)]
    assert np.median([normalized_mutual_info_score(truth, labels) for labels in found]) > 0.9


def test_kmeans_is_by_direction():
    """Rows of three directions and any length fall into three clusters; a scaled copy changes nothing."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 600)
    X = np.eye(8)[truth] + 0.1 * rng.normal(size=(600, 8))
    lengths = 10.0 ** rng.uniform(-3, 3, 600)
    for scale in (1.0, lengths[:, None]):
        labels = kmeans(problem(scale * X, 3, 2), np.random.default_rng(1))
        assert normalized_mutual_info_score(truth, labels) > 0.99


@pytest.mark.parametrize("start", [kmeans, kmeans_plusplus])
@pytest.mark.parametrize("affine", [False, True])
def test_weights_count_in_the_seeding(start, affine):
    """Rows of weight zero pull no flat to themselves: moving them leaves the labels of the others alone."""
    X, _ = planted(300, 10, 3, 2, offset=2.0 * affine, dtype=np.float64)
    weights = np.where(np.arange(300) < 240, 1.0, 0.0)
    moved = X.copy()
    moved[240:] = 50 * np.random.default_rng(0).normal(size=(60, 10))
    first, second = (start(problem(rows, 3, 2, weights, affine), np.random.default_rng(2))[:240] for rows in (X, moved))
    assert normalized_mutual_info_score(first, second) > 0.999


def test_larger_flats_are_placed_first():
    rng = np.random.default_rng(0)
    plane, line = rng.normal(size=(300, 5)) @ np.eye(5, 12), rng.normal(size=(100, 1)) @ np.eye(12)[-1:]
    labels = kmeans_plusplus(problem(np.concatenate([line, plane]), 2, [1, 5]), np.random.default_rng(0))
    assert (labels[:100] == 0).mean() > 0.95
    assert (labels[100:] == 1).mean() > 0.95
