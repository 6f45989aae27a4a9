"""Every operation against the float64 reference, over shapes that break kernels."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import assert_labels, scale, tolerance
from planted import random_bases

from ksubspaces import kernels
from ksubspaces.kernels import Flats, cpu, reference

# (n, d, dims): d tiny, odd, no power of two, over 512; j = 0, over d/2, d; ragged; one row; more flats than rows
SHAPES = [
    (1, 1, [0]),
    (1, 1, [1]),
    (5, 3, [1, 2, 3, 0]),
    (3, 4, [1, 1, 1, 1, 1]),
    (64, 7, [0, 0, 0]),
    (100, 7, [7, 7]),
    (513, 33, [5, 20, 0, 33, 16, 17]),
    (1025, 130, [65, 66, 64]),
    (300, 521, [8, 500]),
    (2000, 16, [4] * 37),
]
DTYPES = [np.float32, np.float64]
shapes = pytest.mark.parametrize(("n", "d", "dims"), SHAPES, ids=lambda v: str(v).replace(" ", ""))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


@pytest.fixture(autouse=True, params=["products", "loops"])
def way(request, monkeypatch):
    """Small problems are worked on by loops alone; here either way has them all."""
    products = request.param == "products"
    for limit, most in (("FEW_PRODUCTS", 1 << 40), ("FEW_SQUARES", 1 << 40), ("JACOBI_REACH", 40)):
        monkeypatch.setattr(cpu, limit, -1 if products else most)


def problem(n, d, dims, dtype, affine, seed=0):
    """Rows and flats; if affine, all of it about a common offset ten times as large as the spread."""
    rng = np.random.default_rng([seed, n, d])
    X = rng.normal(size=(n, d)) + 10 * affine
    offsets = (10 + rng.normal(size=(len(dims), d))).astype(dtype) if affine else None
    return X.astype(dtype), Flats.from_bases(random_bases(rng, d, dims, dtype), offsets), rng


@shapes
@dtypes
@affine
def test_assign(n, d, dims, dtype, affine):
    X, flats, _ = problem(n, d, dims, dtype, affine)
    labels, residuals = kernels.assign(X, flats)
    cost = reference.sqdistances(X, flats)
    tol = tolerance(dtype) * scale(X)
    assert_labels(labels, cost, tol)
    assert residuals.dtype == dtype
    assert np.all(residuals >= 0)
    np.testing.assert_allclose(residuals, cost.min(axis=1), rtol=0, atol=tol)


def far_flat(dtype, distance):
    """Rows about eight offsets, one of which is far away, flats through them, and which rows are near."""
    rng = np.random.default_rng(int(distance))
    offsets, owners = rng.normal(size=(8, 16)), rng.integers(0, 8, 256)
    offsets[5] += distance / 4
    X = (offsets[owners] + rng.normal(size=(256, 16))).astype(dtype)
    return X, Flats.from_bases(random_bases(rng, 16, [3] * 8, dtype), offsets.astype(dtype)), owners != 5


def assert_far_flat_costs_others_nothing(assign, dtype, distance):
    X, flats, near = far_flat(dtype, distance)
    labels, residuals = assign(X, flats)
    cost, tol = reference.sqdistances(X, flats), 4 * tolerance(dtype) * scale(X[near])
    assert_labels(labels[near], cost[near], tol)
    np.testing.assert_allclose(residuals[near], cost.min(axis=1)[near], rtol=0, atol=tol)
    assert np.all(labels[~near] == 5)


@dtypes
@pytest.mark.parametrize("distance", [1e3, 1e4])
def test_a_flat_far_away_costs_the_others_no_digits(dtype, distance):
    assert_far_flat_costs_others_nothing(kernels.assign, dtype, distance)


@shapes
@dtypes
def test_assign_with_penalty_and_weights(n, d, dims, dtype):
    X, flats, rng = problem(n, d, dims, dtype, False)
    penalty, weights = rng.random(len(dims)), rng.random(n) * (rng.random(n) > 0.2)
    labels, residuals = kernels.assign(X, flats, penalty, weights)
    cost = weights[:, None] * reference.sqdistances(X, flats) + penalty
    tol = tolerance(dtype) * (scale(X) + 1)
    assert_labels(labels, cost, tol)
    distances = reference.sqdistances(X, flats)[np.arange(n), labels]
    np.testing.assert_allclose(residuals, distances, rtol=0, atol=tol)


@shapes
@dtypes
@affine
def test_sqdistances(n, d, dims, dtype, affine):
    X, flats, _ = problem(n, d, dims, dtype, affine)
    distances = kernels.sqdistances(X, flats)
    assert distances.shape == (n, len(dims))
    np.testing.assert_allclose(distances, reference.sqdistances(X, flats), rtol=0, atol=tolerance(dtype) * scale(X))


@shapes
@affine
def test_residuals_are_float64(n, d, dims, affine):
    X, flats, rng = problem(n, d, dims, np.float32, affine)
    labels = rng.integers(0, len(dims), n).astype(np.int32)
    residuals = kernels.residuals(X, labels, flats)
    assert residuals.dtype == np.float64
    np.testing.assert_allclose(residuals, reference.residuals(X, labels, flats), rtol=1e-10, atol=1e-13 * scale(X))


def unordered(rng, n, dtype):
    """Numbers many of which are equal, none positive or too close to zero to tell."""
    return rng.integers(-2, 6, n).astype(dtype) / 4


@shapes
@dtypes
@pytest.mark.parametrize("order", ["C", "F"])
def test_lower_distances(n, d, dims, dtype, order):
    rng = np.random.default_rng([n, d])
    for distances in (rng.random(n).astype(dtype), np.full(n, np.inf, dtype)):
        for weights in (rng.random(n), np.ones(n, dtype)):
            trials = np.asarray(rng.random((n, len(dims))), dtype, order)
            expected = trials.copy()
            sums = reference.lower_distances(distances, expected, weights)
            got = kernels.lower_distances(distances, trials, weights)
            assert got.dtype == np.float64
            np.testing.assert_allclose(got, sums, rtol=1e-12)
            np.testing.assert_array_equal(trials, expected)


@shapes
@dtypes
def test_largest(n, d, dims, dtype):
    costs = unordered(np.random.default_rng([n, d]), n, dtype)
    for m in (0, 1, len(dims), n, n + 1):
        rows = kernels.largest(costs, m)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, reference.largest(costs, m))


@shapes
def test_changed_rows_and_label_counts(n, d, dims):
    rng, k = np.random.default_rng([n, d]), len(dims)
    old = rng.integers(0, k, n).astype(np.int32)
    for new in (old, np.where(rng.random(n) < 0.1, 0, old).astype(np.int32), (old + 1).astype(np.int32)):
        rows, counts = kernels.changed_rows(old, new), kernels.label_counts(new, k + 2)
        assert rows.dtype == counts.dtype == np.int64
        np.testing.assert_array_equal(rows, reference.changed_rows(old, new))
        np.testing.assert_array_equal(counts, reference.label_counts(new, k + 2))


def test_ties_go_to_the_lowest_flat():
    """In whole numbers, where sums are exact: a product's order of summing may differ from column to column."""
    axes = np.eye(9, dtype=np.float32)
    X = np.random.default_rng(0).integers(-9, 10, (700, 9)).astype(np.float32)
    labels, _ = kernels.assign(X, Flats.from_bases([axes[[5]], *[axes[[0, 4, 7]]] * 5]))
    assert set(labels) == {0, 1}


