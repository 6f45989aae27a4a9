"""What can be done with a fit: distances, prediction, coefficients, saving, moving."""

import numpy as np
import pytest
from helpers import assert_labels, import_or_skip, scale, tolerance
from planted import planted

from ksubspaces import Subspaces, fit_subspaces

CASES = {
    "equal": {"j": 3},
    "ragged": {"j": [0, 2, 9]},
    "affine": {"j": [2, 8, 4], "affine": True},
    "points": {"j": 0, "affine": True},
}


@pytest.fixture(params=CASES)
def fitted(request):
    X, _ = planted(300, 12, 3, 3, offset=1.0)
    return X, fit_subspaces(X, 3, seed=0, **CASES[request.param])


def test_distances_and_prediction(fitted):
    X, model = fitted
    Y = np.random.default_rng(1).normal(size=(40, 12)).astype(np.float32)
    distances = model.sqdistances(Y)
    assert distances.shape == (40, 3)
    assert_labels(model.predict(Y), distances, tolerance(np.float32) * scale(Y))
    for c, V in enumerate(model.bases):
        centred = Y if model.offsets is None else Y - model.offsets[c]
        rest = centred - centred @ V.T @ V
        np.testing.assert_allclose(distances[:, c], (rest**2).sum(axis=1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.predict(X), model.labels)


def test_transform_and_back(fitted):
    X, model = fitted
    Z = model.transform(X)
    assert Z.shape == (300, max(model.dims))
    for row in (0, 5, 250):
        j = model.dims[model.labels[row]]
        assert not Z[row, j:].any()
    points = model.reconstruct(Z)
    assert ((X - points).astype(np.float64) ** 2).sum() == pytest.approx(model.objective, rel=1e-4)
    np.testing.assert_allclose(model.transform(points, model.labels), Z, atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(Z[:7], model.labels[:7]), points[:7], atol=1e-5)
    np.testing.assert_allclose(model.factorize(X).reconstruct(), points, atol=1e-5)


def test_no_rows_give_no_rows(fitted):
    _, model = fitted
    none = np.zeros((0, 12))
    assert model.predict(none).shape == (0,)
    assert model.sqdistances(none).shape == (0, 3)
    assert model.transform(none).shape == (0, max(model.dims))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.predict(np.ones((2, 5))), "Y has 5 columns, but the flats live in 12 dimensions"),
        (lambda m: m.predict(np.ones(12)), "Y must be a matrix"),
        (lambda m: m.predict(np.full((1, 12), np.nan)), r"Y\[0, 0\] is nan"),
        (lambda m: m.transform(np.ones((2, 12)), [0, 3]), "labels must be whole numbers from 0 to 2"),
        (lambda m: m.transform(np.ones((2, 12)), [0]), "one entry for each of the 2 rows"),
        (lambda m: m.reconstruct(np.ones((2, 99)), [0, 0]), r"coefficients must have shape \(m, \d"),
        (lambda m: m.reconstruct(np.ones((2, max(m.dims)))), "one entry for each of the 2 rows"),
        (lambda m: m.to("paper"), "target must be 'numpy'.* got 'paper'"),
    ],
)
def test_bad_input(fitted, call, message):
    with pytest.raises(ValueError, match=message):
        call(fitted[1])


def test_save_and_load(fitted, tmp_path):
    X, model = fitted
    model.save(tmp_path / "model.safetensors")
    again = Subspaces.load(tmp_path / "model.safetensors")
    for ours, theirs in zip(again.bases, model.bases, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.labels, model.labels)
    assert again.labels.dtype == np.int32
    for name in ("objective", "energy", "relative_error", "history", "n_iter", "converged", "n_reseeded", "dims"):
        assert getattr(again, name) == getattr(model, name)
    assert (again.offsets is None) == (model.offsets is None)
    assert_labels(again.predict(X), model.sqdistances(X), tolerance(np.float32) * scale(X))
    assert repr(again) == repr(model)


def test_to_torch_and_back(fitted):
    torch = import_or_skip("torch")
    X, model = fitted
    there = model.to("torch")
    assert all(isinstance(V, torch.Tensor) for V in there.bases)
    assert isinstance(there.labels, torch.Tensor)
    assert there.home.kind == "torch"
    np.testing.assert_array_equal(there.counts, model.counts)
    assert_labels(there.predict(X), model.sqdistances(X), tolerance(np.float32) * scale(X))
    assert isinstance(there.predict(torch.from_numpy(X)), torch.Tensor)
    back = there.to("cpu").to("numpy")
    np.testing.assert_array_equal(back.bases[2], model.bases[2])
    assert model.to("cpu").home == model.home


def test_torch_fit_saves(tmp_path):
    torch = import_or_skip("torch")
    model = fit_subspaces(torch.rand(50, 4), 2, 1, seed=0)
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(Subspaces.load(tmp_path / "m").bases[1], model.bases[1].numpy())


def test_tiny_rows_can_be_predicted(fitted):
    _, model = fitted
    assert model.predict(np.full((1, 12), 1e-13, np.float32)).shape == (1,)
