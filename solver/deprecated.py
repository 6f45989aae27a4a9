"""Forms of version 0.1 that still work for one version, with a DeprecationWarning that says what to write instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from .arrays import AnyArray


def warn(old: str, new: str) -> None:
    """Tell the caller's caller what has become of what it uses."""
    warnings.warn(f"{old} goes with the next version; use {new}", DeprecationWarning, stacklevel=3)


class Error(float):
    """A relative error, which could be called for that of a given matrix before it was a number."""

    def __new__(cls, value: float, measure: Callable[..., float]) -> Error:
        error = super().__new__(cls, value)
        error._measure = measure
        return error

    _measure: Callable[..., float]

    def __call__(self, X: AnyArray, sample_weight: AnyArray | None = None) -> float:
        warn("relative_error(X)", "measure_error(X)")
        return self._measure(X, sample_weight)

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


class Counts(tuple[int, ...]):
    """Rows of each cluster: a tuple, which was an array before. What only arrays can do still works, and warns."""

    def __getattr__(self, name: str) -> AnyArray:
        if name.startswith("__") or not hasattr(np.ndarray, name):
            raise AttributeError(f"'tuple' object has no attribute {name!r}")
        warn(f"counts.{name}", "numpy.array(counts)")
        return getattr(np.array(self, dtype=np.int64), name)

    def __getitem__(self, which: AnyArray) -> AnyArray:
        try:
            return super().__getitem__(which)
        except TypeError:
            warn("an index of several counts", "numpy.array(counts)")
            return np.array(self, dtype=np.int64)[which]


def _as_array(name: str) -> Callable[..., AnyArray]:
    """An operator of arrays; tuples are still equal as tuples are."""

    def operate(counts: Counts, *others: AnyArray) -> AnyArray:
        if name in ("__eq__", "__ne__") and isinstance(others[0], tuple):
            return getattr(tuple, name)(counts, *others)
        warn("arithmetic with counts", "numpy.array(counts)")
        return getattr(np.array(counts, dtype=np.int64), name)(*others)

    return operate


_OPERATORS = (
    "add radd sub rsub mul rmul truediv rtruediv floordiv rfloordiv mod rmod pow matmul rmatmul neg lt le gt ge eq ne"
)
for _name in _OPERATORS.split():
    setattr(Counts, f"__{_name}__", _as_array(f"__{_name}__"))
