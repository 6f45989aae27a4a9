"""Fits and factorizations tell the same facts in the same form; the forms of the version before still work."""

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest
from planted import planted

from ksubspaces import Factorization, Subspaces, compress, fit_subspaces
from ksubspaces.curve import truncate_svd
from ksubspaces.storage import load_arrays, save_arrays

X, _ = planted(300, 12, 3, 3, offset=1.0)
WEIGHTS = np.linspace(0, 2, 300)
SIZES = ("k", "d", "dims", "counts", "n_parameters", "nbytes")
RECORD = ("objective", "energy", "relative_error", "history", "n_iter", "converged", "seconds")


@pytest.fixture(scope="module")
def fitted():
    model = fit_subspaces(X, 3, [1, 2, 4], seed=0)
    return model, model.factorize(X)


@pytest.fixture(scope="module")
def factors():
    return compress(X, 0.4, sample_weight=WEIGHTS, seed=0)


def test_both_tell_the_same(fitted, factors):
    model, factored = fitted
    for name in SIZES + RECORD:
        kinds = [type(getattr(result, name)) for result in (model, factored, factors)]
        common = {float: float, tuple: tuple, list: list, int: int, bool: bool}
        assert any(all(issubclass(kind, wanted) for kind in kinds) for wanted in common), (name, kinds)
    for name in ("k", "d", "dims", "counts", "n_parameters", "history", "n_iter", "converged", "seconds"):
        assert getattr(model, name) == getattr(factored, name)
    assert (model.objective, model.energy) == pytest.approx((factored.objective, factored.energy), rel=1e-5)
    assert model.seconds > 0


def test_counts_are_whole_numbers_that_json_knows(fitted):
    for result in fitted:
        assert json.loads(json.dumps(result.counts)) == np.bincount(result.labels).tolist()
        assert hash(result.counts) == hash(tuple(result.counts))


def test_bytes_are_those_of_the_arrays(fitted):
    model, factored = fitted
    assert model.nbytes == 4 * (300 + 12 * sum(model.dims))
    assert factored.nbytes == model.nbytes + 4 * sum(m * j for m, j in zip(model.counts, model.dims, strict=True))


def test_the_record_of_compress(factors):
    decoded = factors.reconstruct().astype(np.float64)
    squares = ((X.astype(np.float64) - decoded) ** 2).sum(axis=1)
    energy = WEIGHTS @ (X.astype(np.float64) ** 2).sum(axis=1)
    assert factors.objective == pytest.approx(WEIGHTS @ squares, rel=1e-9)
    assert factors.energy == pytest.approx(energy, rel=1e-9)
    assert factors.relative_error == pytest.approx(factors.measure_error(X, WEIGHTS), rel=1e-7)
    assert factors.converged
    assert min(factors.history) == pytest.approx(factors.objective, rel=1e-3)
    assert factors.seconds > 0


@pytest.mark.parametrize("options", [{}, {"dims": "equal"}])
def test_a_descent_that_is_cut_short_has_not_converged(options):
    start = {"k": 3, "init": np.random.default_rng(1).integers(3, size=300)}
    short, long = (compress(X, 0.4, max_iter=m, seed=0, **start, **options) for m in (1, 100))
    assert (short.converged, long.converged) == (False, True)
    assert short.n_iter < long.n_iter


@pytest.mark.parametrize("options", [{"k": 3}, {"k": 3, "dims": "equal"}, {"k": 2, "exact_rows": [0, 7]}])
def test_the_record_scales_with_the_rows(options):
    plain, far = (compress(rows, 0.4, seed=0, **options) for rows in (X, np.ldexp(X.astype(np.float32), 60)))
    assert far.relative_error == pytest.approx(plain.relative_error, rel=1e-6)
    for name in ("objective", "energy", "history"):
        np.testing.assert_allclose(getattr(far, name), np.ldexp(getattr(plain, name), 120), rtol=1e-5)


def test_rows_kept_exactly_count_in_the_energy():
    factors = compress(X, 0.4, exact_rows=[0, 7], seed=0)
    assert factors.energy == pytest.approx((X.astype(np.float64) ** 2).sum(), rel=1e-9)
    assert factors.relative_error == pytest.approx(factors.measure_error(X), rel=1e-7)


def test_the_record_is_saved_and_moved(factors, tmp_path):
    factors.save(tmp_path / "f")
    for again in (Factorization.load(tmp_path / "f"), factors.to("numpy")):
        for name in RECORD[:-1]:
            assert getattr(again, name) == getattr(factors, name)
    assert factors.to("numpy").seconds == factors.seconds
    assert math.isnan(Factorization.load(tmp_path / "f").seconds)


def test_files_without_a_record_say_that_nothing_is_known(factors, tmp_path):
    factors.save(tmp_path / "f")
    arrays, facts = load_arrays(tmp_path / "f", "Factorization")
    save_arrays(tmp_path / "old", "Factorization", arrays, {"ratio": facts["ratio"]})
    old = Factorization.load(tmp_path / "old")
    assert all(math.isnan(getattr(old, name)) for name in ("objective", "energy", "relative_error", "seconds"))
    assert (old.history, old.converged) == ([], False)
    assert old.measure_error(X, WEIGHTS) == pytest.approx(factors.relative_error, rel=1e-7)
    old.save(tmp_path / "again")
    assert math.isnan(Factorization.load(tmp_path / "again").relative_error)
    for name, bad in (("relative_error", "none"), ("history", [math.inf]), ("converged", 1)):
        save_arrays(tmp_path / "bad", "Factorization", arrays, {**facts, name: bad})
        with pytest.raises(ValueError, match="is damaged"):
            Factorization.load(tmp_path / "bad")


