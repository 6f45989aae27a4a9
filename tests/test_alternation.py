"""The alternation's parts: refits from updated moments, filling of clusters, the exact finish."""

from itertools import pairwise

import numpy as np
import pytest
from planted import planted

from ksubspaces import kernels
from ksubspaces import refit as refit_module
from ksubspaces.alternation import FixedDims, State, alternate, finish, reseed
from ksubspaces.problem import Problem
from ksubspaces.refit import UPDATES


def captured(X, labels, flats):
    return sum(float(r.sum()) for r in [kernels.residuals(X, kernels.group_rows(labels, flats.k), flats)])


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_refit_from_updates_is_the_refit_from_scratch(affine, weighted):
    """A long walk of small label changes, past the point where moments are computed afresh."""
    X, labels = planted(900, 20, 3, 4, offset=5.0 * affine)
    rng = np.random.default_rng(0)
    problem = Problem(X, rng.random(900).astype("f4") if weighted else None, (4, 12, 0), affine)
    rule, labels = FixedDims(problem), labels.astype(np.int32)
    updates = set()
    for _ in range(UPDATES + 4):
        labels = labels.copy()
        labels[rng.choice(900, 20)] = rng.integers(0, 3, 20)
        kept, fresh = rule.refit(State(labels)), FixedDims(problem).refit(State(labels))
        updates.add(rule.moments.updates)
        assert captured(X, labels, kept) == pytest.approx(captured(X, labels, fresh), rel=1e-5)
    assert updates == set(range(UPDATES + 1))


def test_refit_is_the_best_flat_for_its_rows():
    X, labels = planted(300, 15, 2, 3)
    problem = Problem(X, None, (3, 3), True)
    best = captured(X, labels, FixedDims(problem).refit(State(labels.astype(np.int32))))
    rng = np.random.default_rng(0)
    fitted = FixedDims(problem).refit(State(labels.astype(np.int32)))
    for size in (1e-3, 1e-2, 1e-1):
        tilted = [np.linalg.qr((V + size * rng.normal(size=V.shape)).T)[0].T for V in fitted.layout.split(fitted.bases)]
        shifted = fitted.offsets + size * rng.normal(size=(2, 15))
        assert captured(X, labels, kernels.Flats.from_bases(tilted, fitted.offsets)) >= best
        assert captured(X, labels, kernels.Flats.spanned_by(fitted.layout, fitted.bases, shifted)) >= best


def test_reseed_fills_an_empty_cluster_with_the_worst_rows():
    X = np.eye(6)
    residuals = np.array([0.0, 5, 3, 4, 1, 2])
    labels, n_filled = reseed(Problem(X, None, (1, 2, 0), False), np.zeros(6, np.int32), residuals, np.array([6, 0, 0]))
    assert n_filled == 1  # cluster 1 takes two rows; cluster 2 is the origin, which no row can improve
    assert labels.tolist() == [0, 1, 0, 1, 0, 0]


def test_reseed_heeds_weights_and_leaves_fitted_rows():
    problem = Problem(np.eye(4), np.array([1.0, 1.0, 0.0, 1.0]), (1, 3), False)
    labels, n_filled = reseed(problem, np.zeros(4, np.int32), np.array([0.0, 1.0, 9.0, 0.0]), np.array([3, 0]))
    assert labels.tolist() == [0, 1, 0, 0]
    assert n_filled == 1
    same, none = reseed(problem, np.zeros(4, np.int32), np.zeros(4), np.array([3, 0]))
    assert none == 0
    assert not same.any()


def test_rows_without_weight_do_not_count():
    problem = Problem(np.eye(4), np.array([1.0, 1.0, 0.0, 1.0]), (1, 3), False)
    assert problem.counts(np.zeros(4, np.int32)).tolist() == [3, 0]


def test_a_full_cluster_is_left_alone():
    labels = np.array([0, 0, 1, 1], np.int32)
    same, none = reseed(Problem(np.eye(4), None, (2, 2), False), labels, np.ones(4), np.array([2, 2]))
    assert none == 0
    np.testing.assert_array_equal(same, labels)


def test_it_goes_on_where_it_stopped():
    X, _ = planted(500, 20, 4, 3, noise=0.5)
    problem = Problem(X, None, (3,) * 4, False)
    start = State((np.arange(500) % 4).astype(np.int32))
    whole = alternate(start, FixedDims(problem), max_iter=12, tol=0)
    first = alternate(start, FixedDims(problem), max_iter=5, tol=0)
    parts = alternate(first, FixedDims(problem), max_iter=12, tol=0)
    assert first.history == whole.history[:5]
    np.testing.assert_allclose(parts.history, whole.history, rtol=1e-6)
    assert alternate(whole, FixedDims(problem), max_iter=12, tol=0).history == whole.history


