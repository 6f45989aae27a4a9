"""``compress`` of a Dask array: within the budget, as good as in memory, same bits whoever works, saved in parts."""

import errno

import numpy as np
import pytest

from ksubspaces import BlockedFactorization, blocked_factors, compress

da = pytest.importorskip("dask.array")
dask = pytest.importorskip("dask")

N, D = 3000, 20


@pytest.fixture(autouse=True)
def here():
    """Blocks one after another, unless a test says otherwise."""
    with dask.config.set(scheduler="synchronous"):
        yield


def rows(seed=0, dtype=np.float32):
    """Rows near subspaces of very different dimension and size."""
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n, j)) @ rng.normal(size=(j, D)) for n, j in ((1700, 2), (800, 12), (500, 6))]
    X = np.concatenate(parts) + 0.3 * rng.normal(size=(N, D))
    return X[rng.permutation(N)].astype(dtype)


def in_blocks(X, size=700):
    return da.from_array(X, chunks=(size, -1))


def weights():
    return np.random.default_rng(1).random(N)


CASES = {
    "as many as pay": {"ratio": 0.5},
    "flats": {"ratio": 0.5, "k": 4, "affine": True},
    "weights": {"keep": 0.6, "k": 3, "sample_weight": weights()},
    "three": {"n_parameters": 20_000, "k": 3},
    "one": {"ratio": 0.4, "k": 1},
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_it_is_as_good_as_in_memory_and_within_the_budget(case, dtype):
    X, options = rows(dtype=dtype), CASES[case]
    want, got = compress(X, seed=0, **options), compress(in_blocks(X), seed=0, **options)
    assert got.n_parameters <= options.get("n_parameters", options.get("keep", 1 - options.get("ratio", 0)) * X.size)
    assert got.relative_error <= 1.05 * want.relative_error  # other steps, another optimum
    factors = got.gather()
    assert got.n_parameters == factors.n_parameters
    assert got.counts == factors.counts == tuple(np.bincount(np.asarray(got.labels), minlength=got.k))
    assert min(got.counts) > 0
    assert got.relative_error == pytest.approx(factors.measure_error(X, options.get("sample_weight")), rel=1e-5)
    assert got.bases[0].dtype == dtype


def test_coefficients_and_rows_are_dask_arrays_in_the_chunks_of_the_rows():
    X = rows()
    factors = compress(in_blocks(X), 0.5, k=3, seed=0)
    whole = factors.gather()
    assert factors.labels.chunks == ((700, 700, 700, 700, 200),)
    decoded = factors.reconstruct()
    assert isinstance(decoded, da.Array)
    assert decoded.chunks[0] == factors.labels.chunks[0]
    np.testing.assert_array_equal(np.asarray(decoded), whole.reconstruct())
    for block, own in zip(factors.blocks, whole.blocks, strict=True):
        assert block.shape == own.shape
        np.testing.assert_array_equal(np.asarray(block), own)


def test_a_coreset_of_fewer_rows():
    X = rows()
    want, got = compress(X, 0.5, coreset=1000, seed=0), compress(in_blocks(X), 0.5, coreset=1000, seed=0)
    assert got.k > 1
    assert got.relative_error <= 1.1 * want.relative_error


def test_what_no_partition_beats_comes_back_as_the_svd():
    X = np.random.default_rng(0).normal(size=(80, 60))
    with pytest.warns(UserWarning, match="truncated SVD"):
        factors = compress(in_blocks(X, 30), n_parameters=140, seed=0)  # one direction: none is left for labels
    energies = np.linalg.svd(X, compute_uv=False) ** 2
    assert factors.dims == (1,)
    assert factors.objective == pytest.approx(energies[1:].sum())


def test_nothing_of_n_numbers_is_computed_on_the_client(monkeypatch):
    """What comes back to the client is smaller than the labels."""
    seen = []
    compute = dask.compute

    def watched(*args, **kwargs):
        found = compute(*args, **kwargs)
        seen.extend(part.nbytes for part in found if isinstance(part, np.ndarray))
        return found

    monkeypatch.setattr(dask, "compute", watched)
    X = np.tile(rows(), (20, 1))
    factors = compress(in_blocks(X, 9000), 0.5, k=2, coreset=200, seed=0)
    assert all(size < 4 * len(X) for size in seen)
    assert factors.counts_of_parts.shape == (7, 2)


@pytest.mark.parametrize("options", [{}, {"affine": True}], ids=["subspaces", "flats"])
def test_it_is_saved_in_parts(tmp_path, options):
    factors = compress(in_blocks(rows()), 0.5, k=3, seed=0, **options)
    factors.save(tmp_path / "parts")
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert names == ["flats.safetensors", *(f"rows-{i:05d}.safetensors" for i in range(5))]
    loaded = BlockedFactorization.load(tmp_path / "parts")
    assert (loaded.shape, loaded.n_parameters) == ((N, D), factors.n_parameters)
    assert loaded.relative_error == factors.relative_error
    np.testing.assert_array_equal(np.asarray(loaded.reconstruct()), np.asarray(factors.reconstruct()))
    with pytest.raises(FileExistsError, match="overwrite"):
        factors.save(tmp_path / "parts")
    factors.save(tmp_path / "parts", overwrite=True)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    factors, save, written = compress(in_blocks(rows()), 0.5, k=3, seed=0), blocked_factors.save_arrays, []

    def full(path, *args):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        save(path, *args)

    monkeypatch.setattr(blocked_factors, "save_arrays", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*parts/rows-0000"):
        factors.save(tmp_path / "parts")
    assert list(tmp_path.iterdir()) == []


def test_damaged_parts_are_refused(tmp_path):
    compress(in_blocks(rows()), 0.5, k=3, seed=0).save(tmp_path / "parts")
    part = tmp_path / "parts" / "rows-00002.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    loaded = BlockedFactorization.load(tmp_path / "parts")
    with pytest.raises(ValueError, match=r"rows-00002\.safetensors is not a whole"):
        loaded.gather()
    part.unlink()
    with pytest.raises(FileNotFoundError, match=r"rows-00002\.safetensors"):
        loaded.reconstruct().compute()
    (tmp_path / "parts" / "flats.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"flats\.safetensors"):
        BlockedFactorization.load(tmp_path / "parts")


BAD = {
    "bits": ({"bits": 2.0}, "bits cannot be had for a Dask array"),
    "exact rows": ({"ratio": 0.5, "exact_rows": [1]}, "exact_rows cannot be had"),
    "equal": ({"ratio": 0.5, "dims": "equal", "k": 3}, "dims cannot be had"),
    "labels": ({"ratio": 0.5, "init": np.zeros(N, int)}, "init cannot be had"),
    "a device": ({"ratio": 0.5, "device": "cpu"}, "device cannot be had"),
    "no budget": ({}, "give either ratio"),
    "too little": ({"n_parameters": 100}, "leaves 100 parameters"),
    "clusters": ({"ratio": 0.5, "k": N + 1}, "need at least 3001 rows"),
    "weights": ({"ratio": 0.5, "sample_weight": np.ones(3)}, "one entry for each of the 3000 rows of A"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        compress(in_blocks(rows()), **options)


def test_nan_far_away_is_named_by_block_and_row():
    X = rows()
    X[2345, 7] = np.nan
    with pytest.raises(ValueError, match=r"in block 3, rows 2100 to 2799 of A: .*A\[245, 7\] is nan"):
        compress(in_blocks(X), 0.5)


def test_two_workers_have_the_bits_of_one(tmp_path):
    distributed = pytest.importorskip("distributed")
    X = in_blocks(rows())
    want = compress(X, 0.5, k=3, seed=0)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
        ) as cluster,
        distributed.Client(cluster),
        dask.config.set(scheduler="distributed"),
    ):
        got = compress(X, 0.5, k=3, seed=0)
        got.save(tmp_path / "parts")
    loaded = BlockedFactorization.load(tmp_path / "parts")
    assert got.history == want.history
    assert loaded.relative_error == want.relative_error
    np.testing.assert_array_equal(np.asarray(loaded.reconstruct()), np.asarray(want.reconstruct()))
