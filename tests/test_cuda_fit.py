"""Whole fits through the CUDA kernels and their host code, emulated: the solver finds what it finds on the CPU."""

from itertools import pairwise

import numpy as np
import pytest
from emulator import emulated, modes, needs_compiler
from planted import planted

from ksubspaces import kernels
from ksubspaces.alternation import FixedDims, State, alternate, finish
from ksubspaces.kernels import cpu, cuda
from ksubspaces.kernels.cuda import eigen, power
from ksubspaces.pricing import PATIENCE, Budget
from ksubspaces.problem import Problem
from ksubspaces.splitting import split_all

pytestmark = needs_compiler


@pytest.fixture
def on_the_emulator(monkeypatch):
    monkeypatch.setattr(kernels, "kernels_for", lambda array: cuda)
    monkeypatch.setattr(Problem, "on_card", True)
    for name in ("changed_rows", "largest"):  # Numba's have a simulator of their own, see simulated_irregular.py
        monkeypatch.setattr(cuda, name, getattr(cpu, name))


@modes
@pytest.mark.parametrize(
    ("dims", "affine", "weighted"),
    [((2, 2, 2), False, False), ((9, 0, 3), True, True), ((0, 0, 0), True, False)],
    ids=["equal", "ragged affine weighted", "points"],
)
def test_descent_agrees_with_the_cpu(request, mode, dims, affine, weighted):
    X, _ = planted(160, 10, 3, 2, noise=0.4, offset=1.0 * affine)
    weights = np.random.default_rng(0).random(160).astype(np.float32) if weighted else None
    problem = Problem(X, weights, dims, affine)
    start = State((np.arange(160) % 3).astype(np.int32))
    expected = alternate(start, FixedDims(problem), max_iter=3, tol=0)
    _, labels, objective = finish(problem, expected.labels)
    request.getfixturevalue("on_the_emulator")
    with emulated(mode):
        got = alternate(start, FixedDims(problem), max_iter=3, tol=0)
        _, got_labels, got_objective = finish(problem, got.labels)
    np.testing.assert_allclose(got.history, expected.history, rtol=1e-3)  # refits are power steps there
    assert got_objective == pytest.approx(objective, rel=1e-4)
    assert (got_labels == labels).mean() > 0.98


def test_steps_settle_without_eigenvectors_where_these_are_dear(request, monkeypatch):
    """More steps confirm that a fit has settled; the end alone takes eigenvectors, in float64."""
    X, labels = planted(300, 12, 3, 4, noise=0.2)
    labels[::10] = np.arange(30) % 3
    problem, start = Problem(X, None, (4, 4, 4), False), State(labels.astype(np.int32))
    _, _, objective = finish(problem, alternate(start, FixedDims(problem), max_iter=60, tol=1e-5).labels)
    request.getfixturevalue("on_the_emulator")
    monkeypatch.setattr(power, "REACH", 0)
    monkeypatch.setattr(eigen, "CROSSINGS", [(np.inf, 0, "each")])
    solved, rounds, solve, step = [], [], eigen.eigh, power.power_steps
    monkeypatch.setattr(eigen, "eigh", lambda S, dtype: solved.append(dtype) or solve(S, dtype))
    monkeypatch.setattr(eigen, "power_steps", lambda *args: rounds.append(args[5:]) or step(*args))
    with emulated():
        got = alternate(start, FixedDims(problem), max_iter=60, tol=1e-5)
        assert not solved
        _, _, found = finish(problem, got.labels)
    assert got.converged
    assert rounds[-1] == (power.ROUNDS,)
    assert rounds[0] == ()
    assert solved == [np.float64]
    assert found == pytest.approx(objective, rel=2e-3)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(got.history))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("exact", [None, np.array([0, 5, 17])])
def test_descent_within_a_budget_agrees_with_the_cpu(request, affine, exact):
    X, _ = planted(160, 10, 2, 2, noise=0.3, offset=1.0 * affine)
    weights = np.random.default_rng(0).exponential(size=160)
    labels = (np.arange(160) % 3).astype(np.int32)
    if exact is not None:
        weights[exact] = 0

    def solved():
        budget = Budget(Problem(X, weights, (), affine), 900, exact)
        solution = alternate(budget.solve(labels, 3), budget, max_iter=2, tol=0, patience=PATIENCE)
        return budget.solve(solution.labels, 3, np.float64)

    expected = solved()
    request.getfixturevalue("on_the_emulator")
    with emulated("late"):
        got = solved()
    assert got.dims == expected.dims
    assert sum(got.counts) == 160 - (0 if exact is None else len(exact))
    assert got.objective == pytest.approx(expected.objective, rel=1e-4)
    assert (got.labels == expected.labels)[weights > 0].mean() > 0.98


@pytest.mark.parametrize("affine", [False, True])
def test_splits_are_those_of_the_cpu(request, monkeypatch, affine):
    """All clusters' trial splits at a time, one of which is too small to try."""
    X, _ = planted(400, 12, 4, 3, noise=0.2, offset=1.0 * affine)
    weights = np.random.default_rng(0).random(400)
    labels = (np.arange(400) % 2).astype(np.int32)
    labels[:2] = 2

    def tried():
        budget = Budget(Problem(X, weights, (), affine), 2000)
        return split_all(budget, budget.solve(labels, 3), [0, 1, 2], np.random.default_rng(0))

    expected = tried()
    request.getfixturevalue("on_the_emulator")
    monkeypatch.setattr(cuda, "seed_directions", lambda *_, **__: None)  # a card draws other rows
    for name in ("sample_rows", "lower_distances"):
        monkeypatch.setattr(cuda, name, getattr(cpu, name))
    with emulated("late"):
        got = tried()
    assert got[2].flats is expected[2].flats is None
    for c in (0, 1):
        assert got[c].gain == pytest.approx(expected[c].gain, rel=0.03)  # seeds are power steps away from exact
        assert got[c].flats.layout == expected[c].flats.layout
