"""Nearest flats and distances to them."""

import numpy as np
import pytest
from helpers import assert_labels, scale, tolerance
from planted import random_bases

from contract.problems import far_flat, near_flat, problem
from ksubspaces.kernels import Flats, group_rows, reference

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
far = pytest.mark.parametrize("distance", [1e3, 1e4])


@pytest.mark.operation("assign")
@affine
def test_assign(backend, n, d, dims, dtype, affine):
    X, flats, _ = problem(n, d, dims, dtype, affine)
    labels, residuals = backend.assign(X, flats)
    cost = reference.sqdistances(X, flats)
    tol = tolerance(dtype) * scale(X)
    assert_labels(labels, cost, tol)
    assert residuals.dtype == dtype
    assert np.all(residuals >= 0)
    np.testing.assert_allclose(residuals, cost.min(axis=1), rtol=0, atol=tol)


@pytest.mark.operation("assign")
def test_assign_with_penalty_and_weights(backend, n, d, dims, dtype):
    """Affine where d is odd."""
    X, flats, rng = problem(n, d, dims, dtype, d % 2 == 1)
    penalty, weights = rng.random(len(dims)), rng.random(n) * (rng.random(n) > 0.2)
    labels, residuals = backend.assign(X, flats, penalty, weights)
    distances = reference.sqdistances(X, flats)
    tol = tolerance(dtype) * (scale(X) + 1)
    assert_labels(labels, weights[:, None] * distances + penalty, tol)
    np.testing.assert_allclose(residuals, distances[np.arange(n), labels], rtol=0, atol=tol)


@pytest.mark.operation("assign", case="labels alone")
@affine
def test_assign_labels_alone(backend, n, d, dims, dtype, affine):
    X, flats, rng = problem(n, d, dims, dtype, affine)
    penalty, weights = rng.random(len(dims)), rng.random(n)
    labels, _ = backend.assign(X, flats, residuals=False)
    weighted, _ = backend.assign(X, flats, penalty, weights, residuals=False)
    cost, tol = reference.sqdistances(X, flats), tolerance(dtype) * (scale(X) + 1)
    assert_labels(labels, cost, tol)
    assert_labels(weighted, weights[:, None] * cost + penalty, tol)


@pytest.mark.operation("sqdistances")
@affine
def test_sqdistances(backend, n, d, dims, dtype, affine):
    X, flats, _ = problem(n, d, dims, dtype, affine)
    distances = backend.sqdistances(X, flats)
    assert distances.shape == (n, len(dims))
    assert distances.dtype == dtype
    np.testing.assert_allclose(distances, reference.sqdistances(X, flats), rtol=0, atol=tolerance(dtype) * scale(X))


@pytest.mark.operation("residuals")
@affine
def test_residuals_are_float64(backend, n, d, dims, affine):
    X, flats, rng = problem(n, d, dims, np.float32, affine)
    labels = rng.integers(0, len(dims), n).astype(np.int32)
    groups = group_rows(labels, len(dims))
    residuals = backend.residuals(X, groups, flats)
    assert residuals.dtype == np.float64
    np.testing.assert_allclose(residuals, reference.residuals(X, groups, flats), rtol=1e-10, atol=1e-13 * scale(X))


@pytest.mark.operation("residuals", reference=True)
def test_rows_without_a_group_have_no_residual(backend, dtype):
    X, flats, rng = problem(90, 40, [3, 1, 30], dtype, False)
    rows = rng.choice(90, 50, replace=False)
    groups = group_rows(rng.integers(0, 3, 50).astype(np.int32), 3)
    want = np.zeros(90)
    want[rows] = reference.residuals(X[rows], groups, flats)
    np.testing.assert_allclose(backend.residuals(X, groups.among(rows), flats), want, rtol=1e-10, atol=1e-12)


@pytest.mark.operation("coefficients")
@affine
def test_coefficients(backend, n, d, dims, dtype, affine):
    X, flats, rng = problem(n, d, dims, dtype, affine)
    groups = group_rows(rng.integers(0, len(dims), n).astype(np.int32), len(dims))
    got, none = backend.coefficients(X, groups, flats)
    same, residuals = backend.coefficients(X, groups, flats, residuals=True)
    want, left = reference.coefficients(X, groups, flats, residuals=True)
    assert none is None
    assert got.dtype == dtype
    assert residuals.dtype == np.float64
    assert got.shape == want.shape
    np.testing.assert_array_equal(got, same)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(dtype) * np.sqrt(scale(X)))
    np.testing.assert_allclose(residuals, left, rtol=0, atol=tolerance(dtype) * scale(X))


