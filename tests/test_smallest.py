"""The smallest code that keeps to an error: the bound holds, as measured, and little less would not do."""

import math

import numpy as np
import pytest

from ksubspaces import QuantizedFactorization, compress
from ksubspaces.bits.smallest import TRIALS, Trial, Unreachable, smallest


def rows(n=400, d=24):
    rng = np.random.default_rng()
    parts = [rng.normal(size=(n // 2, j)) @ rng.normal(size=(j, d)) for j in (3, 9)]
    return (np.concatenate(parts) + 0.05 * rng.normal(size=(n // 2 * 2, d))).astype("float32")


def test_the_error_is_kept_to_and_little_less_would_not_do():
    A = rows()
    weights = np.random.default_rng().uniform(0.1, 3, len(A))
    options = {"sample_weight": weights, "coder": "scalar", "seed": 0}
    code = compress(A, max_error=0.05, **options)
    assert isinstance(code, QuantizedFactorization)
    assert code.measure_error(A, weights) <= 0.05
    assert code.relative_error == pytest.approx(code.measure_error(A, weights), rel=1e-3)
    assert compress(A, nbytes=int(0.8 * code.nbytes), **options).relative_error > 0.05
    assert compress(A, max_error=0.2, **options).nbytes < 0.8 * code.nbytes


@pytest.mark.parametrize(("relative", "noise"), [(True, 0.05), (False, 1)])
def test_what_bits_in_plenty_keep_is_not_refused(relative, noise):
    rng, options = np.random.default_rng(), {"relative": relative, "coder": "scalar", "seed": 0}
    A = (rng.normal(size=(60, 2)) @ rng.normal(size=(2, 8)) + noise * rng.normal(size=(60, 8))).astype("float32")
    least = min(compress(A, bits=bits, **options).relative_error for bits in (9, 20))
    assert compress(A, max_error=1.001 * least, **options).relative_error <= 1.001 * least


def test_rows_that_are_kept_lose_nothing_of_the_whole():
    A = rows()
    A[:2] *= 30
    code = compress(A, max_error=0.01, exact_rows=[0, 1], coder="scalar", seed=0)
    assert (code[:2] == A[:2]).all()
    assert code.measure_error(A) <= 0.01
    assert code.relative_error == pytest.approx(code.measure_error(A), rel=1e-3)


def test_zeros_lose_nothing():
    code = compress(np.zeros((50, 8), "float32"), max_error=0.1, seed=0)
    assert code.relative_error == 0 and not code.reconstruct().any()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_error": 1e-9}, ValueError, "max_error=1e-09 is less than the most bits there are leave of A"),
        ({"max_error": 0}, ValueError, "max_error must be above 0 and below 1, got 0"),
        ({"max_error": 1.0}, ValueError, "max_error must be above 0 and below 1"),
        ({"max_error": float("nan")}, ValueError, "max_error must be above 0"),
        ({"max_error": "small"}, TypeError, "max_error must be a number, got 'small'"),
        ({"max_error": 0.1, "bits": 2}, ValueError, "give one budget; got bits and max_error"),
        ({"max_error": 0.1, "ratio": 0.5}, ValueError, "give one budget; got ratio and max_error"),
        ({"max_error": 0.1, "k": 3}, ValueError, "k is for factors of numbers"),
    ],
)
def test_what_cannot_be_says_so(options, error, words):
    with pytest.raises(error, match=words):
        compress(rows(60, 6), seed=0, **options)


@pytest.mark.parametrize("allowed", [0.5, 0.03, 1e-4])
@pytest.mark.parametrize("step", [1, 977])
@pytest.mark.parametrize("rate", [0.4, 1.0, 3.0])
def test_few_trials_find_the_smallest_size(allowed, step, rate):
    """Where what is lost falls as it does by theory, faster or slower, and sizes come in steps; from any start."""
    numbers, least = 100_000, 2000
    tried = []

    def lost(nbytes):
        return math.exp(-rate * 16 * math.log(2) * nbytes / numbers)

    def attempt(budget):
        tried.append(budget)
        taken = min(budget, 10 * numbers) // step * step
        return None if taken < least else Trial(taken, taken, lost(taken))

    best = max(least, -math.log(allowed) * numbers / (rate * 16 * math.log(2)))
    for start in (0.4 * best, best, 4 * best):
        tried.clear()
        found = smallest(attempt, allowed, start, numbers)
        assert found.result == found.nbytes and found.lost <= allowed
        assert found.nbytes <= 1.03 * best + step
        assert len(tried) <= TRIALS


def test_the_most_there_is_is_tried_before_it_is_given_up():
    tried = []

    def attempt(budget):
        tried.append(budget)
        return Trial(None, min(budget, 5000), 0.1)

    with pytest.raises(Unreachable):
        smallest(attempt, 0.01, 1000, 8000)
    assert tried[-1] == math.inf
