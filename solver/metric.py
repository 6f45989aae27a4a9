"""Compression in a metric: directions of rows that matter more than others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .arrays import AnyArray, import_array, to_numpy
from .budget import compress
from .checks import Passed
from .decoded import row_numbers
from .factorization import Factorization

__all__ = ["compress_in_metric", "metric_roots"]

RIDGE = 1e-6  # of the mean eigenvalue: directions that were hardly seen still count a little


def compress_in_metric(A: AnyArray, metric: AnyArray, ratio: float | None = None, **options: Passed) -> Factorization:
    """As :func:`compress`, but the error of a row a is ``(a - a') M (a - a')^T``.

    With A the weight (out, in) of a linear layer and M the second moment of its inputs, ``E[x^T x]``, that is the mean
    squared error of an output. Rows times ``M^(1/2)`` are what is compressed, and bases are taken back.

    Parameters
    ----------
    A : (n, d) array
        Of NumPy or Torch.
    metric : (d, d) array
        M, symmetric and positive semidefinite. To its eigenvalues a millionth of their mean is added.
    ratio, **options
        As in :func:`compress`. Rows of ``exact_rows`` are exact here, too.

    Returns
    -------
    Factorization
        Of NumPy arrays. ``relative_error`` and ``objective`` are in the metric; bases are not orthonormal.

    Raises
    ------
    ValueError, TypeError
        When the metric is no such matrix, or as :func:`compress` raises.

    Notes
    -----
    For one cluster this is the truncated SVD in the metric of the data, as in DRONE (Chen et al., NeurIPS 2021) and
    SVD-LLM (Wang et al., ICLR 2025).

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces.metric import compress_in_metric
    >>> rng = np.random.default_rng(0)
    >>> W, X = rng.normal(size=(80, 12)), rng.normal(size=(500, 4)) @ rng.normal(size=(4, 12))
    >>> factors = compress_in_metric(W, X.T @ X / 500, 0.5, k=1, seed=0)
    >>> bool(np.allclose(X @ factors.reconstruct().T, X @ W.T, atol=0.01))
    True
    """
    table = to_numpy(import_array(A, "A"))
    if table.ndim != 2:
        raise ValueError(f"A must have two dimensions, got shape {table.shape}")
    root, inverse = metric_roots(metric, table.shape[1])
    dtype = np.float64 if table.dtype == np.float64 else np.float32
    rows = np.asarray(table, dtype=np.float64)
    factors = compress((rows @ root).astype(dtype), ratio, **options)
    bases = [(np.asarray(V, dtype=np.float64) @ inverse).astype(dtype) for V in factors.bases]
    blocks, offsets = list(factors.blocks), factors.offsets
    if offsets is not None:
        offsets = (np.asarray(offsets, dtype=np.float64) @ inverse).astype(dtype)
    if options.get("exact_rows") is not None:
        exact = rows[np.unique(row_numbers(options["exact_rows"], len(rows)))].astype(dtype)
        if len(exact) <= table.shape[1]:
            bases[-1] = exact
        elif len(exact):
            blocks[-1], bases[-1] = exact, np.eye(table.shape[1], dtype=dtype)
    return replace(factors, blocks=blocks, bases=bases, offsets=offsets)


def metric_roots(metric: AnyArray, d: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``M^(1/2)`` and ``M^(-1/2)`` (d, d), by eigenvectors, as M may be singular.

    Raises
    ------
    ValueError
        When M is not a finite, symmetric, positive semidefinite matrix (d, d), or is zero.
    """
    M = np.asarray(to_numpy(import_array(metric, "metric")), dtype=np.float64)
    if M.shape != (d, d):
        raise ValueError(f"metric must have shape ({d}, {d}), as rows have {d} columns; got {M.shape}")
    if not np.isfinite(M).all():
        raise ValueError("metric must be finite")
    largest = float(np.abs(M).max())
    if not largest > 0 or float(np.abs(M - M.T).max()) > 1e-5 * largest:
        raise ValueError("metric must be symmetric, and not zero")
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    if values[0] < -1e-5 * values[-1]:
        raise ValueError(f"metric must be positive semidefinite, but its least eigenvalue is {values[0]:.3g}")
    roots = np.sqrt(values.clip(0) + RIDGE * values.clip(0).mean())
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
