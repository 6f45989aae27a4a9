"""A metric of rows: directions that matter more than others. x M^(1/2) is what is fitted, and flats are taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ksubspaces.kernels import Streamed

from .arrays import AnyArray, Array, compute_dtype, enter, import_array, namespace, row_blocks, to_numpy
from .factorization import Factorization

RIDGE = 1e-6  # of the mean eigenvalue: directions that were hardly seen still count a little
ROUNDING = 1e-5  # of the largest: an M summed up in float32 is symmetric and semidefinite up to this


@dataclass(frozen=True)
class Metric:
    """Squared distances ``(x - y) M (x - y)^T``, by the roots of M plus a ridge.

    Attributes
    ----------
    root, inverse : (d, d) ndarray of float64
        ``M^(1/2)`` and ``M^(-1/2)``, symmetric.
    """

    root: NDArray[np.float64]
    inverse: NDArray[np.float64]

    @classmethod
    def of(cls, metric: AnyArray, d: int) -> Metric:
        """That of a matrix M, by eigenvectors: real second moments are singular, where Cholesky's factor fails.

        Raises
        ------
        TypeError, ValueError
            When M is not a finite, symmetric, positive semidefinite matrix (d, d) of real numbers, or is zero.
        """
        given = import_array(metric, "metric")
        compute_dtype(given.dtype, "metric")
        M = np.asarray(to_numpy(given), dtype=np.float64)
        if M.shape != (d, d):
            raise ValueError(f"metric must have shape ({d}, {d}), as rows have {d} columns; got {M.shape}")
        if not np.isfinite(M).all():
            row, column = np.argwhere(~np.isfinite(M))[0].tolist()
            raise ValueError(f"metric must be finite, but entry ({row}, {column}) is {M[row, column]}")
        largest = float(np.abs(M).max(initial=0))
        if not largest > 0:
            raise ValueError("metric is zero, so that no direction counts; leave it out, or pass the identity")
        if (off := float(np.abs(M - M.T).max())) > ROUNDING * largest:
            raise ValueError(
                f"metric must be symmetric, but differs from its transpose by {off:.3g}; pass (M + M.T) / 2"
            )
        values, vectors = np.linalg.eigh((M / largest + M.T / largest) / 2)
        if values[0] < -ROUNDING * values[-1]:
            least = values[0] * largest
            raise ValueError(f"metric must be positive semidefinite, but its least eigenvalue is {least:.3g}")
        values = values.clip(0)
        roots = np.sqrt(largest) * np.sqrt(values + RIDGE * values.mean())
        return cls((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T)

    def whiten(self, X: Array) -> Array:
        """Rows ``x M^(1/2)``, whose plain distances are those of the metric; products in float64, X's dtype."""
        return _times(X, self.root)

    def frame(self, V: Array) -> Array:
        """The whitened rows of a basis; what rounding left of their orthonormality is mended."""
        U, _, W = namespace(V).linalg.svd(self.whiten(V), full_matrices=False)
        return namespace(V).ascontiguousarray(U @ W)

    def restore(self, Y: Array) -> Array:
        """Rows ``y M^(-1/2)``: the inverse of :meth:`whiten`."""
        return _times(Y, self.inverse)

    def restored(self, factors: Factorization, rows: Array, exact: Array | None) -> Factorization:
        """Factors of whitened rows as factors of the rows (n, d), of which exact ones are as they are."""
        home = factors.home

        def back(part: AnyArray) -> AnyArray:
            return home.back(self.restore(enter(part, "bases")[0]))

        blocks, bases = list(factors.blocks), [back(V) for V in factors.bases]
        if exact is not None:
            kept, holder = home.back(rows[exact]), bases if len(exact) <= rows.shape[1] else blocks
            holder[-1] = kept
            if holder is blocks:
                bases[-1] = home.back(namespace(rows).eye(rows.shape[1], dtype=rows.dtype))
        offsets = None if factors.offsets is None else back(factors.offsets)
        return replace(factors, blocks=blocks, bases=bases, offsets=offsets)


def _times(X: Array, root: NDArray[np.float64]) -> Array:
    if isinstance(X, Streamed):
        return Streamed(_times(X.array, root), X.xp, X.block_bytes, X.exponent)
    xp = namespace(X)
    right, found = xp.asarray(root), xp.empty_like(X)
    for start, block in row_blocks(X):
        found[start : start + len(block)] = block @ right
    return found
