"""Subspaces of a stream: what a batch adds and what is forgotten, and what a look at all rows would give."""

import pickle

import numpy as np
import pytest
from emulator import emulated, needs_compiler
from helpers import import_or_skip
from planted import planted

from ksubspaces import OnlineSubspaces, fit_subspaces, kernels
from ksubspaces.kernels import cpu, cuda
from ksubspaces.problem import Problem


def batches(X, size):
    return [X[first : first + size] for first in range(0, len(X), size)]


@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_one_subspace_is_the_pca_of_all_rows(affine):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(230, 7)) * np.arange(1, 8) + 4 * affine
    weights = rng.uniform(size=230)
    stream = OnlineSubspaces(1, 3, affine=affine)
    for rows, w in zip(batches(X, 60), batches(weights, 60), strict=True):
        stream.partial_fit(rows, w)
    whole = fit_subspaces(X, 1, 3, affine=affine, sample_weight=weights)
    np.testing.assert_allclose(_projector(stream.subspaces), _projector(whole), atol=1e-10)
    assert stream.subspaces.objective == pytest.approx(whole.objective, rel=1e-9)
    assert stream.n_rows == 230
    if affine:
        np.testing.assert_allclose(stream.subspaces.offsets, whole.offsets, atol=1e-10)


@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_rows_fade_by_half_lives(affine):
    """As weighted rows: those before a batch count 2^-(rows of it / half-life)."""
    X = np.random.default_rng(1).normal(size=(90, 6)) * np.arange(1, 7) + affine
    stream = OnlineSubspaces(1, 2, affine=affine, half_life=20)
    for rows in batches(X, 30):
        stream.partial_fit(rows)
    weights = np.repeat(2.0 ** -np.array([3, 1.5, 0]), 30)
    whole = fit_subspaces(X, 1, 2, affine=affine, sample_weight=weights)
    np.testing.assert_allclose(_projector(stream.subspaces), _projector(whole), atol=1e-9)
    assert stream.subspaces.objective == pytest.approx(whole.objective, rel=1e-9)


@pytest.mark.parametrize(("affine", "dtype"), [(False, np.float32), (True, np.float64)])
def test_near_what_a_fit_to_all_rows_finds(affine, dtype):
    X, _ = planted(1500, 12, 4, 3, noise=0.1, offset=2.0 * affine, dtype=dtype)
    stream = OnlineSubspaces(4, 3, affine=affine, seed=0, steps=2)
    for rows in batches(X, 300):
        stream.partial_fit(rows)
    assert stream.subspaces.bases[0].dtype == dtype
    whole = fit_subspaces(X, 4, 3, affine=affine, seed=0)
    assert stream.subspaces.residuals(X).sum() <= 1.02 * whole.objective
    assert stream.subspaces.labels.shape == (300,)
    assert stream.subspaces.objective == pytest.approx(whole.objective, rel=0.1)


def test_forgetting_follows_rows_that_change():
    """Subspaces that turn a little with each batch: what is remembered for ever lags behind."""
    rng = np.random.default_rng(2)
    bases = np.linalg.qr(rng.normal(size=(2, 8, 2)))[0]
    turn, _ = np.linalg.qr(np.eye(8) + 0.03 * (lambda A: A - A.T)(rng.normal(size=(8, 8))))
    turn *= np.sign(np.diag(turn))
    streams = [OnlineSubspaces(2, 2, seed=0), OnlineSubspaces(2, 2, half_life=60, seed=0)]
    for _ in range(20):
        rows = np.concatenate([rng.normal(size=(50, 2)) @ basis.T for basis in bases])
        for stream in streams:
            stream.partial_fit(rows)
        bases = turn @ bases
    never, soon = (stream.subspaces.residuals(rows).mean() for stream in streams)
    assert soon < 0.1 * never


def test_points_and_a_cluster_without_rows():
    """Means of a stream, as in sequential k-means; and a flat that nothing comes to stays where it is."""
    X = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])
    stream = OnlineSubspaces(2, 0, affine=True, seed=0).partial_fit(X).partial_fit(X[2:] + np.array([2.0, 0]))
    np.testing.assert_allclose(sorted(stream.subspaces.offsets.tolist()), [[0, 1], [11, 1]])
    given = fit_subspaces(np.diag([1.0, 2.0, 3.0]), 3, 1, seed=0)
    later = OnlineSubspaces(3, 1, init=given).partial_fit([[5.0, 0.1, 0.0]])
    kept = np.abs(np.concatenate(later.subspaces.bases))
    assert sorted(kept.round(1).tolist()) == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_torch_pickle_and_a_batch_that_cannot_be_used():
    torch = import_or_skip("torch")
    X, _ = planted(200, 6, 2, 2)
    stream = OnlineSubspaces(2, 2, seed=0).partial_fit(torch.from_numpy(X[:100]))
    again = pickle.loads(pickle.dumps(stream))
    before = stream.subspaces
    with pytest.raises(ValueError, match="X must be finite, but"):
        stream.partial_fit(np.full((3, 6), np.nan))
    with pytest.raises(ValueError, match="X has 5 columns, but the flats live in 6"):
        stream.partial_fit(np.ones((3, 5)))
    assert stream.subspaces is before
    for one in (stream, again):
        one.partial_fit(torch.from_numpy(X[100:]))
    assert isinstance(stream.subspaces.bases[0], torch.Tensor)
    np.testing.assert_array_equal(np.stack(stream.subspaces.bases), np.stack(again.subspaces.bases))


@needs_compiler
def test_a_batch_on_the_emulator_agrees_with_the_cpu(monkeypatch):
    X, _ = planted(160, 10, 2, 2, offset=1.0)
    start = fit_subspaces(X[:80], 2, 2, affine=True, seed=0)

    def fed():
        stream = OnlineSubspaces(2, 2, affine=True, init=start, half_life=50)
        for rows in batches(X, 80):
            stream.partial_fit(rows)
        return stream.subspaces

    expected = fed()
    monkeypatch.setattr(kernels, "kernels_for", lambda array: cuda)
    monkeypatch.setattr(Problem, "on_card", True)
    for name in ("changed_rows", "largest"):  # Numba's have a simulator of their own, see simulated_irregular.py
        monkeypatch.setattr(cuda, name, getattr(cpu, name))
    with emulated("eager"):
        got = fed()
    np.testing.assert_allclose(got.offsets, expected.offsets, atol=1e-4)
    np.testing.assert_allclose(_projector(got), _projector(expected), atol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"half_life": 0}, "half_life must be a number > 0, in rows, or inf to forget nothing; got 0"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"loss": "huber"}, "loss='huber' cannot be had of a stream"),
        ({"init": fit_subspaces(np.eye(3), 1, 1)}, "init has 1 flats and affine=False, but k=2"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        OnlineSubspaces(2, 1, **given)
    with pytest.raises(ValueError, match="no subspaces before the first batch"):
        _ = OnlineSubspaces(2, 1).subspaces


def _projector(model):
    V = np.asarray(model.bases[0], np.float64)
    return V.T @ V
