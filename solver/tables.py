"""Reading a table (a 2-D array of real numbers) from the files people keep them in."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .text_tables import WORDS, has_words, read_csv, read_words

__all__ = ["read_table"]

_HOW = (
    "give a .npy file, a .npz file as file.npz::name, a safetensors file as model.safetensors::tensor_name, "
    "a .csv file, or vectors of words as text, .txt or .vec"
)
_ENDINGS = {".npy", ".npz", ".safetensors", ".csv", *WORDS}
_NUMPY_TYPES = {"F64", "F32", "F16", "BOOL", *(f"{kind}{bits}" for kind in "IU" for bits in (8, 16, 32, 64))}


def read_table(spec: str) -> np.ndarray:
    """Read a 2-D array of real numbers from a NumPy or safetensors file.

    Parameters
    ----------
    spec : str
        ``x.npy``, ``x.npz::name``, ``x.safetensors::tensor_name``, ``x.csv``, or vectors of words as text (``x.txt``,
        ``x.vec``). The name may be left out where the file holds exactly one 2-D array. Nothing in the file is
        executed: pickled arrays are refused.

    Returns
    -------
    ndarray of shape (n, d)
        With the type it is stored in, except that bfloat16, which NumPy lacks, becomes float32 (exactly).
        A ``.npy`` file is mapped rather than read, and read-only.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is damaged or of another kind, the name is missing or unknown, or the array is not a table.
    """
    path, name = split_spec(spec)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: {_HOW}{_tables_in(path)}")
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.suffix == ".npy":
        refuse_name(path, name)
        return check_table(_read_npy(path), str(path))
    if path.suffix == ".npz":
        return _read_npz(path, name)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, name)
    if path.suffix == ".csv" or has_words(path):
        if name:
            raise ValueError(f"{path} holds one table without a name: leave out '::{name}'")
        return read_csv(path) if path.suffix == ".csv" else read_words(path)[1]
    if path.suffix == ".kv":
        raise ValueError(
            f"{path} of gensim holds pickles, which can run code; "
            "write it as text: vectors.save_word2vec_format('vectors.vec')"
        )
    raise ValueError(f"cannot tell what kind of file {path} is by its ending: {_HOW}")


def is_table(spec: str) -> bool:
    """Whether it names a file of a table by its ending, there or not, and not a folder."""
    path, _ = split_spec(spec)
    return path.suffix in _ENDINGS and not path.is_dir()


def split_spec(spec: str) -> tuple[Path, str]:
    path, separator, name = spec.rpartition("::")
    if not separator or Path(spec).exists():
        return Path(spec), ""
    return Path(path), name


def refuse_name(path: Path, name: str) -> None:
    """Refuse the name of an array in a file that holds one without."""
    if name:
        raise ValueError(f"{path} holds one array without a name: leave out '::{name}'")


def _tables_in(folder: Path) -> str:
    found = sorted(p.name for p in folder.iterdir() if p.suffix in _ENDINGS)
    return f" (in this folder: {', '.join(found[:8])}{', ...' if len(found) > 8 else ''})" if found else ""


def check_table(array: np.ndarray, what: str) -> np.ndarray:
    if array.ndim != 2:
        raise ValueError(f"{what} has shape {array.shape}: a table has two dimensions, rows x columns")
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} holds {array.dtype}: a table holds real numbers")
    return array


def choose(shapes: dict[str, tuple[int, ...]], name: str, path: Path) -> str:
    """Settle which array of a file is meant: the named one, or the only 2-D one."""
    tables = {key: shape for key, shape in shapes.items() if len(shape) == 2}
    listing = "".join(f"\n  {path.name}::{key}  {shape[0]} x {shape[1]}" for key, shape in sorted(tables.items()))
    if name in shapes:
        return name
    if not tables:
        raise ValueError(f"{path} holds no 2-D array" + (f", and none named '{name}'" if name else ""))
    if name:
        raise ValueError(f"{path} holds nothing named '{name}'; its 2-D arrays are{listing}")
    if len(tables) > 1:
        raise ValueError(f"{path} holds {len(tables)} 2-D arrays; choose one of{listing}")
    return next(iter(tables))


@contextmanager
def reading_file(path: Path, *damage: type[Exception]) -> Iterator[None]:
    """Tell the errors that a damaged file causes in one way."""
    try:
        yield
    except damage as error:
        kind = path.suffix.lstrip(".")
        raise ValueError(f"{path} is not a readable {kind} file of plain numbers ({error})") from error


def _read_npy(path: Path) -> np.ndarray:
    with reading_file(path, ValueError, EOFError):
        # np.load would also open other formats, and refuses an empty file with advice about pickles
        return np.lib.format.open_memmap(path, mode="r")


def _read_npz(path: Path, name: str) -> np.ndarray:
    damage = (zipfile.BadZipFile, zlib.error, EOFError, ValueError)
    with reading_file(path, *damage), zipfile.ZipFile(path) as archive:
        members, shapes = list_npz(archive)
    chosen = choose(shapes, name, path)
    with reading_file(path, *damage), zipfile.ZipFile(path) as archive, archive.open(members[chosen]) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return check_table(array, f"{path}::{chosen}")


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether by columns, and dtype of an array, from its header alone."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def list_npz(archive: zipfile.ZipFile) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """Members and shapes of an archive's arrays by name; of their headers alone, so that nothing large is unpacked."""
    members = {member.removesuffix(".npy"): member for member in archive.namelist() if member.endswith(".npy")}
    shapes = {}
    for key, member in members.items():
        with archive.open(member) as file:
            shapes[key] = read_npy_header(file)[0]
    return members, shapes


def _read_safetensors(path: Path, name: str) -> np.ndarray:
    with reading_file(path, SafetensorError), safe_open(path, framework="numpy") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        chosen = choose({key: tuple(part.get_shape()) for key, part in slices.items()}, name, path)
        stored = slices[chosen].get_dtype()
        if stored not in _NUMPY_TYPES and stored != "BF16":
            raise ValueError(f"{path}::{chosen} is stored as {stored}: convert it to float32 first")
        array = _read_bfloat16(path, chosen) if stored == "BF16" else file.get_tensor(chosen)
    return check_table(array, f"{path}::{chosen}")


def _read_bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """Widen to float32: a bfloat16 is the upper half of one. The caller has validated the file's header."""
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(header_size))[name]
        start, stop = entry["data_offsets"]
        file.seek(8 + header_size + start)
        halves = np.frombuffer(file.read(stop - start), dtype="<u2")
    wide = halves.astype("<u4")
    wide <<= 16
    return wide.view("<f4").reshape(entry["shape"])
