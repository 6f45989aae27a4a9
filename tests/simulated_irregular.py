"""The Numba kernels for GPUs under Numba's simulator; ``test_cuda_irregular.py`` runs this file with it turned on."""

import contextlib
import sys

import numpy as np
import pytest
from emulator import emulated, needs_compiler
from numba import cuda as numba_cuda
from planted import planted
from test_kernels import unordered

from ksubspaces import kernels, refit
from ksubspaces.descent import Descent, descend, reseed
from ksubspaces.kernels import cpu, cuda, reference
from ksubspaces.kernels.cuda import irregular, loader
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS

# Kinds of arguments that each kernel is launched with: "*f4" is an array of float32.
SIGNATURES = {
    "_arrivals": ["*f4 i8 i8 i8 *f8", "*f8 i8 i8 i8 *f8"],
    "_lower": [f"*{real} *{real} *{weight} i8 i8 i8 i8 *f8" for real in ("f4", "f8") for weight in ("f4", "f8")],
    "_fold": ["*f8 i8 i8 *f8"],
    "_count_changed": ["*i4 *i4 i8 *i8", "*i4 *i8 i8 *i8"],
    "_list_changed": ["*i4 *i4 i8 *i8 *i8", "*i4 *i8 i8 *i8 *i8"],
    "_least_of_blocks": ["*f8 i8 *f8 *i8 i8 *f8 *i8"],
    "_least_of_all": ["*f8 *i8 i8 i8 *f8 *i8"],
}


def simulated(function):
    """In the place of the loader's: Numba's simulator, which checks that indices lie within the arrays."""

    def launch(grid, block, args):
        kinds = " ".join("*" * array + dtype.str[1:] for dtype, array in loader.kinds(args))
        assert kinds in SIGNATURES[function.__name__], f"{function.__name__} is not compiled for {kinds}"
        assert all(arg.ndim == 0 or (arg.ndim == 1 and arg.flags.c_contiguous) for arg in args)
        if all(grid):
            numba_cuda.jit(function)[grid, block](*(arg if arg.ndim else arg.item() for arg in args))

    return launch


sys.setswitchinterval(1e-5)  # the simulator's threads wait for one another in loops, each for as long as a switch takes


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Every simulated thread is one of Python's: a few of them show as much."""
    monkeypatch.setattr(loader, "numba_kernel", simulated)
    monkeypatch.setattr(irregular, "THREADS", 8)
    monkeypatch.setattr(irregular, "CHUNK", 32)


def test_random_numbers_are_philox():
    assert irregular._random(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # of its authors


def arrivals(weights, seed):
    return irregular._race(weights, seed, 456)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrivals_are_exponential(dtype):
    weights = np.tile(np.array([0.5, 3.0, 1.0, 0.0], dtype), 1000)
    times = arrivals(weights, 123)
    assert np.all(np.isinf(times[weights == 0]))
    times = np.exp(times[weights > 0]) * weights[weights > 0]
    for power, expected in ((1, 1), (2, 2), (0.5, np.sqrt(np.pi) / 2)):
        assert np.mean(times**power) == pytest.approx(expected, rel=0.1)
    assert np.mean(np.exp(-times) < 0.25) == pytest.approx(0.25, abs=0.03)
    assert abs(np.corrcoef(times[:-1], times[1:])[0, 1]) < 0.05


def test_draws_follow_the_weights():
    weights = np.array([0.0, 1, 2, 3, 4, 0, 1e-300])
    races = arrivals(np.tile(weights, 3000), 5).reshape(3000, 7)
    draws = np.argsort(races, axis=1)[:, :2]
    p = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=7) / 3000, p, atol=0.03)
    second = sum(p[a] * p / (1 - p[a]) * (np.arange(7) != a) for a in range(1, 5))  # without replacement
    np.testing.assert_allclose(np.bincount(draws[:, 1], minlength=7) / 3000, second, atol=0.03)
    drawn = irregular.sample_rows(weights, 2, np.random.default_rng(0))
    seed = int(np.random.default_rng(0).integers(2**63 - 1))
    race = irregular._race(weights, seed & 0xFFFFFFFF, seed >> 32)
    assert drawn.tolist() == np.argsort(race)[:2].tolist()


def test_draws_repeat_with_the_seed():
    weights = np.random.default_rng(0).random(100)
    first, again, other = (irregular.sample_rows(weights, 9, np.random.default_rng(s)).tolist() for s in (7, 7, 8))
    assert first == again
    assert first != other
    longer = irregular.sample_rows(weights, 60, np.random.default_rng(7)).tolist()  # by sorting, not by passes
    assert longer[:9] == first
    assert len(set(longer)) == 60


