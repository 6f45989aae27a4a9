"""Rows that stay in host memory: the same operations and fits, block by block."""

import numpy as np
import pytest
from helpers import assert_labels, scale
from planted import planted
from test_kernels import assert_moments, problem

from ksubspaces import kernels, refit
from ksubspaces.descent import Descent, descend, finish
from ksubspaces.kernels import Streamed, reference
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def streamed(X, rows=37):
    return Streamed(X, np, rows * X.shape[1] * X.itemsize)


@affine
@pytest.mark.parametrize("n", [1, 36, 37, 38, 200])
def test_operations(n, affine):
    X, flats, rng = problem(n, 9, [3, 8, 0], np.float64, affine)
    S, weights = streamed(X), rng.random(n)
    assert S.shape == X.shape
    assert len(S) == n
    for got, want in zip(
        kernels.assign(S, flats, np.ones(3), weights), reference.assign(X, flats, np.ones(3), weights), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-12 * scale(X))
    np.testing.assert_allclose(kernels.sqdistances(S, flats), reference.sqdistances(X, flats), atol=1e-12 * scale(X))
    labels, new = (rng.integers(0, 3, n).astype(np.int32) for _ in range(2))
    want = reference.residuals(X, labels, flats)
    np.testing.assert_allclose(kernels.residuals(S, labels, flats), want, atol=1e-12 * scale(X))
    moments = kernels.second_moments(S, labels, 3, weights, center=affine)
    assert_moments(moments, reference.second_moments(X, labels, 3, weights, center=affine), X, np.float64)
    rows = np.flatnonzero(labels != new)
    kernels.update_moments(moments, S, rows, labels[rows], new[rows], weights)
    assert_moments(moments, reference.second_moments(X, new, 3, weights, center=affine), X, np.float64)
    some = rng.choice(n, n // 2, replace=False)
    assert_moments(
        kernels.second_moments(S, labels[some], 3, weights, affine, rows=some),
        reference.second_moments(X, labels[some], 3, weights, affine, rows=some),
        X,
        np.float64,
    )


@affine
@pytest.mark.parametrize("start", STARTS)
def test_a_fit_is_the_fit_of_the_rows_themselves(start, affine, monkeypatch):
    monkeypatch.setattr(refit, "UPDATE_SIZE", 0)
    X, _ = planted(400, 12, 3, 2, offset=1.0 * affine, dtype=np.float64)
    results = []
    for rows in (X, streamed(X)):
        problem = Problem(rows, None, (2, 7, 0), affine)
        labels = STARTS[start](problem, np.random.default_rng(0))
        state = descend(problem, Descent(labels), max_iter=6, tol=0)
        results.append(finish(problem, state.labels))
    (flats, _, objective), (_, streamed_labels, streamed_objective) = results
    assert_labels(streamed_labels, kernels.sqdistances(X, flats), 1e-9 * scale(X))
    assert streamed_objective == pytest.approx(objective, rel=1e-9)


@affine
def test_moments_of_far_apart_blocks_add_up(affine):
    """Each block has origins of its own."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 5)) + np.repeat([0, 1000, -500], 100)[:, None]).astype(np.float32)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    labels[:100] = 0  # cluster 1 has no rows in the first block
    got = kernels.second_moments(streamed(X, 100), labels, 2, center=affine)
    want = reference.second_moments(X, labels, 2, center=affine)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=1e-6, atol=1e-7 * np.abs(want.scatter).max())
    np.testing.assert_array_equal(got.counts, want.counts)
