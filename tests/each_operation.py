"""Runs each operation of ``ksubspaces.kernels`` on a few odd shapes, on a card: what the sanitizers watch.

Results are not looked at here, other tests do that. Shapes are small, for a sanitizer slows kernels a hundredfold.
"""

import faulthandler
import importlib
import sys
from unittest import mock

import numpy as np
from contract.problems import packed_rows
from transfers import converted

from ksubspaces import kernels
from ksubspaces.kernels import Flats, cuda
from ksubspaces.kernels.factors import Factors

LOOKUP = importlib.import_module("ksubspaces.kernels.cuda.lookup")  # the module, whose function has the same name

# (n, d, dims, dtype, affine): ragged; complements and odd rows; many flats; float64; more than 128 columns; one row
SHAPES = [
    (300, 33, [2, 20, 33, 0], np.float32, True),
    (515, 101, [51, 8, 99], np.float32, False),
    (700, 64, [8] * 37, np.float32, False),
    (257, 7, [3, 7, 0], np.float64, True),
    (150, 130, [66, 5], np.float32, True),
    (1, 1, [1], np.float32, False),
]
DONE = "each operation ran on each shape"
RAN = "ran "
SECONDS = 120  # after which the program ends itself, wherever it is


def run(xp):
    """Everything, on arrays of ``xp``: CuPy, or NumPy in its place."""
    for shape in SHAPES:
        run_on(xp, *shape)


def run_on(xp, n, d, dims, dtype, affine):
    rng, k = np.random.default_rng([n, d]), len(dims)
    X, weights = xp.asarray(rng.normal(size=(n, d)).astype(dtype)), xp.asarray(rng.random(n))
    labels, new = (xp.asarray(rng.integers(0, k, n).astype(np.int32)) for _ in range(2))
    mu = rng.normal(size=(k, d)).astype(dtype) if affine else None
    offsets = None if mu is None else xp.asarray(mu)
    turns = [np.linalg.qr(rng.normal(size=(d, d)))[0].astype(dtype) for _ in dims]
    bases = [xp.asarray(Q[:j]) for Q, j in zip(turns, dims, strict=True)]
    flats = Flats.from_bases([Q[:j] for Q, j in zip(turns, dims, strict=True)], mu)
    flats = converted(flats, lambda part: xp.asarray(part) if isinstance(part, np.ndarray) else part)

    kernels.assign(X, flats)
    kernels.assign(X, flats, xp.asarray(rng.random(k)), weights)
    trials = kernels.sqdistances(X, flats)
    kernels.two_nearest(X, flats)
    groups = kernels.group_rows(labels, k, new)
    kernels.fetch([weights, X[0], labels, weights > 0])
    distances = kernels.residuals(X, groups, flats)
    kernels.coefficients(X, groups, flats)
    kernels.lower_distances(distances.astype(dtype), trials, weights)
    for m in (3, 20):  # passes, and a sort
        kernels.largest(distances, m)
        kernels.sample_rows(weights, m, rng)
    kernels.label_counts(labels, k + 2)
    kernels.seed(X, dims, weights, rng)
    kernels.seed_directions(X, k, weights, rng)

    moments = kernels.second_moments(X, groups, weights, affine)
    moved = kernels.changed_rows(labels, new)
    kernels.update_moments(moments, X, moved, labels[moved], new[moved], weights)
    kernels.measure_objective(moments, flats)
    kernels.top_eigenspaces(moments.scatter, dims, dtype)
    for start in (None, flats.bases):
        kernels.top_eigenspaces(moments.scatter, dims, dtype, start, exact=False)
    kernels.batched_svd([X[: d // 2 + 1], X[: 2 * d]], min(d, 5))

    look_up(xp, rng, n, dims, labels, bases, offsets)
    for columns in (0, 2):
        packed, _ = packed_rows(n, d, dims, columns, affine, kept=n // 4)
        packed = converted(packed, lambda part: xp.asarray(part) if isinstance(part, np.ndarray) else part)
        kernels.decode(xp.asarray(rng.integers(0, n, 200)), packed)


def look_up(xp, rng, n, dims, labels, bases, offsets):
    """Rows of a factorization, one by one and grouped."""
    host = labels if isinstance(labels, np.ndarray) else labels.get()
    counts, positions = np.bincount(host, minlength=len(dims)), np.empty(n, np.int64)
    for c, count in enumerate(counts):
        positions[host == c] = np.arange(count)
    blocks = [xp.asarray(rng.normal(size=(m, j)).astype(bases[0].dtype)) for m, j in zip(counts, dims, strict=True)]
    for most in (LOOKUP.DIRECT_BYTES, 0):
        with mock.patch.object(LOOKUP, "DIRECT_BYTES", most):
            factors = Factors(labels, xp.asarray(positions), blocks, bases, offsets)
            kernels.lookup(xp.asarray(rng.integers(0, n, 200)), factors)


def telling(name, operation, synchronize):
    """The operation, which says when it has run, so that a sanitizer's reports are known to be of it."""

    def run_and_tell(*args, **kwargs):
        result = operation(*args, **kwargs)
        synchronize()
        sys.stdout.write(f"{RAN}{name}\n")
        sys.stdout.flush()
        return result

    return run_and_tell


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    import cupy

    cupy.cuda.set_allocator(None)  # each array in memory of its own, so that reading past its end shows
    for operation in cuda.__all__:
        setattr(kernels, operation, telling(operation, getattr(kernels, operation), cupy.cuda.Device().synchronize))
    run(cupy)
    sys.stdout.write(f"{DONE}\n")
