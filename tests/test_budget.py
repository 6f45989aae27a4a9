"""A compression keeps to its budget, uses it up, and is never worse than the truncated SVD of the same size."""

import tracemalloc
import warnings

import numpy as np
import pytest
from helpers import assert_same_factors, import_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted

from ksubspaces import Factorization, compress, fit_subspaces, refit
from ksubspaces.allocation import allocate
from ksubspaces.kernels import reference

FALL_BACK = "no partition of A into clusters was found"


def unequal(seed=0, dtype=np.float32):
    """Rows near subspaces of very different dimension and size: what equal dimensions cannot fit well."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, j)) @ rng.normal(size=(j, 24)) for n, j in ((600, 2), (300, 14), (200, 6))]
    X = np.concatenate(parts) + 0.05 * rng.normal(size=(1100, 24))
    return X[rng.permutation(1100)].astype(dtype)


def svd_error(A, n_parameters, weights=None):
    """Relative squared error of the truncated SVD, by NumPy's SVD."""
    root = np.ones((len(A), 1)) if weights is None else np.sqrt(np.asarray(weights, float))[:, None]
    squares = np.linalg.svd(root * A.astype(np.float64), compute_uv=False) ** 2
    rank = int(n_parameters // sum(A.shape))
    return squares[rank:].sum() / squares.sum() if squares.sum() > 0 else 0.0


def by_definition(factors, A, weights=None):
    """The weighted relative error from the factors themselves."""
    w = np.ones(len(A)) if weights is None else np.asarray(weights, float)
    difference = A.astype(np.float64) - reference.lookup(np.arange(len(A)), factors._local)
    return (w @ (difference**2).sum(1)) / (w @ (A.astype(np.float64) ** 2).sum(1))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"weighted": True}, {"k": 4}], ids=str)
