"""Checks of arguments. An error names the argument, says what is wrong with it and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from .arrays import AnyArray, Array, compute_dtype, enter, namespace, row_blocks

Passed: TypeAlias = Any
"""An argument that goes on as it is to what knows its type, and checks it."""

Seed: TypeAlias = "int | np.random.Generator | None"


def check_matrix(
    X: Array,
    name: str,
    columns: int | None = None,
    min_rows: int = 1,
    *,
    beside: Array | None = None,
    dtype: DTypeLike | None = None,
) -> int:
    """X is (n, d) with enough rows, d >= 1 (or the d expected), and finite.

    Returns
    -------
    exponent : int
        Sums of squares of ``2^-exponent X`` (and of ``beside``, if given) stay well within ``dtype``, X's own by
        default. It is 0, and nothing need be done, for all but the hugest and tiniest of entries.
    """
    if X.ndim != 2:
        raise ValueError(f"{name} must be a matrix of rows (n, d), got shape {tuple(X.shape)}")
    n, d = X.shape
    if columns is not None and d != columns:
        raise ValueError(f"{name} has {d} columns, but the flats live in {columns} dimensions")
    if d == 0:
        raise ValueError(f"{name} has no columns: shape {tuple(X.shape)}")
    if n < min_rows:
        raise ValueError(f"{name} has no rows: shape {tuple(X.shape)}")
    xp = namespace(X)
    largest = 0.0
    for start, block in row_blocks(X):
        peak = float(max(-float(block.min()), float(block.max())))
        if not np.isfinite(peak):
            row, column = (int(v[0]) for v in xp.nonzero(~xp.isfinite(block)))
            value = float(block[row, column])
            raise ValueError(
                f"{name} must be finite, but {name}[{start + row}, {column}] is {value}; "
                f"drop such rows or fill them, for instance with numpy.nan_to_num"
            )
        largest = max(largest, peak)
    if largest > float(np.finfo(X.dtype).max) / (4 * np.sqrt(d)):
        raise ValueError(
            f"{name} has entries of size {largest:.1e}: lengths of such rows overflow {X.dtype}; scale it down"
        )
    if beside is not None:
        largest = max(largest, float(xp.abs(beside).max()))
    info = np.finfo(X.dtype if dtype is None else dtype)
    least, most = np.sqrt(float(info.tiny)) / float(info.eps), np.sqrt(float(info.max)) / (4 * np.sqrt(d))
    return 0 if largest == 0 or least <= largest <= most else int(np.frexp(largest)[1])


def check_weights(weights: AnyArray, n: int, device: str, name: str = "sample_weight") -> tuple[Array, float]:
    """Weights of the rows of X, float64 (n,), in multiples of a unit that makes the largest at most 2; and the unit."""
    w, _ = enter(weights, name, device, np.float64)
    if w.shape != (n,):
        raise ValueError(f"{name} must have one entry for each of the {n} rows of X, got shape {tuple(w.shape)}")
    xp = namespace(w)
    if not bool(xp.isfinite(w).all()) or bool((w < 0).any()):
        bad = int(xp.nonzero(~(xp.isfinite(w) & (w >= 0)))[0][0])
        raise ValueError(f"{name} must be finite and nonnegative, but {name}[{bad}] is {float(w[bad])}")
    if not bool((w > 0).any()):
        raise ValueError(f"{name} is zero everywhere; leave it out to weigh all rows alike")
    unit = float(2.0 ** (np.frexp(float(w.max()))[1] - 1))  # a power of two, so that dividing by it rounds nothing
    return w / unit, unit


def check_labels(labels: Array, n: int, k: int) -> Array:
    """Labels given by a caller as int32 (n,), each in [0, k)."""
    if labels.shape != (n,):
        raise ValueError(f"labels must have one entry for each of the {n} rows, got shape {tuple(labels.shape)}")
    compute_dtype(labels.dtype, "labels")  # numbers at all
    whole_numbers = labels.dtype.kind in "iub" or (labels % 1 == 0)
    if not bool(((labels >= 0) & (labels < k) & whole_numbers).all()):
        raise ValueError(f"labels must be whole numbers from 0 to {k - 1}")
    return labels.astype(np.int32)


def one_budget(**given: object) -> bool:
    """Whether one of these is given, that is, not None; more than one are refused."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"give one budget; got {' and '.join(names)}")
    return bool(names)


def whole(name: str, value: object, least: int, alternative: str = "") -> int:
    """A whole number of at least ``least``. An error names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be {alternative}a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def flag(name: str, value: object) -> bool:
    """True or False, and nothing that Python would take for either. An error names the argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def tolerance(tol: object) -> float:
    """tol as a number of at least 0."""
    if not isinstance(tol, Real) or not 0 <= float(tol) < np.inf:
        raise ValueError(f"tol must be a number >= 0, got {tol!r}")
    return float(tol)


def fraction(name: str, value: object) -> float:
    """A number between 0 and 1, neither of them. An error names the argument."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0 < float(value) < 1:
        raise ValueError(f"{name} must be above 0 and below 1, got {value!r}")
    return float(value)


def positive(name: str, value: object, what: str) -> float:
    """A number > 0, infinity included; ``what`` says in an error what it is for."""
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"{name} must be a number > 0, {what}; got {value!r}")
    return float(value)


def generators(seed: Seed) -> Iterator[np.random.Generator]:
    """A generator for each start, all from the caller's seed."""
    if isinstance(seed, np.random.Generator):
        root = seed
    elif seed is None:
        root = np.random.default_rng()
    elif isinstance(seed, Integral) and not isinstance(seed, bool):
        # SeedSequence takes no negative numbers; a second word keeps -1 apart from 1.
        root = np.random.default_rng(int(seed) if int(seed) >= 0 else [-int(seed), 1])
    else:
        raise TypeError(f"seed must be an int, a numpy.random.Generator or None, got {seed!r}")
    return (np.random.default_rng(root.integers(2**63)) for _ in repeat(None))
