"""``ksubspaces warmup`` compiles a card's kernels, so that no fit waits for them."""

from __future__ import annotations

import argparse
import time
from types import ModuleType

import numpy as np

from ksubspaces.kernels.libraries import cupy as load_cupy

from ..arrays import resolve_device
from ..budget import compress
from ..fit import fit_subspaces
from .common import Commands, add_output_options, open_console, status

SHAPES = ((400, 48, 3, 4), (400, 40, 2, 30), (100, 160, 3, 4), (700, 136, 3, 100), (20_000, 64, 32, 8))
"""Rows, columns, flats and dimensions of problems that together run every kernel."""


def add(commands: Commands) -> None:
    """Add the command to the parser's."""
    about = (
        "Compile the kernels of a CUDA device, ours and those of CuPy that small problems take. They are kept on disk, "
        "by default in ~/.cupy/kernel_cache, for all processes after this one."
    )
    parser = commands.add_parser("warmup", help="compile a card's kernels beforehand", description=about)
    parser.add_argument("--device", default="cuda", help="cuda or cuda:1 (default: %(default)s)")
    add_output_options(parser)
    parser.set_defaults(command=warm_up)


def warm_up(options: argparse.Namespace) -> None:
    """Compile all variants, then solve small problems, for CuPy compiles its own kernels only when they run."""
    begun = time.perf_counter()
    device = resolve_device(options.device)
    if device == "cpu":
        raise ValueError("--device must be cuda or cuda:<index>: the kernels of a CPU need no warming up")
    cupy, console = load_cupy(), open_console(options)
    with cupy.cuda.Device(int(device.partition(":")[2])):
        from ksubspaces.kernels.cuda import ahead

        with status(console, "compiling"):
            count = ahead.compile_all()
        with status(console, "solving small problems"):
            for shape in SHAPES:
                for dtype in ("float32", "float64"):
                    for affine in (False, True):
                        _solve(cupy, *shape, dtype, affine)
            compress(cupy.eye(64, dtype="float32"), bits=8.0, coder="scalar", seed=0).reconstruct()
    if console is not None:
        console.print(f"{count} variants of kernels are ready for {device}, after {time.perf_counter() - begun:.1f} s")


def _solve(cupy: ModuleType, n: int, d: int, k: int, j: int, dtype: str, affine: bool) -> None:
    rng = np.random.default_rng(0)
    X, weights = cupy.asarray(rng.normal(size=(n, d)).astype(dtype)), cupy.asarray(rng.random(n))
    for sample_weight in (None, weights):
        model = fit_subspaces(X, k, j, sample_weight=sample_weight, affine=affine, max_iter=4, seed=0)
        model.transform(X)
    model.factorize(X).measure_error(X)
    fit_subspaces(X, k, 0, affine=affine, init="random", max_iter=2, seed=0)
    fit_subspaces(X, k, j, affine=affine, search="breathing", max_iter=2, seed=0)
    fit_subspaces(X[:2], 2, 2, affine=affine, init="random", max_iter=2, seed=0)  # which has clusters to fill
    if k < 8:
        compress(X, 0.5, sample_weight=weights, affine=affine, max_iter=2, seed=0).reconstruct()
