"""What a fit achieved, in numbers, always beside one truncated SVD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arrays import AnyArray, row_blocks, scaled
from .blocked import is_dask
from .blocked_budget import sum_products
from .blocked_factors import BlockedFactorization
from .checks import check_matrix
from .factorization import Factorization
from .fit import fit_subspaces
from .subspaces import Subspaces

__all__ = ["FitReport", "SVDCurve", "dimension_sweep", "make_report", "svd_curve"]


@dataclass(frozen=True)
class SVDCurve:
    """Relative squared error of the truncated SVD at every rank.

    Attributes
    ----------
    n_parameters : ndarray of shape (min(n, d) + 1,), int64
        r (n + d) for r = 0, 1, ...
    relative_error : ndarray of shape (min(n, d) + 1,), float64
        Squared error of the best rank-r approximation over the squared norm of the table; 0 for a table of zeros.
    """

    n_parameters: NDArray[np.int64]
    relative_error: NDArray[np.float64]

    def at(self, n_parameters: float) -> float:
        """Error at a number of parameters. Between two ranks, the straight line between their errors."""
        return float(np.interp(n_parameters, self.n_parameters, self.relative_error))


def svd_curve(X: AnyArray, weights: NDArray[np.float64] | None = None) -> SVDCurve:
    """Error of the truncated SVD at every rank, from the eigenvalues of the smaller Gram matrix in float64.

    Parameters
    ----------
    X : ndarray or dask.array.Array of shape (n, d)
        Any real type; read in blocks, so no float64 copy of it is made. Not centred.
    weights : ndarray of shape (n,), optional
        Nonnegative; each row's part in the error.

    Returns
    -------
    SVDCurve
    """
    n, d = X.shape
    if is_dask(X):
        return _curve_of_gram(sum_products(X), n, d)
    if X.dtype == np.float64:  # the only type whose squares float64 may not hold
        X = scaled(X, -check_matrix(X, "X"))
    thin = X if d <= n else X.T
    roots = np.ones((n, 1)) if weights is None else np.sqrt(weights)[:, None]
    gram = np.zeros((thin.shape[1], thin.shape[1]))
    for start, rows in row_blocks(thin):
        block = rows.astype(np.float64)
        block *= roots[start : start + len(block)] if d <= n else roots.T
        gram += block.T @ block
    return _curve_of_gram(gram, n, d)


def _curve_of_gram(gram: NDArray[np.float64], n: int, d: int) -> SVDCurve:
    energies = np.maximum(np.linalg.eigvalsh(gram), 0.0)  # ascending
    left = np.concatenate([[0.0], np.cumsum(energies)])[::-1]
    ranks = np.arange(left.size, dtype=np.int64)
    return SVDCurve(ranks * (n + d), left / left[0] if left[0] > 0 else np.zeros_like(left))


@dataclass(frozen=True)
class FitReport:
    """The numbers of one fit. Errors are squared and relative to the squared norm of the table.

    Attributes
    ----------
    shape : (n, d)
    dims, counts : tuple of int
        Dimension and number of rows of each cluster.
    objective, relative_error : float
    svd_relative_error : float
        Of the truncated SVD at the same number of parameters (see `SVDCurve.at`).
    n_parameters : int
        Of the factorization: coefficients, bases, offsets, one label per row.
    ratio : float
        1 - n_parameters / (n d), the part of the table's numbers that is saved.
    n_iter, converged, n_reseeded : int, bool, int
    seconds : float
        Of the fit alone.
    history : tuple of float
        Relative error after each step.
    """

    shape: tuple[int, int]
    dims: tuple[int, ...]
    counts: tuple[int, ...]
    objective: float
    relative_error: float
    svd_relative_error: float
    n_parameters: int
    ratio: float
    n_iter: int
    converged: bool
    n_reseeded: int
    seconds: float
    history: tuple[float, ...]


def make_report(
    fit: Subspaces, factorization: Factorization | BlockedFactorization, svd: SVDCurve, seconds: float
) -> FitReport:
    """Gather the numbers of a fit.

    ``factorization`` and ``svd`` are of the table that was fitted; ``seconds`` is how long the fit took.
    """
    own = ("dims", "objective", "relative_error", "n_iter", "converged", "n_reseeded")
    return FitReport(
        shape=factorization.shape,
        n_parameters=factorization.n_parameters,
        ratio=factorization.ratio,
        svd_relative_error=svd.at(factorization.n_parameters),
        history=tuple(f / fit.energy if fit.energy > 0 else 0.0 for f in fit.history),
        seconds=seconds,
        counts=tuple(fit.counts),
        **{name: getattr(fit, name) for name in own},
    )


def dimension_sweep(
    X: np.ndarray, fit: Subspaces, *, device: str | None = None, max_iter: int = 2
) -> Iterator[tuple[int, float]]:
    """Further points of a fit's curve: a few steps from its labels with smaller and larger dimensions.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        The table that was fitted.
    fit : Subspaces
    device : str, optional
        As in `fit_subspaces`.
    max_iter : int
        Steps for each point; few, so the errors are upper bounds of what full fits would reach.

    Yields
    ------
    n_parameters : int
    relative_error : float
    """
    dims = np.asarray(fit.dims)
    affine = fit.offsets is not None
    step = max(1, round(float(dims.mean()) / 4))
    tried = {tuple(dims)}
    for shift in (-2 * step, -step, step, 2 * step):
        shifted = np.clip(dims + shift, 0, fit.d)
        if tuple(shifted) in tried or (not affine and not shifted.any()):
            continue
        tried.add(tuple(shifted))
        labels = np.asarray(fit.labels)
        other = fit_subspaces(
            X, len(dims), shifted.tolist(), device=device, affine=affine, init=labels, n_init=1, max_iter=max_iter
        )
        yield other.n_parameters, other.relative_error
