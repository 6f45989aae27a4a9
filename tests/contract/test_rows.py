"""Choosing, drawing and counting rows."""

import numpy as np
import pytest

from contract.checks import assert_lowered
from contract.problems import unordered
from ksubspaces.kernels import reference

about_a_block = pytest.mark.parametrize("rows", [0, 7, 8, 31, 32, 33])  # of simulated threads, and of their rows


@pytest.mark.operation("lower_distances")
@pytest.mark.parametrize("order", ["C", "F"])
def test_lower_distances(backend, n, d, dims, dtype, order):
    rng = np.random.default_rng([n, d])
    for distances in (rng.random(n).astype(dtype), np.full(n, np.inf, dtype)):
        for weights in (rng.random(n), np.ones(n, dtype)):
            trials = np.asarray(rng.random((n, len(dims))), dtype, order)
            assert_lowered(backend.lower_distances, distances, trials, weights)


@pytest.mark.operation("lower_distances", many=True)
@pytest.mark.parametrize("order", ["C", "F"])
def test_lower_distances_of_many_rows(backend, dtype, order):
    rng = np.random.default_rng(0)
    trials = np.asarray(rng.random((20_011, 5)), dtype, order)
    assert_lowered(backend.lower_distances, rng.random(20_011).astype(dtype), trials, rng.random(20_011))


@pytest.mark.operation("lower_distances")
@about_a_block
def test_lower_distances_about_a_block(backend, rows, dtype):
    rng = np.random.default_rng(rows)
    trials, weights = rng.random((rows, 3)).astype(dtype), rng.random(rows)
    assert_lowered(backend.lower_distances, rng.random(rows).astype(dtype), trials, weights)


@pytest.mark.operation("lower_distances", reference=True)
def test_lower_distances_of_no_rows(backend, dtype):
    sums = backend.lower_distances(np.zeros(0, dtype), np.zeros((0, 3), dtype), np.zeros(0))
    np.testing.assert_array_equal(sums, np.zeros(3))


def check_largest(backend, costs, numbers):
    for m in numbers:
        rows = backend.largest(costs, m)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, reference.largest(costs, m))


@pytest.mark.operation("largest")
def test_largest(backend, n, d, dims, dtype):
    check_largest(backend, unordered(np.random.default_rng([n, d]), n, dtype), (0, 1, len(dims), n, n + 1))


@pytest.mark.operation("largest")
@about_a_block
def test_largest_about_a_block(backend, rows, dtype):
    check_largest(backend, unordered(np.random.default_rng(rows), rows, dtype), (1, 4, 40))


@pytest.mark.operation("largest", many=True)
def test_largest_of_many(backend, dtype):
    check_largest(backend, unordered(np.random.default_rng(0), 40_000, dtype), (1, 16, 17, 100))


def check_changed_rows(backend, n, k):
    rng = np.random.default_rng([n, k])
    old = rng.integers(0, k, n).astype(np.int32)
    some = np.where(rng.random(n) < 0.1, 0, old).astype(np.int32)
    for new in (old, some, rng.integers(0, k, n).astype(np.int32), old + 1):
        rows = backend.changed_rows(old, new)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, reference.changed_rows(old, new))


@pytest.mark.operation("changed_rows")
def test_changed_rows(backend, n, d, dims):
    check_changed_rows(backend, n, len(dims))


@pytest.mark.operation("changed_rows", many=True)
def test_changed_rows_of_many(backend):
    check_changed_rows(backend, 40_000, 37)


@pytest.mark.operation("changed_rows")
@about_a_block
def test_changed_rows_about_a_block(backend, rows):
    check_changed_rows(backend, rows, 3)


def check_label_counts(backend, n, k):
    labels = np.random.default_rng([n, k]).integers(0, k, n).astype(np.int32)
    counts = backend.label_counts(labels, k + 2)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, reference.label_counts(labels, k + 2))


@pytest.mark.operation("label_counts")
def test_label_counts(backend, n, d, dims):
    check_label_counts(backend, n, len(dims))


