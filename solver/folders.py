"""Folders of results, written whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .storage import naming


@dataclass(frozen=True)
class Holding:
    """What a folder holds: only another of its kind may take its place.

    Attributes
    ----------
    name : str
        As "a compressed model".
    is_in : callable
        Whether it is what a folder, which is not empty, holds.
    """

    name: str
    is_in: Callable[[Path], bool]

    @classmethod
    def of_files(cls, name: str, *files: str) -> Holding:
        """These files, or some of them, and nothing else."""
        return cls(name, lambda folder: {path.name for path in folder.iterdir()} <= set(files))


def check_folder(path: str | os.PathLike[str], holding: Holding, overwrite: bool) -> Path:
    """Where a folder is to be saved.

    Raises
    ------
    FileExistsError, FileNotFoundError
        When it is a file, or a folder that is not to be replaced, or is to lie in one that is not there.
    """
    target = Path(path).resolve()  # through a symbolic link, not in its place
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{path} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()):
        if not holding.is_in(target):
            raise FileExistsError(f"{path} holds something else than {holding.name}; name another folder")
        if not overwrite:
            raise FileExistsError(f"{path} is not empty; overwrite it (overwrite=True, --overwrite) or name another")
    if Path.cwd().is_relative_to(target):
        raise FileExistsError(f"{path or repr('')} is the working folder or around it; name a folder in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no such folder to save in: {target.parent}")
    return target


@contextmanager
def whole_folder(path: str | os.PathLike[str], holding: Holding, overwrite: bool) -> Iterator[Path]:
    """A new folder to fill. When it is filled it takes its name; if that fails it is removed."""
    target = check_folder(path, holding, overwrite)
    mark = secrets.token_hex(4)
    fresh, old = (target.with_name(f".{target.name}.{mark}.{state}") for state in ("part", "old"))
    try:
        with naming(path):
            fresh.mkdir()
        with _naming_within(fresh, target):
            yield fresh
        with naming(path):
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _naming_within(fresh: Path, target: Path) -> Iterator[None]:
    """Within it, an OSError names the place that the file was to have, or else the folder."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        place = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else fresh
        if place.is_relative_to(fresh):
            place = target / place.relative_to(fresh)
        raise OSError(error.errno, error.strerror, str(place)) from error


@contextmanager
def folders_around(path: str | os.PathLike[str]) -> Iterator[None]:
    """Makes the folders that ``path`` is to lie in. If what is done within fails, those it made are removed."""
    missing = [folder for folder in Path(path).resolve().parents if not folder.exists()]
    try:
        with naming(path):
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
        yield
    except BaseException:
        for folder in missing:
            try:
                folder.rmdir()
            except OSError:  # not made, or somebody else uses it
                break
        raise
