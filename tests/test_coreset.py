"""Clusters found on a coreset: as good as those found on all rows, within the same budget."""

from itertools import product

import numpy as np
import pytest

from ksubspaces import compress, coreset
from ksubspaces.kernels import group_rows
from ksubspaces.pricing import Budget
from ksubspaces.problem import Problem
from ksubspaces.splitting import clusters

N, D = 4000, 24


def spectrum(rng, m, power):
    """Rows whose variances fall as a power, along axes of their own."""
    return rng.normal(size=(m, D)) / (1 + np.arange(D)) ** power @ np.linalg.qr(rng.normal(size=(D, D)))[0]


def parts(rng):
    kinds = [rng.normal(size=(m, j)) @ rng.normal(size=(j, D)) for m, j in ((2000, 3), (1200, 8), (800, 14))]
    return np.concatenate(kinds) + 0.1 * rng.normal(size=(N, D))


TABLES = {
    "four kinds": lambda rng, n: np.concatenate([spectrum(rng, n // 4, 0.7) for _ in range(4)]),
    "that decay differently": lambda rng, n: np.concatenate([spectrum(rng, n // 4, p) for p in (0.4, 0.6, 0.8, 1.0)]),
    "one kind of all sizes": lambda rng, n: np.exp(0.7 * rng.normal(size=(n, 1))) * spectrum(rng, n, 0.6),
    "heavy tails": lambda rng, n: spectrum(rng, n, 0.7) / np.sqrt(rng.chisquare(4, size=(n, 1))),
}


@pytest.fixture
def small(monkeypatch):
    """Coresets of a third of the rows, for tables of this size."""
    monkeypatch.setattr(coreset, "ROWS", N // 3)


def test_it_ends_where_the_full_way_does():
    """On four tables, with and without weights. Both end in optima that are local, so it is their mean that tells."""
    ratios, n = [], 3 * N
    for number, (table, weights) in enumerate(product(TABLES.values(), (None, (1 / (10 + np.arange(n))) ** 0.5))):
        A = table(np.random.default_rng(number), n).astype(np.float32)
        found, full = (
            compress(A, 0.5, k=4, n_init=3, sample_weight=weights, coreset=m, seed=0) for m in (n // 2, None)
        )
        svd = compress(A, 0.5, k=1, sample_weight=weights)
        assert found.n_parameters <= 0.5 * A.size
        assert max(len(found.dims), len(full.dims)) <= 4
        assert found.relative_error <= svd.relative_error
        ratios.append(found.relative_error / full.relative_error)
    assert np.mean(ratios) < 1.01


def test_sums_over_a_coreset_are_those_over_all_rows(small):
    rng = np.random.default_rng(0)
    X, weights = parts(rng), rng.random(N) ** 4
    budget = Budget(Problem(X, weights, (), False), N * D // 2)
    solution = budget.solve(np.zeros(N, np.int32), 1)
    part, numbers = coreset.coreset(budget, solution, N // 3, np.random.default_rng(1))
    p = part.problem
    assert N / 6 < len(numbers) <= 1.1 * N / 3
    assert len(np.unique(numbers)) == len(numbers)
    np.testing.assert_array_equal(p.X[:], X[numbers])
    np.testing.assert_allclose(p.own_weights, weights[numbers])
    assert p.stands.min() >= 1
    assert p.stands.sum() == pytest.approx(N, rel=0.1)
    assert p.weights.sum() == pytest.approx(weights.sum(), rel=0.1)
    few = part.solve(np.zeros(len(numbers), np.int32), 1)
    assert few.counts[0] == round(p.stands.sum())
    assert few.dims[0] == pytest.approx(solution.dims[0], abs=1)
    assert few.price == pytest.approx(solution.price, rel=0.2)


def test_a_coreset_of_all_rows_grows_as_they_do():
    """Every row drawn for sure, so it stands for itself."""
    X = parts(np.random.default_rng(0))
    budget = Budget(Problem(X, None, (), False), N * D // 2)
    first = budget.solve(np.zeros(N, np.int32), 1)
    part, numbers = coreset.coreset(budget, first, 100 * N, np.random.default_rng(1))
    np.testing.assert_array_equal(numbers, np.arange(N))
    few = part.solve(np.zeros(N, np.int32), 1)
    grown, expected = (clusters(b, s, 4, np.random.default_rng(2)) for b, s in ((part, few), (budget, first)))
    assert grown.objective == pytest.approx(expected.objective, rel=1e-6)
    assert grown.dims == expected.dims


def test_rows_kept_exactly_are_not_drawn_and_count(small):
    rng = np.random.default_rng(0)
    A, exact = parts(rng), rng.choice(N, 50, replace=False)
    factors = compress(A, 0.5, exact_rows=exact, seed=0)
    np.testing.assert_allclose(factors[exact], A[exact])
    assert factors.n_parameters <= 0.5 * A.size
    budget = Budget(Problem(A, np.where(np.isin(np.arange(N), exact), 0.0, 1.0), (), False), N * D // 2, np.sort(exact))
    part, numbers = coreset.coreset(budget, budget.solve(np.zeros(N, np.int32), 1), N // 3, rng)
    assert not np.isin(exact, numbers).any()
    assert part.overhead(3) == budget.overhead(3)


def test_affine_and_labels_to_begin_with(small):
    A = parts(np.random.default_rng(0)) + 5
    factors = compress(A, 0.5, affine=True, seed=0)
    assert factors.n_parameters <= 0.5 * A.size
    again = compress(A, 0.5, affine=True, init=factors, seed=0)
    assert again.relative_error <= 1.05 * factors.relative_error


def test_equal_bits(small):
    A = parts(np.random.default_rng(0)).astype(np.float32)
    one, other = (compress(A, 0.5, seed=4) for _ in range(2))
    np.testing.assert_array_equal(one.reconstruct(), other.reconstruct())


@pytest.mark.parametrize("m", [1, 10, 1000])
def test_odds(m):
    rng = np.random.default_rng(0)
    odds = coreset.odds(m, np.ones(200), rng.random(200) ** 8, np.zeros(200))
    assert odds.min() > 0
    assert odds.max() <= 1
    assert odds.sum() <= m + 1e-9


def test_sums_of_groups():
    labels, values = np.array([2, 0, 2, 2], np.int32), np.array([1.0, 10, 100, 1000])
    np.testing.assert_allclose(group_rows(labels, 4).sums(values), [10, 0, 1101, 0])