def test_better_than_svd_and_equal_dimensions_within_the_budget(ratio, options):
    A = unequal()
    options = dict(options)
    weights = np.random.default_rng(1).exponential(size=len(A)) ** 3 if options.pop("weighted", False) else None
    before = A.copy()
    factors = compress(A, ratio, sample_weight=weights, seed=0, **options)
    np.testing.assert_array_equal(A, before)
    budget = round((1 - ratio) * A.size, 6)
    assert isinstance(factors, Factorization)
    left = budget - factors.n_parameters
    cheapest = min((m + 24 for m, j in zip(factors.counts, factors.dims, strict=True) if j < 24), default=0)
    assert 0 <= left < max(0.01 * budget, cheapest)
    error = factors.measure_error(A, weights)
    assert error == pytest.approx(by_definition(factors, A, weights), rel=1e-4)
    assert error < 0.8 * svd_error(A, budget, weights)
    equal = compress(A, ratio, k=3, dims="equal", sample_weight=weights, seed=0)
    assert equal.n_parameters <= budget
    assert error < equal.measure_error(A, weights)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_never_over_budget_nor_worse_than_svd(data):
    n, d = data.draw(st.integers(3, 40)), data.draw(st.integers(2, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    kind = data.draw(st.sampled_from(["noise", "low rank", "integers", "equal rows", "zeros", "one far row"]))
    A = {
        "noise": lambda: rng.normal(size=(n, d)),
        "low rank": lambda: rng.normal(size=(n, 2)) @ rng.normal(size=(2, d)),
        "integers": lambda: rng.integers(-2, 3, size=(n, d)).astype(float),
        "equal rows": lambda: np.repeat(rng.normal(size=(1, d)), n, axis=0),
        "zeros": lambda: np.zeros((n, d)),
        "one far row": lambda: np.concatenate([rng.normal(size=(n - 1, d)), np.full((1, d), 1e4)]),
    }[kind]()
    budget = data.draw(st.integers(n + d, n * d)) if n + d < n * d else n + d
    weights = data.draw(st.sampled_from([None, rng.exponential(size=n), rng.integers(0, 2, size=n) + np.eye(n)[0]]))
    options = {"k": data.draw(st.sampled_from(["auto", 1, 2, 3])), "affine": data.draw(st.booleans())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        factors = compress(A, n_parameters=budget, sample_weight=weights, seed=0, **options)
    assert factors.n_parameters <= budget
    assert len(factors.bases) <= (n if options["k"] == "auto" else options["k"])
    energy = 1 if A.any() else 0
    assert factors.measure_error(A, weights) <= svd_error(A, budget, weights) + 1e-9 * energy


def test_one_cluster_is_the_truncated_svd():
    A = unequal(dtype=np.float64)
    factors = compress(A, 0.5, k=1)
    rank = A.size // 2 // sum(A.shape)
    assert factors.dims == (rank,)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    np.testing.assert_allclose(factors.reconstruct(), U[:, :rank] * s[:rank] @ Vt[:rank], atol=1e-9)
    assert factors.n_parameters == rank * sum(A.shape)  # there are no labels to store


def test_equal_dimensions_are_messi():
    A = unequal()
    factors = compress(A, 0.4, k=3, dims="equal", seed=5)
    j = int((0.6 * A.size - len(A)) // (len(A) + 3 * 24))
    messi = fit_subspaces(A, 3, j, seed=5).factorize(A)
    assert factors.dims == (j, j, j)
    np.testing.assert_array_equal(factors.reconstruct(), messi.reconstruct())


@pytest.mark.parametrize("m", [1, 5, 60])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dims", ["budget", "equal"])
def test_exact_rows_are_exact_and_charged(m, affine, dims):
    A = unequal()
    rows = np.random.default_rng(m).permutation(len(A))[:m]
    factors = compress(A, 0.5, k=3, dims=dims, exact_rows=rows, affine=affine, seed=0)
    np.testing.assert_array_equal(factors[rows], A[rows])
    stored = [*factors.blocks, *factors.bases] + ([] if factors.offsets is None else [factors.offsets])
    assert factors.n_parameters == sum(part.size for part in stored) + len(A) <= A.size / 2
    assert factors.blocks[-1].size + factors.bases[-1].size == min(m, 24) * (m + 24)
    mask = np.isin(np.arange(len(A)), rows)
    again = compress(A, 0.5, k=3, dims=dims, exact_rows=mask, affine=affine, seed=0)
    np.testing.assert_array_equal(again.reconstruct(), factors.reconstruct())


@pytest.mark.parametrize("dims", ["budget", "equal"])
def test_exact_rows_have_no_say_in_the_others(dims):
    A = unequal()
    rows, others = np.arange(0, 1100, 7), np.arange(1100) % 7 > 0
    factors = compress(A, 0.5, k=3, dims=dims, exact_rows=rows, seed=0)
    moved = A.copy()
    moved[rows] = 5 - 20 * moved[rows]
    again = compress(moved, 0.5, k=3, dims=dims, exact_rows=rows, seed=0)
    room = A.size // 2 - (len(A) - others.sum()) - min(len(rows), 24) * (len(rows) + 24)
    alone = compress(A[others], n_parameters=int(room), k=3, dims=dims, seed=0)
    errors = [f.measure_error(B, others) for f, B in ((factors, A), (again, moved))]
    assert errors[0] == pytest.approx(errors[1], rel=0.05)
    assert errors[0] == pytest.approx(alone.measure_error(A[others]), rel=0.05)
    assert sum(factors.counts[:-1]) == others.sum()


def test_rows_of_weight_zero_have_no_say():
    A = unequal()
    weights = np.ones(len(A))
    weights[:500] = 0
    factors = compress(A, 0.5, sample_weight=weights, seed=0)
    other = A.copy()
    other[:500] *= 100
    again = compress(other, 0.5, sample_weight=weights, seed=0)
    assert again.measure_error(other, weights) == pytest.approx(factors.measure_error(A, weights), rel=0.05)
    assert factors.measure_error(A, weights) < compress(A, 0.5, seed=0).measure_error(A, weights)
    only = compress(A, 0.5, sample_weight=np.eye(len(A))[3], exact_rows=[3], seed=0)
    assert only.measure_error(A) < 1  # the weight left is that of no other row: all count alike


def test_only_ratios_of_weights_matter():
    A, weights = unequal(), np.random.default_rng(0).exponential(size=1100)
    one, other = (compress(A, 0.6, sample_weight=c * weights, seed=0) for c in (1, 1024.0))
    np.testing.assert_array_equal(one.reconstruct(), other.reconstruct())


def test_rows_all_equal_need_one_direction():
    A = np.repeat(np.linspace(1, 2, 8)[None], 50, axis=0)
    factors = compress(A, 0.5)
    np.testing.assert_allclose(factors.reconstruct(), A, rtol=1e-12)
    assert factors.n_parameters == 58
    zeros = compress(np.zeros((50, 8)), 0.5)
    assert not zeros.reconstruct().any()
    assert zeros.n_parameters == 0


def test_ratio_from_nothing_to_almost_all():
    A = unequal()
    assert compress(A, 0, seed=0).measure_error(A) <= 1.0001 * svd_error(A, A.size)
    largest = 1 - sum(A.shape) / A.size
    assert compress(A, largest - 1e-9, k=1).dims == (1,)
    with pytest.raises(
        ValueError, match=rf"one direction takes n \+ d = 1124; choose a ratio of at most {largest:.3f}"
    ):
        compress(A, 0.99)
    with pytest.raises(ValueError, match="too small"):
        compress(np.ones((5, 1)), 0.1)


def test_falls_back_to_the_svd_and_says_so():
    noise = np.random.default_rng(0).normal(size=(80, 60))
    for k in ("auto", 6):
        with pytest.warns(UserWarning, match=FALL_BACK):
            factors = compress(noise, n_parameters=140, k=k, seed=0)  # a single direction: none is left for labels
        assert factors.dims == (1,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress(noise, n_parameters=140, k=1)


def test_the_same_seed_gives_the_same_bits_whatever_the_kind():
    torch = import_or_skip("torch")
    A = unequal()
    first, again = (compress(A, 0.5, seed=3).reconstruct() for _ in range(2))
    np.testing.assert_array_equal(first, again)
    tensor = compress(torch.from_numpy(A).requires_grad_(), 0.5, exact_rows=[1], seed=3)
    assert isinstance(tensor.reconstruct(), torch.Tensor)
    np.testing.assert_array_equal(compress(A, 0.5, exact_rows=[1], seed=3).reconstruct(), tensor.reconstruct().numpy())
    half = compress(A.astype(np.float16), 0.5, seed=0)
    assert half.bases[0].dtype == np.float32
    state = np.random.get_state()[1].copy()
    compress(A, 0.5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_starts_from_an_earlier_compression():
    A = unequal()
    earlier = compress(A, 0.5, exact_rows=[0, 1], seed=0)
    for init in (earlier, earlier.labels, np.asarray(earlier.labels).tolist()):
        factors = compress(A, 0.6, init=init, seed=0)
        assert factors.measure_error(A) < 1.2 * compress(A, 0.6, seed=0).measure_error(A)
    equal = compress(A, 0.6, k=3, dims="equal", init=np.arange(len(A)) % 3, seed=0)
    fit = fit_subspaces(A, 3, equal.dims[0], init=np.arange(len(A)) % 3)
    np.testing.assert_array_equal(equal.labels, fit.labels)


def test_more_runs_are_no_worse():
    A = unequal()
    once, thrice = (compress(A, 0.7, n_init=m, seed=0).measure_error(A) for m in (1, 3))
    assert thrice <= once


def test_clusters_that_no_split_in_two_tells_apart():
    """Four subspaces alike, at a size where two halves of them are worth no more than the whole."""
    A, _ = planted(900, 24, 4, 5, noise=0.2)
    messi = compress(A, 0.2, k=4, dims="equal", seed=0).measure_error(A)
    for k in ("auto", 4):
        factors = compress(A, 0.2, k=k, seed=0)
        assert len(factors.bases) > 1
        assert factors.measure_error(A) < 1.05 * messi


def test_saves_and_loads(tmp_path):
    A = unequal()
    factors = compress(A, 0.5, exact_rows=[4, 2], affine=True, seed=0)
    factors.save(tmp_path / "factors.safetensors")
    again = Factorization.load(tmp_path / "factors.safetensors")
    assert_same_factors(again, factors)
    np.testing.assert_allclose(again.reconstruct(), factors.reconstruct(), atol=1e-5)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({}, ValueError, "give either ratio, .* got none of them"),
        ({"ratio": 0.5, "n_parameters": 9000}, ValueError, "give either ratio"),
        ({"ratio": 1.0}, ValueError, r"0 <= ratio < 1; got 1.0"),
        ({"ratio": -0.1}, ValueError, "0 <= ratio < 1"),
        ({"ratio": float("nan")}, ValueError, "0 <= ratio < 1"),
        ({"ratio": "0.4"}, TypeError, "ratio must be a number, got '0.4'"),
        ({"ratio": True}, TypeError, "ratio must be a number"),
        ({"n_parameters": 10}, ValueError, "n_parameters=10 leaves 10 parameters"),
        ({"n_parameters": 1e4}, TypeError, "n_parameters must be a whole number"),
        ({"ratio": 0.5, "k": 0}, ValueError, "k must be at least 1"),
        ({"ratio": 0.5, "k": 2.0}, TypeError, "k must be 'auto' or a whole number"),
        ({"ratio": 0.5, "k": 5000}, ValueError, "k=5000 clusters need at least 5000 rows"),
        ({"ratio": 0.5, "dims": "same"}, ValueError, "dims must be 'budget' or 'equal'"),
        ({"ratio": 0.5, "dims": "equal"}, ValueError, "give it, for instance k=5"),
        ({"ratio": 0.9, "dims": "equal", "k": 60}, ValueError, "k=60 clusters of equal dimension do not fit"),
        ({"ratio": 0.5, "sample_weight": [1.0]}, ValueError, "sample_weight must have one entry for each"),
        ({"ratio": 0.5, "sample_weight": -np.ones(1100)}, ValueError, "sample_weight must be finite and nonnegative"),
        ({"ratio": 0.5, "exact_rows": [1100]}, ValueError, "exact_rows does not name rows of A: row 1100"),
        ({"ratio": 0.5, "exact_rows": ["the"]}, ValueError, "exact_rows does not name rows"),
        ({"ratio": 0.5, "exact_rows": {1, 2}}, TypeError, "exact_rows does not name rows of A: .* got set"),
        ({"ratio": 0.5, "exact_rows": slice(None)}, ValueError, "none is left to compress"),
        ({"ratio": 0.5, "exact_rows": slice(1090)}, ValueError, "the 1090 exact_rows leave no room"),
        ({"ratio": 0.5, "init": [0, 1]}, ValueError, "init does not give clusters .*one entry for each"),
        ({"ratio": 0.5, "init": np.full(1100, -1)}, ValueError, "init does not give clusters .*whole numbers"),
        ({"ratio": 0.5, "n_init": 0}, ValueError, "n_init must be at least 1"),
        ({"ratio": 0.5, "max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"ratio": 0.5, "tol": -1}, ValueError, "tol must be a number >= 0"),
        ({"ratio": 0.5, "affine": "no"}, TypeError, "affine must be True or False, got 'no'"),
        ({"ratio": 0.5, "seed": "x"}, TypeError, "seed must be an int"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        compress(unequal(), **options)


@pytest.mark.parametrize("bad", [np.full((9, 3), np.nan), np.ones(5), np.ones((3, 0)), np.ones((9, 3), complex)])
def test_bad_matrices_are_refused_by_name(bad):
    with pytest.raises((ValueError, TypeError), match=r"\bA\b"):
        compress(bad, 0.1)


@settings(max_examples=200, deadline=None)
@given(
    spectra=st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=4), room=st.integers(0, 60),
    data=st.data(),
)  # fmt: skip
def test_allocation_is_greedy_and_within_room(spectra, room, data):
    spectra = [np.array(sorted(values, reverse=True), dtype=float) for values in spectra]
    costs = [data.draw(st.integers(1, 9)) for _ in spectra]
    dims, price = allocate(spectra, costs, room)
    left = room - sum(j * cost for j, cost in zip(dims, costs, strict=True))
    assert left >= 0
    for values, j, cost in zip(spectra, dims, costs, strict=True):
        assert (values[:j] > 0).all()
        if j < len(values) and values[j] > 0:
            assert cost > left  # nothing that pays was left out for no reason
            assert values[j] / cost <= price
    if price == 0:
        assert list(dims) == [int((values > 0).sum()) for values in spectra]


def test_planted_clusters_of_different_dimension_are_found():
    X, truth = planted(600, 20, 2, 3, noise=0.01)
    rng = np.random.default_rng(0)
    X[truth == 1] = (rng.normal(size=((truth == 1).sum(), 9)) @ np.linalg.qr(rng.normal(size=(20, 9)))[0].T).astype(
        "f4"
    )
    needed = 300 * (3 + 9) + 20 * (3 + 9) + 600
    factors = compress(X, n_parameters=needed, seed=0)
    labels = np.asarray(factors.labels)
    assert sorted(factors.dims) == [3, 9]
    assert max((labels == truth).mean(), (labels != truth).mean()) > 0.99


def test_moments_that_do_not_fit_are_taken_one_cluster_at_a_time(monkeypatch):
    A = unequal(dtype=np.float64)
    wide = np.random.default_rng(0).normal(size=(60, 5)) @ np.random.default_rng(1).normal(size=(5, 200))
    for X, options in ((A, {}), (A, {"affine": True}), (wide, {}), (wide, {"affine": True})):
        weights = np.random.default_rng(2).exponential(size=len(X))
        at_once = compress(X, 0.5, sample_weight=weights, seed=0, **options)
        with monkeypatch.context() as patch:
            patch.setattr(refit, "RESIDENT_BYTES", 0)
            patch.setattr(refit, "RESIDENT_SHARE", 0)
            one_by_one = compress(X, 0.5, sample_weight=weights, seed=0, **options)
        assert one_by_one.dims == at_once.dims
        assert one_by_one.relative_error == pytest.approx(
            at_once.relative_error, rel=0.01, abs=1e-25
        )  # rounding differs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exact_rows_take_a_cluster_for_each_subspace(dtype):
    for seed in range(40):  # of which some are split once more than that on the way
        rng = np.random.default_rng(seed)
        parts = [rng.normal(size=(n, j)) @ rng.normal(size=(j, 16)) for n, j in ((300, 2), (100, 12))]
        factors = compress(np.concatenate(parts).astype(dtype), 0.6, seed=seed)
        assert sorted(zip(factors.dims, factors.counts, strict=True)) == [(2, 300), (12, 100)]


def test_memory_beside_the_rows_is_bounded():
    rng, d = np.random.default_rng(0), 128
    spreads = (np.linspace(1, 0.1, d) ** power for power in (4, 2, 1))
    A = np.concatenate([rng.normal(size=(6000, d)) * own @ rng.normal(size=(d, d)) for own in spreads]).astype("f4")
    compress(A[::9], 0.6, seed=0)  # what is compiled and imported stays
    tracemalloc.start()
    factors = compress(A, 0.6, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(factors.bases) > 1
    assert peak < 2 * A.nbytes  # of which the factors are .4