@pytest.mark.operation("coefficients", reference=True)
def test_coefficients_of_some_rows_and_of_none(backend, dtype):
    X, flats, rng = problem(90, 40, [3, 1, 30], dtype, True)
    for m in (50, 0):
        rows = rng.choice(90, m, replace=False)
        groups = group_rows(rng.integers(0, 3, m).astype(np.int32), 3)
        got, residuals = backend.coefficients(X, groups.among(rows), flats, residuals=True)
        want, left = reference.coefficients(X[rows], groups, flats, residuals=True)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(dtype) * np.sqrt(scale(X)))
        np.testing.assert_allclose(residuals[rows], left, rtol=0, atol=tolerance(dtype) * scale(X))
        assert not np.delete(residuals, rows).any()


@pytest.mark.operation("assign", case="an offset far away")
@far
def test_a_flat_far_away_costs_the_others_no_digits(backend, dtype, distance):
    X, flats, near = far_flat(dtype, distance)
    labels, residuals = backend.assign(X, flats)
    cost, tol = reference.sqdistances(X, flats), 4 * tolerance(dtype) * scale(X[near])
    assert_labels(labels[near], cost[near], tol)
    np.testing.assert_allclose(residuals[near], cost.min(axis=1)[near], rtol=0, atol=tol)
    assert np.all(labels[~near] == 5)


@pytest.mark.operation("sqdistances", case="an offset far away")
@far
def test_a_flat_far_away_costs_distances_to_the_others_no_digits(backend, dtype, distance):
    X, flats, near = far_flat(dtype, distance)
    got, want = (distances[near] for distances in (backend.sqdistances(X, flats), reference.sqdistances(X, flats)))
    others = np.arange(flats.k) != 5
    np.testing.assert_allclose(got[:, others], want[:, others], rtol=0, atol=4 * tolerance(dtype) * scale(X[near]))
    np.testing.assert_allclose(got[:, 5], want[:, 5], rtol=1e3 * tolerance(dtype))


@pytest.mark.operation("two_nearest")
@affine
def test_two_nearest(backend, n, d, dims, dtype, affine):
    X, flats, _ = problem(n, d, dims, dtype, affine)
    labels, residuals = backend.two_nearest(X, flats)
    to_each, (_, expected) = reference.sqdistances(X, flats), reference.two_nearest(X, flats)
    assert labels.shape == residuals.shape == (n, 2)
    assert labels.dtype == np.int32
    assert residuals.dtype == dtype
    tol = tolerance(dtype) * scale(X)
    np.testing.assert_allclose(residuals, expected, rtol=0, atol=tol)
    if len(dims) == 1:
        assert not labels.any()
        return
    assert np.all(labels[:, 0] != labels[:, 1])
    np.testing.assert_allclose(np.take_along_axis(to_each, labels, axis=1), expected, rtol=0, atol=tol)


@pytest.mark.operation("two_nearest", reference=True)
def test_of_flats_equally_far_the_lower_numbers_are_the_two_nearest(backend, dtype):
    axes = np.eye(9, dtype=dtype)
    X = np.random.default_rng(0).integers(1, 10, (700, 9)).astype(dtype)
    flats = Flats.from_bases([axes[[5]], *[axes[[0, 4, 7]]] * 5])
    labels, residuals = backend.two_nearest(X, flats)
    lone = residuals[:, 0] < residuals[:, 1]
    assert set(map(tuple, labels[~lone])) <= {(1, 2), (0, 1)}
    assert set(map(tuple, labels[lone])) <= {(0, 1)}


@pytest.mark.operation("assign", reference=True)
def test_ties_go_to_the_lowest_flat(backend, dtype):
    """In whole numbers, where sums are exact: a product's order of summing may differ from column to column."""
    axes = np.eye(9, dtype=dtype)
    X = np.random.default_rng(0).integers(-9, 10, (700, 9)).astype(dtype)
    labels, _ = backend.assign(X, Flats.from_bases([axes[[5]], *[axes[[0, 4, 7]]] * 5]))
    assert set(labels) == {0, 1}


