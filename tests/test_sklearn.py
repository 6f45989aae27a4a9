"""Estimators for scikit-learn: its own checks, and what they give beside what the solver gives."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import import_or_skip
from planted import planted, recomputed_objective
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ksubspaces import OnlineSubspaces, compress, fit_subspaces
from ksubspaces.integrations.sklearn import KSubspaces, SubspaceCompressor

NOT_EQUIVALENT = {"check_sample_weight_equivalence_on_dense_data"}
REASONS = {
    KSubspaces: "a start draws rows by their weights: other rows are drawn of repeated ones, as in KMeans",
    SubspaceCompressor: "the budget is a share of the rows, and a row of weight 0 is one",
}
X, truth = planted(300, 10, 3, 2, noise=0.05, dtype=np.float64)
rng = np.random.default_rng(5)
weights = rng.uniform(size=len(X))
both = pytest.mark.parametrize(
    "model", [KSubspaces(3, 2, random_state=0), SubspaceCompressor(random_state=0)], ids=repr
)


def expected_failures(estimator):
    return dict.fromkeys(NOT_EQUIVALENT, REASONS[type(estimator)])


@parametrize_with_checks(
    [KSubspaces(affine=True), SubspaceCompressor()],
    expected_failed_checks=expected_failures,
)
@pytest.mark.filterwarnings("ignore:no partition of A")
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_arrays_of_other_libraries():
    """In a process where SciPy takes them: scikit-learn's checks, and Torch's arrays stay so."""
    import_or_skip("torch")
    import_or_skip("array_api_strict")
    program = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, torch
from sklearn import config_context
from sklearn.utils.estimator_checks import estimator_checks_generator
from unittest import SkipTest
from ksubspaces.integrations.sklearn import KSubspaces, SubspaceCompressor
passed = 0
for estimator in (KSubspaces(), SubspaceCompressor(), KSubspaces(affine=True)):
    for model, check in estimator_checks_generator(estimator):
        if "array_api" in check.func.__name__:
            try:
                check(model)
                passed += 1
            except SkipTest:
                pass
X = torch.from_numpy(np.random.default_rng(0).normal(size=(60, 5)))
with config_context(array_api_dispatch=True):
    model = KSubspaces(3, 2, affine=True, random_state=0).fit(X)
    parts = [model.labels_, model.components_, model.offsets_, *model.bases_, model.transform(X)]
    assert all(isinstance(part, torch.Tensor) for part in parts)
    gone = ((X - model.inverse_transform(model.transform(X))) ** 2).sum()
assert np.isclose(float(gone), model.objective_)
here = KSubspaces(3, 2, affine=True, random_state=0).fit(X.numpy())
np.testing.assert_array_equal(here.components_, model.components_)
assert isinstance(here.predict(X), np.ndarray)
print("passed", passed)
"""
    environment = os.environ | {"SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 9


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_as_the_solver(affine, dtype):
    rows = (X + affine).astype(dtype)
    dims = [1, 3, 2]
    model = KSubspaces(3, dims, affine=affine, random_state=4).fit(rows, sample_weight=weights)
    ours = fit_subspaces(rows, 3, dims, affine=affine, sample_weight=weights, seed=4)
    np.testing.assert_array_equal(model.labels_, ours.labels)
    assert model.objective_ == ours.objective
    assert model.n_iter_ == ours.n_iter
    Z = model.transform(rows)
    assert Z.shape == (300, 6 + 3 * affine)
    assert Z.dtype == dtype
    expected = ours.reconstruct(ours.transform(rows), ours.predict(rows))
    np.testing.assert_allclose(model.inverse_transform(Z), expected, atol=1e-5 if dtype == np.float32 else 1e-12)
    assert np.isclose(-model.score(rows, sample_weight=weights), recomputed_objective(rows, ours, weights), rtol=1e-4)
    sparse = clone(model).set_params(sparse_output=True).fit(rows, sample_weight=weights)
    np.testing.assert_array_equal(sparse.transform(rows).toarray(), Z)
    np.testing.assert_allclose(sparse.inverse_transform(sparse.transform(rows)), expected, atol=1e-5)


def test_compressor_is_compress():
    model, ours = SubspaceCompressor(0.5, random_state=1).fit(X), compress(X, 0.5, seed=1)
    np.testing.assert_array_equal(model.labels_, ours.labels)
    assert model.factorization_.n_parameters == ours.n_parameters
    gone = ((X - model.inverse_transform(model.transform(X))) ** 2).sum()
    assert gone <= model.objective_ * (1 + 1e-9)  # the nearest flat is as near as the one that the price gave
    few = SubspaceCompressor(n_parameters=700, dims="equal", n_clusters=2).fit(X)
    assert few.factorization_.n_parameters <= 700
    assert len(set(few.factorization_.dims)) == 1


@both
def test_pickle_and_names(model):
    fitted = clone(model).fit(X)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    names = fitted.get_feature_names_out()
    assert names[0] == type(model).__name__.lower() + "0"
    pandas = import_or_skip("pandas")
    table = clone(model).set_output(transform="pandas").fit_transform(pandas.DataFrame(X))
    assert list(table.columns) == list(names)


def test_partial_fit_is_the_stream_of_the_solver():
    model, stream = KSubspaces(3, 2, half_life=200, random_state=0), OnlineSubspaces(3, 2, half_life=200, seed=0)
    for first in range(0, 300, 100):
        model.partial_fit(X[first : first + 100], sample_weight=weights[first : first + 100])
        stream.partial_fit(X[first : first + 100], weights[first : first + 100])
    np.testing.assert_array_equal(model.components_, np.concatenate(stream.subspaces.bases))
    assert model.n_iter_ == 3
    assert normalized_mutual_info_score(truth, model.predict(X)) > 0.95
    fitted = KSubspaces(3, 2, random_state=0).fit(X[:200])
    assert fitted.partial_fit(X[200:]).labels_.shape == (100,)
    assert fitted.score(X) > 2 * KSubspaces(3, 2, random_state=0).fit(X).score(X)
    with pytest.raises(ValueError, match="cannot be had of a stream"):
        KSubspaces(3, 2, loss="huber").partial_fit(X)


def test_random_states():
    states = [np.random.RandomState(3), np.random.RandomState(3)]
    first, second = (KSubspaces(3, 2, random_state=state).fit(X) for state in states)
    np.testing.assert_array_equal(first.components_, second.components_)


def test_grid_search_with_routed_weights():
    """Held-out distances prefer three planes to fewer; the weights go to fit and score by scikit-learn's routing."""
    with config_context(enable_metadata_routing=True):
        model = KSubspaces(2, 2, random_state=0).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        search = GridSearchCV(model, {"n_clusters": [1, 2, 3]}, cv=3).fit(X, sample_weight=weights)
    assert search.best_params_ == {"n_clusters": 3}
    assert normalized_mutual_info_score(truth, search.predict(X)) > 0.95


def test_pipeline():
    digits = load_digits().data[:500]
    pipeline = make_pipeline(StandardScaler(with_std=False), KSubspaces(10, 4, random_state=0))
    Z = pipeline.fit_transform(digits)
    assert Z.shape == (500, 40)
    assert ((Z != 0).sum(axis=1) <= 4).all()
    gone = ((pipeline.inverse_transform(Z) - digits) ** 2).sum()
    assert np.isclose(gone, pipeline[-1].objective_)


def test_bad_input():
    model = KSubspaces(3, 2).fit(X)
    with pytest.raises(ValueError, match="Z must have 6 columns, as transform gives them, got 4"):
        model.inverse_transform(np.ones((2, 4)))
    with pytest.raises(ValueError, match="j=12 is more than the 10 columns"):
        KSubspaces(3, 12).fit(X)
    with pytest.raises(ValueError, match="10 features"):
        model.predict(X[:, :4])
