"""``compress`` with a budget in bits: checks what is given, and what comes of the search for a code."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from numbers import Real

import numpy as np

from ..arrays import AnyArray, AnyDtype, Array, entered, scaled, to_numpy
from ..checks import Seed, check_matrix, check_weights, flag, generators, whole
from ..progress import Bar, shown
from ..result import Record, share
from .quantized import QuantizedFactorization
from .search import WIDTH, Target, TooFew, search

CODERS = {"trellis": WIDTH, "scalar": 0}


def quantize(
    A: AnyArray,
    *,
    bits: float | None,
    nbytes: int | None,
    sample_weight: AnyArray | None,
    relative: bool,
    coder: str,
    exact: Callable[[Array], Array | None],
    device: str | None,
    dtype: AnyDtype | None,
    seed: Seed,
    progress: bool,
) -> QuantizedFactorization:
    """The least error that is found within so many bits a number, or bytes; see :func:`ksubspaces.compress`.

    ``exact`` finds numbers of rows that are kept, ascending, or None.
    """
    begun = time.perf_counter()
    if coder not in CODERS:
        raise ValueError(f"coder must be 'trellis' or 'scalar', got {coder!r}")
    relative = flag("relative", relative)
    with entered(A, "A", device, dtype) as (given, home):
        array, kept = to_numpy(given), exact(given)
        weights, unit = np.ones(len(array)), 1.0
        if sample_weight is not None:
            own, unit = check_weights(sample_weight, len(array), "cpu")
            weights = to_numpy(own).astype(np.float64)
    exponent = check_matrix(array, "A", dtype=np.float32)
    rows = np.ascontiguousarray(scaled(array, -exponent), np.float32)
    n, d = rows.shape
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    bar = Bar(float(weights @ squares)) if progress else None
    if relative:
        weights = np.where(squares > 0, weights / np.where(squares > 0, squares, 1), 0)
    exact_rows = np.zeros(0, np.int64) if kept is None else to_numpy(kept)
    weights[exact_rows] = 0
    target = Target(rows, weights, exact_rows, array[exact_rows], _bytes(n, d, bits, nbytes), CODERS[coder])
    try:
        with shown(bar):
            stored, winner, error = search(target, next(generators(seed)), bar)
    except TooFew as failure:
        raise ValueError(
            f"{target.budget} bytes are too few for A ({n}, {d}): {failure}; give more bits or bytes"
        ) from None
    energy = float(weights @ squares)
    facts = {**stored.facts, "dtype": array.dtype.name, "exponent": exponent}
    with np.errstate(over="ignore"):
        own_energy = energy * unit if relative else float(np.ldexp(energy * unit, 2 * exponent))
    lost = share(error, energy)
    record = Record(lost * own_energy, own_energy, lost, converged=True, seconds=time.perf_counter() - begun)
    return QuantizedFactorization(replace(stored, facts=facts), winner, home, record)


def _bytes(n: int, d: int, bits: float | None, nbytes: int | None) -> int:
    """The budget in bytes."""
    if nbytes is not None:
        return whole("nbytes", nbytes, 1)
    if isinstance(bits, (bool, np.bool_)) or not isinstance(bits, Real):
        raise TypeError(f"bits must be a number, got {bits!r}")
    if not 0 < float(bits) < math.inf:
        raise ValueError(f"bits is how many to store for each number of A, above 0; got {bits!r}")
    return math.floor(float(bits) * n * d / 8)