@pytest.mark.operation("assign")
def test_large_j_has_no_cancellation(backend, dtype):
    """With j close to d and rows almost on the flat, residuals keep their digits in float32."""
    X, flats = near_flat(np.random.default_rng(1), 200, [60, 60], dtype)
    _, residuals = backend.assign(X, flats)
    np.testing.assert_allclose(residuals, reference.assign(X, flats)[1], rtol=0.05)


@pytest.mark.operation("assign", reference=True)
def test_rows_on_a_flat_have_no_negative_residual(backend, dtype):
    rng = np.random.default_rng(2)
    bases = random_bases(rng, 40, [12, 3], dtype)
    X = (100 * rng.normal(size=(200, 12)) @ bases[0]).astype(dtype)
    labels, residuals = backend.assign(X, Flats.from_bases(bases))
    assert not labels.any()
    assert np.all(residuals >= 0)
    np.testing.assert_allclose(residuals, 0, atol=tolerance(dtype) * scale(X))


@pytest.mark.operation("sqdistances")
def test_distances_from_a_flat_are_never_negative(backend, dtype):
    rng = np.random.default_rng(2)
    bases = random_bases(rng, 40, [12, 3], dtype)
    X = (100 * rng.normal(size=(200, 12)) @ bases[0]).astype(dtype)
    distances, flats = backend.sqdistances(X, Flats.from_bases(bases)), Flats.from_bases(bases)
    assert np.all(distances >= 0)
    np.testing.assert_allclose(distances, reference.sqdistances(X, flats), rtol=0, atol=tolerance(dtype) * scale(X))


@pytest.mark.operation("assign", case="a common offset")
def test_a_large_common_offset_costs_no_digits(backend, dtype):
    rng = np.random.default_rng(3)
    X = (1000 + rng.normal(size=(150, 20))).astype(dtype)
    offsets = (1000 + rng.normal(size=(4, 20))).astype(dtype)
    flats = Flats.from_bases(random_bases(rng, 20, [2, 5, 0, 15], dtype), offsets)
    labels, residuals = backend.assign(X, flats)
    distances, tol = reference.sqdistances(X, flats), 200 * tolerance(dtype)
    assert_labels(labels, distances, tol)
    np.testing.assert_allclose(residuals, distances.min(axis=1), rtol=0, atol=tol)
    np.testing.assert_allclose(backend.sqdistances(X, flats), distances, rtol=0, atol=tol)


@pytest.mark.operation("sqdistances")
def test_rows_of_any_size(backend, dtype):
    """Each row's error is in proportion to that row."""
    rng = np.random.default_rng(4)
    flats = Flats.from_bases(random_bases(rng, 30, [4, 9, 1], dtype))
    X = (rng.normal(size=(128, 30)) * 10.0 ** rng.integers(-15, 16, (128, 1))).astype(dtype)
    X[5] = 0
    error = np.abs(backend.sqdistances(X, flats) - reference.sqdistances(X, flats)).max(axis=1)
    assert np.all(error <= tolerance(dtype) * (X.astype(np.float64) ** 2).sum(axis=1))


@pytest.mark.operation("sqdistances")
def test_rows_on_the_middle_of_the_offsets(backend, dtype):
    rng = np.random.default_rng(5)
    offsets = 1e3 * rng.normal(size=(3, 8)).astype(dtype)
    flats = Flats.from_bases(random_bases(rng, 8, [2, 1, 6], dtype), offsets)
    for middle in (np.mean, np.median):
        X = np.repeat(middle(offsets.astype(np.float64), axis=0)[None], 3, axis=0).astype(dtype)
        X[1:] += 1e-3 * rng.normal(size=(2, 8)).astype(dtype)
        np.testing.assert_allclose(backend.sqdistances(X, flats), reference.sqdistances(X, flats), rtol=1e-5)


@pytest.mark.operation("assign", reference=True)
def test_no_rows_to_assign(backend, dtype):
    X, flats, _ = problem(4, 5, [2, 1], dtype, False)
    labels, residuals = backend.assign(X[:0], flats)
    assert labels.shape == residuals.shape == (0,)


@pytest.mark.operation("sqdistances", reference=True)
def test_no_rows_to_measure(backend, dtype):
    X, flats, _ = problem(4, 5, [2, 1], dtype, False)
    assert backend.sqdistances(X[:0], flats).shape == (0, 2)