def test_a_shorter_svd_forgets_the_error_of_the_longer():
    svd = compress(X, 0.2, k=1, seed=0)
    shorter = truncate_svd(svd, svd.n_parameters // 2)
    assert math.isnan(shorter.relative_error)
    assert shorter.measure_error(X) > svd.relative_error


def test_seconds_of_a_loaded_fit_are_not_known(fitted, tmp_path):
    fitted[0].save(tmp_path / "m")
    assert math.isnan(Subspaces.load(tmp_path / "m").seconds)


class TestFormsOfTheVersionBefore:
    def test_an_error_that_is_called(self, factors):
        with pytest.warns(DeprecationWarning, match=r"relative_error\(X\) goes .*; use measure_error\(X\)") as caught:
            assert factors.relative_error(X) == factors.measure_error(X)
        assert caught[0].filename == __file__
        with pytest.warns(DeprecationWarning):
            assert factors.relative_error(X, WEIGHTS) == pytest.approx(float(factors.relative_error), rel=1e-7)

    def test_an_error_is_a_number_otherwise(self, factors):
        error = factors.relative_error
        for same in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert (type(same), same) == (float, error)
        assert json.loads(json.dumps(error)) == error
        assert f"{error:.3f}" == f"{float(error):.3f}"

    @pytest.mark.parametrize(
        "use",
        [
            lambda counts: counts.sum(),
            lambda counts: counts.tolist(),
            lambda counts: (counts > 90).all(),
            lambda counts: counts @ np.array([1, 2, 3]),
            lambda counts: counts / 300,
            lambda counts: 300 - counts,
            lambda counts: 2 * counts,
            lambda counts: counts + counts,
            lambda counts: counts == 100,
            lambda counts: counts != 100,
            lambda counts: counts[np.array([True, False, True])],
            lambda counts: counts.astype(float),
        ],
    )
    def test_counts_as_an_array(self, fitted, use):
        counts = fitted[0].counts
        with pytest.warns(DeprecationWarning, match=r"use numpy.array\(counts\)") as caught:
            found = use(counts)
        assert caught[0].filename == __file__
        np.testing.assert_array_equal(found, use(np.array(list(counts))))

    def test_counts_as_a_tuple_do_not_warn(self, fitted):
        counts = fitted[0].counts
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert counts == tuple(counts)
            assert (counts != tuple(counts)) is False
            assert [counts[0], *counts[1:-1], counts[-1]] == list(counts)
            assert sum(counts) == 300
            np.testing.assert_array_equal(np.array(counts), np.asarray(counts))
            np.testing.assert_array_equal(np.array(counts) * 2, [2 * m for m in counts])
            assert pickle.loads(pickle.dumps(counts)) == copy.copy(counts) == counts
            assert isinstance(counts, tuple)
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            getattr(counts, "nothing")  # noqa: B009
        assert not hasattr(counts, "__array_interface__")


class TestKeep:
    def test_is_ratio_from_the_other_side(self):
        kept, saved = compress(X, keep=0.6, seed=0), compress(X, ratio=0.4, seed=0)
        assert kept.n_parameters == saved.n_parameters
        np.testing.assert_array_equal(kept.reconstruct(), saved.reconstruct())
        assert compress(X, keep=1, seed=0).n_parameters <= X.size

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"keep": 0}, ValueError, "keep is the share of the parameters to keep, 0 < keep <= 1; got 0"),
            ({"keep": 1.5}, ValueError, "keep is the share"),
            ({"keep": math.nan}, ValueError, "keep is the share"),
            ({"keep": "0.4"}, TypeError, "keep must be a number, got '0.4'"),
            ({"keep": True}, TypeError, "keep must be a number"),
            ({"keep": 0.6, "ratio": 0.4}, ValueError, "give either ratio, .* got ratio and keep"),
            ({"keep": 0.6, "n_parameters": 99}, ValueError, "give either ratio, .* got keep and n_parameters"),
            ({"keep": 0.05}, ValueError, r"keep=0.05 leaves 180 .* choose a keep of at least 0\.0867"),
            ({"n_parameters": 50}, ValueError, "n_parameters=50 leaves 50 .* give at least 312"),
            ({"keep": 0.3, "exact_rows": range(290)}, ValueError, "name fewer, or raise keep"),
            ({"n_parameters": 900, "exact_rows": range(290)}, ValueError, "name fewer, or raise n_parameters"),
            ({"ratio": 0.7, "exact_rows": range(290)}, ValueError, "name fewer, or lower ratio"),
        ],
    )
    def test_bad_input_is_told_in_the_callers_words(self, options, error, message):
        with pytest.raises(error, match=message):
            compress(X, **options)

    def test_the_least_that_is_named_will_do(self):
        assert compress(X, keep=0.0867, seed=0).n_parameters == 312
