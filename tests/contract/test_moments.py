"""First and second moments of clusters."""

import numpy as np
import pytest

from contract.checks import assert_accurate, assert_moments
from contract.problems import labels_and_moved, problem
from ksubspaces.kernels import group_rows, reference

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
weighted = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


@pytest.mark.operation("second_moments")
@affine
def test_second_moments(backend, n, d, dims, dtype, affine):
    """Weighted if affine; in float64 whatever the rows are in."""
    X, _, rng = problem(n, d, dims, dtype, affine)
    k = len(dims)
    labels = rng.integers(0, k, n).astype(np.int32)
    weights = rng.random(n).astype(dtype) if affine else None
    got = backend.second_moments(X, group_rows(labels, k), weights, center=affine)
    want = reference.second_moments(X, group_rows(labels, k), weights, center=affine)
    assert_moments(got, want, X, dtype)
    assert got.raw.dtype == np.float64
    if affine:
        assert got.first.dtype == got.mass.dtype == np.float64
    assert got.counts.dtype == np.int64
    if not affine:
        assert_accurate(got.raw, want.raw, dtype)


@pytest.mark.operation("second_moments")
@affine
@pytest.mark.parametrize("shape", [(100, 7, 2), (513, 33, 6)], ids=str)
def test_weights_and_centres_are_asked_for_apart(backend, shape, dtype, affine):
    n, d, k = shape
    X, _, rng = problem(n, d, [1] * k, dtype, affine)
    labels = rng.integers(0, k, n).astype(np.int32)
    weights = None if affine else rng.random(n)
    got = backend.second_moments(X, group_rows(labels, k), weights, center=affine)
    assert_moments(got, reference.second_moments(X, group_rows(labels, k), weights, center=affine), X, dtype)


@pytest.mark.operation("second_moments", case="a common offset")
def test_a_large_common_offset_costs_no_digits(backend, dtype):
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(3000, 12)) + 1000).astype(dtype)
    labels = rng.integers(0, 2, 3000).astype(np.int32)
    got = backend.second_moments(X, group_rows(labels, 2), center=True)
    want = reference.second_moments(X, group_rows(labels, 2), center=True)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-5 * want.scatter.max())
    np.testing.assert_allclose(got.means, want.means, rtol=1e-9)


@pytest.mark.operation("second_moments", many=True)
def test_moments_sum_past_2_to_the_24(backend):
    X = np.ones((2**24 + 10, 1), dtype=np.float32)
    moments = backend.second_moments(X, group_rows(np.zeros(len(X), np.int32), 1))
    only_means = backend.second_moments(X, group_rows(np.zeros(len(X), np.int32), 1), products=False)
    assert only_means.mass[0] == only_means.sums[0, 0] == moments.scatter[0, 0, 0] == len(X)


@pytest.mark.operation("second_moments", reference=True)
@affine
def test_moments_of_some_rows(backend, affine):
    X, _, rng = problem(400, 9, [1] * 3, np.float64, affine)
    rows = rng.choice(400, 50, replace=False)
    groups = group_rows(rng.integers(0, 3, 50).astype(np.int32), 3)
    weights = rng.random(400)
    got = backend.second_moments(X, groups.among(rows), weights, affine)
    assert_moments(got, reference.second_moments(X[rows], groups, weights[rows], affine), X, np.float64)


@pytest.mark.operation("second_moments")
@affine
def test_moments_in_another_precision(backend, affine):
    X, _, rng = problem(300, 40, [1] * 3, np.float32, affine)
    groups, weights = group_rows(rng.integers(0, 3, 300).astype(np.int32), 3), rng.random(300)
    got = backend.second_moments(X, groups, weights, affine, dtype=np.float64)
    assert_moments(got, reference.second_moments(X, groups, weights, affine), X, np.float64)


@pytest.mark.operation("second_moments", reference=True)
def test_means_alone_hold_no_second_moments(backend):
    moments = backend.second_moments(np.ones((4, 2)), group_rows(np.zeros(4, np.int32), 1), products=False)
    np.testing.assert_array_equal(moments.means, [[1, 1]])
    with pytest.raises(ValueError, match="products=True"):
        _ = moments.scatter


@pytest.mark.operation("second_moments", reference=True)
def test_rows_without_weight_and_no_rows(backend, dtype):
    X, _, rng = problem(60, 8, [1] * 2, dtype, False)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    weightless = backend.second_moments(X, group_rows(labels, 2), np.zeros(60), center=True)
    nothing = backend.second_moments(X[:0], group_rows(labels[:0], 2))
    assert not weightless.scatter.any()
    assert not weightless.means.any()
    assert nothing.means is None
    with pytest.raises(ValueError, match="hold no sums"):
        _ = nothing.sums
    assert not nothing.raw.any()
    assert not nothing.counts.any()


@pytest.mark.operation("update_moments", reference=True)
@affine
@weighted
def test_update_moments(backend, dtype, affine, weighted):
    X, _, rng = problem(900, 37, [1] * 4, dtype, affine)
    weights = rng.random(900).astype(dtype) if weighted else None
    old, new, rows = labels_and_moved(rng, 900, 4, 130)
    want = reference.second_moments(X, group_rows(new, 4), weights, center=affine)
    for products in (True, False):
        moments = reference.second_moments(X, group_rows(old, 4), weights, affine, products)
        backend.update_moments(moments, X, rows, old[rows], new[rows], weights)
        if products:
            assert_moments(moments, want, X, dtype)
            tol = 1e-12 * np.abs(want.raw).max()
            np.testing.assert_allclose(moments.raw, moments.raw.transpose(0, 2, 1), rtol=0, atol=tol)
        else:
            assert moments.raw is None
            means = reference.second_moments(X, group_rows(new, 4), weights, affine, products=False).means
            np.testing.assert_allclose(moments.means, means, rtol=0, atol=1e-6)


@pytest.mark.operation("update_moments", many=True, reference=True)
@affine
def test_update_moments_of_every_shape(backend, n, d, dims, dtype, affine):
    """From moments that the same backend has made."""
    X, _, rng = problem(n, d, dims, dtype, affine)
    k = len(dims)
    weights = None if affine else rng.random(n)
    old, new, rows = labels_and_moved(rng, n, k, -(-n // 20))
    moments = backend.second_moments(X, group_rows(old, k), weights, center=affine)
    backend.update_moments(moments, X, rows, old[rows], new[rows], weights)
    assert_moments(moments, reference.second_moments(X, group_rows(new, k), weights, center=affine), X, dtype)


@pytest.mark.operation("update_moments", reference=True)
def test_no_row_moved(backend):
    X = np.random.default_rng(0).normal(size=(50, 3))
    labels, none = np.zeros(50, np.int32), np.zeros(0, np.int64)
    before, after = (reference.second_moments(X, group_rows(labels, 2)) for _ in range(2))
    backend.update_moments(after, X, none, none.astype(np.int32), none.astype(np.int32))
    for name in ("raw", "first", "mass", "counts", "origins"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
