"""Breathing: what a breath adds and takes away, what it finds, and what it must never do."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from emulator import emulated, needs_compiler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import planted, recomputed_objective

from ksubspaces import fit_subspaces, kernels
from ksubspaces.alternation import FixedDims, State, alternate
from ksubspaces.breathing import add_flats, breathe, cost, settling_steps, take_away
from ksubspaces.kernels import Streamed, cpu, cuda, reference
from ksubspaces.problem import Problem

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def breathed(X, k, j, **options):
    """A fit that breathes, and the steps it told of."""
    steps = []
    model = fit_subspaces(X, k, j, search="breathing", callback=steps.append, **options)
    return model, steps


def stuck(n=600, d=16, seed=0):
    """Rows of four planes, and labels from which the alternation does not find them: two are one, one is two."""
    X, truth = planted(n, d, 4, 2, noise=0.05, seed=seed)
    labels = np.where(truth == 1, 0, truth)
    labels[truth == 2] = np.where(X[truth == 2, 0] > 0, 1, 2)
    return X, labels


def test_a_breath_leaves_a_local_optimum():
    X, labels = stuck()
    plain = fit_subspaces(X, 4, 2, init=labels, tol=1e-7)
    model, _ = breathed(X, 4, 2, init=labels, tol=1e-7, seed=0)
    best = fit_subspaces(X, 4, 2, n_init=10, seed=0, tol=1e-7)
    assert plain.objective > 2 * best.objective
    assert model.objective == pytest.approx(best.objective, rel=1e-3)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    k=st.integers(2, 6),
    d=st.integers(1, 9),
    spare=st.integers(0, 60),
    affine=st.booleans(),
    weighted=st.booleans(),
    single=st.booleans(),
    data=st.data(),
)
def test_never_worse_than_the_start_and_k_flats_at_the_end(k, d, spare, affine, weighted, single, data):
    dims = data.draw(st.lists(st.integers(0, d), min_size=k, max_size=k))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    X = rng.normal(size=(k + spare, d)).astype(np.float32 if single else np.float64)
    weights = rng.integers(0, 3, len(X)) + (np.arange(len(X)) == 0) if weighted else None
    model, steps = breathed(X, k, dims, affine=affine, sample_weight=weights, seed=0, effort=2)
    noise = (1e-5 if single else 1e-11) * max(model.energy, 1e-30)
    assert model.dims == tuple(dims)
    assert model.objective <= min(step.objective for step in steps if step.breath == 0) + noise
    assert model.objective == pytest.approx(recomputed_objective(X, model, weights), rel=1e-6, abs=noise)
    assert all(b <= a + noise for a, b in pairwise(model.history))
    assert all(b.best <= a.best for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("k", "j", "affine"), [(1, 2, False), (12, 2, False), (12, 0, True), (3, 5, False), (3, 0, False)]
)
def test_where_nothing_can_be_gained_there_is_no_breath(k, j, affine):
    X = np.random.default_rng(0).normal(size=(12, 5))
    plain = fit_subspaces(X, k, j, init=np.arange(12) % k, affine=affine)
    model, steps = breathed(X, k, j, init=np.arange(12) % k, affine=affine, effort=5)
    assert {step.breath for step in steps} == {0}
    assert model.objective == plain.objective


@affine
@pytest.mark.parametrize("kind", ["zeros", "duplicates", "few", "one empty"])
def test_rows_that_need_fewer_flats(kind, affine):
    rng = np.random.default_rng(0)
    X = {
        "zeros": np.zeros((30, 4)),
        "duplicates": np.repeat(rng.normal(size=(2, 4)), 15, axis=0),
        "few": rng.normal(size=(6, 4)),
        "one empty": rng.normal(size=(30, 1)) @ rng.normal(size=(1, 4)),
    }[kind]
    model, _ = breathed(X, 5, 1, affine=affine, seed=0, effort=3)
    assert len(model.bases) == 5
    assert model.relative_error < 0.2
    assert model.objective == pytest.approx(recomputed_objective(X, model), abs=1e-12)


def test_equal_bits_for_a_seed_and_more_effort_is_no_worse():
    X = np.random.default_rng(0).normal(size=(700, 12)).astype(np.float32)
    first, second = (breathed(X, 6, 2, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.history == second.history
    for a, b in zip(first.bases, second.bases, strict=True):
        np.testing.assert_array_equal(a, b)
    more, steps = breathed(X, 6, 2, seed=3, effort=6)
    assert more.objective <= first.objective * (1 + 3e-3)
    assert max(step.breath for step in steps) > max(step.breath for step in breathed(X, 6, 2, seed=3)[1])


def test_search_is_by_default_what_is_left_to_the_fit():
    X = np.random.default_rng(0).normal(size=(300, 8))

    def breaths(**options):
        steps = []
        fit_subspaces(X, 4, 2, seed=0, callback=steps.append, **options)
        return max(step.breath for step in steps)

    assert breaths() > 0
    assert breaths(init="random") > 0
    assert breaths(search="breathing", n_init=3) > 0
    assert breaths(search="breathing", init=np.arange(300) % 4) > 0
    assert breaths(search="starts") == breaths(n_init=3) == breaths(init=np.arange(300) % 4) == 0
    assert breaths(max_iter=1) == 0


def test_effort_of_starts_is_more_of_them():
    X, numbers = np.random.default_rng(0).normal(size=(300, 8)), set()
    fit_subspaces(X, 4, 2, seed=0, search="starts", effort=3, callback=lambda step: numbers.add(step.start))
    assert numbers == set(range(12))


@pytest.mark.parametrize("interrupt", [False, True])
def test_a_stopped_search_gives_the_best_so_far(interrupt):
    X, labels = stuck()
    steps = []

    def stop(step):
        steps.append(step)
        if step.breath == 2 and interrupt:
            raise KeyboardInterrupt
        return step.breath == 2

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = fit_subspaces(X, 4, 2, init=labels, search="breathing", effort=4, seed=0, callback=stop)
    assert [str(w.message) for w in told] == ["interrupted: this is the best result so far"] * interrupt
    assert max(step.breath for step in steps) == 2
    assert not model.converged
    assert model.objective <= steps[-1].best * (1 + 1e-5)


@affine
@pytest.mark.parametrize("dims", [(2, 2, 2), (0, 3, 1)])
def test_flats_that_are_missed_least_are_taken_away(dims, affine):
    """One to go: the one of a dimension to spare without which rows are least far off, by trying each."""
    rng = np.random.default_rng(1)
    X, weights = rng.normal(size=(90, 6)), rng.random(90)
    problem = Problem(X, weights, dims, affine)
    larger = Problem(X, weights, (*dims, dims[1]), affine)
    state = State(rng.integers(0, 4, 90).astype(np.int32))
    flats = FixedDims(larger).refit(state)
    labels, left = take_away(problem, larger, state)
    assert left.layout.dims == dims
    to_each = reference.sqdistances(X, flats)
    totals = {c: weights @ np.delete(to_each, c, axis=1).min(axis=1) for c in range(4) if larger.dims[c] == dims[1]}
    np.testing.assert_allclose(weights @ reference.sqdistances(X, left)[np.arange(90), labels], min(totals.values()))
    np.testing.assert_array_equal(labels, reference.assign(X, left)[0])


def test_all_that_was_added_can_be_taken_away():
    """Many to go, in several rounds: labels are those of the nearest of the flats left."""
    X = np.random.default_rng(2).normal(size=(400, 6))
    problem, larger = Problem(X, None, (1, 2) * 3, False), Problem(X, None, (1, 2) * 6, False)
    labels, left = take_away(problem, larger, State((np.arange(400) % 12).astype(np.int32)))
    assert left.layout.dims == problem.dims
    np.testing.assert_array_equal(labels, reference.assign(X, left)[0])


@affine
def test_flats_are_added_where_rows_are_far_off(affine):
    """Rows of a plane that no flat is near get one; rows of weight zero draw none."""
    X, truth = planted(400, 10, 4, 2, noise=0.02, offset=2.0 * affine)
    weights = np.where(truth == 3, 0.0, 1.0)
    problem = Problem(X, weights, (2, 2), affine)
    larger, grown = add_flats(problem, State(np.where(truth == 0, 0, 1).astype(np.int32)), np.random.default_rng(0), 1)
    assert larger.dims == (2, 2, 2)
    new = np.bincount(truth[grown.labels == 2], minlength=4)
    assert new[[1, 2]].max() > 50
    assert new[0] < 20


def test_streamed_rows_breathe_alike():
    X = np.random.default_rng(0).normal(size=(300, 8))
    results = []
    for rows in (X, Streamed(X, np, 8 * 8 * 41)):
        problem = Problem(rows, None, (2, 3, 1, 0), True)
        start = alternate(State((np.arange(300) % 4).astype(np.int32)), FixedDims(problem), max_iter=5, tol=0)
        results.append(list(breathe(problem, start, np.random.default_rng(0), 60, run))[-1])
    assert results[0].objective < start.objective
    assert results[1].objective == pytest.approx(results[0].objective, rel=1e-6)


def run(problem, state, most):
    return alternate(state, FixedDims(problem), max_iter=most, tol=0)


@needs_compiler
@affine
def test_a_card_breathes(monkeypatch, affine):
    """Emulated: the kernels of a card, and the path it takes by moments."""
    X, truth = planted(240, 10, 3, 2, noise=0.05, offset=1.0 * affine)
    problem = Problem(X, None, (2, 2, 2), affine)
    labels = np.where(truth == 2, 1, truth).astype(np.int32)
    labels[truth == 0] = np.where(X[truth == 0, 0] > 0, 0, 2)
    plain = alternate(State(labels), FixedDims(problem), max_iter=9, tol=1e-3)
    monkeypatch.setattr(kernels, "kernels_for", lambda array: cuda)
    monkeypatch.setattr(Problem, "on_card", True)
    for name in ("changed_rows", "largest", "sample_rows", "label_counts"):  # Numba's have a simulator of their own
        monkeypatch.setattr(cuda, name, getattr(cpu, name))
    with emulated("late"):
        steps = 3 * cost(3, 3, settling_steps(problem, few=True))
        best = list(breathe(problem, plain, np.random.default_rng(0), steps, run))[-1]
    assert best.objective < 0.5 * plain.objective


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (ValueError, r"search must be one of 'auto', 'breathing', 'starts', got 'best'", {"search": "best"}),
        (ValueError, r"effort must be a number >= 1, got 0.5", {"effort": 0.5}),
        (ValueError, r"effort must be a number >= 1, got 'much'", {"effort": "much"}),
        (ValueError, r"effort must be a number >= 1, got True", {"effort": True}),
        (ValueError, r"effort must be a number >= 1, got nan", {"effort": float("nan")}),
        (ValueError, r"effort=2 has no say over a given start or n_init", {"effort": 2, "n_init": 3}),
        (ValueError, r"effort=2 has no say over a given start or n_init", {"effort": 2, "init": np.arange(10) % 2}),
    ],
)
def test_bad_input_is_refused_by_name(error, message, options):
    with pytest.raises(error, match=message):
        fit_subspaces(np.eye(10), 2, 1, **options)