def test_large_j_has_no_cancellation():
    """With j close to d and rows almost on the flat, residuals keep their digits in float32."""
    rng = np.random.default_rng(1)
    flats = Flats.from_bases(random_bases(rng, 64, [60, 60], np.float32))
    X = rng.normal(size=(500, 60)) @ flats.basis(0).astype(np.float64) + 1e-4 * rng.normal(size=(500, 64))
    X = X.astype(np.float32)
    _, residuals = kernels.assign(X, flats)
    np.testing.assert_allclose(residuals, reference.assign(X, flats)[1], rtol=0.05)


def test_assign_takes_many_probes_in_groups(monkeypatch):
    X, flats, _ = problem(700, 20, [3, 15, 0, 7, 7, 20, 1], np.float64, True)
    expected = kernels.assign(X, flats)
    monkeypatch.setattr(cpu, "ASSIGN_DIRECTIONS", 8)
    for got, want in zip(kernels.assign(X, flats), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


@shapes
@dtypes
@affine
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_second_moments(n, d, dims, dtype, affine, weighted):
    X, _, rng = problem(n, d, dims, dtype, affine)
    k = len(dims)
    labels = rng.integers(0, k, n).astype(np.int32)
    weights = rng.random(n).astype(dtype) if weighted else None
    got = kernels.second_moments(X, labels, k, weights, center=affine)
    want = reference.second_moments(X, labels, k, weights, center=affine)
    assert_moments(got, want, X, dtype)
    assert got.raw.dtype == np.float64


def assert_moments(got, want, X, dtype):
    mass = 1 + want.mass.max()
    np.testing.assert_array_equal(got.counts, want.counts)
    np.testing.assert_allclose(got.mass, want.mass, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(got.sums, want.sums, rtol=0, atol=tolerance(dtype) * mass * np.abs(X).max())
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=tolerance(dtype) * mass * scale(X))


def test_a_large_common_offset_costs_no_digits():
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(3000, 12)) + 1000).astype(np.float32)
    labels = rng.integers(0, 2, 3000).astype(np.int32)
    got = kernels.second_moments(X, labels, 2, center=True)
    want = reference.second_moments(X, labels, 2, center=True)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-5 * want.scatter.max())
    np.testing.assert_allclose(got.means, want.means, rtol=1e-9)


