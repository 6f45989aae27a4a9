"""fit_subspaces: what it finds, what it promises, what it refuses."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from helpers import assert_labels
from helpers import scale as scale_of
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from planted import planted, random_bases, recomputed_objective
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from ksubspaces import Subspaces, fit_subspaces

AFFINE = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def assert_consistent(X, model, weights=None):
    """Bases orthonormal, labels the nearest flats, objective theirs, history never rising."""
    total = np.ones(len(X)) @ (np.asarray(X, np.float64) ** 2).sum(axis=1)
    for V in model.bases:
        np.testing.assert_allclose(V @ V.T, np.eye(len(V)), atol=2e-6)
    np.testing.assert_array_equal(model.labels, model.predict(X))
    assert model.objective == pytest.approx(recomputed_objective(X, model, weights), rel=1e-9, abs=1e-18 * total)
    assert model.n_iter == len(model.history) >= 1
    noise = 1e-6 * total if np.asarray(X).dtype == np.float32 else 1e-12 * total
    assert all(b <= a + noise for a, b in pairwise(model.history))
    assert model.objective <= model.history[-1] + noise
    assert sum(model.counts) == len(X)


@pytest.mark.parametrize(("n", "d", "k", "j"), [(4000, 64, 8, 16), (5000, 100, 20, 5)])
def test_planted_subspaces_are_found(n, d, k, j):
    scores = []
    for seed in range(5):
        X, truth = planted(n, d, k, j, seed=seed)
        scores.append(normalized_mutual_info_score(truth, fit_subspaces(X, k, j, seed=seed).labels))
    assert np.mean(scores) >= 0.99


@AFFINE
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "d", "k", "j"),
    [(200, 5, 3, 1), (300, 17, 2, 12), (150, 9, 3, [0, 4, 9]), (90, 520, 2, 3), (60, 40, 5, 30), (500, 3, 4, 0)],
)
def test_result_is_consistent(n, d, k, j, dtype, affine):
    X = np.random.default_rng(n).normal(size=(n, d)).astype(dtype) + 3 * affine
    model = fit_subspaces(X, k, j, affine=affine, seed=0)
    assert_consistent(X, model)
    assert model.dims == ((j,) * k if isinstance(j, int) else tuple(j))
    assert (model.offsets is not None) == affine
    assert model.relative_error == pytest.approx(model.objective / (X.astype(np.float64) ** 2).sum())
    assert str(d) in repr(model)


@pytest.mark.parametrize("init", ["k-means++", "k-means", "random"])
@AFFINE
def test_every_start(init, affine):
    X, truth = planted(600, 20, 3, 2, noise=0.02, offset=2.0 * affine)
    model = fit_subspaces(X, 3, 2, init=init, n_init=3, affine=affine, seed=1)
    assert_consistent(X, model)
    assert model.relative_error < 0.25
    if init == "k-means++":
        assert normalized_mutual_info_score(truth, model.labels) > 0.95


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("j", [0, 1, 7, 29, 30])
def test_one_subspace_is_the_truncated_svd(j, dtype):
    X = np.random.default_rng(0).normal(size=(200, 30)).astype(dtype)
    model = fit_subspaces(X, 1, j)
    s = np.linalg.svd(X.astype(np.float64), compute_uv=False)
    assert model.objective == pytest.approx((s[j:] ** 2).sum(), rel=1e-6 if dtype == np.float32 else 1e-12, abs=1e-8)
    assert model.converged
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    s = np.linalg.svd(centred, compute_uv=False)
    pca = fit_subspaces(X + 5, 1, j, affine=True)
    assert pca.objective == pytest.approx((s[j:] ** 2).sum(), rel=1e-5 if dtype == np.float32 else 1e-10, abs=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_points_are_kmeans(weighted):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(800, 6)) + rng.integers(0, 4, 800)[:, None] * 1.5
    weights = rng.random(800) if weighted else None
    labels = rng.integers(0, 5, 800)
    w = np.ones(800) if weights is None else weights
    centres = np.stack([w[labels == c] @ X[labels == c] / w[labels == c].sum() for c in range(5)])
    theirs = KMeans(5, init=centres, n_init=1, tol=0, max_iter=500, algorithm="lloyd").fit(X, sample_weight=weights)
    ours = fit_subspaces(X, 5, 0, affine=True, init=labels, sample_weight=weights, tol=0, max_iter=500)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.offsets, theirs.cluster_centers_, atol=1e-9)
    assert ours.objective == pytest.approx(theirs.inertia_)


@AFFINE
def test_whole_weights_are_repeated_rows(affine):
    X, _ = planted(150, 8, 2, 2, dtype=np.float64)
    weights = np.random.default_rng(0).integers(0, 4, 150)
    start = np.arange(150) % 2
    weighted = fit_subspaces(X, 2, 2, sample_weight=weights, init=start, affine=affine, tol=0)
    repeated = fit_subspaces(np.repeat(X, weights, axis=0), 2, 2, init=np.repeat(start, weights), affine=affine, tol=0)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert_labels(weighted.labels, repeated.sqdistances(X), 1e-9 * scale_of(X))
    assert_consistent(X, weighted, weights)


def test_rows_of_weight_zero_have_no_say():
    X, _ = planted(400, 12, 2, 2, noise=0.01)
    wild = np.concatenate([X, 100 * np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)])
    weights = np.r_[np.ones(400), np.zeros(50)]
    model = fit_subspaces(wild, 2, 2, sample_weight=weights, seed=0)
    assert model.relative_error < 0.01
    assert model.labels.shape == (450,)
    assert_consistent(wild, model, weights)


@pytest.mark.parametrize("affine", [False, True])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(spare=st.integers(1, 60), d=st.integers(1, 12), k=st.integers(1, 5), power=st.integers(-20, 20), data=st.data())
def test_equivariance(affine, spare, d, k, power, data):
    """Rotating, scaling and permuting the rows does so to the result; from the same start, in float64.

    The flats must be determined: clusters have rows enough, in each step. And nothing may be tied but for rounding, as
    two rows are that have a cluster to themselves: so no two weigh the same.
    """
    j = data.draw(st.integers(0, d))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n = k * max(1, j + affine) + spare
    X, start, weights = rng.normal(size=(n, d)), np.arange(n) % k, rng.uniform(0.5, 2, n)
    options = {"affine": affine, "max_iter": 3}
    base = fit_subspaces(X, k, j, init=start, sample_weight=weights, **options)
    last = fit_subspaces(X, k, j, init=start, sample_weight=weights, affine=affine, max_iter=2).counts
    assume(base.n_reseeded == 0 and min(last) >= j + affine)
    atol = 1e-9 * (X**2).sum()
    factor = 2.0**power
    scaled = fit_subspaces(factor * X, k, j, init=start, sample_weight=weights, **options)
    assert scaled.objective / factor**2 == pytest.approx(base.objective, rel=1e-6, abs=atol)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    rotated = fit_subspaces(X @ rotation, k, j, init=start, sample_weight=weights, **options)
    assert rotated.objective == pytest.approx(base.objective, rel=1e-6, abs=atol)
    order = rng.permutation(n)
    permuted = fit_subspaces(X[order], k, j, init=start[order], sample_weight=weights[order], **options)
    assert permuted.objective == pytest.approx(base.objective, rel=1e-6, abs=atol)
    if base.objective > atol:
        np.testing.assert_allclose(permuted.sqdistances(X).min(1), base.sqdistances(X).min(1), atol=1e-6 * X.size)


def test_same_seed_same_bits():
    X, _ = planted(900, 24, 4, 3)
    first, second = (fit_subspaces(X, 4, 3, seed=7) for _ in range(2))
    for a, b in zip(first.bases, second.bases, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.history == second.history
    generator = [fit_subspaces(X, 4, 3, seed=np.random.default_rng(1)).history for _ in range(2)]
    assert generator[0] == generator[1]
    assert fit_subspaces(X, 4, 3, seed=-3).history == fit_subspaces(X, 4, 3, seed=-3).history
    assert fit_subspaces(X, 4, 3, seed=2**80, max_iter=1).n_iter == 1


def test_global_state_and_input_are_left_alone():
    X, _ = planted(300, 10, 3, 2)
    before, state = X.copy(), np.random.get_state()[1].copy()
    X.flags.writeable = False
    fit_subspaces(X, 3, 2, seed=0, sample_weight=np.ones(300))
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_fits_run_side_by_side():
    X, _ = planted(600, 16, 3, 2)
    alone, together = fit_subspaces(X, 3, 2, seed=0), []
    threads = [threading.Thread(target=lambda: together.append(fit_subspaces(X, 3, 2, seed=0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [m.objective for m in together] == pytest.approx([alone.objective] * 4, rel=1e-6)


def test_warm_starts():
    X, _ = planted(500, 15, 3, 2)
    fitted = fit_subspaces(X, 3, 2, seed=0, tol=1e-7)
    for init in (fitted, fitted.bases, fitted.labels, fitted.labels.astype(float), fitted.labels.tolist()):
        again = fit_subspaces(X, 3, 2, init=init)
        assert again.objective <= fitted.objective * (1 + 1e-6)
        assert again.n_iter <= 2
    wider = fit_subspaces(X, 3, [3, 4, 5], init=fitted)
    assert wider.objective <= fitted.objective * (1 + 1e-6)
    flats = fit_subspaces(X + 4, 3, 2, affine=True, seed=0)
    assert fit_subspaces(X + 4, 3, 2, affine=True, init=flats).objective <= flats.objective * (1 + 1e-6)


def test_more_starts_are_no_worse():
    X = np.random.default_rng(0).normal(size=(400, 10))
    one = fit_subspaces(X, 5, 2, init="random", n_init=1, seed=np.random.default_rng(0))
    many = fit_subspaces(X, 5, 2, init="random", n_init=6, seed=np.random.default_rng(0))
    assert many.objective <= one.objective * 1.001
    starts = set()
    fit_subspaces(X, 5, 2, n_init=3, seed=0, callback=lambda step: starts.add(step.start))
    assert starts == {0, 1, 2}


@pytest.mark.parametrize(("k", "n_starts"), [(64, 4), (65, 2), (128, 2), (129, 1)])
def test_fewer_starts_are_raced_the_more_flats_there_are(k, n_starts):
    starts, X = set(), np.random.default_rng(0).normal(size=(140, 3))
    fit_subspaces(X, k, 1, search="starts", seed=0, callback=lambda step: starts.add(step.start))
    assert len(starts) == n_starts


def test_callback_sees_every_step_and_can_stop():
    X = np.random.default_rng(0).normal(size=(500, 12)).astype("f4")
    steps = []
    model = fit_subspaces(X, 4, 2, init="random", n_init=1, seed=0, callback=lambda step: steps.append(step))
    assert [s.iteration for s in steps] == list(range(1, model.n_iter + 1))
    assert [s.objective for s in steps] == model.history
    assert all(a.seconds <= b.seconds for a, b in pairwise(steps))
    assert steps[0].moved > 0
    stopped = fit_subspaces(
        X, 4, 2, search="starts", seed=0, callback=lambda step: step.start == 1 and step.iteration == 2
    )
    assert not stopped.converged
    assert_consistent(X, stopped)


def test_interrupt_leaves_the_next_fit_alone():
    X, _ = planted(300, 10, 3, 2)
    expected = fit_subspaces(X, 3, 2, seed=0).history

    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_subspaces(X, 3, 2, seed=0, callback=interrupt, progress=True)
    assert fit_subspaces(X, 3, 2, seed=0).history == expected


def test_progress_bar(capsys):
    X, _ = planted(300, 10, 3, 2)
    fit_subspaces(X, 3, 2, seed=0, progress=True)
    assert "done" in capsys.readouterr().out


def test_progress_without_rich_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r"ksubspaces\[cli\]"):
        fit_subspaces(np.eye(4), 2, 1, progress=True)


def test_max_iter_and_tol():
    X = np.random.default_rng(0).normal(size=(800, 20))
    short = fit_subspaces(X, 5, 3, init="random", n_init=1, seed=0, max_iter=2)
    assert (short.n_iter, short.converged) == (2, False)
    loose = fit_subspaces(X, 5, 3, init="random", n_init=1, seed=0, tol=0.1)
    tight = fit_subspaces(X, 5, 3, init="random", n_init=1, seed=0, tol=0, max_iter=1000)
    assert loose.n_iter < tight.n_iter
    assert loose.converged
    assert tight.converged
    assert tight.objective < loose.objective


# Inputs that break others


@AFFINE
@pytest.mark.parametrize("j", [0, 1, 3])
def test_zero_matrix(affine, j):
    model = fit_subspaces(np.zeros((20, 3)), 4, j, affine=affine, seed=0)
    assert model.objective == model.relative_error == 0
    assert_consistent(np.zeros((20, 3)), model)


@AFFINE
def test_duplicate_rows(affine):
    X = np.repeat(np.random.default_rng(0).normal(size=(3, 6)), 30, axis=0)
    model = fit_subspaces(X, 5, 1, affine=affine, seed=0)
    assert model.relative_error < 1e-12
    assert_consistent(X, model)


@AFFINE
@pytest.mark.parametrize("j", [0, 1, 5])
def test_as_many_flats_as_rows(affine, j):
    X = np.random.default_rng(0).normal(size=(12, 5))
    model = fit_subspaces(X, 12, j, affine=affine, seed=0)
    assert_consistent(X, model)
    if affine or j:
        assert model.relative_error < 1e-12


@AFFINE
def test_single_row(affine):
    model = fit_subspaces([[3.0, 4.0]], 1, 1, affine=affine)
    assert model.relative_error < 1e-12
    assert model.labels.tolist() == [0]


def test_zero_rows_among_others():
    X, _ = planted(200, 9, 2, 2, noise=0.0)
    X[::5] = 0
    assert fit_subspaces(X, 2, 2, seed=0).relative_error < 1e-6


def test_clusters_smaller_than_their_dimension():
    X = np.random.default_rng(0).normal(size=(30, 40))
    model = fit_subspaces(X, 6, 10, seed=0)
    assert model.relative_error < 1e-10
    assert_consistent(X, model)


def test_rank_deficient_and_identical_subspaces():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 12))
    model = fit_subspaces(X, 3, 5, seed=0)
    assert model.relative_error < 1e-12
    assert_consistent(X, model)


def test_repeated_eigenvalues():
    X = np.tile(np.eye(6), (10, 1))
    assert_consistent(X, fit_subspaces(X, 2, 3, seed=0))


def test_empty_cluster_of_a_start_is_refilled():
    X, _ = planted(300, 10, 3, 2, noise=0.01)
    model = fit_subspaces(X, 3, 2, init=np.zeros(300, int))
    assert model.n_reseeded >= 1
    assert min(model.counts) > 0
    assert_consistent(X, model)
    again = fit_subspaces(X, 3, 2, init=np.zeros(300, int))
    assert again.history == model.history


def test_large_common_offset():
    X, truth = planted(2000, 10, 3, 2, noise=0.02, offset=1.0)
    model = fit_subspaces(X + np.float32(1000), 3, 2, affine=True, seed=0)
    assert normalized_mutual_info_score(truth, model.labels) > 0.9


def test_all_clusters_cannot_be_held_at_once(monkeypatch):
    """With too many d x d moments to keep, clusters are refitted one at a time to the same result."""
    from ksubspaces import refit

    X, _ = planted(400, 30, 5, 4, dtype=np.float64)
    for kwargs in ({}, {"affine": True}, {"sample_weight": np.random.default_rng(0).random(400)}):
        expected = fit_subspaces(X, 5, 4, init=np.arange(400) % 5, max_iter=8, **kwargs)
        monkeypatch.setattr(refit, "RESIDENT_BYTES", 0)
        monkeypatch.setattr(refit, "RESIDENT_SHARE", 0)
        got = fit_subspaces(X, 5, 4, init=np.arange(400) % 5, max_iter=8, **kwargs)
        monkeypatch.undo()
        assert got.objective == pytest.approx(expected.objective, rel=1e-8)
        assert_labels(got.labels, expected.sqdistances(X), 1e-9 * scale_of(X))


GOOD = np.random.default_rng(0).normal(size=(10, 4))


def broken(row, column, value):
    X = GOOD.copy()
    X[row, column] = value
    return X


@pytest.mark.parametrize(
    ("error", "message", "args", "kwargs"),
    [
        (ValueError, r"X must be a matrix .* got shape \(4,\)", (np.ones(4), 1, 1), {}),
        (ValueError, r"X must be a matrix .* got shape \(2, 2, 2\)", (np.ones((2, 2, 2)), 1, 1), {}),
        (ValueError, r"X has no rows", (np.ones((0, 4)), 1, 1), {}),
        (ValueError, r"X has no columns", (np.ones((4, 0)), 1, 0), {}),
        (ValueError, r"X\[3, 2\] is nan", (broken(3, 2, np.nan), 2, 1), {}),
        (ValueError, r"X\[0, 0\] is inf", (broken(0, 0, np.inf), 2, 1), {}),
        (ValueError, r"X\[9, 3\] is -inf", (broken(9, 3, -np.inf), 2, 1), {}),
        (ValueError, r"overflow float32", (np.full((20, 4), 3e38, "f4"), 2, 1), {}),
        (ValueError, r"X is not a rectangular", ([[1, 2], [3]], 1, 1), {}),
        (TypeError, r"X is complex", (GOOD + 1j, 2, 1), {}),
        (TypeError, r"X has dtype object", (GOOD.astype(object), 2, 1), {}),
        (TypeError, r"X has dtype <U", (GOOD.astype(str), 2, 1), {}),
        (TypeError, r"X has dtype <U", (GOOD.astype(str), 2, 1), {"dtype": "float32"}),
        (TypeError, r"X has dtype datetime64", (GOOD.astype("M8[s]"), 2, 1), {}),
        (ValueError, r"k=11 subspaces need at least 11 rows, but X has 10", (GOOD, 11, 1), {}),
        (ValueError, r"k must be at least 1, got 0", (GOOD, 0, 1), {}),
        (TypeError, r"k must be a whole number, got 2.5", (GOOD, 2.5, 1), {}),
        (TypeError, r"k must be a whole number, got True", (GOOD, True, 1), {}),
        (ValueError, r"j=5 is more than the 4 columns", (GOOD, 2, 5), {}),
        (ValueError, r"j must be at least 0, got -1", (GOOD, 2, -1), {}),
        (TypeError, r"j must be a whole number, got 1.5", (GOOD, 2, 1.5), {}),
        (TypeError, r"j must be a whole number, got None", (GOOD, 2, None), {}),
        (ValueError, r"j must be one int or k=2 of them, got 3", (GOOD, 2, [1, 1, 1]), {}),
        (ValueError, r"device must be None, 'cpu'.* got 'tpu'", (GOOD, 2, 1), {"device": "tpu"}),
        (ValueError, r"device must be .* got 'cuda:x'", (GOOD, 2, 1), {"device": "cuda:x"}),
        (ValueError, r"dtype must be float32 or float64.* got 'float16'", (GOOD, 2, 1), {"dtype": "float16"}),
        (ValueError, r"dtype must be .* got 'no'", (GOOD, 2, 1), {"dtype": "no"}),
        (ValueError, r"one entry for each of the 10 rows.* \(9,\)", (GOOD, 2, 1), {"sample_weight": np.ones(9)}),
        (ValueError, r"sample_weight\[0\] is -1", (GOOD, 2, 1), {"sample_weight": -np.ones(10)}),
        (ValueError, r"sample_weight\[0\] is nan", (GOOD, 2, 1), {"sample_weight": np.full(10, np.nan)}),
        (ValueError, r"sample_weight is zero everywhere", (GOOD, 2, 1), {"sample_weight": np.zeros(10)}),
        (ValueError, r"init must be one of 'k-means\+\+'", (GOOD, 2, 1), {"init": "best"}),
        (ValueError, r"init .*entry for each of the 10 rows", (GOOD, 2, 1), {"init": [0, 1]}),
        (ValueError, r"init .*whole numbers from 0 to 1", (GOOD, 2, 1), {"init": np.arange(10)}),
        (ValueError, r"init .*whole numbers from 0 to 1", (GOOD, 2, 1), {"init": np.full(10, 0.5)}),
        (ValueError, r"init has 3 bases, but k=2", (GOOD, 2, 1), {"init": [np.eye(4)[:1]] * 3}),
        (ValueError, r"init\[1\] must be a basis \(j, 4\)", (GOOD, 2, 1), {"init": [np.eye(4)[:1], np.eye(5)[:1]]}),
        (ValueError, r"n_init must be at least 1, got 0", (GOOD, 2, 1), {"n_init": 0}),
        (TypeError, r"n_init must be 'auto' or a whole number, got 'many'", (GOOD, 2, 1), {"n_init": "many"}),
        (ValueError, r"max_iter must be at least 1, got 0", (GOOD, 2, 1), {"max_iter": 0}),
        (ValueError, r"tol must be a number >= 0, got -1", (GOOD, 2, 1), {"tol": -1}),
        (ValueError, r"tol must be a number >= 0, got nan", (GOOD, 2, 1), {"tol": float("nan")}),
        (ValueError, r"tol must be a number >= 0, got None", (GOOD, 2, 1), {"tol": None}),
        (TypeError, r"seed must be an int, .* got 'x'", (GOOD, 2, 1), {"seed": "x"}),
        (TypeError, r"affine must be True or False, got 'no'", (GOOD, 2, 1), {"affine": "no"}),
        (ValueError, r"init\[0\] must be finite", (GOOD, 2, 1), {"init": [np.full((1, 4), np.nan)] * 2}),
        (ValueError, r"init .*whole numbers from 0 to 1", (GOOD, 2, 1), {"init": np.full(10, np.nan)}),
        (ValueError, r"j must be one int or k=2 of them", (GOOD, 2, [[1], [2, 3]]), {}),
        (ValueError, r"X has entries that do not fit float32", (1e300 * GOOD, 2, 1), {"dtype": "float32"}),
        (TypeError, r"X must be an array, got NoneType", (None, 2, 1), {}),
        (TypeError, r"X must be an array, got generator", ((x for x in GOOD), 2, 1), {}),
        (TypeError, r"callback must be callable, got 3", (GOOD, 2, 1), {"callback": 3}),
    ],
)
def test_bad_input_is_refused_by_name(error, message, args, kwargs):
    with pytest.raises(error, match=message):
        fit_subspaces(*args, **kwargs)


def test_bases_of_a_start_need_not_be_orthonormal():
    X, _ = planted(200, 6, 2, 2)
    bases = random_bases(np.random.default_rng(0), 6, [2, 2])
    skewed = [np.array([[2.0, 1.0], [0.0, 3.0]]) @ V for V in bases]
    assert fit_subspaces(X, 2, 2, init=bases).objective == pytest.approx(
        fit_subspaces(X, 2, 2, init=skewed).objective, rel=1e-5
    )


# What a review found


def test_the_end_is_float64_even_where_energies_are_far_apart():
    """One dominant direction: float32 products would drown the others, the last refit must not."""
    rng = np.random.default_rng(0)
    spectrum = np.r_[1e4, 1 / np.sqrt(np.arange(1, 50))]
    U, V = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((2000, 50), (50, 50)))
    X = (U * spectrum @ V.T).astype(np.float32)
    for j in (1, 5, 30):
        best = np.sort(np.linalg.svd(X.astype(np.float64), compute_uv=False) ** 2)[: 50 - j].sum()
        assert fit_subspaces(X, 1, j).objective <= best * 1.001
    single = fit_subspaces(X, 2, 5, seed=0).objective
    assert single <= fit_subspaces(X.astype(np.float64), 2, 5, seed=0).objective * 1.2


def test_a_far_cluster_costs_the_others_no_digits():
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(300, 8)) * 0.1 + c for c in (0, 1, 1e4)]).astype("f4")[:603]
    single = fit_subspaces(X, 3, 0, affine=True, seed=0)
    double = fit_subspaces(X.astype("f8"), 3, 0, affine=True, seed=0)
    assert single.objective == pytest.approx(double.objective, rel=1e-3)


def test_filling_clusters_comes_to_an_end():
    rng = np.random.default_rng(2)
    for seed in range(10):
        X = np.zeros((60, 8))
        X[:2] = rng.normal(size=(2, 8))
        assert fit_subspaces(X, 4, 1, seed=seed).converged
        few = fit_subspaces(rng.normal(size=(200, 6)), 5, 1, seed=seed, sample_weight=np.arange(200) < 3)
        assert few.converged
        assert few.relative_error < 1e-20


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e25, 1e38])
def test_only_ratios_of_weights_matter(scale):
    X, _ = planted(200, 8, 2, 2, noise=0.3)
    weights = np.random.default_rng(0).random(200)
    power = 2.0 ** round(np.log2(scale))  # scales without rounding, so that the starts are the same
    base, same = (fit_subspaces(1e8 * X, 2, 2, sample_weight=w, seed=0) for w in (weights, power * weights))
    np.testing.assert_array_equal(same.labels, base.labels)
    assert same.relative_error == base.relative_error
    base, scaled = (fit_subspaces(1e8 * X, 2, 2, sample_weight=w, init=base.labels) for w in (weights, scale * weights))
    assert_labels(scaled.labels, base.sqdistances(1e8 * X), 1e-4 * scale_of(1e8 * X))
    assert scaled.relative_error == pytest.approx(base.relative_error, rel=1e-5)
    assert scaled.objective == pytest.approx(scale * base.objective, rel=1e-5)
    with pytest.raises(ValueError, match="overflows float64"):
        fit_subspaces(1e8 * X, 2, 2, sample_weight=1e300 * weights)


def test_weights_of_any_range():
    X, _ = planted(200, 8, 2, 2, noise=0.3, dtype=np.float64)
    weights = 10.0 ** np.random.default_rng(0).uniform(-300, 300, 200)
    assert np.isfinite(fit_subspaces(X, 2, 2, sample_weight=weights, seed=0).relative_error)


def test_bases_may_come_as_one_array():
    X, _ = planted(100, 6, 2, 2)
    bases = random_bases(np.random.default_rng(0), 6, [2, 2])
    stacked, listed = (fit_subspaces(X, 2, 2, init=init).history for init in (np.stack(bases), bases))
    assert stacked == pytest.approx(listed, rel=1e-5)


def test_a_stopped_fit_need_not_have_planned_all_its_starts():
    assert fit_subspaces(GOOD, 2, 1, n_init=10**12, seed=0, callback=lambda step: True).n_iter == 1


def test_result_is_frozen():
    model = fit_subspaces(GOOD, 2, 1, seed=0)
    assert isinstance(model, Subspaces)
    with pytest.raises(AttributeError):
        model.objective = 0.0
