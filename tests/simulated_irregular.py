"""What concerns the Numba kernels for GPUs alone, under Numba's simulator: random numbers, infinite keys, strides; and
the solver on them. ``test_cuda_irregular.py`` runs this file with the simulator turned on; what the operations mean is
tested in ``contract/``.
"""

import contextlib

import numpy as np
import pytest
from contract.checks import assert_lowered
from emulator import emulated, needs_compiler
from planted import planted
from simulator import simulated

from ksubspaces import kernels, refit
from ksubspaces.alternation import reseed
from ksubspaces.kernels import cpu, cuda
from ksubspaces.kernels.cuda import irregular, irregular_kernels
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS


@pytest.fixture(autouse=True)
def small_blocks():
    with simulated():
        yield


def test_random_numbers_are_philox():
    assert irregular_kernels._random(0, 0, 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # of its authors


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


def test_draws_by_sorting_begin_as_those_by_passes():
    weights = np.random.default_rng(0).random(100)
    passes, sorting = (irregular.sample_rows(weights, m, np.random.default_rng(7)).tolist() for m in (9, 60))
    assert sorting[:9] == passes
    assert len(set(sorting)) == 60


def test_smallest_leaves_out_what_is_infinite():
    keys = np.tile([np.inf, 2, np.nan, 1, np.inf], 8)
    expected = [*range(3, 40, 5), *range(1, 40, 5)]
    for m in (1, 10, 17):
        assert irregular.smallest(keys, m).tolist() == expected[:m]
    keys[20] = -np.inf
    for m in (1, 10, 17):
        assert irregular.smallest(keys, m).tolist() == [20, *expected][:m]


@pytest.mark.parametrize("rows", [slice(None, None, 2), slice(None, None, -2), slice(20, 40)])
@pytest.mark.parametrize("columns", [slice(0, 2), slice(None, None, -1)])
def test_lower_distances_within_other_arrays(rows, columns):
    rng = np.random.default_rng(0)
    whole, weights, near = rng.random((66, 3)).astype(np.float32), rng.random(66), rng.random(66)
    before, rest = whole.copy(), np.ones_like(whole, dtype=bool)
    rest[rows, columns] = False
    for distances in (np.full(len(near[rows]), np.inf, np.float32), near[rows].astype(np.float32)):
        assert_lowered(irregular.lower_distances, distances, whole[rows, columns], weights[rows])
    np.testing.assert_array_equal(whole[rest], before[rest])


# The solver on all kernels for GPUs at once: these simulated, those of CUDA C++ emulated


@contextlib.contextmanager
def simulated_gpu():
    with pytest.MonkeyPatch.context() as patch, emulated():
        patch.setattr(kernels, "kernels_for", lambda array: cuda)
        patch.setattr(refit, "UPDATE_SIZE", 0)
        yield


@needs_compiler
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
@pytest.mark.parametrize("start", ["k-means++", "k-means"])
def test_starts_are_those_of_the_cpu(monkeypatch, start, affine):
    """Where both draw the same rows."""
    X, _ = planted(60, 8, 3, 2, offset=3.0 * affine, dtype=np.float64)
    problem = Problem(X, np.where(np.arange(60) % 9, 0.5, 0.0), (2, 1, 2), affine)
    expected = STARTS[start](problem, np.random.default_rng(1))
    monkeypatch.setattr(cuda, "sample_rows", cpu.sample_rows)
    with simulated_gpu():
        got = STARTS[start](problem, np.random.default_rng(1))
    np.testing.assert_array_equal(got, expected)


@needs_compiler
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_clusters_are_filled_as_on_the_cpu(weighted, affine):
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 3, 70) / 2.0 if weighted else None
    problem = Problem(rng.normal(size=(70, 8)), weights, (2, 1, 8), affine)
    labels, residuals = rng.integers(0, 2, 70).astype(np.int32), rng.integers(0, 9, 70) / 4
    labels[3] = 2
    counts = problem.counts(labels)
    expected, n_filled = reseed(problem, labels, residuals, counts)
    with simulated_gpu():
        got = reseed(problem, labels, residuals, counts)
    assert n_filled == got[1] == 1
    np.testing.assert_array_equal(got[0], expected)
