"""What only a card can show: fits there, streams, shared memory, equal bits; operations: ``contract/``."""

import card
import numpy as np
import pytest
from card import here, there
from planted import planted

from ksubspaces import arrays, fit_subspaces, kernels
from ksubspaces.alternation import reseed
from ksubspaces.kernels import Flats
from ksubspaces.problem import Problem

cupy = pytest.importorskip("cupy", reason="CuPy is missing: pip install 'ksubspaces[cuda12]' (or [cuda13])")

pytestmark = card.marks
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


@affine
@dtypes
@pytest.mark.parametrize(("n", "d", "k", "j"), [(4000, 64, 8, 16), (3000, 100, 5, 70), (2000, 20, 4, [0, 3, 12, 20])])
def test_fit_reaches_the_objective_of_the_cpu(n, d, k, j, dtype, affine):
    X, _ = planted(n, d, k, 5, noise=0.3, dtype=dtype, offset=1.0 * affine)
    start = np.arange(n) % k
    kwargs = {"init": start, "affine": affine, "max_iter": 8, "tol": 0}
    on_cpu = fit_subspaces(X, k, j, **kwargs)
    on_card = fit_subspaces(X, k, j, device="cuda", **kwargs)
    assert isinstance(on_card.bases[0], np.ndarray)
    assert on_card.objective == pytest.approx(on_cpu.objective, rel=1e-3)
    assert (on_card.labels == on_cpu.labels).mean() > 0.9  # refits by power steps take another way


def test_planted_subspaces_are_found():
    from sklearn.metrics import normalized_mutual_info_score

    X, truth = planted(4000, 64, 8, 16)
    model = fit_subspaces(cupy.asarray(X), 8, 16, seed=0)
    assert isinstance(model.labels, cupy.ndarray)
    assert normalized_mutual_info_score(truth, here(model.labels)) >= 0.99


def test_three_runs_are_the_same_bits():
    X = cupy.asarray(planted(3000, 48, 6, 8, noise=0.5)[0])
    runs = [fit_subspaces(X, 6, 8, seed=3) for _ in range(3)]
    for other in runs[1:]:
        assert other.history == runs[0].history
        assert bool((other.labels == runs[0].labels).all())
        assert all(bool((a == b).all()) for a, b in zip(other.bases, runs[0].bases, strict=True))


def test_torch_in_torch_out_without_a_copy():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this Torch has no CUDA: pip install a build of it that has, see pytorch.org")
    X = torch.from_numpy(planted(2000, 32, 3, 4)[0]).cuda()
    before = X.clone()
    model = fit_subspaces(X, 3, 4, seed=0)
    assert model.bases[0].is_cuda
    assert torch.equal(X, before)
    from ksubspaces.arrays import enter

    assert enter(X, "X")[0].data.ptr == X.data_ptr()
    with torch.cuda.stream(torch.cuda.Stream()):
        again = fit_subspaces(X, 3, 4, seed=0)
    torch.cuda.synchronize()
    assert torch.equal(again.labels, model.labels)
    half = fit_subspaces(X.half(), 3, 4, seed=0)
    assert half.bases[0].dtype == torch.float32


def test_on_a_stream_of_the_callers():
    X = cupy.asarray(planted(2000, 32, 3, 4)[0])
    expected = fit_subspaces(X, 3, 4, seed=0).history
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True):
        assert fit_subspaces(X, 3, 4, seed=0).history == expected


@affine
def test_clusters_are_filled_as_on_the_cpu(affine):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(9000, 12)), rng.integers(0, 3, 9000) / 2
    labels, residuals = rng.integers(0, 2, 9000).astype(np.int32), rng.integers(0, 99, 9000) / 4
    for dims in ((2, 1, 4), (2, 1, 12, 11)):
        problem = Problem(X, weights, dims, affine)
        expected, n_filled = reseed(problem, labels, residuals, counts := problem.counts(labels))
        got = reseed(Problem(there(X), there(weights), dims, affine), there(labels), there(residuals), counts)
        assert got[1] == n_filled == len(dims) - 2
        np.testing.assert_array_equal(here(got[0]), expected)


def test_rows_in_host_memory_are_streamed(monkeypatch):
    X = planted(4000, 32, 3, 4)[0]
    expected = fit_subspaces(cupy.asarray(X), 3, 4, seed=0)
    monkeypatch.setattr(arrays, "STREAM_SHARE", 2 * X.nbytes / 3 / arrays._free_bytes(arrays.NUMPY))
    got = fit_subspaces(X, 3, 4, seed=0, device="cuda")
    assert got.objective == pytest.approx(expected.objective, rel=1e-3)


def test_running_out_of_memory_says_what_to_do():
    X = planted(2000, 32, 3, 4)[0]
    pool = cupy.get_default_memory_pool()
    limit = pool.get_limit()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + X.nbytes + 1024)
    try:
        with pytest.raises(MemoryError, match=r"cuda:0 ran out of memory: .* bytes .* GiB are free.*device='cpu'"):
            fit_subspaces(X, 3, 4, seed=0, device="cuda")
    finally:
        pool.set_limit(size=limit)


@pytest.mark.skipif(card.device_count() < 2, reason="there is one device: it takes two cards")
def test_on_the_second_device():
    model = fit_subspaces(planted(2000, 32, 3, 4)[0], 3, 4, seed=0, device="cuda:1")
    with cupy.cuda.Device(1):
        X = cupy.asarray(planted(2000, 32, 3, 4)[0])
        assert fit_subspaces(X, 3, 4, seed=0).history == model.history


def test_input_is_left_alone():
    X = cupy.asarray(planted(1000, 16, 3, 4)[0])
    before = X.copy()
    fit_subspaces(X, 3, 4, seed=0)
    assert bool(cupy.array_equal(X, before))


def test_rows_past_2_to_the_31_elements():
    n, d = 2**25 + 7, 64
    if cupy.cuda.runtime.memGetInfo()[0] < 3 * 4 * n * d:
        pytest.skip("the card has too little free memory: it takes 26 GB")
    X = cupy.zeros((n, d), dtype=cupy.float32)
    X[-5:, 3] = 2.0
    X[:-5, 0] = 1.0
    axes = np.eye(d, dtype=np.float32)
    labels, residuals = kernels.assign(X, there(Flats.from_bases([axes[:1], axes[3:4]])))
    assert int(labels[:-5].sum()) == 0
    assert labels[-5:].tolist() == [1] * 5
    assert float(residuals.max()) == 0
    moments = kernels.second_moments(X, kernels.group_rows(labels, 2))
    assert here(moments.counts).tolist() == [n - 5, 5]
    assert float(moments.scatter[1, 3, 3]) == 20