def test_finish_is_no_worse_and_agrees_with_itself():
    X, _ = planted(500, 20, 4, 3, noise=0.5)
    problem = Problem(X, None, (3,) * 4, False)
    state = alternate(State((np.arange(500) % 4).astype(np.int32)), FixedDims(problem), max_iter=4, tol=0)
    flats, labels, objective = finish(problem, state.labels)
    assert objective <= state.history[-1] * (1 + 1e-6)
    np.testing.assert_array_equal(labels, kernels.assign(X, flats)[0])
    assert objective == pytest.approx(captured(X, labels, flats), rel=1e-12)


def test_steps_towards_the_eigenvectors_end_in_exact_ones(monkeypatch):
    """Where eigenvectors are dear a refit is one power step; the fit must not stop before exact ones agree."""
    X, _ = planted(600, 24, 4, 5, noise=0.6, dtype=np.float64)
    problem = Problem(X, None, (5, 14, 3, 9), False)
    start = State((np.arange(600) % 4).astype(np.int32))
    exactly = kernels.top_eigenspaces
    kinds = []

    def dear(S, dims, dtype=None, start=None, exact=True, kept=None, nearly=False):
        kinds.append(exact)
        if exact:
            return exactly(S, dims, dtype)
        layout = kernels.layout_of(S.shape[1], dims)
        start = np.concatenate([np.eye(24)[:j] for j in dims]) if start is None else start
        bases = [np.linalg.qr(matrix @ V.T)[0].T for matrix, V in zip(S, layout.split(start), strict=True)]
        return kernels.Eigenspaces(layout, np.concatenate(bases), None, None, exact=False)

    expected = alternate(start, FixedDims(problem), max_iter=300, tol=1e-6)
    monkeypatch.setattr(kernels, "top_eigenspaces", dear)
    got = alternate(start, FixedDims(problem), max_iter=300, tol=1e-6)
    assert got.converged
    assert kinds[-1]
    assert not all(kinds)
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(got.history))
    assert got.history[-1] == pytest.approx(expected.history[-1], rel=0.03)
    raced = alternate(start, FixedDims(problem), max_iter=6, tol=1e-6)  # and goes on from the bases it had
    assert alternate(raced, FixedDims(problem), max_iter=300, tol=1e-6).history == pytest.approx(got.history, rel=1e-9)


def test_a_refit_that_failed_is_taken_again_exactly(monkeypatch):
    """Flags of the solver come with the step; what it could not find is solved for in float64, in the same step."""
    X, _ = planted(300, 12, 3, 2, noise=0.5)
    problem, start = Problem(X, None, (2, 7, 3), False), State((np.arange(300) % 3).astype(np.int32))
    exactly = kernels.top_eigenspaces
    asked = []

    def failing(S, dims, dtype=None, start=None, exact=True, kept=None, nearly=False):
        asked.append(np.dtype(dtype))
        spaces = exactly(S, dims, dtype)
        if dtype == np.float64:
            return spaces
        return spaces._replace(bases=np.roll(spaces.bases, 1, axis=1), ok=np.array([True, False, True]))

    expected = alternate(start, FixedDims(problem), max_iter=4, tol=0)
    monkeypatch.setattr(kernels, "top_eigenspaces", failing)
    got = alternate(start, FixedDims(problem), max_iter=4, tol=0)
    assert asked == [np.float32, np.float64] * 4
    np.testing.assert_allclose(got.history, expected.history, rtol=1e-5)


@pytest.mark.parametrize("affine", [False, True])
def test_updates_leave_no_rounding_in_a_cluster_that_fades(affine, monkeypatch):
    """Rows leave a cluster until it is empty: its moments must stay positive semidefinite up to little rounding."""
    monkeypatch.setattr(refit_module, "UPDATE_SIZE", 0)
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(400, 12)) + 30 * affine).astype(np.float32)
    problem = Problem(X, None, (3, 3), affine)
    rule, labels = FixedDims(problem), np.ones(400, np.int32)
    labels[:200] = 0
    for count in (200, 90, 40, 12, 3, 1, 0, 0):
        labels = np.where(np.arange(400) < count, 0, 1).astype(np.int32)
        rule.refit(State(labels))
        for S in rule.moments.moments.scatter:
            values = np.linalg.eigvalsh(S)
            assert values[0] >= -1e-5 * np.trace(S)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_alone_has_no_scatter(dtype):
    """Its distance from its own mean is rounding, whose square can be indefinite."""
    row = np.random.default_rng(0).normal(size=(1, 16)).astype(dtype)
    moments = kernels.second_moments(row, kernels.group_rows(np.zeros(1, np.int32), 1), np.full(1, 0.3), center=True)
    moments.first = moments.first + 1e-16  # a mean that is rounded otherwise
    moments.raw = moments.raw + np.diag([1e-31, -1e-31, *[1e-32] * 14])
    assert not moments.scatter.any()


def test_rows_all_alike_have_no_scatter():
    X = np.full((50, 7), 3.3, dtype=np.float32)
    moments = kernels.second_moments(X, kernels.group_rows(np.zeros(50, np.int32), 1), center=True)
    assert not moments.scatter.any()
