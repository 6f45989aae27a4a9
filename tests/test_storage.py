"""Files are written whole or not at all, and what is not ours is refused."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ksubspaces import Factorization, Subspaces, fit_subspaces, storage

X = np.random.default_rng(0).normal(size=(60, 6))
MODEL = fit_subspaces(X, 2, 2, seed=0)
FLATS = fit_subspaces(X.astype(np.float32)[:9, :3], 2, [1, 2], affine=True, seed=0, max_iter=3)
FACTORS = FLATS.factorize(X.astype(np.float32)[:9, :3])


def told(saved):
    """Everything that a saved result holds, as bytes and plain facts."""
    names = ("objective", "energy", "history", "converged", "n_reseeded")
    facts = [repr(getattr(saved, name)) for name in names if hasattr(saved, name)]
    arrays = [saved.labels, *saved.bases, *getattr(saved, "blocks", []), saved.offsets]
    return facts + [None if a is None else (a.dtype, a.shape, a.tobytes()) for a in arrays]


def change(path, metadata=None, without=(), **arrays):
    """Write a saved file of the first version, which has no checksum, with some of its parts changed."""
    with storage.safe_open(path, framework="numpy") as file:
        plain = {**file.metadata(), "version": "1", **(metadata or {})}
    kept = {name: value for name, value in {**load_file(path), **arrays}.items() if name not in without}
    save_file(kept, path, {name: value for name, value in plain.items() if name not in ("crc32", *without)})


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "model"
    MODEL.save(path)
    before = path.read_bytes()

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage.os if stage == "fsync" else storage.Path, stage, fail)
    with pytest.raises(KeyboardInterrupt):
        fit_subspaces(X, 3, 2, seed=0).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    """A real one: the process may write no file past a few bytes."""
    path = tmp_path / "model"
    MODEL.save(path)
    before = path.read_bytes()
    program = f"""
