"""Draws of a greedy start on a GPU: after each, all that the kernels left behind is what it should be."""

import numpy as np

from ksubspaces.kernels.cuda.seeding import BINS, CANDIDATES, ROWS, _Seeding

HALF = 2e-3  # what float16 makes of a product of two rows of length 1


def check_start(n, d, dims, weighted, m, least=1, seed=0):
    """Draw a flat of each of the dimensions through m rows, and check what each kernel makes of what it got."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, 4)) @ rng.normal(size=(4, d)) + rng.normal(size=(n, d))).astype(np.float32)
    X *= 2.0 ** rng.integers(-3, 4, (n, 1))
    X[n // 2] = 0
    weights = rng.integers(0, 3, n).astype(np.float64) if weighted else None
    w = np.ones(n) if weights is None else weights
    state = _Seeding(n, d, max(dims))
    state.begin(X, weights)
    rows, scales = state.halves.view(np.float16)[:, :d].astype(np.float64), state.scales[:n, None]
    squares = (X.astype(np.float64) ** 2).sum(axis=1)
    np.testing.assert_allclose(rows / scales, X, atol=1e-3 / scales.min(), rtol=1e-3)
    assert not state.halves[:, d:].any()
    costs, labels = squares, np.zeros(n, np.int32)
    for c, j in enumerate(dims):
        check_sums(state, w * costs)
        uniforms = rng.random(CANDIDATES, np.float32)
        ends = (w * state.costs.astype(np.float64)).cumsum()
        state.draw(c, j, uniforms, m, least)
        drawn = state.candidates
        assert np.all(
            (ends[drawn] >= uniforms * ends[-1] * (1 - 1e-12))
            & ((ends - w * costs)[drawn] <= uniforms * ends[-1] * (1 + 1e-5))
        )
        check_neighbours(state, rows, w, drawn, m, least)
        V = (
            state.flats[: CANDIDATES * state._rows(j) * state.width]
            .view(np.float16)
            .reshape(CANDIDATES, -1, state.width)
        )
        V = V.astype(np.float64)
        check_flats(state.S, V, j)
        residuals = squares[:, None] - ((X.astype(np.float64) @ V[:, :, :d].transpose(0, 2, 1)) ** 2).sum(axis=2).T
        assert np.all(np.abs(state.residuals - np.maximum(residuals, 0)) <= HALF * squares[:, None])
        best = (w[:, None] * np.minimum(costs[:, None], state.residuals)).sum(axis=0).argmin()
        lower = state.residuals[:, best] < costs
        costs, labels = np.where(lower, state.residuals[:, best], costs), np.where(lower, c, labels)
        np.testing.assert_allclose(state.costs, costs, rtol=1e-6)
        np.testing.assert_array_equal(state.labels, labels)
        costs = state.costs.astype(np.float64)
    check_sums(state, w * costs)


def check_sums(state, costs):
    np.testing.assert_allclose(state.sums, np.add.reduceat(costs, range(0, len(costs), ROWS)), rtol=1e-6)


def check_neighbours(state, rows, w, drawn, m, least):
    """Bins are those of |cos|, and S has the moments of the rows of as many upper bins as m rows take."""
    lengths = np.maximum(np.sqrt((rows**2).sum(axis=1)), 1e-12)
    cosines = np.abs(rows @ rows[drawn].T) / lengths[:, None] / lengths[drawn]
    expected = 1 + np.minimum(cosines * (BINS - 1), BINS - 2)
    assert np.all(state.bins[w <= 0] == 0)
    assert np.all(np.abs(state.bins - np.floor(expected))[w > 0] <= 1)
    for c in range(CANDIDATES):
        counts = np.bincount(state.bins[:, c], minlength=BINS)
        np.testing.assert_array_equal(state.histogram[c, least:], counts[least:])
        above = counts[::-1].cumsum()[::-1]
        lowest = max(np.flatnonzero(above >= m).max(initial=0), least)
        near = state.bins[:, c] >= lowest
        A = rows[near] * (np.sqrt(w[near]) / state.scales[: len(w)][near] * state.scales[drawn[c]])[:, None]
        S = A.T @ A
        np.testing.assert_allclose(state.S[c, : len(S), : len(S)], S, rtol=0, atol=1e-5 * (np.trace(S) + 1e-30))


def check_flats(S, V, j):
    """Orthonormal rows that capture nearly as much of S as its leading eigenvectors do, zeros where nothing is left."""
    assert not V[:, j:].any()
    gram, there = V[:, :j] @ V[:, :j].transpose(0, 2, 1), V[:, :j].any(axis=2)
    np.testing.assert_allclose(gram, there[:, :, None] * np.eye(j), atol=2e-3)
    captured = np.einsum("cij,cjk,cik->c", V, S.astype(np.float64), V)
    most = np.linalg.eigvalsh(S.astype(np.float64))[:, ::-1][:, :j].sum(axis=1)
    assert np.all(captured >= 0.97 * most)


def check_directions(n, d, k, weighted, seed=0):
    """Draw directions, and check the costs of all rows after each."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 2, (n, 1))).astype(np.float32)
    X[n // 2] = 0
    weights = rng.integers(0, 3, n).astype(np.float64) if weighted else None
    w = np.ones(n) if weights is None else weights
    state = _Seeding(n, d, 0)
    state.begin(X, weights, of_directions=True)
    lengths = np.sqrt((X.astype(np.float64) ** 2).sum(axis=1))
    units = X / np.where(lengths > 0, lengths, 1)[:, None]
    costs, labels = np.where(lengths > 0, 2.0, 0.0), np.zeros(n, np.int32)
    for c in range(k):
        check_sums(state, w * costs)
        state.draw_direction(c, rng.random(CANDIDATES, np.float32))
        angles = np.where(lengths[:, None] > 0, 1 - units @ units[state.candidates].T, 0)
        assert np.all(np.abs(state.residuals - angles) <= 2 * HALF)
        best = (w[:, None] * np.minimum(costs[:, None], state.residuals)).sum(axis=0).argmin()
        lower = state.residuals[:, best] < costs
        costs, labels = np.where(lower, state.residuals[:, best], costs), np.where(lower, c, labels)
        np.testing.assert_array_equal(state.costs, costs.astype(np.float32))
        np.testing.assert_array_equal(state.labels, labels)
    check_sums(state, w * costs)
