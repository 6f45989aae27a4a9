"""Assignment among the flats that were nearest of late."""

import numpy as np
import pytest

from ksubspaces import compress, kernels, nearby
from ksubspaces.kernels import Flats, layout_of
from ksubspaces.kernels.rows import as_rows

N, D, DIMS = 701, 24, (3, 5, 1, 7, 4, 4, 2, 6, 3, 5, 9, 0)


@pytest.fixture(params=["float32", "float64"])
def drawn(request, monkeypatch):
    """Rows, flats of several dimensions, penalties and weights; blocks are small."""
    monkeypatch.setattr(nearby, "BLOCK", 64)
    monkeypatch.setattr(nearby, "TOGETHER", 50)
    rng = np.random.default_rng()
    bases = np.concatenate([np.linalg.qr(rng.normal(size=(D, j)))[0].T for j in DIMS]).astype(request.param)
    flats = Flats(layout_of(D, DIMS), bases, rng.normal(size=(len(DIMS), D)).astype(request.param), None)
    X = rng.normal(size=(N, D)).astype(request.param)
    return as_rows(X), flats, 0.1 * np.array(DIMS), rng.random(N) + 0.1


def costs_of(X, flats, penalty, weights):
    distances = kernels.sqdistances(X[:].astype(np.float64), flats)
    return distances * (1 if weights is None else weights[:, None]) + penalty


@pytest.mark.parametrize("weighted", [False, True])
def test_the_few_are_those_of_least_cost(drawn, weighted):
    X, flats, penalty, weights = drawn
    weights = weights if weighted else None
    labels, near = nearby.find(X, flats, penalty, weights)
    np.testing.assert_array_equal(labels, kernels.assign(X, flats, penalty, weights)[0])
    costs = costs_of(X, flats, penalty, weights)
    least = np.sort(costs, axis=1)[:, : nearby.FEW]
    tol = 100 * np.finfo(X.dtype).eps
    np.testing.assert_allclose(np.sort(np.take_along_axis(costs, near.flats, axis=1), axis=1), least, rtol=tol)
    assert (np.diff(near.flats, axis=1) > 0).all()
    for c, places in enumerate(near.places):
        assert (near.flats.ravel()[places] == c).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_other_flats_are_chosen_among_the_few(drawn, weighted):
    X, flats, penalty, weights = drawn
    weights = weights if weighted else None
    _, near = nearby.find(X, flats, penalty, weights)
    rng = np.random.default_rng()
    shift = 0.3 * rng.normal(size=flats.offsets.shape).astype(X.dtype)
    others = Flats(flats.layout, flats.bases, flats.offsets + shift, None)
    labels = nearby.assign(X, near, others, penalty, weights)
    costs = np.take_along_axis(costs_of(X, others, penalty, weights), near.flats, axis=1)
    chosen = np.take_along_axis(costs, np.argmax(near.flats == labels[:, None], axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, costs.min(axis=1), rtol=100 * np.finfo(X.dtype).eps)
    assert near.steps == 1


def test_a_tie_goes_to_the_lowest_number(drawn):
    X, flats, _, _ = drawn
    same = flats.take([0, 1] * 5)
    labels, near = nearby.find(X, same, np.zeros(10), None)
    assert (labels < 2).all()
    lowest = nearby.assign(X, near, same, np.zeros(10), None)
    np.testing.assert_array_equal(lowest % 2, labels)
    assert (lowest == np.where(near.flats % 2 == labels[:, None], near.flats, 10).min(axis=1)).all()


def test_it_costs_no_quality(monkeypatch):
    """Both ways end in optima that are local, so it is their mean that tells; and the same seed gives the same bits."""
    monkeypatch.setattr(nearby, "BLOCK", 1 << 10)
    ratios = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        falling = [rng.normal(size=(500, D)) / (1 + np.arange(D)) ** 0.8 for _ in range(12)]
        A = np.concatenate([part @ np.linalg.qr(rng.normal(size=(D, D)))[0] for part in falling]).astype(np.float32)
        few, again = (compress(A, 0.5, k=12, seed=seed) for _ in range(2))
        np.testing.assert_array_equal(few.reconstruct(), again.reconstruct())
        with monkeypatch.context() as patch:
            patch.setattr(nearby, "pays", lambda n, k: False)
            ratios.append(few.relative_error / compress(A, 0.5, k=12, seed=seed).relative_error)
    assert np.mean(ratios) < 1.01
