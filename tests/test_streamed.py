"""Fits of rows that stay in host memory, and their blocks; the operations on them stand in ``contract/``."""

import numpy as np
import pytest
from helpers import assert_labels, scale
from planted import planted

from ksubspaces import kernels, refit
from ksubspaces.alternation import FixedDims, State, alternate, finish
from ksubspaces.kernels import Streamed, reference
from ksubspaces.problem import Problem
from ksubspaces.seeding import STARTS

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def streamed(X, rows=37):
    return Streamed(X, np, rows * X.shape[1] * X.itemsize)


@pytest.mark.parametrize("n", [1, 36, 37, 38, 200])
def test_blocks_are_all_rows_in_order(n):
    X = np.random.default_rng(n).normal(size=(n, 9))
    S = streamed(X)
    assert S.shape == X.shape
    assert len(S) == n
    spans, blocks = zip(*((range(n)[span], block) for span, block in S.blocks()), strict=True)
    assert [i for span in spans for i in span] == list(range(n))
    assert max(map(len, blocks)) == min(n, 37)
    np.testing.assert_array_equal(np.concatenate(blocks), X)


@affine
@pytest.mark.parametrize("start", STARTS)
def test_a_fit_is_the_fit_of_the_rows_themselves(start, affine, monkeypatch):
    monkeypatch.setattr(refit, "UPDATE_SIZE", 0)
    X, _ = planted(400, 12, 3, 2, offset=1.0 * affine, dtype=np.float64)
    results = []
    for rows in (X, streamed(X)):
        problem = Problem(rows, None, (2, 7, 0), affine)
        labels = STARTS[start](problem, np.random.default_rng(0))
        state = alternate(State(labels), FixedDims(problem), max_iter=6, tol=0)
        results.append(finish(problem, state.labels))
    (flats, _, objective), (_, streamed_labels, streamed_objective) = results
    assert_labels(streamed_labels, kernels.sqdistances(X, flats), 1e-9 * scale(X))
    assert streamed_objective == pytest.approx(objective, rel=1e-9)


@affine
def test_moments_of_far_apart_blocks_add_up(affine):
    """Each block has origins of its own."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(300, 5)) + np.repeat([0, 1000, -500], 100)[:, None]).astype(np.float32)
    labels = rng.integers(0, 2, 300).astype(np.int32)
    labels[:100] = 0  # cluster 1 has no rows in the first block
    got = kernels.second_moments(streamed(X, 100), kernels.group_rows(labels, 2), center=affine)
    want = reference.second_moments(X, kernels.group_rows(labels, 2), center=affine)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=1e-6, atol=1e-7 * np.abs(want.scatter).max())
    np.testing.assert_array_equal(got.counts, want.counts)
