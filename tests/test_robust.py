"""Robust losses: what they are, that their sum never rises, and that outliers do not lead a fit away."""

import numpy as np
import pytest
from emulator import emulated, needs_compiler
from helpers import import_or_skip
from planted import planted
from sklearn.metrics import normalized_mutual_info_score

from ksubspaces import Subspaces, fit_subspaces, kernels
from ksubspaces.kernels import cpu, cuda
from ksubspaces.losses import LOSSES, MAD, robust_scale
from ksubspaces.problem import Problem
from ksubspaces.robust import fit_robust

REDESCENDING = ["geman-mcclure", "welsch", "tukey"]
every = pytest.mark.parametrize("loss", LOSSES)


def rho(loss, r, scale):
    """The losses by their usual formulas, of distances e and the scale times their constants."""
    e, c = np.sqrt(r), LOSSES[loss].tuning * scale
    return {
        "l1": lambda: np.where(e > c, e, (e**2 / c + c) / 2),
        "huber": lambda: np.where(e <= c, e**2, 2 * c * e - c**2),
        "cauchy": lambda: c**2 * np.log(1 + (e / c) ** 2),
        "geman-mcclure": lambda: c**2 * e**2 / (c**2 + e**2),
        "welsch": lambda: c**2 * (1 - np.exp(-((e / c) ** 2))),
        "tukey": lambda: c**2 / 3 * np.where(e <= c, 1 - (1 - (e / c) ** 2) ** 3, 1),
    }[loss]()


def spoiled(n, d, k, j, *, far=False, affine=False, seed=0, dtype=np.float64):
    """Planted subspaces in which a fifth of the rows are uniform in a box about twice as wide; far: 30 times longer."""
    X, truth = planted(n, d, k, j, noise=0.05, seed=seed, offset=3.0 * affine, dtype=np.float64)
    rng = np.random.default_rng(seed + 100)
    out = rng.random(n) < 0.2
    box = rng.uniform(-1, 1, size=(out.sum(), d)) * 2 * abs(X).max()
    X[out] = 30 * rng.normal(size=(out.sum(), d)) if far else box
    return X.astype(dtype), truth, out


def agreement(model, truth, out):
    return normalized_mutual_info_score(truth[~out], np.asarray(model.labels)[~out])


@every
def test_loss_is_concave_with_its_weight_for_slope(loss):
    own = LOSSES[loss]
    u = np.concatenate([[0], np.geomspace(1e-3, 30, 500)])
    slopes = np.diff(own.value(u)) / np.diff(u)
    weights = own.weight(u) / (2 if loss == "l1" else 1)
    assert (slopes <= weights[:-1] + 1e-9).all()
    assert (slopes >= weights[1:] - 1e-9).all()  # so the slope falls: concave
    assert own.weight(u[:1])[0] == 1
    assert own.total(u, u, 0.7) == pytest.approx(u @ rho(loss, u, 0.7))


def test_scale_is_that_of_normal_errors():
    rng = np.random.default_rng(0)
    e = 0.3 * rng.normal(size=20_000)
    assert robust_scale(e**2) == pytest.approx(0.3, rel=0.02)
    weights = rng.integers(0, 4, size=501)
    once = robust_scale(e[:501] ** 2, weights.astype(float))
    assert once == pytest.approx(robust_scale(np.repeat(e[:501], weights) ** 2), rel=0.02)


@pytest.mark.parametrize("far", [False, True], ids=["box", "far"])
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
@pytest.mark.parametrize(
    ("loss", "dtype"), [("welsch", np.float32), ("tukey", np.float64), ("geman-mcclure", np.float32)]
)
def test_finds_planted_subspaces_among_outliers(loss, dtype, affine, far):
    X, truth, out = spoiled(800, 20, 4, 3, far=far, affine=affine, seed=1, dtype=dtype)
    model = fit_subspaces(X, 4, 3, affine=affine, loss=loss, seed=0)
    assert agreement(model, truth, out) >= 0.98
    if not affine:
        assert agreement(fit_subspaces(X, 4, 3, seed=0), truth, out) < 0.6
    found = model.outliers(X)
    assert (found[out]).mean() > 0.97
    assert (found[~out]).mean() < 0.01
    assert model.scale == pytest.approx(MAD * np.sqrt(np.median(model.residuals(X))), rel=0.05)