def test_moments_sum_past_2_to_the_24():
    X = np.ones((2**24 + 10, 1), dtype=np.float32)
    moments = kernels.second_moments(X, np.zeros(len(X), np.int32), 1)
    assert moments.mass[0] == moments.sums[0, 0] == moments.scatter[0, 0, 0] == len(X)


@dtypes
@affine
def test_update_moments(dtype, affine):
    X, _, rng = problem(900, 21, [1] * 4, dtype, affine)
    weights = rng.random(900).astype(dtype)
    old = rng.integers(0, 4, 900).astype(np.int32)
    new = old.copy()
    rows = np.sort(rng.choice(900, 130, replace=False))
    new[rows] = rng.integers(0, 4, 130)
    moments = kernels.second_moments(X, old, 4, weights, center=affine)
    kernels.update_moments(moments, X, rows, old[rows], new[rows], weights)
    assert_moments(moments, reference.second_moments(X, new, 4, weights, center=affine), X, dtype)
    slow = reference.second_moments(X, old, 4, weights, center=affine)
    reference.update_moments(slow, X, rows, old[rows], new[rows], weights)
    assert_moments(slow, reference.second_moments(X, new, 4, weights, center=affine), X, np.float64)


@affine
def test_moments_of_some_rows(affine):
    X, _, rng = problem(400, 9, [1] * 3, np.float64, affine)
    rows = rng.choice(400, 50, replace=False)
    labels = rng.integers(0, 3, 50).astype(np.int32)
    weights = rng.random(400)
    got = kernels.second_moments(X, labels, 3, weights, affine, rows=rows)
    assert_moments(got, reference.second_moments(X[rows], labels, 3, weights[rows], affine), X, np.float64)
    assert_moments(
        reference.second_moments(X, labels, 3, weights, affine, rows=rows),
        reference.second_moments(X[rows], labels, 3, weights[rows], affine),
        X,
        np.float64,
    )


def test_means_alone_hold_no_second_moments():
    moments = kernels.second_moments(np.ones((4, 2)), np.zeros(4, np.int32), 1, products=False)
    np.testing.assert_array_equal(moments.means, [[1, 1]])
    with pytest.raises(ValueError, match="products=True"):
        _ = moments.scatter


def assert_eigenspaces(got, want, dims, d, dtype):
    tol = 1e-4 if dtype == np.float32 else 1e-9
    assert got.layout == want.layout == kernels.layout_of(d, tuple(dims))
    assert got.bases.shape == (sum(dims), d)
    assert (got.complements is None) == (2 * max(dims) <= d)
    for c, j in enumerate(dims):
        V = got.bases[got.layout.rows(c)].astype(np.float64)
        assert V.shape == (j, d)
        np.testing.assert_allclose(V @ V.T, np.eye(j), atol=tol)
        if 2 * j > d:
            full = np.concatenate([V, got.complements[got.layout.complements.rows(c)]])
            np.testing.assert_allclose(full @ full.T, np.eye(d), atol=tol)
        m = min(got.eigenvalues.shape[1], want.eigenvalues.shape[1])
        top = want.eigenvalues[c][0] if m else 1
        allowed = tol * (top + 1e-300)
        np.testing.assert_allclose(got.eigenvalues[c, :m], want.eigenvalues[c, :m], rtol=0, atol=allowed)
        assert np.all(got.eigenvalues[c, m:] == 0)
        assert np.all(want.eigenvalues[c, m:] <= allowed)


