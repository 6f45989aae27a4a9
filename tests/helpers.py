"""What tests share: what they need installed, and how far apart two routes to one result may be.

Equal bits are asked for only where the same operation ran on the same input. Another shape of a product, another layout
or alignment, a batch in place of a row: each sums in another order, which differs from processor to processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def import_or_skip(module: str, version: str | None = None, install: str | None = None) -> Any:
    """Import a module, or skip and say what to install: by default the package of the module's name."""
    package = module.partition(".")[0].replace("_", "-")
    wanted = f"{package} {version} or later" if version else package
    install = install or (f"'{package}>={version}'" if version else package)
    return pytest.importorskip(module, version, reason=f"{wanted} is missing: pip install {install}")


def tolerance(dtype: Any) -> float:
    """What a squared distance may be off by, relative to the squared length of the row."""
    return 3e-6 if dtype == np.float32 else 1e-13


def scale(X: Any) -> float:
    """Largest squared length of a row."""
    return float((np.asarray(X, np.float64) ** 2).sum(axis=1).max())


def assert_same_factors(ours: Any, expected: Any) -> None:
    """Two factorizations of the same numbers, bit for bit, in arrays of any library."""
    assert (ours.dims, ours.counts, ours.n_parameters) == (expected.dims, expected.counts, expected.n_parameters)
    for name in ("labels", "blocks", "bases", "offsets"):
        for a, b in zip(*(_parts(getattr(factors, name)) for factors in (ours, expected)), strict=True):
            np.testing.assert_array_equal(a, b)


def _parts(value: Any) -> list[np.ndarray]:
    if value is None:
        return []
    return [np.asarray(part) for part in (value if isinstance(value, (list, tuple)) else [value])]


def assert_labels(labels: Any, cost: np.ndarray, tol: float) -> None:
    """Each label is that of the least cost, or of one within tol of it."""
    assert labels.dtype == np.int32
    chosen = cost[np.arange(len(labels)), labels]
    assert np.all(chosen - cost.min(axis=1) <= tol)
