"""Error against bytes: what budgets in bits make of a matrix, with weights and without."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from .arrays import AnyArray
from .bits.compression import Quantizer, bytes_for
from .checks import Passed, Seed
from .figures import Series, plot_series
from .storage import Facts, write_json

__all__ = ["BITS", "Front", "FrontPoint", "compression_front"]

BITS = (1.0, 1.5, 2.0, 3.0, 4.0)
PLAIN, WEIGHTED = "bits", "bits-weighted"


@dataclass(frozen=True)
class FrontPoint:
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
class Front:
    """What :func:`compression_front` measured.

    Attributes
    ----------
    shape : (n, d)
        Of the matrix.
    points : tuple of FrontPoint
        Method by method, by ascending size.
    """

    shape: tuple[int, int]
    points: tuple[FrontPoint, ...]

    def of(self, method: str) -> tuple[FrontPoint, ...]:
        """The points of a method; none if it was not measured."""
        return tuple(point for point in self.points if point.method == method)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods."""
        return tuple(dict.fromkeys(point.method for point in self.points))

    def to_dict(self) -> Facts:
        """All of it in types that JSON knows."""
        return {"shape": list(self.shape), "points": [asdict(point) for point in self.points]}

    @classmethod
    def from_dict(cls, facts: Facts) -> Front:
        """The inverse of :meth:`to_dict`; further entries are passed over.

        Raises
        ------
        ValueError
            When entries are missing or are not what they should be.
        """
        names = [field.name for field in fields(FrontPoint)]
        try:
            n, d = facts["shape"]
            points = tuple(FrontPoint(**{name: point[name] for name in names}) for point in facts["points"])
            return cls((int(n), int(d)), points)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no front of bytes, or not all of one: {error!r}") from None

    def save(self, path: str | os.PathLike[str], facts: Facts | None = None) -> None:
        """Save as JSON, whole or not at all, with further facts beside it that :meth:`load` passes over."""
        write_json(path, {**(facts or {}), **self.to_dict()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """Load what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            When there is no such file, or it holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_bytes()))
        except ValueError as error:  # JSON's and Unicode's own errors are ValueErrors
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw error against bits a number into an image file, beside it the weighted error where there are weights.

        Raises
        ------
        ImportError
            matplotlib (extra ``cli``) is not installed.
        """
        panels = {"Relative squared error": self._series(False)}
        if WEIGHTED in self.methods:
            panels["Relative squared error, rows weighted"] = self._series(True)
        plot_series(path, panels, "", "bits a number, all bytes counted")

    def _series(self, weighted: bool) -> list[Series]:
        n, d = self.shape
        series = []
        for method, title in ((PLAIN, "compress(bits)"), (WEIGHTED, "compress(bits), weighted")):
            points = self.of(method)
            errors = [(point.weighted_error if weighted else point.relative_error) or 0.0 for point in points]
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
