"""The result of a fit: k flats, the labels of the rows they were fitted to, and how the fit went."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .arrays import (
    NUMPY,
    AnyArray,
    Array,
    Home,
    device_of,
    enter,
    entered,
    import_array,
    namespace,
    place,
    scaled,
    to_numpy,
)
from .checks import check_labels, check_matrix, positive
from .coefficients import split_coefficients
from .deprecated import Counts
from .factorization import Factorization, factorize
from .losses import robust_scale
from .metric import Metric
from .result import UNKNOWN, Record, Result
from .storage import Facts

GATHERED = 8192  # rows at a time


@dataclass(frozen=True, eq=False, repr=False)
class Subspaces(Result):
    """k flats ``mu_c + span(V_c)`` in R^d fitted to n rows; what :func:`fit_subspaces` returns.

    Arrays are of the kind that was fitted (NumPy, Torch or CuPy) and live where it lived.

    Attributes
    ----------
    bases : list of k arrays (j_c, d)
        V_c: orthonormal rows, the direction of largest energy first.
    offsets : (k, d) array or None
        mu_c if affine, else ``None``.
    metric : (d, d) array or None
        M, if rows were fitted in a metric: bases are orthonormal in it, and distances are measured in it.
    labels : (n,) int32 array
        Nearest flat of each row; the lowest number on a tie.
    record : Record
        How the fit went; ``objective``, ``history`` and the other properties tell it.
    """

    bases: list[AnyArray]
    offsets: AnyArray | None
    labels: AnyArray
    home: Home = NUMPY
    record: Record = UNKNOWN
    metric: AnyArray | None = None

    _ARRAYS = (*Result._ARRAYS, "metric")
    _KIND = "Subspaces"

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Rows n_c of each flat."""
        return Counts(np.bincount(to_numpy(import_array(self.labels, "labels")), minlength=self.k).tolist())

    @cached_property
    def _flats(self) -> Flats:
        """In the coordinates where distances are plain."""
        bases = [enter(V, "bases")[0] for V in self.bases]
        offsets = None if self.offsets is None else enter(self.offsets, "offsets")[0]
        if (own := self._metric) is not None:
            bases, offsets = [own.frame(V) for V in bases], None if offsets is None else own.whiten(offsets)
        return Flats.from_bases(bases, offsets)

    @cached_property
    def _metric(self) -> Metric | None:
        return None if self.metric is None else Metric.of(self.metric, self.d)

    @contextmanager
    def _entered(self, Y: AnyArray) -> Iterator[tuple[Array, Home, int]]:
        """A caller's rows, checked, where the flats are, and the exponent that keeps distances in range."""
        flats, own = self._flats, self._metric
        with entered(Y, "Y", self.home.device, flats.bases.dtype) as (array, home):
            exponent = check_matrix(array, "Y", columns=self.d, min_rows=0, beside=flats.offsets)
            if own is not None:
                array = own.whiten(array)
                exponent = check_matrix(array, "Y in the metric", min_rows=0, beside=flats.offsets)
            yield array, home, exponent

    def _at(self, exponent: int) -> Flats:
        """The flats for rows ``2^-exponent Y``."""
        flats = self._flats
        return flats if flats.offsets is None else replace(flats, offsets=scaled(flats.offsets, -exponent))

    def _assign(self, array: Array, exponent: int) -> Array:
        return kernels.assign(scaled(array, -exponent), self._at(exponent))[0]

    def sqdistances(self, Y: AnyArray) -> AnyArray:
        """Squared distance of each row of Y (m, d) to every flat, (m, k).

        Raises
        ------
        ValueError, TypeError
            When Y is not a finite (m, d) matrix of numbers, or squared distances leave the range of its dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from ksubspaces import fit_subspaces
        >>> axes = fit_subspaces([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]], k=2, j=1, seed=0)
        >>> np.sort(axes.sqdistances([[3.0, 4.0]]).round(6))
        array([[ 9., 16.]])
        """
        with self._entered(Y) as (array, home, exponent):
            own = kernels.sqdistances(scaled(array, -exponent), self._at(exponent))
            return home.back(_unscaled(own, exponent))

    def residuals(self, Y: AnyArray, labels: AnyArray = None) -> AnyArray:
        """Squared distance of each row of Y (m, d) to its own flat, (m,).

        Parameters
        ----------
        Y : (m, d) array
        labels : (m,) array of ints, optional
            Flat of each row; default the nearest.

        Raises
        ------
        ValueError, TypeError
            When Y is not a finite (m, d) matrix of numbers, labels do not fit it, or squares leave the range of its
            dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from ksubspaces import fit_subspaces
        >>> X = np.random.default_rng(0).normal(size=(40, 6))
        >>> model = fit_subspaces(X, k=2, j=3, seed=0)
        >>> bool(np.isclose(model.residuals(X).sum(), model.objective))
        True
        """
        with self._entered(Y) as (array, home, exponent):
            own = self._assign(array, exponent) if labels is None else self._labels(labels, len(array))
            rows, groups = scaled(array, -exponent), kernels.group_rows(own, self.k)
            return home.back(_unscaled(kernels.residuals(rows, groups, self._at(exponent)), exponent))

    def outliers(self, Y: AnyArray, threshold: float = 3.0) -> AnyArray:
        """Which rows of Y (m, d) are farther from their nearest flat than ``threshold`` scales: (m,) bool.

        The scale is that of the fit if it was robust, else 1.4826 times the median distance of these rows, which is the
        standard deviation where distances are of normal errors in one dimension.

        Raises
        ------
        ValueError, TypeError
            When Y is not a finite (m, d) matrix of numbers, or the threshold is not above 0.

        Examples
        --------
        >>> import numpy as np
        >>> from ksubspaces import fit_subspaces
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(50, 1)) * [3.0, 4.0, 0.0] + 0.01 * rng.normal(size=(50, 3))
        >>> X[7] = [-40.0, 30.0, 10.0]
        >>> line = fit_subspaces(X, k=1, j=1, loss="tukey", seed=0)
        >>> np.flatnonzero(line.outliers(X, threshold=5))
        array([7])
        """
        threshold, residuals = positive("threshold", threshold, "in scales"), self.residuals(Y)
        scale = self.scale if self.loss != "l2" else robust_scale(import_array(residuals, "residuals"))
        return residuals > (threshold * scale) ** 2

    def predict(self, Y: AnyArray) -> AnyArray:
        """Number of the nearest flat of each row of Y (m, d), (m,) int32; the lowest on a tie.

        Raises
        ------
        ValueError, TypeError
            When Y is not a finite (m, d) matrix of numbers.
        """
        with self._entered(Y) as (array, home, exponent):
            return home.back(self._assign(array, exponent))

    def transform(self, Y: AnyArray, labels: AnyArray = None) -> AnyArray:
        """Coefficients of each row of Y (m, d) in its own flat, (m, max j_c), padded with zeros where j_c is less.

        Parameters
        ----------
        Y : (m, d) array
        labels : (m,) array of ints, optional
            Flat of each row; default the nearest.

        Raises
        ------
        ValueError, TypeError
            When Y is not a finite (m, d) matrix of numbers, or labels do not fit it.

        Examples
        --------
        >>> import numpy as np
        >>> from ksubspaces import fit_subspaces
        >>> X = np.random.default_rng(0).normal(size=(40, 6))
        >>> model = fit_subspaces(X, k=2, j=[1, 3], seed=0)
        >>> coefficients = model.transform(X)
        >>> coefficients.shape
        (40, 3)
        >>> nearest = model.reconstruct(coefficients, model.predict(X))
        >>> bool(np.isclose(((X - nearest) ** 2).sum(), model.objective))
        True
        """
        with self._entered(Y) as (array, home, exponent):
            labels = self._assign(array, exponent) if labels is None else self._labels(labels, len(array))
            groups = kernels.group_rows(labels, self.k)
            packed, _ = kernels.coefficients(array, groups, self._flats)
            coefficients = namespace(packed).zeros((len(array), max(self.dims)), dtype=array.dtype)
            for c, part in enumerate(split_coefficients(packed, np.diff(groups.bounds).tolist(), self.dims)):
                coefficients[place(groups.rows(c), device_of(packed)), : self.dims[c]] = part
            return home.back(coefficients)

    def reconstruct(self, coefficients: AnyArray, labels: AnyArray = None) -> AnyArray:
        """Points (m, d) with the given coefficients (m, max j_c): the inverse of :meth:`transform` on the flats.

        Parameters
        ----------
        coefficients : (m, max j_c) array
            As :meth:`transform` returns them.
        labels : (m,) array of ints, optional
            Flat of each row; default the labels of the fit.

        Raises
        ------
        ValueError
            When shapes do not fit.
        """
        dtype = self._flats.bases.dtype
        with entered(coefficients, "coefficients", self.home.device, dtype) as (Z, home):
            if Z.ndim != 2 or Z.shape[1] != max(self.dims):
                raise ValueError(f"coefficients must have shape (m, {max(self.dims)}), got {tuple(Z.shape)}")
            if labels is None and len(Z) != self.labels.shape[0]:
                raise ValueError(
                    f"coefficients has {len(Z)} rows, but the fit has {self.labels.shape[0]}; "
                    "pass labels= to say which flat each row belongs to, one entry for each of the "
                    f"{len(Z)} rows"
                )
            labels = self._labels(self.labels if labels is None else labels, len(Z))
            points = namespace(Z).empty((len(Z), self.d), dtype=dtype)
            for c, rows in kernels.group_rows(labels, self.k).blocks(GATHERED):
                part = Z[rows, : self.dims[c]] @ self._flats.basis(c)
                points[rows] = part if self._flats.offsets is None else part + self._flats.offsets[c]
            return home.back(points if self._metric is None else self._metric.restore(points))

    def _labels(self, labels: AnyArray, m: int) -> Array:
        return check_labels(place(import_array(labels, "labels"), self.home.device), m, self.k)

    def factorize(self, X: AnyArray) -> Factorization:
        """Each row of X (n, d) as coefficients in its nearest flat, as a :class:`Factorization` of X's kind."""
        with self._entered(X) as (array, home, exponent):
            rows, flats = scaled(array, -exponent), self._at(exponent)
            factors = factorize(rows, kernels.assign(rows, flats)[0], flats, home, exponent)
            if self._metric is not None:
                factors = self._metric.restored(factors, array, None)
        own = factors.record
        if self.loss != "l2":  # whose history is of another sum
            return factors
        record = replace(self.record, objective=own.objective, energy=own.energy, relative_error=own.relative_error)
        return replace(factors, record=record)

    def _stored(self) -> dict[str, np.ndarray]:
        return super()._stored() | ({} if self.metric is None else {"metric": self.metric})

    def _facts(self) -> Facts:
        known = ("objective", "energy", "history", "converged", "n_reseeded")
        robust = ("loss", "scale") if self.loss != "l2" else ()
        return {name: getattr(self, name) for name in (*known, *robust)}

    @classmethod
    def _of_parts(cls, arrays: dict[str, np.ndarray], facts: Facts, **parts: AnyArray) -> Subspaces:
        bases = parts["bases"]
        if (most := max(map(len, bases))) > bases[0].shape[1]:
            raise ValueError(f"dims must be at most the {bases[0].shape[1]} columns of bases, got {most}")
        return cls(**parts, record=Record.from_facts(facts), metric=arrays.get("metric"))

    def __repr__(self) -> str:
        dims = f"j={self.dims[0]}" if len(set(self.dims)) == 1 else f"j={min(self.dims)}..{max(self.dims)}"
        flats = "flats" if self.offsets is not None else "subspaces"
        state = "converged" if self.converged else "not converged"
        steps = f"{self.n_iter} step" + "s" * (self.n_iter != 1)
        return (
            f"Subspaces({self.k} {flats} of dimension {dims} in R^{self.d}, {self.labels.shape[0]} rows, "
            f"relative error {self.relative_error:.4g}, {state} after {steps})"
        )


def _unscaled(distances: Array, exponent: int) -> Array:
    """Squared distances of rows that were scaled by ``2^-exponent``."""
    with np.errstate(over="ignore"):
        own = scaled(distances, 2 * exponent)
    if exponent > 0 and not bool(namespace(own).isfinite(own).all()):
        raise ValueError(f"squared distances of Y overflow {own.dtype}; scale Y and the subspaces down")
    return own
