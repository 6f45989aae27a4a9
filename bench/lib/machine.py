"""What a recorded figure depends on: the processor, the libraries, the command."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from threadpoolctl import threadpool_info

from .results import ROOT

PACKAGES = ("ksubspaces", "numpy", "scipy", "numba", "scikit-learn", "kspaces", "faiss-cpu")
GPU_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "numba-cuda", "torch")
SHORT_SECONDS = 0.1
"""The kernel counts in hundredths of a second, so a share over less than this says nothing."""


def processor() -> str:
    """The processor's name as the kernel gives it, else as Python does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), flags=re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(card: str | None = None) -> str:
    """A file name for this kind of machine, or of card; it tells nothing about which one it is."""
    name = card or f"{processor()} {cores()} cores"
    name = re.sub(r"\((r|tm)\)|\bcpu\b|@.*", "", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


class OtherLoad:
    """Cores that processes other than this one (and its children) keep busy, on average between two calls."""

    def __init__(self) -> None:
        self._last = self._read()
        self._share = 0.0

    def since_last(self) -> float:
        """Average since the last call; rows that were measured together come at once and share one answer."""
        current = self._read()
        wall, busy, own = (now - then for now, then in zip(current, self._last, strict=True))
        if wall > SHORT_SECONDS:
            self._last, self._share = current, max(0.0, (busy - own) / wall)
        return self._share

    @staticmethod
    def _read() -> tuple[float, float, float]:
        times = psutil.cpu_times(percpu=True)
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(times))
        # Guest time is in user time already; time stolen by the host's other guests is lost to us as well.
        busy = sum(t.user + t.nice + t.system + getattr(t, "steal", 0.0) for i, t in enumerate(times) if i in mine)
        return time.perf_counter(), busy, sum(os.times()[:4])


def describe() -> dict:
    """Machine, versions, BLAS and commit, as they go into the results file. No host or user names."""
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES + GPU_PACKAGES if _version(name)},
        "threadpools": sorted(
            f"{pool['internal_api']} {pool.get('version')}, {pool['num_threads']} threads" for pool in threadpool_info()
        ),
        "commit": _commit(),
        "command": " ".join(["python -m bench", *sys.argv[1:]]),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