def test_draws_give_what_there_is():
    rng = np.random.default_rng(5)
    assert sorted(irregular.sample_rows(np.array([0.0, 2, 0, 1]), 5, rng)) == [1, 3]
    assert sorted(irregular.sample_rows(np.array([0.0, 2, 0, 1] * 10), 40, rng)) == sorted(
        [*range(1, 40, 4), *range(3, 40, 4)]
    )
    assert sorted(irregular.sample_rows(np.array([5e-324, 1e-310, 0, 1e308]), 4, rng)) == [0, 1, 3]
    for weights, m in ((np.zeros(4), 2), (np.ones(4), 0), (np.ones(0), 3)):
        assert irregular.sample_rows(weights, m, rng).shape == (0,)


@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
@pytest.mark.parametrize("m", [1, 4, 40])
def test_largest_are_in_order(n, m):
    for dtype in (np.float32, np.float64):
        costs = unordered(np.random.default_rng(n), n, dtype)
        rows = irregular.largest(costs, m)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, reference.largest(costs, m))


def test_smallest_leaves_out_what_is_infinite():
    keys = np.tile([np.inf, 2, np.nan, 1, np.inf], 8)
    expected = [*range(3, 40, 5), *range(1, 40, 5)]
    for m in (1, 10, 17):
        assert irregular.smallest(keys, m).tolist() == expected[:m]
    keys[20] = -np.inf
    for m in (1, 10, 17):
        assert irregular.smallest(keys, m).tolist() == [20, *expected][:m]


def assert_lowered(trials, weights, near):
    for distances in (np.full(len(trials), np.inf, trials.dtype), near.astype(trials.dtype)):
        expected = trials.copy()
        sums = reference.lower_distances(distances, expected, weights)
        twice = [irregular.lower_distances(distances, part, weights) for part in (trials, trials.copy())]
        np.testing.assert_array_equal(trials, expected)
        assert twice[0].dtype == np.float64
        np.testing.assert_allclose(twice[0], sums, rtol=1e-12)
        np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize("n", [0, 1, 33, 130])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_lower_distances(n, dtype, order):
    rng = np.random.default_rng(n)
    assert_lowered(np.asarray(rng.random((n, 3)), dtype, order), rng.random(n), rng.random(n))


@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(None, None, -2), slice(20, 40)])
@pytest.mark.parametrize("columns", [slice(0, 2), slice(None, None, -1)])
def test_lower_distances_within_other_arrays(rows, columns):
    rng = np.random.default_rng(0)
    whole, weights, near = rng.random((66, 3)).astype(np.float32), rng.random(66), rng.random(66)
    before, rest = whole.copy(), np.ones_like(whole, dtype=bool)
    rest[rows, columns] = False
    assert_lowered(whole[rows, columns], weights[rows], near[rows])
    np.testing.assert_array_equal(whole[rest], before[rest])


@pytest.mark.parametrize("n", [0, 1, 7, 8, 31, 32, 33, 100])
def test_changed_rows_ascend(n):
    rng = np.random.default_rng(n)
    old = rng.integers(0, 3, n).astype(np.int32)
    for new in (rng.integers(0, 3, n).astype(np.int32), old, old + 1):
        rows = irregular.changed_rows(old, new)
        assert rows.dtype == np.int64
        np.testing.assert_array_equal(rows, np.flatnonzero(old != new))


# The solver on all kernels for GPUs at once: these simulated, those of CUDA C++ emulated


@contextlib.contextmanager
def simulated_gpu():
    with pytest.MonkeyPatch.context() as patch, emulated():
        patch.setattr(kernels, "_device", lambda array: cuda)
        patch.setattr(refit, "UPDATE_SIZE", 0)
        yield


@needs_compiler
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
@pytest.mark.parametrize("start", ["k-means++", "k-means"])
def test_starts_are_those_of_the_cpu(monkeypatch, start, affine):
    """And what becomes of them is, too, where both draw the same rows."""
    X, _ = planted(60, 8, 3, 2, offset=3.0 * affine, dtype=np.float64)
    problem = Problem(X, np.where(np.arange(60) % 9, 0.5, 0.0), (2, 1, 2), affine)
    expected = descend(problem, Descent(STARTS[start](problem, np.random.default_rng(1))), max_iter=3, tol=0)
    monkeypatch.setattr(cuda, "sample_rows", cpu.sample_rows)
    with simulated_gpu():
        got = descend(problem, Descent(STARTS[start](problem, np.random.default_rng(1))), max_iter=3, tol=0)
    np.testing.assert_allclose(got.history, expected.history, rtol=1e-9)
    np.testing.assert_array_equal(got.labels, expected.labels)


@needs_compiler
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_clusters_are_filled_as_on_the_cpu(weighted, affine):
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, 70) / 2.0 if weighted else None
    problem = Problem(rng.normal(size=(70, 8)), weights, (2, 1, 8), affine)
    labels, residuals = rng.integers(0, 2, 70).astype(np.int32), rng.integers(0, 9, 70) / 4
    labels[3] = 2
    expected, n_filled = reseed(problem, labels, residuals)
    with simulated_gpu():
        got = reseed(problem, labels, residuals)
    assert n_filled == got[1] == 1
    np.testing.assert_array_equal(got[0], expected)
