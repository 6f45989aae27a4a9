"""Tables in files, read in blocks: what is read is what was written, memory is bounded, and damage is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ksubspaces import BlockedFactorization, Subspaces, fit_subspaces, row_files
from ksubspaces.cli import main
from ksubspaces.row_files import open_rows

da = pytest.importorskip("dask.array")
N, D = 900, 7
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
BLOCK = 200 * D * 4


def npy(folder, array=X):
    np.save(folder / "x.npy", array)
    return f"{folder}/x.npy"


def npz(folder):
    np.savez(folder / "x.npz", other=np.zeros(3), x=X)
    return f"{folder}/x.npz::x"


def safetensors(folder):
    save_file({"a": np.zeros((2, 2), np.float32), "x": X, "bias": X[0]}, folder / "x.safetensors")
    return f"{folder}/x.safetensors::x"


def sharded(folder):
    model = folder / "model"
    model.mkdir()
    for shard, arrays in (("one", {"a": X[:9].copy()}), ("two", {"x": X, "b": X[:5].copy()})):
        save_file(arrays, model / f"{shard}.safetensors")
    files = {"a": "one.safetensors", "x": "two.safetensors", "b": "two.safetensors"}
    (model / row_files.INDEX).write_text(json.dumps({"weight_map": files}))
    return f"{model}::x"


def zarr(folder):
    pytest.importorskip("zarr").save(f"{folder}/x.zarr", X)
    return f"{folder}/x.zarr"


def hdf5(folder):
    with pytest.importorskip("h5py").File(folder / "x.h5", "w") as file:
        file.create_dataset("group/x", data=X, chunks=(64, D))
    return f"{folder}/x.h5::group/x"


@pytest.mark.parametrize("write", [npy, npz, safetensors, sharded, zarr, hdf5])
def test_what_is_read_is_what_was_written(tmp_path, write):
    rows = open_rows(write(tmp_path), BLOCK)
    assert rows.chunks == ((200, 200, 200, 200, 100), (D,))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(np.asarray(rows), X)
    np.testing.assert_array_equal(np.asarray(rows[317:350]), X[317:350])


def test_a_fit_is_that_of_the_array_in_the_same_blocks(tmp_path):
    got = fit_subspaces(open_rows(npy(tmp_path), BLOCK), 3, 2, seed=0)
    want = fit_subspaces(da.from_array(X, chunks=(200, -1)), 3, 2, seed=0)
    assert got.objective == want.objective
    np.testing.assert_array_equal(np.asarray(got.labels), np.asarray(want.labels))


def test_bfloat16_is_widened(tmp_path):
    halves = (X.view(np.uint32) >> 16).astype(np.uint16)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [N, D], "data_offsets": [0, halves.nbytes]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + halves.tobytes())
    rows = np.asarray(open_rows(f"{tmp_path}/x.safetensors", BLOCK))
    np.testing.assert_array_equal(rows, (X.view(np.uint32) & 0xFFFF0000).view(np.float32))


def cut(spec, size=100):
    path = Path(spec.split("::")[0])
    os.truncate(path, path.stat().st_size - size)
    return spec


def compressed(folder):
    np.savez_compressed(folder / "x.npz", x=X)
    return f"{folder}/x.npz"


def missing_shard(folder):
    spec = sharded(folder)
    (folder / "model" / "two.safetensors").unlink()
    return spec


BAD = {
    "no file": (lambda folder: f"{folder}/none.npy", FileNotFoundError, "no such file"),
    "ends early": (lambda folder: cut(npy(folder)), ValueError, r"x\.npy ends early: it has"),
    "cut tensors": (lambda folder: cut(safetensors(folder)), ValueError, "not a readable safetensors"),
    "no header": (lambda folder: cut(npy(folder), N * D * 4 + 100), ValueError, "not a readable npy"),
    "by columns": (lambda folder: npy(folder, np.asfortranarray(X)), ValueError, "stored by columns"),
    "a vector": (lambda folder: npy(folder, X[0]), ValueError, "two dimensions"),
    "compressed": (compressed, ValueError, "is compressed"),
    "name": (lambda folder: safetensors(folder) + "y", ValueError, "holds nothing named 'xy'"),
    "shard": (missing_shard, FileNotFoundError, "which model.safetensors.index.json says holds x"),
    "tensor": (lambda folder: sharded(folder) + "y", ValueError, "choose one of a, b, x"),
    "kind": (
        lambda folder: str(folder / "x.csv") * bool((folder / "x.csv").write_text("1,2")),
        ValueError,
        "in blocks",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_read_is_told(tmp_path, case):
    write, error, message = BAD[case]
    with pytest.raises(error, match=message):
        open_rows(write(tmp_path))


def test_a_file_that_is_cut_meanwhile_is_told(tmp_path):
    rows = open_rows(npy(tmp_path), BLOCK)
    os.truncate(tmp_path / "x.npy", 128 + 4 * D * 500)
    with pytest.raises(ValueError, match=r"x\.npy ends early: rows \d00 to \d99 are not all there"):
        fit_subspaces(rows, 2, 1)


def test_the_command_reads_in_blocks(tmp_path):
    out = tmp_path / "out"
    for spec in (npy(tmp_path), hdf5(tmp_path)):
        main(["fit", spec, "--k", "2", "--j", "2", "--blocks", "--quiet", "--out", str(out), "--overwrite"])
        assert sorted(path.name for path in out.iterdir()) == ["factors", "report.json", "subspaces.safetensors"]
        report, model = json.loads((out / "report.json").read_text()), Subspaces.load(out / "subspaces.safetensors")
        factors = BlockedFactorization.load(out / "factors").gather()
        assert report["relative_error"] == pytest.approx(factors.measure_error(X), rel=1e-5)
        np.testing.assert_array_equal(factors.labels, model.labels)
        assert report["relative_error"] <= report["svd_relative_error"] * 1.5


def test_large_files_are_read_in_blocks_by_themselves(tmp_path, monkeypatch):
    spec = npy(tmp_path)
    assert not row_files.is_in_blocks(spec)
    monkeypatch.setattr(row_files, "_memory", lambda: 1.5 * X.nbytes)
    assert row_files.is_in_blocks(spec)
    assert row_files.is_in_blocks(f"{tmp_path}/x.h5::x")


LIMITED = """
import resource, sys
import dask, numpy as np
from ksubspaces import blocked_dims, fit_subspaces
from ksubspaces.row_files import open_rows
blocked_dims.SAMPLE_BYTES = 2 << 20  # of 256 MiB; by default 64 MiB
fit_subspaces(open_rows(sys.argv[1], 1 << 20)[: 1 << 16], 4, 0, affine=True, seed=0)  # BLAS has its buffers
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
limit = held + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(int(sys.argv[2]) // 8 + (1 << 20))
except MemoryError:
    print("limited")
model = fit_subspaces(open_rows(sys.argv[1], 1 << 20), 4, 0, affine=True, seed=0, max_iter=2)
print(model.labels.shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what is allocated on Linux alone")
def test_memory_is_bounded(tmp_path):
    """A quarter of what the file holds is enough, beside what the libraries take."""
    shape = (1 << 19, 128)
    file = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    block = np.random.default_rng(0).standard_normal((1 << 15, 128), dtype=np.float32)
    for start in range(0, len(file), len(block)):
        file[start : start + len(block)] = block
    file.flush()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x.npy"), str(file.nbytes // 4)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["limited", str(shape[:1])]
