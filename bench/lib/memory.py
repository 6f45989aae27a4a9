"""Peak memory of one fit beyond its input, in a process of its own: `python -m bench memory --n 200000 ...`.

Prints one JSON object. Imports, the JIT compilation (one small fit first) and X itself are in place before the count
begins, so what is counted is what the fit itself asks for at its worst moment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from .results import ROOT

WARM_UP_ROWS = 4096
SAMPLE_SECONDS = 0.001


def measure(n: int, d: int, k: int, j: int) -> dict:
    """Run the probe in a fresh process and return what it printed."""
    return in_a_process("memory", f"--n={n}", f"--d={d}", f"--k={k}", f"--j={j}")


def in_a_process(name: str, *arguments: str) -> dict:
    """Run one of the commands of `python -m bench` in a fresh process and return the JSON object that it prints."""
    command = [sys.executable, "-m", "bench", name, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def peak_extra_bytes(run: Callable[[], object]) -> tuple[int, str]:
    """Highest resident size while `run` runs, less the resident size before it, and how that was measured."""
    process = psutil.Process()
    before = process.memory_info().rss
    try:
        exact = reset_high_water() <= before + 2**22
    except OSError:
        exact = False
    if exact:
        run()
        return high_water() - before, "VmHWM"
    peak, done = before, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(SAMPLE_SECONDS)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    run()
    done.set()
    sampler.join()
    return peak - before, f"RSS sampled every {SAMPLE_SECONDS * 1e3:g} ms"


def reset_high_water() -> int:
    """Forget the highest resident size so far; tells what is held. The kernel's mark misses no spike, however short."""
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water() -> int:
    """Highest resident size in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def main(arguments: Sequence[str]) -> None:
    """Fit planted subspaces of the given size with default arguments, or compress MiniLM's table, some times over."""
    from ksubspaces import fit_subspaces

    from .data import planted

    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    for name in ("n", "d", "k", "j"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--compress", type=float, metavar="RATIO", help="compress MiniLM's table instead")
    parser.add_argument("--times", type=int, default=1, help="rows of it, so many times over, with weights")
    size = vars(parser.parse_args(arguments))
    ratio, times = size.pop("compress"), size.pop("times")
    if ratio is not None:
        print(json.dumps(_compressed(ratio, times)))
        return
    if missing := [name for name, value in size.items() if value is None]:
        parser.error(f"--{missing[0]} is missing")
    X = planted(**size, noise=0.1).X
    fit_subspaces(X[:WARM_UP_ROWS], size["k"], size["j"], seed=0)
    begin = time.perf_counter()
    extra, how = peak_extra_bytes(lambda: fit_subspaces(X, size["k"], size["j"], seed=0))
    print(
        json.dumps(
            {**size, "x_bytes": X.nbytes, "extra_bytes": extra, "how": how, "seconds": time.perf_counter() - begin}
        )
    )


def _compressed(ratio: float, times: int) -> dict:
    from ksubspaces import compress

    from .data import large_table, minilm

    X, weights = (minilm(), None) if times == 1 else large_table(times)
    compress(X[:WARM_UP_ROWS, :64], 0.5, seed=0)
    begin, made = time.perf_counter(), []
    extra, how = peak_extra_bytes(lambda: made.append(compress(X, ratio, sample_weight=weights, seed=0)))
    seconds, factors = time.perf_counter() - begin, made[0]
    told = {"k": len(factors.dims), "n_parameters": factors.n_parameters, "error": factors.measure_error(X, weights)}
    return {"x_bytes": X.nbytes, "size": X.size, "extra_bytes": extra, "how": how, "seconds": seconds, **told}
