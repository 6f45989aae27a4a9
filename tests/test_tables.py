"""Tables from .npy, .npz and safetensors files, and what is said of files that hold none."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers import import_or_skip
from safetensors.numpy import save_file

from ksubspaces.tables import read_table

TABLE = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
REAL_TYPES = ["float64", "float32", "float16", "int64", "int8", "uint8"]


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """The format by hand, for the types that its NumPy writer lacks."""
    header, body = {}, b""
    for name, (stored, shape, data) in tensors.items():
        header[name] = {"dtype": stored, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


@pytest.mark.parametrize("dtype", REAL_TYPES)
@pytest.mark.parametrize("kind", ["npy", "npz", "npz named", "safetensors", "safetensors named"])
def test_every_kind_and_type_comes_back_as_stored(tmp_path: Path, kind: str, dtype: str) -> None:
    table = (10 * TABLE).clip(0).astype(dtype)
    path = tmp_path / f"table.{kind.split()[0]}"
    if path.suffix == ".npy":
        np.save(path, table)
    elif path.suffix == ".npz":
        np.savez(path, weights=table, bias=np.zeros(3))
    else:
        save_file({"weights": table, "bias": np.zeros(3)}, path)
    read = read_table(f"{path}::weights" if "named" in kind else str(path))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, table)


def test_npy_is_mapped_and_keeps_fortran_order(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(TABLE))
    read = read_table(str(tmp_path / "f.npy"))
    assert isinstance(read, np.memmap)
    assert not read.flags.writeable
    np.testing.assert_array_equal(read, TABLE)


def test_bfloat16_is_widened_exactly(tmp_path: Path) -> None:
    special = np.array([[0.0, -0.0, np.inf, -np.inf, 2.0**-126, 1e-40], [1, -2, 3.140625, 65280, 3e38, np.nan]], "<f4")
    halves = (special.view("<u4") >> 16).astype("<u2")
    other = TABLE[:2].astype("<f4").tobytes()
    write_safetensors(
        tmp_path / "b.safetensors",
        {"first": ("F32", [6], other), "w": ("BF16", [2, 6], halves.tobytes()), "last": ("F32", [6], other)},
    )
    read = read_table(f"{tmp_path / 'b.safetensors'}::w")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.view("<u4"), halves.astype("<u4") << 16)


def test_bfloat16_agrees_with_torch(tmp_path: Path) -> None:
    torch = import_or_skip("torch")
    from safetensors.torch import save_file as save_torch

    tensor = torch.from_numpy(TABLE).to(torch.bfloat16)
    save_torch({"w": tensor}, tmp_path / "b.safetensors")
    np.testing.assert_array_equal(read_table(str(tmp_path / "b.safetensors")), tensor.float().numpy())


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_several_tables_are_listed_with_shapes(tmp_path: Path, suffix: str) -> None:
    arrays = {"embed.weight": TABLE, "head.weight": TABLE[:4].copy(), "bias": TABLE[0].copy()}
    path = tmp_path / f"many.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    with pytest.raises(ValueError, match="choose one of") as unnamed:
        read_table(str(path))
    with pytest.raises(ValueError, match="nothing named 'nope'") as unknown:
        read_table(f"{path}::nope")
    for error in (unnamed, unknown):
        assert f"many.{suffix}::embed.weight  7 x 3" in str(error.value)
        assert f"many.{suffix}::head.weight  4 x 3" in str(error.value)
        assert "bias" not in str(error.value)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\).*rows x columns"):
        read_table(f"{path}::bias")


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_file_without_a_table(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"none.{suffix}"
    if suffix == "npz":
        np.savez(path, bias=TABLE[0])
    else:
        save_file({"bias": TABLE[0].copy()}, path)
    with pytest.raises(ValueError, match="holds no 2-D array"):
        read_table(str(path))


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a table at all, but long enough to hold a header", "cut"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes | str) -> None:
    path = tmp_path / f"bad.{suffix}"
    if content == "cut":
        whole = tmp_path / f"whole.{suffix}"
        if suffix == "npy":
            np.save(whole, TABLE)
        elif suffix == "npz":
            np.savez(whole, w=TABLE)
        else:
            save_file({"w": TABLE}, whole)
        path.write_bytes(whole.read_bytes()[:-20])
    else:
        assert isinstance(content, bytes)
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.\w+ is not a readable"):
        read_table(str(path))


def test_npz_with_a_damaged_member(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, w=TABLE)
    content = bytearray(path.read_bytes())
    content[content.index(TABLE.tobytes()) + 5] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable"):
        read_table(str(path))


def test_pickles_are_refused(tmp_path: Path) -> None:
    objects = np.array([[{}, []]], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", w=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(ValueError, match="is not a readable"):
            read_table(str(tmp_path / name))


@pytest.mark.parametrize(
    "array, fault",
    [
        (np.ones((2, 2), complex), "holds complex128: a table holds real numbers"),
        (np.array([["a", "b"]]), "holds <U1"),
        (np.ones(3), r"has shape \(3,\)"),
        (np.ones((2, 2, 2)), "a table has two dimensions"),
        (np.float32(3), r"has shape \(\)"),
    ],
)
def test_arrays_that_are_no_table(tmp_path: Path, array: np.ndarray, fault: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=fault):
        read_table(str(tmp_path / "x.npy"))


def test_safetensors_types_without_a_numpy_type(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "f8.safetensors", {"w": ("F8_E4M3", [2, 3], bytes(6))})
    with pytest.raises(ValueError, match="stored as F8_E4M3: convert it to float32"):
        read_table(f"{tmp_path / 'f8.safetensors'}::w")


def test_wrong_paths(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", TABLE)
    (tmp_path / "x.csv").write_text("1,2\n")
    (tmp_path / "x.tsv").write_text("1 2\n")
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.npy"):
        read_table(str(tmp_path / "gone.npy"))
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone\.safetensors$"):
        read_table(f"{tmp_path / 'gone.safetensors'}::w")
    with pytest.raises(ValueError, match=r"is a folder: give a \.npy file.*in this folder: x\.csv, x\.npy"):
        read_table(str(tmp_path))
    with pytest.raises(ValueError, match="what kind of file"):
        read_table(str(tmp_path / "x.tsv"))
    with pytest.raises(ValueError, match="leave out '::w'"):
        read_table(f"{tmp_path / 'x.npy'}::w")
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="is not a readable"):
        read_table(str(tmp_path / "x.npz"))


def test_a_path_may_hold_the_separator(tmp_path: Path) -> None:
    np.save(tmp_path / "a::b.npy", TABLE)
    np.testing.assert_array_equal(read_table(str(tmp_path / "a::b.npy")), TABLE)