import resource, signal, numpy as np
from ksubspaces import Subspaces
model = Subspaces.load({str(path)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    model.save({str(path)!r})
except OSError as error:
    raise SystemExit(f"refused: {{error}}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"refused: [Errno 27] File too large: '{path}'" in done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        MODEL.save(tmp_path / "nowhere" / "model")


def test_files_have_the_usual_permissions(tmp_path):
    MODEL.save(tmp_path / "model")
    (tmp_path / "plain").touch()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(FileNotFoundError, match="no such file"):
        Subspaces.load(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder'$"):
        MODEL.save(tmp_path / "folder")
    MODEL.save(path)
    with pytest.raises(ValueError, match="holds Subspaces, not a saved ksubspaces Factorization"):
        Factorization.load(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Subspaces.load(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Subspaces.load(path)


def test_files_of_a_later_version_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "VERSION", 99)
    MODEL.save(tmp_path / "model")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="later version"):
        Subspaces.load(tmp_path / "model")


@pytest.mark.parametrize("k", [1, 256, 257])
def test_labels_are_packed(k):
    labels = np.arange(k, dtype=np.int32)
    packed = storage.pack_labels(labels, k)
    assert packed.dtype == (np.uint8 if k <= 256 else np.uint16)
    np.testing.assert_array_equal(packed, labels)


def test_files_with_parts_missing_are_refused(tmp_path):
    path = tmp_path / "model"
    storage.save_arrays(path, "Factorization", {"labels": np.zeros(3, np.uint8)}, {})
    with pytest.raises(ValueError, match="model is damaged"):
        Factorization.load(path)
    storage.save_arrays(path, "Subspaces", {"labels": np.zeros(3, np.uint8)}, {})
    with pytest.raises(ValueError, match="model is damaged"):
        Subspaces.load(path)


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "model")
    MODEL.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert Subspaces.load(tmp_path / "model").objective == MODEL.objective


@pytest.mark.parametrize("saved", [FLATS, FACTORS], ids=["Subspaces", "Factorization"])
@pytest.mark.parametrize("verify", [True, False])
def test_every_bit_counts(tmp_path, saved, verify):
    """Each is flipped in turn: the file is refused by its name, or what it holds is the same to the last bit.

    Unverified, it may hold something else, but no other error ever comes of it.
    """
    path = tmp_path / "saved"
    saved.save(path)
    whole, expected = path.read_bytes(), told(saved)
    assert told(type(saved).load(path, verify=verify)) == expected
    numbers = 8 * sum(value.nbytes for value in load_file(path).values())
    refused = 0
    with path.open("r+b", buffering=0) as file:
        for bit in range(8 * len(whole)):
            os.pwrite(file.fileno(), bytes([whole[bit // 8] ^ 1 << bit % 8]), bit // 8)
            try:
                found = type(saved).load(path, verify=verify)
            except ValueError as error:
                assert str(path) in str(error)
                refused += 1
            else:
                assert told(found) == expected or not verify
            os.pwrite(file.fileno(), whole[bit // 8 : bit // 8 + 1], bit // 8)
    assert path.read_bytes() == whole
    assert refused >= numbers if verify else 0 < refused < 8 * len(whole)


@pytest.mark.parametrize("saved", [FLATS, FACTORS], ids=["Subspaces", "Factorization"])
def test_files_of_the_first_version_have_no_checksum_and_load(tmp_path, saved):
    path = tmp_path / "saved"
    saved.save(path)
    change(path)
    assert told(type(saved).load(path)) == told(saved)
    change(path, {"version": "2"})
    with pytest.raises(ValueError, match="saved is damaged: it has no 'crc32'"):
        type(saved).load(path)
    assert told(type(saved).load(path, verify=False)) == told(saved)


@pytest.mark.parametrize(
    "saved, name", [(FLATS, "bases"), (FLATS, "offsets"), (FACTORS, "bases"), (FACTORS, "coefficients")]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(tmp_path, saved, name, value):
    path = tmp_path / "saved"
    saved.save(path)
    array = load_file(path)[name]
    array.flat[1] = value
    place = list(map(int, np.unravel_index(1, array.shape)))
    change(path, **{name: array})
    with pytest.raises(ValueError) as refusal:
        type(saved).load(path)
    assert f"saved is damaged: {name} must be finite, but {name}{place} is {value}" in str(refusal.value)
    again = type(saved).load(path, verify=False)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        again.save(path)
    assert path.read_bytes() == before


FACTS = {"objective": 1.0, "energy": 2.0, "history": [1.5], "converged": True, "n_reseeded": 0}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize(
    "saved, parts, message",
    [
        (FACTORS, {"bases": np.ones(9, np.float32)}, r"bases must be numbers of shape \(sum of dims, d\)"),
        (FACTORS, {"bases": np.ones((3, 3), np.int32)}, "bases must be numbers"),
        (FACTORS, {"bases": np.ones((3, 0), np.float32)}, "bases must be numbers"),
        (FACTORS, {"dims": np.array([-1, 4])}, "dims must be k whole numbers"),
        (FACTORS, {"dims": np.array([1.0, 2.0])}, "dims must be k whole numbers"),
        (FACTORS, {"dims": np.zeros(0, np.int64)}, "dims must be k whole numbers"),
        (FACTORS, {"dims": np.array([1, 1])}, "dims add up to 2, but bases has 3 rows"),
        (FACTORS, {"dims": np.array([2**62, 2**62, 2**62, 2**62, 3])}, "dims add up to 18446744073709551619"),
        (FACTORS, {"offsets": np.ones((3, 3), np.float32)}, r"offsets must be numbers of shape \(2, 3\)"),
        (FACTORS, {"labels": np.full(9, 2, np.uint8)}, "labels must be from 0 to 1, got 2 to 2"),
        (FACTORS, {"labels": np.full(9, -1, np.int8)}, "labels must be from 0 to 1, got -1 to -1"),
        (FACTORS, {"labels": np.ones(9, np.float32)}, "labels must be whole numbers"),
        (FACTORS, {"labels": np.ones((3, 3), np.uint8)}, "labels must be whole numbers"),
        (FACTORS, {"coefficients": np.ones(5, np.float32)}, r"coefficients must be \d+ numbers, got float32 of"),
        (FACTORS, {"without": ["coefficients"]}, "it has no 'coefficients'"),
        (FLATS, {"labels": np.full(9, 2, np.uint8)}, "labels must be from 0 to 1"),
        (FLATS, {"bases": np.ones((4, 3), np.float32), "dims": np.array([0, 4])}, "at most the 3 columns of bases"),
        (FLATS, {"metadata": {"facts": "{"}}, "Expecting property name"),
        (FLATS, {"metadata": {"facts": "[]"}}, r"its facts are \[\]"),
        (FLATS, {"metadata": {"facts": "{}"}}, "it has no 'objective'"),
        (FLATS, {"metadata": {"facts": json.dumps(FACTS | {"more": 1})}}, "more"),
        (FLATS, {"metadata": {"facts": json.dumps(FACTS | {"energy": np.nan})}}, "must be finite numbers"),
        (FLATS, {"metadata": {"facts": json.dumps(FACTS | {"history": ["1"]})}}, "must be finite numbers"),
        (FLATS, {"metadata": {"facts": json.dumps(FACTS | {"converged": "no"})}}, "converged must be true or false"),
        (FLATS, {"metadata": {"version": "x"}}, "invalid literal"),
        (FLATS, {"metadata": {"version": "0"}}, "there is no version 0"),
        (FLATS, {"without": ["version"]}, "it has no 'version'"),
        (FLATS, {"without": ["facts"]}, "it has no 'facts'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, saved, parts, message, verify):
    path = tmp_path / "saved"
    saved.save(path)
    change(path, **parts)
    with pytest.raises(ValueError, match=f"saved is damaged: .*{message}"):
        type(saved).load(path, verify=verify)


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "model"
    MODEL.save(path)

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage.np, "fromfile", fail)
    with pytest.raises(OSError) as refusal:
        Subspaces.load(path)
    assert str(refusal.value) == f"[Errno 5] Input/output error: '{path}'"


def test_what_is_loaded_can_be_changed_and_outlives_the_file(tmp_path):
    MODEL.save(tmp_path / "model")
    first, second = (Subspaces.load(tmp_path / "model") for _ in range(2))
    (tmp_path / "model").unlink()
    first.bases[0][:] = 0
    np.testing.assert_array_equal(second.bases[0], MODEL.bases[0])
