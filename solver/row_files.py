"""Rows of a table in a file, as a Dask array whose blocks are read when they are worked on.

A block is read by its place in the file, not mapped: memory is bounded by the blocks that are worked on at a time. The
system is told which block is next, and reads it meanwhile.
"""

from __future__ import annotations

import itertools
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from .arrays import AnyArray
from .extras import require
from .tables import check_table, choose, list_npz, read_npy_header, reading_file, refuse_name, split_spec

BLOCK_BYTES = 32 << 20
MEMORY_SHARE = 0.5  # of the memory, that a table read as a whole may take
INDEX = "model.safetensors.index.json"
ENDINGS = (".npy", ".npz", ".safetensors", ".zarr", ".h5", ".hdf5")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?"}
_DTYPES |= {f"{kind}{bits}": f"<{kind.lower()}{bits // 8}" for kind in "IU" for bits in (8, 16, 32, 64)}


def open_rows(spec: str, block_bytes: int = BLOCK_BYTES) -> AnyArray:
    """Open the rows of a table in a file.

    Parameters
    ----------
    spec : str
        ``x.npy``, ``x.npz::name`` (not compressed), ``x.safetensors::tensor_name``, the folder of a sharded model or
        its ``model.safetensors.index.json`` with ``::tensor_name``, ``x.zarr`` or ``x.zarr::name``, ``x.h5::name``. The
        name may be left out where a file holds exactly one 2-D array.
    block_bytes : int, default 32 MiB
        Bytes of the file in a block, about.

    Returns
    -------
    dask.array.Array of shape (n, d)
        With the dtype that is stored; bfloat16 becomes float32.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is damaged, ends early, or of another kind; the name is missing or unknown; or it is not a table.
    ImportError
        Dask, or what reads the format, is not installed.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from ksubspaces import fit_subspaces
    >>> from ksubspaces.row_files import open_rows
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/rows.npy", np.random.default_rng(0).normal(size=(900, 8)))
    ...     fit_subspaces(open_rows(f"{folder}/rows.npy"), k=2, j=3, seed=0).dims
    (3, 3)
    """
    require("dask.array", extra="dask")
    import dask.array as da

    path, name = split_spec(spec)
    if path.is_dir() and path.suffix != ".zarr":
        path = path / INDEX
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if path.name.endswith(".index.json"):
        path = _shard(path, name)
    if path.suffix == ".zarr":
        return _open_zarr(path, name, block_bytes)
    if path.suffix in (".h5", ".hdf5"):
        shape, dtype, read = _open_hdf5(path, name)
    elif path.suffix in _OPEN:
        stored = _OPEN[path.suffix](path, name)
        shape, dtype, read = stored.shape, np.dtype(np.float32) if stored.widened else stored.dtype, stored.read
    else:
        raise ValueError(f"cannot read {path} in blocks: give a file of {', '.join(ENDINGS)}, or an {INDEX}")
    check_table(np.broadcast_to(np.zeros((), dtype), shape), str(path))
    n, row_bytes = shape[0], shape[1] * dtype.itemsize
    size = max(1, min(n, block_bytes // max(1, row_bytes)))
    bounds = [*range(0, n, size), n]
    return da.map_blocks(
        _read_block,
        da.from_array(np.array(bounds[:-1]), chunks=1),
        read=read,
        size=size,
        n=n,
        dtype=dtype,
        new_axis=1,
        chunks=(tuple(b - a for a, b in itertools.pairwise(bounds)), (shape[1],)),
        meta=np.empty((0, 0), dtype),
    )


def is_in_blocks(spec: str) -> bool:
    """Whether a table is read in blocks unless told otherwise: it takes much memory, or is in a format for that."""
    path, _ = split_spec(spec)
    if path.suffix in (".zarr", ".h5", ".hdf5") or path.name.endswith(".index.json") or (path / INDEX).is_file():
        return True
    return path.suffix in _OPEN and path.is_file() and path.stat().st_size > MEMORY_SHARE * _memory()


def _memory() -> float:
    """Bytes of memory of this machine, or as many as this process may take."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else []
    try:
        import resource

        limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
        sizes += [limit for limit in limits if limit > 0]
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (ImportError, OSError, ValueError):  # not on this system; "max"
        pass
    return min(sizes, default=float("inf"))


@dataclass(frozen=True)
class Stored:
    """Where the numbers of a table lie in a file, row after row."""

    path: Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]
    widened: bool = False  # from bfloat16

    def check(self) -> Stored:
        """Itself, if the file is long enough."""
        size = self.path.stat().st_size
        if size < self.offset + self.dtype.itemsize * int(np.prod(self.shape)):
            raise ValueError(f"{self.path} ends early: it has {size:,} bytes, too few for {self.shape} {self.dtype}")
        return self

    def read(self, first: int, end: int) -> np.ndarray:
        """Rows from first to end, while the system reads as many after them."""
        width = int(np.prod(self.shape[1:]))
        size = (end - first) * width * self.dtype.itemsize
        begin = self.offset + first * width * self.dtype.itemsize
        with self.path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), begin + size, size, os.POSIX_FADV_WILLNEED)
            file.seek(begin)
            rows = np.fromfile(file, self.dtype, (end - first) * width)
        if rows.size < (end - first) * width:
            raise ValueError(f"{self.path} ends early: rows {first} to {end - 1} are not all there")
        rows = rows.reshape(end - first, width)
        return (rows.astype("<u4") << 16).view("<f4") if self.widened else rows


def _read_block(first: np.ndarray, read: Callable[[int, int], np.ndarray], size: int, n: int) -> np.ndarray:
    return read(int(first[0]), min(int(first[0]) + size, n))


def _open_npy(path: Path, name: str) -> Stored:
    refuse_name(path, name)
    with reading_file(path, ValueError, EOFError), path.open("rb") as file:
        return _after_header(path, file, 0).check()


def _open_npz(path: Path, name: str) -> Stored:
    with reading_file(path, zipfile.BadZipFile, EOFError, ValueError), zipfile.ZipFile(path) as archive:
        members, shapes = list_npz(archive)
        infos = {key: archive.getinfo(member) for key, member in members.items()}
    info = infos[choose(shapes, name, path)]
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{path} is compressed and cannot be read in blocks; save it with numpy.savez or numpy.save")
    with reading_file(path, ValueError, EOFError), path.open("rb") as file:
        file.seek(info.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")  # of the name and of what follows it
        begin = info.header_offset + 30 + int(lengths.sum())
        file.seek(begin)
        return _after_header(path, file, begin).check()


def _after_header(path: Path, file: BinaryIO, begin: int) -> Stored:
    shape, by_columns, dtype = read_npy_header(file)
    if by_columns and len(shape) > 1:
        raise ValueError("it is stored by columns; save numpy.ascontiguousarray of it")
    if dtype.hasobject:
        raise ValueError(f"it holds {dtype}")
    return Stored(path, file.tell(), dtype, shape)


def _open_safetensors(path: Path, name: str) -> Stored:
    with reading_file(path, SafetensorError), safe_open(path, framework="numpy") as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    chosen = choose(shapes, name, path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(size))[chosen]
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{path}::{chosen} is stored as {entry['dtype']}: convert it to float32 first")
    begin, dtype = 8 + size + entry["data_offsets"][0], np.dtype(_DTYPES[entry["dtype"]])
    return Stored(path, begin, dtype, shapes[chosen], entry["dtype"] == "BF16").check()


_OPEN = {".npy": _open_npy, ".npz": _open_npz, ".safetensors": _open_safetensors}


def _shard(index: Path, name: str) -> Path:
    """The file of a sharded model that holds a tensor."""
    try:
        files = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{index} is not the index of a sharded model ({error!r})") from None
    if name not in files:
        what = f"nothing named '{name}'" if name else "many tensors"
        raise ValueError(f"{index} holds {what}; choose one of {', '.join(sorted(files)[:8])}, ...")
    shard = index.parent / files[name]
    if not shard.is_file():
        raise FileNotFoundError(f"no such file: {shard}, which {index.name} says holds {name}")
    return shard


def _open_zarr(path: Path, name: str, block_bytes: int) -> AnyArray:
    require("zarr", extra="dask")
    import dask.array as da
    import zarr

    try:
        found: AnyArray = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a readable Zarr store ({error})") from None
    if isinstance(found, zarr.Group):
        arrays = dict(found.arrays())
        found = arrays[choose({key: own.shape for key, own in arrays.items()}, name, path)]
    else:
        refuse_name(path, name)
    check_table(np.broadcast_to(np.zeros((), found.dtype), found.shape), str(path))
    size = max(1, block_bytes // max(1, found.shape[1] * found.dtype.itemsize))
    return da.from_zarr(found).rechunk((size, -1))


def _open_hdf5(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype, Callable[[int, int], np.ndarray]]:
    require("h5py", extra="dask")
    import h5py

    shapes: dict[str, tuple[int, ...]] = {}
    with reading_file(path, OSError), h5py.File(path, "r") as file:
        file.visititems(lambda key, own: shapes.update({key: own.shape} if isinstance(own, h5py.Dataset) else {}))
        chosen = choose(shapes, name, path)
        return shapes[chosen], file[chosen].dtype, HDF5(path, chosen).read


@dataclass(frozen=True)
class HDF5:
    """A data set of a file, which each block opens for itself."""

    path: Path
    name: str

    def read(self, first: int, end: int) -> np.ndarray:
        """Rows from first to end."""
        import h5py

        with reading_file(self.path, OSError), h5py.File(self.path, "r") as file:
            return file[self.name][first:end]