@pytest.mark.parametrize("loss", ["l1", "huber", "cauchy"])
def test_losses_that_never_forget_resist_outliers_of_moderate_size(loss):
    X, truth, out = spoiled(800, 20, 4, 3, seed=1)
    assert agreement(fit_subspaces(X, 4, 3, loss=loss, seed=0), truth, out) >= 0.98


@every
@pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
def test_sum_of_the_loss_never_rises_and_is_what_is_told(loss, affine):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 9)) * np.exp(rng.normal(size=(300, 1)))
    weights = rng.uniform(size=300)
    weights[:20] = 0
    labels = rng.integers(0, 4, size=300)
    steps = []
    given = {"sample_weight": weights, "init": labels, "scale": 0.3, "tol": 0, "callback": steps.append}
    model = fit_subspaces(X, 4, [2, 1, 3, 2], affine=affine, loss=loss, **given)
    history = np.array(model.history)
    assert len(history) > 3
    assert (np.diff(history) <= 1e-9 * model.energy).all()
    assert model.objective <= history.min() * (1 + 1e-6)
    assert model.objective == pytest.approx(weights @ rho(loss, model.residuals(X), model.scale), rel=1e-6)
    assert model.energy == pytest.approx(weights @ rho(loss, (X**2).sum(axis=1), model.scale), rel=1e-6)
    assert [step.objective for step in steps] == model.history
    assert (model.loss, model.relative_error) == (loss, model.objective / model.energy)


@pytest.mark.parametrize("loss", ["l1", "tukey"])
@pytest.mark.parametrize("power", [70, -70])
def test_units_do_not_matter(loss, power):
    """Beyond what squares in float32 can hold, too."""
    X, _, _ = spoiled(200, 8, 3, 2, dtype=np.float32)
    here = fit_subspaces(X, 3, 2, loss=loss, seed=0)
    there = fit_subspaces(np.ldexp(X, power), 3, 2, loss=loss, seed=0)
    np.testing.assert_array_equal(there.labels, here.labels)
    assert there.scale == pytest.approx(np.ldexp(here.scale, power), rel=1e-5)
    assert there.objective == pytest.approx(np.ldexp(here.objective, power * LOSSES[loss].power), rel=1e-4)


def test_a_given_scale_and_start():
    X, _, _ = spoiled(300, 8, 3, 2)
    first = fit_subspaces(X, 3, 2, loss="welsch", seed=0)
    again = fit_subspaces(X, 3, 2, loss="welsch", scale=first.scale, init=first, seed=0)
    assert again.scale == first.scale
    assert again.objective <= first.objective * (1 + 1e-3)
    wide = fit_subspaces(X, 3, 2, loss="huber", scale=1e6, init=first, seed=0)
    assert wide.objective == pytest.approx(wide.residuals(X).sum(), rel=1e-9)  # within its constant Huber's is squares


def test_same_seed_same_bits_and_torch_stays_torch():
    torch = import_or_skip("torch")
    X, _, _ = spoiled(200, 8, 3, 2, dtype=np.float32)
    first = fit_subspaces(X, 3, 2, loss="cauchy", affine=True, seed=5)
    second = fit_subspaces(torch.from_numpy(X), 3, 2, loss="cauchy", affine=True, seed=5)
    assert isinstance(second.outliers(torch.from_numpy(X)), torch.Tensor)
    np.testing.assert_array_equal(np.stack(first.bases), torch.stack(second.bases))
    np.testing.assert_array_equal(first.outliers(X), second.outliers(torch.from_numpy(X)))