@pytest.mark.parametrize("d", [1, 2, 7, 64, 129])
@dtypes
def test_top_eigenspaces(d, dtype):
    rng = np.random.default_rng(d)
    rows = [rng.normal(size=(2 * d, d)), np.zeros((3, d)), rng.normal(size=(max(1, d // 2), d)), np.eye(d)]
    S = np.stack([A.T @ A for A in rows])
    dims = [d // 2, d // 3, d, 0]
    got = kernels.top_eigenspaces(S, dims, dtype)
    want = reference.top_eigenspaces(S, dims)
    assert_eigenspaces(got, want, dims, d, dtype)
    for c, V in enumerate(got.layout.split(got.bases)):  # as much as the best subspace, even where eigenvalues repeat
        captured, j = np.trace(V @ S[c] @ V.T), dims[c]
        assert captured >= want.eigenvalues[c][:j].sum() * (1 - 1e-5) - 1e-9


def test_top_eigenspaces_of_tiny_and_huge_matrices_in_float32():
    S = np.diag([3.0, 2.0, 1.0])
    got = kernels.top_eigenspaces(np.stack([S * 1e-60, S * 1e60]), [1, 1], np.float32)
    for basis, eigenvalues, factor in zip(got.bases, got.eigenvalues, (1e-60, 1e60), strict=True):
        np.testing.assert_allclose(np.abs(basis), [1, 0, 0], atol=1e-6)
        np.testing.assert_allclose(eigenvalues, np.array([3, 2, 1]) * factor, rtol=1e-6)


@dtypes
def test_batched_svd(dtype):
    rng = np.random.default_rng(3)
    d = 20
    blocks = [rng.normal(size=(m, d)).astype(dtype) for m in (0, 1, 5, 19, 20, 50)]
    blocks.append(np.repeat(blocks[1], 4, axis=0))
    for rank in (0, 3, 11, 20):
        got = kernels.batched_svd(blocks, rank)
        want = reference.batched_svd(blocks, rank)
        assert_eigenspaces(got, want, [rank] * len(blocks), d, dtype)
        for c, A in enumerate(blocks):
            V = got.bases[got.layout.rows(c)]
            rest = A - A @ V.T @ V
            best = (want.eigenvalues[c][rank:]).sum()
            np.testing.assert_allclose((rest**2).sum(), best, rtol=1e-3, atol=1e-4 * (A**2).sum() + 1e-12)


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_sample_rows(module):
    rng = np.random.default_rng(4)
    weights = np.array([0.0, 1, 2, 3, 4, 0, 1e-300])
    draws = np.array([module.sample_rows(weights, 2, rng) for _ in range(6000)])
    assert set(draws.ravel()) == {1, 2, 3, 4}
    assert np.all(draws[:, 0] != draws[:, 1])
    p = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=7) / 6000, p, atol=0.03)
    second = sum(p[a] * p / (1 - p[a]) * (np.arange(7) != a) for a in range(1, 5))  # without replacement
    np.testing.assert_allclose(np.bincount(draws[:, 1], minlength=7) / 6000, second, atol=0.03)


@pytest.mark.parametrize("module", [cpu, reference], ids=["cpu", "reference"])
def test_sample_rows_gives_what_there_is(module):
    rng = np.random.default_rng(5)
    assert sorted(module.sample_rows(np.array([0.0, 2, 0, 1]), 5, rng)) == [1, 3]
    assert len(module.sample_rows(np.zeros(4), 2, rng)) == 0
    assert len(module.sample_rows(np.ones(4), 0, rng)) == 0


@affine
def test_lookup(affine):
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 200).astype(np.int32)
    dims = [0, 5, 9]
    factors = SimpleNamespace(
        labels=labels,
        positions=np.array([int((labels[:i] == c).sum()) for i, c in enumerate(labels)]),
        blocks=[rng.normal(size=(int((labels == c).sum()), j)) for c, j in enumerate(dims)],
        bases=random_bases(rng, 9, dims),
        offsets=rng.normal(size=(3, 9)) if affine else None,
    )
    for rows in ([], [7], [3, 3, 199, 0], range(200)):
        rows = np.array(rows, dtype=np.int64)
        got = kernels.lookup(rows, factors)
        assert got.shape == (len(rows), 9)
        np.testing.assert_allclose(got, reference.lookup(rows, factors), atol=1e-12)


def test_kernels_refuse_arrays_of_nowhere():
    with pytest.raises(TypeError, match=r"NumPy or CuPy arrays, got builtins\.list$"):
        kernels.sqdistances([[1.0]], Flats.from_bases([np.ones((1, 1))]))
