"""Coefficients of rows in the flats of their clusters, and how many numbers they and the bases take and may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from numbers import Real

import numpy as np

from .arrays import Array
from .checks import whole


def count_parameters(counts: Sequence[int], dims: Sequence[int], d: int, affine: bool) -> int:
    """Numbers in a factorization: coefficients, bases, a label per row if there is a choice, and offsets if affine."""
    flats = sum(m * j + j * d for m, j in zip(counts, dims, strict=True))
    labels = sum(counts) if len(dims) > 1 else 0
    return flats + labels + affine * len(dims) * d


def split_coefficients(packed: Array, counts: Sequence[int], dims: Sequence[int]) -> list[Array]:
    """The coefficients (n_c, j_c) of each cluster, as views of all of them one after another."""
    sizes = [m * j for m, j in zip(counts, dims, strict=True)]
    ends = accumulate(sizes)
    parts = (packed[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return [part.reshape(m, j) for part, m, j in zip(parts, counts, dims, strict=True)]


def parameters_within(
    n: int, d: int, *, ratio: float | None = None, keep: float | None = None, n_parameters: int | None = None
) -> int:
    """Parameters that one of three arguments leaves, at least as many as one direction takes."""
    asked = {"ratio": ratio, "keep": keep, "n_parameters": n_parameters}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            "give either ratio, the share of the parameters to save, or keep, the share to keep, or n_parameters, "
            f"how many to use; got {' and '.join(given) or 'none of them'}"
        )
    ((name, value),) = given.items()
    if name == "n_parameters":
        budget = whole(name, value, 1)
    else:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, got {value!r}")
        kept = float(value) if name == "keep" else 1 - float(value)
        if not 0 < kept <= 1:
            meaning = "keep, 0 < keep <= 1" if name == "keep" else "save, 0 <= ratio < 1"
            raise ValueError(f"{name} is the share of the parameters to {meaning}; got {value!r}")
        # The product is rounded, so that ratio=0.4 of 10 numbers leaves the 6 that everybody expects.
        budget = math.floor(round(kept * n * d, 6))
    if budget < n + d:
        least = (n + d) / (n * d)
        remedies = {
            "ratio": f"choose a ratio of at most {math.floor(1e4 * (1 - least)) / 1e4}",
            "keep": f"choose a keep of at least {math.ceil(1e4 * least) / 1e4}",
            "n_parameters": f"give at least {n + d}",
        }
        raise ValueError(
            f"{name}={value} leaves {budget} parameters for A ({n}, {d}), but one direction takes n + d = {n + d}; "
            + (remedies[name] if least <= 1 else "A is too small for it")
        )
    return budget
