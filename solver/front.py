"""Error against bytes: what budgets in bits make of a matrix, with weights and without."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from .arrays import AnyArray
from .bits.compression import Quantizer, bytes_for
from .checks import Passed, Seed
from .figures import Series, plot_series
from .sweep import Point, Sweep

__all__ = ["BITS", "Front", "FrontPoint", "compression_front"]

BITS = (1.0, 1.5, 2.0, 3.0, 4.0)
PLAIN, WEIGHTED = "bits", "bits-weighted"


@dataclass(frozen=True)
class FrontPoint(Point):
    """One size.

    Attributes
    ----------
    method : {"bits", "bits-weighted"}
        Without the weights, or by them.
    bits : float
        For each number, as asked.
    nbytes : int
        Taken, at most as many.
    relative_error : float
        Squared, over the squared norm of the matrix; all rows alike.
    weighted_error : float or None
        The same with each row weighted; None where no weights were given.
    k : int
        Clusters.
    winner : str
        Which code won, as ``QuantizedFactorization.winner``.
    """

    method: str
    bits: float
    nbytes: int
    relative_error: float
    weighted_error: float | None
    k: int
    winner: str


@dataclass(frozen=True)
class Front(Sweep[FrontPoint]):
    """What :func:`compression_front` measured.

    Attributes
    ----------
    shape : (n, d)
        Of the matrix.
    points : tuple of FrontPoint
        Method by method, by ascending size.
    """

    _POINT, _NAME = FrontPoint, "front of bytes"

    def of(self, method: str) -> tuple[FrontPoint, ...]:
        """The points of a method; none if it was not measured."""
        return tuple(point for point in self.points if point.method == method)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw error against bits a number into an image file, beside it the weighted error where there are weights.

        Raises
        ------
        ImportError
            matplotlib (extra ``cli``) is not installed.
        """
        plot_series(path, self._panels(), "", "bits a number, all bytes counted")

    def _series(self, weighted: bool) -> list[Series]:
        n, d = self.shape
        series = []
        for method, title in ((PLAIN, "compress(bits)"), (WEIGHTED, "compress(bits), weighted")):
            points = self.of(method)
            errors = [point.error(weighted) for point in points]
            sizes = [8 * point.nbytes / (n * d) for point in points]
            if points:
                series.append(Series(title, "ours", method == WEIGHTED, sizes, errors))
        return series


def compression_front(
    A: AnyArray,
    bits: Iterable[float] = BITS,
    *,
    sample_weight: AnyArray | None = None,
    seed: Seed = None,
    **options: Passed,
) -> Front:
    """Compress a matrix to several budgets in bits, and measure the errors.

    Parameters
    ----------
    A : (n, d) array
        As for :func:`compress`.
    bits : iterable of float
        Bits for each number, in any order.
    sample_weight : (n,) array, optional
        Weights of the rows: for the weighted errors, and for a second line that goes by them.
    seed, **options
        As for :func:`compress`: ``relative``, ``coder``, ``exact_rows``, ``device``, ``progress``.

    Returns
    -------
    Front
        Its points are about those of :func:`compress`: clusters to begin with are found once for all sizes.

    Raises
    ------
    ValueError, TypeError
        When an argument cannot be used, or a size is too small for anything.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces.front import compression_front
    >>> A = np.random.default_rng(0).normal(size=(300, 16)).astype("float32")
    >>> front = compression_front(A, (2, 4), seed=0)
    >>> [(point.bits, point.nbytes <= point.bits * A.size / 8) for point in front.points]
    [(2.0, True), (4.0, True)]
    """
    sizes = _ascending(bits)
    ways: Mapping[str, AnyArray | None] = {PLAIN: None, WEIGHTED: sample_weight}
    points = []
    for method, weights in ways.items():
        if method == WEIGHTED and weights is None:
            continue
        quantizer = Quantizer(A, sample_weight=weights, seed=seed, **options)
        for size in sizes:
            code = quantizer.within(bytes_for(quantizer.shape, size, None))
            points.append(
                FrontPoint(
                    method=method,
                    bits=size,
                    nbytes=code.nbytes,
                    relative_error=code.measure_error(A),
                    weighted_error=None if sample_weight is None else code.measure_error(A, sample_weight),
                    k=code.k,
                    winner=code.winner,
                )
            )
    return Front(quantizer.shape, tuple(points))


def _ascending(bits: Iterable[float]) -> list[float]:
    try:
        ascending = sorted({float(size) for size in bits})
    except (TypeError, ValueError):
        raise ValueError(f"bits must be numbers, for instance (1, 2); got {bits!r}") from None
    if not ascending or not np.isfinite(ascending).all() or ascending[0] <= 0:
        raise ValueError(f"bits must be numbers above 0, one at least, for instance (1, 2); got {ascending}")
    return ascending
