"""What only a card can show: operations and fits there, streams, shared memory, equal bits, sanitizers."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import each_operation
import numpy as np
import pytest
from planted import planted, random_bases
from test_kernels import (
    affine,
    assert_eigenspaces,
    assert_labels,
    assert_moments,
    dtypes,
    problem,
    scale,
    shapes,
    tolerance,
    unordered,
)

from ksubspaces import arrays, fit_subspaces, kernels
from ksubspaces.descent import reseed
from ksubspaces.kernels import Flats, Moments, reference
from ksubspaces.problem import Problem

cupy = pytest.importorskip("cupy", reason="CuPy is missing: pip install 'ksubspaces[cuda12]' (or [cuda13])")


def device_count():
    try:
        return cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device_count() == 0, reason="CUDA finds no device: it takes a card and its driver"),
]


def there(x):
    """x on the card: arrays, and what the kernels take made of them."""
    if isinstance(x, np.ndarray):
        return cupy.asarray(x)
    if isinstance(x, Flats):
        return Flats(x.layout, there(x.bases), there(x.offsets), there(x.complements))
    if isinstance(x, list):
        return [there(part) for part in x]
    return x


def here(x):
    """x on the host: arrays, and what the kernels give made of them."""
    if isinstance(x, cupy.ndarray):
        return cupy.asnumpy(x)
    if isinstance(x, Moments):
        parts = (here(part) for part in (x.raw, x.first, x.mass, x.counts, x.origins))
        return Moments(*parts, x.center)
    if isinstance(x, kernels.Eigenspaces):
        return kernels.Eigenspaces(*map(here, x))
    if isinstance(x, (list, tuple)):
        return type(x)(here(part) for part in x)
    return x


# Every operation against the reference


@shapes
@dtypes
@affine
def test_assign_and_sqdistances(n, d, dims, dtype, affine):
    X, flats, rng = problem(n, d, dims, dtype, affine)
    tol = tolerance(dtype) * scale(X)
    cost = reference.sqdistances(X, flats)
    labels, residuals = here(kernels.assign(there(X), there(flats)))
    assert_labels(labels, cost, tol)
    np.testing.assert_allclose(residuals, cost.min(axis=1), rtol=0, atol=tol)
    np.testing.assert_allclose(here(kernels.sqdistances(there(X), there(flats))), cost, rtol=0, atol=tol)
    own = reference.residuals(X, labels, flats)
    np.testing.assert_allclose(
        here(kernels.residuals(there(X), there(labels), there(flats))), own, rtol=1e-9, atol=1e-12 * scale(X)
    )
    penalty, weights = rng.random(len(dims)), rng.random(n)
    labels, _ = here(kernels.assign(there(X), there(flats), there(penalty), there(weights)))
    assert_labels(labels, weights[:, None] * cost + penalty, tol + tolerance(dtype))


@shapes
@dtypes
@affine
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_moments(n, d, dims, dtype, affine, weighted):
    X, _, rng = problem(n, d, dims, dtype, affine)
    k = len(dims)
    labels, new = (rng.integers(0, k, n).astype(np.int32) for _ in range(2))
    weights = rng.random(n).astype(dtype) if weighted else None
    moments = kernels.second_moments(there(X), there(labels), k, there(weights), center=affine)
    assert_moments(here(moments), reference.second_moments(X, labels, k, weights, center=affine), X, dtype)
    rows = np.flatnonzero(labels != new)
    kernels.update_moments(moments, there(X), there(rows), there(labels[rows]), there(new[rows]), there(weights))
    assert_moments(here(moments), reference.second_moments(X, new, k, weights, center=affine), X, dtype)


@pytest.mark.parametrize("d", [1, 2, 7, 64, 100, 128, 129, 384])
@dtypes
def test_eigenspaces(d, dtype):
    rng = np.random.default_rng(d)
    rows = [rng.normal(size=(2 * d, d)), np.zeros((3, d)), rng.normal(size=(max(1, d // 2), d)), np.eye(d)]
    S = np.stack([A.T @ A for A in rows])
    dims = [d // 2, d // 3, d, 0]
    got = here(kernels.top_eigenspaces(there(S), dims, dtype))
    assert_eigenspaces(got, reference.top_eigenspaces(S, dims), dims, d, dtype)
    blocks = [A[:40].astype(dtype) for A in rows]
    rank = min(d, 5)
    got = here(kernels.batched_svd(there(blocks), rank))
    assert_eigenspaces(got, reference.batched_svd(blocks, rank), [rank] * 4, d, dtype)


def test_sampling_follows_the_weights_and_the_seed():
    weights = cupy.asarray([0.0, 1, 2, 3, 4, 0])
    rng = np.random.default_rng(0)
    draws = np.array([here(kernels.sample_rows(weights, 2, rng)) for _ in range(3000)])
    np.testing.assert_allclose(np.bincount(draws[:, 0], minlength=6) / 3000, here(weights) / 10, atol=0.04)
    assert np.all(draws[:, 0] != draws[:, 1])
    again = [here(kernels.sample_rows(weights, 2, np.random.default_rng(7))).tolist() for _ in range(2)]
    assert again[0] == again[1]
    assert len(kernels.sample_rows(weights, 9, rng)) == 4


@shapes
@dtypes
def test_small_and_irregular_operations(n, d, dims, dtype):
    rng, k = np.random.default_rng([n, d]), len(dims)
    n *= 20  # several blocks of the kernels
    weights, trials = rng.random(n), rng.random((n, k)).astype(dtype)
    for distances in (np.full(n, np.inf, dtype), rng.random(n).astype(dtype)):
        for order in "CF":
            lowered, expected = cupy.asarray(trials, order=order), trials.copy()
            sums = reference.lower_distances(distances, expected, weights)
            got = [kernels.lower_distances(there(distances), lowered, there(w)) for w in (weights, weights.copy())]
            np.testing.assert_array_equal(here(lowered), expected)
            np.testing.assert_allclose(here(got[0]), sums, rtol=1e-12)
            np.testing.assert_array_equal(here(got[0]), here(got[1]))
    costs = unordered(rng, n, dtype)
    for m in (0, 1, k, 100):
        np.testing.assert_array_equal(here(kernels.largest(there(costs), m)), reference.largest(costs, m))
    old, new = (rng.integers(0, k, n).astype(np.int32) for _ in range(2))
    for labels in (old, new):
        rows = here(kernels.changed_rows(there(old), there(labels)))
        np.testing.assert_array_equal(rows, reference.changed_rows(old, labels))
        counts = here(kernels.label_counts(there(labels), k + 2))
        np.testing.assert_array_equal(counts, reference.label_counts(labels, k + 2))


@affine
def test_lookup(affine):
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 3, 5000).astype(np.int32)
    dims = [0, 5, 9]
    positions = np.empty(5000, np.int64)
    for c in range(3):
        positions[labels == c] = np.arange((labels == c).sum())
    factors = SimpleNamespace(
        labels=labels,
        positions=positions,
        blocks=[rng.normal(size=(int((labels == c).sum()), j)).astype("f4") for c, j in enumerate(dims)],
        bases=random_bases(rng, 9, dims, np.float32),
        offsets=rng.normal(size=(3, 9)).astype("f4") if affine else None,
    )
    device = SimpleNamespace(**{name: there(part) for name, part in vars(factors).items()})
    for b in (0, 1, 33, 5000):
        rows = rng.integers(0, 5000, b)
        np.testing.assert_allclose(
            here(kernels.lookup(there(rows), device)), reference.lookup(rows, factors), atol=1e-5
        )


# Whole fits


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
    assert (on_card.labels == on_cpu.labels).mean() > 0.98


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
        expected, n_filled = reseed(Problem(X, weights, dims, affine), labels, residuals)
        got = reseed(Problem(there(X), there(weights), dims, affine), there(labels), there(residuals))
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


@pytest.mark.skipif(device_count() < 2, reason="there is one device: it takes two cards")
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
    moments = kernels.second_moments(X, labels, 2)
    assert here(moments.counts).tolist() == [n - 5, 5]
    assert float(moments.scatter[1, 3, 3]) == 20


@pytest.mark.sanitizer
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer(tool, tmp_path):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is missing: install the CUDA toolkit")
    program, log = Path(__file__).parent / "each_operation.py", tmp_path / "log"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, str(program)]
    with log.open("w") as output:  # not a pipe, which a program that outlives the sanitizer would hold open
        limit = each_operation.SECONDS + 10
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=limit, check=False)
    text = log.read_text()
    assert done.returncode == 0, text[-3000:]
    assert each_operation.DONE in text
