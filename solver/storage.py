"""Saved results: safetensors files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from .checksums import checksum_arrays

Facts: TypeAlias = "dict[str, Any]"
"""What JSON can tell, by name."""

FORMAT = "ksubspaces"
VERSION = 2  # 1 had no checksum
CHECKSUM = "crc32"


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, an OSError (of a full disk, say) names the file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it there, so that no reader sees half of it.

    Raises
    ------
    OSError
        When the folder is missing, read-only or full; a file that was there before is left as it was.
    """
    path = Path(path).resolve()  # through a symbolic link, not in its place
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder to save in: {path.parent}")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with naming(path):
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: str | os.PathLike[str], facts: Facts) -> None:
    """Write facts to a file of JSON, as :func:`write_whole`."""
    write_whole(path, (json.dumps(facts, indent=2) + "\n").encode())


def save_arrays(path: str | os.PathLike[str], kind: str, arrays: dict[str, np.ndarray], facts: Facts) -> None:
    """Save named arrays and JSON facts, with a checksum over all, as a file of ``kind`` ("Subspaces", say).

    Raises
    ------
    OSError
        As :func:`write_whole`.
    ValueError
        When an array is not finite.
    """
    write_whole(path, to_bytes(kind, arrays, facts))


def to_bytes(kind: str, arrays: dict[str, np.ndarray], facts: Facts) -> bytes:
    """What :func:`save_arrays` writes.

    Raises
    ------
    ValueError
        When an array is not finite.
    """
    arrays = {name: np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    for name, array in arrays.items():
        _check_finite(name, array)
    metadata = {"format": FORMAT, "version": str(VERSION), "kind": kind, "facts": json.dumps(facts)}
    metadata[CHECKSUM] = f"{checksum_arrays(arrays, metadata):08x}"
    return save(arrays, metadata)


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(array)))
        raise ValueError(f"{name} must be finite, but {name}{list(place)} is {array[place]}")


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Within it, parts that are missing or do not fit together mean a damaged file."""
    try:
        yield
    except KeyError as error:
        raise ValueError(f"{os.fspath(path)} is damaged: it has no {error}") from None
    except (IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{os.fspath(path)} is damaged: {error}") from None


def load_arrays(path: str | os.PathLike[str], kind: str, verify: bool = True) -> tuple[dict[str, np.ndarray], Facts]:
    """Arrays and facts of a file that :func:`save_arrays` wrote, now or in an earlier version, without a checksum.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    ValueError
        When it is not a file of this kind, or of a later version, or, unless ``verify`` is false, is not what was
        written or has numbers that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    return _checked(path, kind, verify, *_read(path))


def holds(path: str | os.PathLike[str], kind: str) -> bool:
    """Whether a file says that it is of this kind; the rest of it is not looked at."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("kind") == kind
    except (OSError, SafetensorError):
        return False


def from_bytes(content: bytes, kind: str) -> tuple[dict[str, np.ndarray], Facts]:
    """The inverse of :func:`to_bytes`.

    Raises
    ------
    ValueError
        When they are not whole, or of another kind.
    """
    name = f"what should be a {kind}"
    try:
        arrays = load(content)  # which refuses parts that overlap, leave gaps or have no room
    except SafetensorError as error:
        raise ValueError(f"{name} is not whole: {error}") from None
    with reading(name):
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    return _checked(name, kind, True, metadata, arrays)


def _checked(
    path: str | Path, kind: str, verify: bool, metadata: dict[str, str], arrays: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], Facts]:
    """Arrays and facts, once they are of this kind, of a known version, and what was written."""
    if metadata.get("format") != FORMAT or metadata.get("kind") != kind:
        found = metadata.get("kind", "something else")
        raise ValueError(f"{path} holds {found}, not a saved {FORMAT} {kind}")
    with reading(path):
        version = int(metadata["version"])
        if version < 1:
            raise ValueError(f"there is no version {version}")
    if version > VERSION:
        raise ValueError(f"{path} was written by a later version of {FORMAT}; upgrade to read it")
    with reading(path):
        if verify:
            _verify(metadata, arrays, version)
        facts = json.loads(metadata["facts"])
        if not isinstance(facts, dict):
            raise ValueError(f"its facts are {facts!r}")
        return arrays, facts


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays of a safetensors file. Arrays are views of one block: faster than one by one."""
    with naming(path), path.open("rb") as file:
        try:
            with safe_open(path, framework="numpy"):  # which refuses parts that overlap, leave gaps or have no room
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
        size = int.from_bytes(file.read(8), "little")
        with reading(path):
            header = json.loads(file.read(size))
        block = np.fromfile(file, dtype=np.uint8)
    with reading(path):
        metadata = header.pop("__metadata__", {})
        return metadata, {
            name: block[slice(*entry["data_offsets"])].view(_dtype(entry["dtype"])).reshape(entry["shape"])
            for name, entry in header.items()
        }


def _dtype(name: str) -> np.dtype:
    """The dtype of NumPy that safetensors calls F32, I64, U8 or so."""
    return np.dtype(f"<{name[0].lower()}{int(name[1:]) // 8}")


def _verify(metadata: dict[str, str], arrays: dict[str, np.ndarray], version: int) -> None:
    written = {name: value for name, value in metadata.items() if name != CHECKSUM}
    if (version > 1 or CHECKSUM in metadata) and metadata[CHECKSUM] != f"{checksum_arrays(arrays, written):08x}":
        raise ValueError("it is not what was written (its checksum differs); copy or make it anew")
    for name, array in arrays.items():
        _check_finite(name, array)


def stack_bases(bases: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Bases as one array and their dims, the form in which they are saved."""
    return {"bases": np.concatenate(bases), "dims": np.array([len(V) for V in bases], dtype=np.int64)}


def split_bases(arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The inverse of :func:`stack_bases`, once offsets fit, if there are any."""
    bases, dims, offsets = arrays["bases"], arrays["dims"], arrays.get("offsets")
    if bases.ndim != 2 or bases.dtype.kind != "f" or bases.shape[1] == 0:
        raise ValueError(f"bases must be numbers of shape (sum of dims, d), got {bases.dtype} of shape {bases.shape}")
    if dims.ndim != 1 or dims.dtype.kind not in "iu" or not len(dims) or dims.min() < 0:
        raise ValueError(f"dims must be k whole numbers from 0, got {dims.dtype} {dims.tolist()}")
    if (total := sum(dims.tolist())) != len(bases):
        raise ValueError(f"dims add up to {total}, but bases has {len(bases)} rows")
    expected = (len(dims), bases.shape[1])
    if offsets is not None and (offsets.shape != expected or offsets.dtype.kind != "f"):
        raise ValueError(f"offsets must be numbers of shape {expected}, got {offsets.dtype} of shape {offsets.shape}")
    return np.split(bases, np.cumsum(dims)[:-1])


def pack_labels(labels: np.ndarray, k: int) -> np.ndarray:
    """Labels in the smallest unsigned dtype that holds k of them."""
    return labels.astype(np.min_scalar_type(k - 1))


def unpack_labels(labels: np.ndarray, k: int) -> np.ndarray:
    """Labels of :func:`pack_labels` as int32, once they are."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers of shape (n,), got {labels.dtype} of shape {labels.shape}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < k:
        raise ValueError(f"labels must be from 0 to {k - 1}, got {labels.min()} to {labels.max()}")
    return labels.astype(np.int32)