def test_saved_with_loss_and_scale(tmp_path):
    X, _, _ = spoiled(200, 8, 3, 2)
    model = fit_subspaces(X, 3, 2, loss="tukey", seed=0)
    model.save(tmp_path / "robust.safetensors")
    again = Subspaces.load(tmp_path / "robust.safetensors")
    assert (again.loss, again.scale) == ("tukey", model.scale)
    np.testing.assert_array_equal(again.outliers(X), model.outliers(X))
    factors = model.factorize(X)  # whose error is of squares
    assert (factors.loss, factors.history) == ("l2", [])
    assert factors.relative_error == pytest.approx(factors.measure_error(X))


def test_rows_that_fit_exactly():
    """No scale but that of rounding; and rows of zeros, of which there are more than half."""
    X, truth = planted(120, 10, 3, 2, noise=0.0, dtype=np.float64)
    X[::6] = np.random.default_rng(0).normal(size=(20, 10))
    model = fit_subspaces(X, 3, 2, loss="welsch", seed=0)
    assert normalized_mutual_info_score(np.delete(truth, np.s_[::6]), np.delete(model.labels, np.s_[::6])) == 1
    assert np.flatnonzero(model.outliers(X)).tolist() == list(range(0, 120, 6))
    X[:80] = 0
    assert np.isfinite(fit_subspaces(X, 2, 2, loss="tukey", seed=0).objective)
    assert fit_subspaces(np.zeros((9, 3)), 2, 1, loss="l1", seed=0).relative_error <= 1


@needs_compiler
@pytest.mark.parametrize(("mode", "affine"), [("eager", False), ("late", True), ("reverse", True)])
def test_a_fit_on_the_emulator_agrees_with_the_cpu(monkeypatch, mode, affine):
    X, truth, out = spoiled(160, 10, 2, 2, affine=affine, dtype=np.float32)
    problem = Problem(X, None, (2, 2), affine)

    def fitted(problem):
        given = problem, LOSSES["welsch"], "auto", "k-means++", 2, 5, 0.0, 0, None, 1
        return fit_robust(*given, exponent=0, on_step=lambda *told: False)

    expected = fitted(problem)
    monkeypatch.setattr(kernels, "kernels_for", lambda array: cuda)
    monkeypatch.setattr(Problem, "on_card", True)
    for name in ("changed_rows", "largest", "sample_rows", "lower_distances"):  # simulated in simulated_irregular.py
        monkeypatch.setattr(cuda, name, getattr(cpu, name))
    with emulated(mode):
        got = fitted(Problem(X, None, (2, 2), affine))
    assert got.scale == pytest.approx(expected.scale, rel=1e-2)
    assert got.objective == pytest.approx(expected.objective, rel=1e-2)
    assert agreement(got, truth, out) == pytest.approx(agreement(expected, truth, out), abs=0.05)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "l3"}, "loss must be one of 'l2', 'l1', 'huber', .*got 'l3'"),
        ({"loss": None}, "loss must be one of"),
        ({"loss": "huber", "scale": 0}, "scale must be 'auto' or a number > 0, a distance .*got 0"),
        ({"loss": "huber", "scale": "mad"}, "scale must be 'auto' or a number"),
        ({"scale": 2.0}, "scale has no say over loss='l2'"),
        ({"loss": "huber", "search": "breathing"}, "search='breathing' is for loss='l2'"),
    ],
)
def test_bad_arguments(given, message):
    with pytest.raises(ValueError, match=message):
        fit_subspaces(np.ones((5, 3)), 1, 1, **given)


def test_bad_threshold_and_dask():
    model = fit_subspaces(np.eye(4), 1, 1)
    with pytest.raises(ValueError, match="threshold must be a number > 0"):
        model.outliers(np.eye(4), threshold=0)
    array = import_or_skip("dask.array")
    with pytest.raises(ValueError, match="cannot be had for a Dask array"):
        fit_subspaces(array.ones((8, 3)), 1, 1, loss="huber")
