"""C++ compiled by g++ and kept by its content: the processes of a run share it, and so do later runs."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMPILER = shutil.which("g++")
FLAGS = ["-std=c++17", "-march=native", "-fPIC", "-fno-strict-aliasing", "-fno-gnu-unique", "-w"]
KEPT_SECONDS = 14 * 86400


def gxx(*arguments: object) -> str:
    """Run g++; returns its log."""
    done = subprocess.run([str(COMPILER), *FLAGS, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"g++ could not compile the kernels:\n{done.stderr[:4000]}")
    return done.stderr


def made_once(content: object, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills, given a new one; the one that it filled before, for this content and machine."""
    folder = cache() / hashlib.sha256(repr((machine(), content)).encode()).hexdigest()[:24]
    if folder.exists():
        os.utime(folder)
        return folder
    new = Path(tempfile.mkdtemp(dir=cache()))
    try:
        make(new)
        with contextlib.suppress(OSError):  # another process was faster
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


@functools.cache
def cache() -> Path:
    """``build/cuda_on_cpu``, rid of what nobody has used of late; a temporary folder where that cannot be written."""
    folder = Path(__file__).parent.parent / "build" / "cuda_on_cpu"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="cuda_on_cpu_"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for old in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - old.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    return folder


@functools.cache
def machine() -> str:
    """What compiled code depends on beside its text: the compiler, its flags, and the processor it compiles for."""
    return gxx("-v", "-E", "-x", "c++", os.devnull)
