"""The objective of labels and flats, from moments alone."""

import numpy as np
import pytest

from contract.problems import problem
from ksubspaces.kernels import group_rows, layout_of, reference


def measured(backend, X, labels, flats, weights):
    moments = reference.second_moments(X, group_rows(labels, flats.k), weights, center=flats.offsets is not None)
    got = backend.measure_objective(moments, flats)
    assert got.dtype == np.float64
    assert got.shape == (flats.k,)
    assert (got >= 0).all()
    return moments, float(got.sum())


@pytest.mark.operation("measure_objective", reference=True)
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_measure_objective(backend, n, d, dims, dtype, affine):
    """That of the rows, whether the flats pass through their means or elsewhere; weighted if affine."""
    X, flats, rng = problem(n, d, dims, dtype, affine)
    labels = rng.integers(0, max(1, len(dims) - 1), n)  # none in the last
    weights = rng.random(n) if affine else None
    _, got = measured(backend, X, labels, flats, weights)
    chosen = reference.sqdistances(X, flats)[np.arange(n), labels]
    scale = (X.astype(np.float64) ** 2).sum()  # bases are orthonormal to the rounding of their dtype
    np.testing.assert_allclose(got, chosen.sum() if weights is None else weights @ chosen, atol=1e-6 * scale)


@pytest.mark.operation("measure_objective", reference=True)
def test_rows_on_their_flats_cost_nothing(backend, dtype):
    """Not less than nothing either, and about offsets that are far away."""
    X, flats, rng = problem(60, 9, [2, 5, 9], dtype, True)
    labels = rng.integers(0, 3, 60)
    for c in range(3):
        inside = rng.normal(size=((labels == c).sum(), flats.layout.dims[c])) @ flats.basis(c)
        X[labels == c] = 1e3 + flats.offsets[c] + inside
    flats.offsets[...] += 1e3
    moments, got = measured(backend, X, labels, flats, None)
    assert 0 <= got <= 1e-4 * np.trace(moments.scatter.sum(axis=0))


@pytest.mark.operation("measure_objective")
def test_moments_need_their_products(backend):
    _, flats, _ = problem(5, 3, [1, 2], np.float64, False)
    moments = reference.second_moments(np.ones((5, 3)), group_rows(np.zeros(5, int), 2), products=False)
    assert flats.layout == layout_of(3, (1, 2))
    with pytest.raises(ValueError, match="hold the means only"):
        backend.measure_objective(moments, flats)