@pytest.mark.operation("label_counts", many=True)
def test_label_counts_of_many(backend):
    check_label_counts(backend, 40_000, 37)


@pytest.mark.operation("sample_rows", many=True, reference=True)
def test_draws_follow_the_weights(backend):
    rng = np.random.default_rng(4)
    weights = np.array([0.0, 1, 2, 3, 4, 0, 1e-300])
    draws = np.array([backend.sample_rows(weights, 2, rng) for _ in range(6000)])
    assert set(draws.ravel()) == {1, 2, 3, 4}
    assert np.all(draws[:, 0] != draws[:, 1])
    p = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=7) / 6000, p, atol=0.03)
    second = sum(p[a] * p / (1 - p[a]) * (np.arange(7) != a) for a in range(1, 5))  # without replacement
    np.testing.assert_allclose(np.bincount(draws[:, 1], minlength=7) / 6000, second, atol=0.03)


@pytest.mark.operation("sample_rows", reference=True)
def test_draws_repeat_with_the_seed(backend, dtype):
    weights = np.random.default_rng(0).random(100).astype(dtype)
    first, again, other = (backend.sample_rows(weights, 9, np.random.default_rng(s)).tolist() for s in (7, 7, 8))
    assert first == again
    assert first != other
    assert len(set(first)) == 9
    rng = np.random.default_rng(7)
    assert backend.sample_rows(weights, 9, rng).tolist() == first
    assert backend.sample_rows(weights, 9, rng).tolist() != first  # the generator has gone on


@pytest.mark.operation("sample_rows", reference=True)
def test_draws_give_what_there_is(backend):
    rng = np.random.default_rng(5)
    assert sorted(backend.sample_rows(np.array([0.0, 2, 0, 1]), 5, rng)) == [1, 3]
    drawn = backend.sample_rows(np.array([0.0, 2, 0, 1] * 10), 40, rng)
    assert drawn.dtype == np.int64
    assert sorted(drawn) == sorted([*range(1, 40, 4), *range(3, 40, 4)])
    assert sorted(backend.sample_rows(np.array([5e-324, 1e-310, 0, 1e308]), 4, rng)) == [0, 1, 3]
    for weights, m in ((np.zeros(4), 2), (np.ones(4), 0), (np.ones(0), 3)):
        assert backend.sample_rows(weights, m, rng).shape == (0,)


def check_group_rows(backend, n, k):
    labels = np.random.default_rng([n, k]).integers(0, k, n).astype(np.int32)
    before = np.where(np.arange(n) % 3, labels, (labels + 1) % (k + 2)).astype(np.int32)
    groups = backend.group_rows(labels, k + 2)
    assert groups.moved is None
    assert backend.group_rows(labels, k + 2, before).moved == -(-n // 3)
    assert groups.order.dtype == groups.starts.dtype == np.int64
    np.testing.assert_array_equal(groups.order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(groups.counts, np.bincount(labels, minlength=k + 2))
    np.testing.assert_array_equal(groups.owners, np.sort(labels))


@pytest.mark.operation("group_rows", reference=True)
@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (5, 9), (31, 2), (700, 1), (1000, 7), (2500, 37), (600, 600)])
def test_group_rows(backend, n, k):
    check_group_rows(backend, n, k)


@pytest.mark.operation("group_rows", many=True)
@pytest.mark.parametrize("k", [37, 3000, 70_000])
def test_group_many_rows(backend, k):
    check_group_rows(backend, 300_000, k)


@pytest.mark.operation("fetch", reference=True)
def test_fetch(backend):
    rng = np.random.default_rng()
    arrays = [
        rng.normal(size=(3, 5)).astype(np.float32),
        np.array(rng.integers(1 << 40)),
        rng.random(301) < 0.5,
        rng.integers(-9, 9, 7).astype(np.int32)[::2],
    ]
    for given in (arrays, [rng.normal(size=700)], [np.empty(0), np.ones(1)]):
        for got, want in zip(backend.fetch(given), given, strict=True):
            assert got.dtype == np.float64
            assert got.shape == want.shape
            np.testing.assert_array_equal(got, want)
