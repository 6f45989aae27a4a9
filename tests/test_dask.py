"""Rows in the blocks of a Dask array: the same fits as in memory, whoever works on the blocks, and clear refusals."""

import os
import signal

import numpy as np
import pytest
from planted import planted, recomputed_objective

from ksubspaces import Subspaces, blocked, blocked_dims, fit_subspaces

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

N, D = 3000, 12
CASES = {
    "subspaces": {"k": 4, "j": 2},
    "dimensions that differ": {"k": 4, "j": [2, 3, 2, 2]},
    "flats": {"k": 4, "j": 2, "affine": True},
    "points": {"k": 5, "j": 0, "affine": True},
    "wide": {"k": 2, "j": 9},
    "one": {"k": 1, "j": 3},
}


@pytest.fixture(autouse=True)
def here():
    """Blocks one after another, unless a test says otherwise."""
    with dask.config.set(scheduler="synchronous"):
        yield


def rows(seed=0, dtype=np.float32, noise=0.2):
    return planted(N, D, 4, 2, noise=noise, seed=seed)[0].astype(dtype)


def in_blocks(X, *sizes):
    return da.from_array(X, chunks=(sizes or 700, -1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_fit_is_as_good_as_in_memory(case, dtype):
    X, options = rows(dtype=dtype), CASES[case]
    weights = np.random.default_rng(1).random(N) if case in ("subspaces", "flats") else None
    in_memory = fit_subspaces(X, **options, sample_weight=weights, seed=0)
    model = fit_subspaces(in_blocks(X), **options, sample_weight=weights, seed=0)
    assert isinstance(model.labels, da.Array)
    assert model.labels.chunks[0] == (700, 700, 700, 700, 200)
    assert model.bases[0].dtype == dtype
    assert model.objective <= 1.02 * in_memory.objective  # another optimum, from another seed
    labels = np.asarray(model.labels)
    assert labels.dtype == np.int32
    expected = recomputed_objective(X, model, weights)
    assert model.objective == pytest.approx(expected, rel=1e-6)
    assert model.energy == pytest.approx(in_memory.energy)
    np.testing.assert_array_equal(labels, model.predict(X))
    assert model.counts == tuple(np.bincount(labels, minlength=len(model.bases)))


def test_steps_go_on_where_a_start_in_memory_stands():
    """From the same flats, the first step over blocks is that in memory."""
    X = rows()
    rough = fit_subspaces(X, 4, 2, init="random", max_iter=2, seed=1)
    going_on, over_blocks = (fit_subspaces(Y, 4, 2, init=rough, max_iter=3, tol=0) for Y in (X, in_blocks(X)))
    assert over_blocks.history[0] <= rough.history[-1]
    assert over_blocks.objective == pytest.approx(going_on.objective, rel=0.02)
    assert np.diff(over_blocks.history).max(initial=0) <= 1e-6 * over_blocks.energy


def test_a_start_from_a_sample_of_the_rows(monkeypatch):
    X = rows(noise=0.1)
    monkeypatch.setattr(blocked_dims, "SAMPLE_BYTES", 0)
    seen = []
    sample = blocked.Blocks.sample
    monkeypatch.setattr(blocked.Blocks, "sample", lambda *args: seen.append(sample(*args)) or seen[-1])
    model = fit_subspaces(in_blocks(X), 4, 2, seed=0)
    (drawn, weights, stands), m = seen[0], 20 * 12
    assert m / 2 < len(drawn) < 2 * m
    assert (weights * stands).sum() == pytest.approx(N, rel=0.25)
    assert model.objective <= 1.001 * fit_subspaces(X, 4, 2, seed=0).objective


def test_passes_over_the_rows_do_not_depend_on_the_number_of_flats():
    read = []

    def block(start):
        read.append(start)
        return rows()[start : start + 1000]

    starts = range(0, N, 1000)
    parts = [da.from_delayed(dask.delayed(block)(s), (1000, D), np.float32) for s in starts]
    passes = {}
    for k in (2, 6):
        read.clear()
        model = fit_subspaces(da.concatenate(parts), k, 2, seed=0, max_iter=3, tol=0)
        passes[k] = len(read) / len(parts) - model.n_iter
    assert passes[2] == passes[6] == 4  # a look, a sample, and two to finish


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_equal_bits_whoever_works(scheduler):
    X = in_blocks(rows())
    want = fit_subspaces(X, 4, 2, seed=3)
    with dask.config.set(scheduler=scheduler, num_workers=3):
        got = fit_subspaces(X, 4, 2, seed=3)
    assert got.objective == want.objective
    assert all(np.array_equal(*pair) for pair in zip(got.bases, want.bases, strict=True))
    np.testing.assert_array_equal(np.asarray(got.labels), np.asarray(want.labels))


def test_clusters_that_lack_rows_are_filled():
    """Two of three flats start where no row is."""
    X = np.zeros((90, 6), np.float32)
    X[np.arange(90), np.arange(90) % 3] = 1 + np.arange(90)
    bases = np.eye(6, dtype=np.float32)[[[0], [4], [5]]]
    start = Subspaces(list(bases), None, np.zeros(90, np.int32))
    model = fit_subspaces(in_blocks(X, 40, 50), 3, 1, init=start)
    assert model.n_reseeded > 0
    assert model.objective <= 1e-5 * model.energy


def test_rows_that_are_all_alike_and_chunks_without_rows():
    X = np.ones((40, 3))
    model = fit_subspaces(da.concatenate([in_blocks(X, 40), da.zeros((0, 3))]), 2, 1)
    assert model.objective <= 1e-12
    assert fit_subspaces(in_blocks(np.zeros((40, 3)), 30, 10), 2, 1).objective == 0


def test_a_callback_sees_the_steps_over_all_rows_and_stops_them():
    steps = []
    model = fit_subspaces(in_blocks(rows()), 4, 2, seed=0, tol=0, callback=lambda step: steps.append(step) or True)
    assert len(steps) == model.n_iter == 1
    assert not model.converged


def test_it_is_saved_like_any_other(tmp_path):
    model = fit_subspaces(in_blocks(rows()), 4, 2, seed=0)
    model.save(tmp_path / "flats.safetensors")
    np.testing.assert_array_equal(type(model).load(tmp_path / "flats.safetensors").labels, np.asarray(model.labels))


def short(block):
    return block[:-1]


def far(dtype=np.float32):
    X = rows(dtype=dtype)
    X[2345, 7] = np.nan
    return X


def odd(change):
    """Rows whose last block but one is other than the array says."""
    return lambda: in_blocks(rows()).map_blocks(
        lambda block, block_info=None: change(block) if block_info[0]["chunk-location"][0] == 3 else block,
        dtype=np.float32,
    )


BAD = {
    "a block of complex numbers": (odd(lambda block: 1j * block), {}, "in block 3, rows 2100 to 2799 of X: .*complex"),
    "a block of words": (odd(lambda block: block.astype("U3")), {}, "in block 3, .*convert it to numbers"),
    "a block of fewer columns": (odd(lambda block: block[:, 1:]), {}, "in block 3, .*must have 12 columns"),
    "unknown sizes": (
        lambda: in_blocks(rows())[da.from_array(np.ones(N, bool), chunks=700)],
        {},
        "compute_chunk_sizes",
    ),
    "columns in chunks": (lambda: da.from_array(rows(), chunks=(700, 5)), {}, "3 chunks"),
    "a vector": (lambda: da.ones(5), {}, "must be a matrix"),
    "no rows": (lambda: da.ones((0, 5)), {}, "no rows"),
    "words": (lambda: da.from_array(np.full((9, 2), "a"), chunks=3), {}, "convert it to numbers"),
    "nan far away": (lambda: in_blocks(far()), {}, r"in block 3, rows 2100 to 2799 of X: .*X\[245, 7\] is nan"),
    "a file that ends early": (
        lambda: in_blocks(rows()).map_blocks(short, dtype=np.float32),
        {},
        "must have 700 rows as it said, got 699",
    ),
    "weights too few": (lambda: in_blocks(rows()), {"sample_weight": np.ones(7)}, "one entry for each of the 3000"),
    "weights below zero": (lambda: in_blocks(rows()), {"sample_weight": -np.ones(N)}, "finite and nonnegative"),
    "weights zero": (lambda: in_blocks(rows()), {"sample_weight": np.zeros(N)}, "zero everywhere"),
    "labels": (lambda: in_blocks(rows()), {"init": np.zeros(N, int)}, "not labels"),
    "a device": (lambda: in_blocks(rows()), {"device": "cpu"}, "where they are"),
    "too many flats": (lambda: in_blocks(rows()[:3]), {}, "need at least 4 rows"),
    "too wide": (lambda: da.ones((9, 7000), chunks=(3, -1)), {}, "second moments"),
}


def test_dtypes_that_differ_are_computed_in_the_wider():
    X = rows(dtype=np.float64)
    mixed = da.concatenate([in_blocks(X[:700].astype(np.float32)), in_blocks(X[700:])])
    model = fit_subspaces(mixed, 4, 2, seed=0)
    assert model.bases[0].dtype == np.float64
    assert model.objective == pytest.approx(recomputed_objective(np.asarray(mixed), model), rel=1e-9)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    X, options, message = BAD[case]
    with pytest.raises((ValueError, TypeError), match=message):
        fit_subspaces(X(), 4, 2, **options)


def test_two_workers_one_of_which_dies(tmp_path):
    """The other one does what is lost again: the same bits as here."""
    distributed = pytest.importorskip("distributed")
    X, killed = rows(), []
    want = fit_subspaces(in_blocks(X), 4, 2, seed=0, tol=0, max_iter=4)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
        dask.config.set(scheduler="distributed"),
    ):

        def kill(step):
            if step.iteration == 2:
                pid = next(iter(client.run(os.getpid).values()))
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

        got = fit_subspaces(in_blocks(X), 4, 2, seed=0, tol=0, max_iter=4, callback=kill)
        labels = np.asarray(got.labels)
        client.wait_for_workers(2)
        client.run(exec, "import importlib.util; importlib.util.find_spec = lambda name: None")
        with pytest.raises(ImportError, match="2 of 2 Dask workers lack ksubspaces"):
            fit_subspaces(in_blocks(X), 4, 2)
    assert killed
    assert got.history == want.history
    assert all(np.array_equal(*pair) for pair in zip(got.bases, want.bases, strict=True))
    np.testing.assert_array_equal(labels, np.asarray(want.labels))
