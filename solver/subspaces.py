"""The result of a fit: k flats, the labels of the rows they were fitted to, and how the fit went."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

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
    move,
    namespace,
    place,
    scaled,
    to_numpy,
)
from .checks import check_labels, check_matrix
from .coefficients import split_coefficients
from .deprecated import Counts
from .factorization import Factorization, factorize
from .result import Result, check_facts
from .storage import load_arrays, pack_labels, reading, save_arrays, split_bases, stack_bases, unpack_labels

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
    labels : (n,) int32 array
        Nearest flat of each row; the lowest number on a tie.
    objective : float
        ``sum_i w_i |x_i - mu - V^T V (x_i - mu)|^2`` with the flat of each row's label, in float64.
    energy : float
        ``sum_i w_i |x_i|^2`` in float64.
    history : list of float
        Objective after each step of the start that won, in the precision of the computation; it never rises, up to
        rounding of the distances: about 1e-6 of ``energy`` in float32. The last refit and assignment, in float64,
        follow it, so ``objective`` may be a little lower still.
    n_iter : int
        Steps taken: the length of ``history``.
    converged : bool
        Whether the stopping rule was met, not ``max_iter``, a callback or an exhausted budget.
    n_reseeded : int
        How many times a cluster that had run empty (or had fewer rows than its flat could pass through anyway) was
        filled with the rows of largest residual.
    seconds : float
        Of the fit; NaN in a result that was loaded.
    """

    bases: list[AnyArray]
    offsets: AnyArray | None
    labels: AnyArray
    objective: float
    energy: float
    history: list[float]
    converged: bool
    n_reseeded: int
    home: Home = field(default=NUMPY, compare=False)
    seconds: float = float("nan")

    @property
    def n_iter(self) -> int:
        """Steps of the alternation."""
        return len(self.history)

    @property
    def relative_error(self) -> float:
        """``objective / energy``; 0 when the energy is 0."""
        return self.objective / self.energy if self.energy > 0 else 0.0

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Rows n_c of each flat."""
        return Counts(np.bincount(to_numpy(import_array(self.labels, "labels")), minlength=self.k).tolist())

    @cached_property
    def _flats(self) -> Flats:
        bases = [enter(V, "bases")[0] for V in self.bases]
        offsets = None if self.offsets is None else enter(self.offsets, "offsets")[0]
        return Flats.from_bases(bases, offsets)

    @contextmanager
    def _entered(self, Y: AnyArray) -> Iterator[tuple[Array, Home, int]]:
        """Rows of a caller beside the bases, checked, and the exponent at which distances between them are taken."""
        flats = self._flats
        with entered(Y, "Y", self.home.device, flats.bases.dtype) as (array, home):
            yield array, home, check_matrix(array, "Y", columns=self.d, min_rows=0, beside=flats.offsets)

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
            with np.errstate(over="ignore"):
                distances = scaled(own, 2 * exponent)
            if exponent > 0 and not bool(namespace(distances).isfinite(distances).all()):
                raise ValueError(f"squared distances of Y overflow {distances.dtype}; scale Y and the subspaces down")
            return home.back(distances)

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
            return home.back(points)

    def _labels(self, labels: Any, m: int) -> Array:
        return check_labels(place(import_array(labels, "labels"), self.home.device), m, self.k)

    def factorize(self, X: AnyArray) -> Factorization:
        """Each row of X (n, d) as coefficients in its nearest flat, as a :class:`Factorization` of X's kind."""
        with self._entered(X) as (array, home, exponent):
            rows, flats = scaled(array, -exponent), self._at(exponent)
            factors = factorize(rows, kernels.assign(rows, flats)[0], flats, home, exponent)
        record = replace(factors.record, history=self.history, converged=self.converged, seconds=self.seconds)
        return replace(factors, record=record)

    def to(self, target: str) -> Subspaces:
        """The same result as "numpy", "torch" or "cupy" arrays, or on another device ("cpu", "cuda", "cuda:1")."""
        home = move(self.home, target)

        def moved(x: Any) -> Any:
            return None if x is None else home.back(_as_is(x, home))

        return replace(
            self,
            bases=[moved(V) for V in self.bases],
            offsets=moved(self.offsets),
            labels=moved(self.labels),
            home=home,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save to a safetensors file, whole or not at all.

        Raises
        ------
        OSError
            When the folder is missing, read-only or full; a file that was there before is left as it was.
        ValueError
            When there are numbers that are not finite.
        """
        own = self.to("numpy")
        arrays = {**stack_bases(own.bases), "labels": pack_labels(own.labels, self.k)}
        if own.offsets is not None:
            arrays["offsets"] = own.offsets
        names = ("objective", "energy", "history", "converged", "n_reseeded")
        save_arrays(path, "Subspaces", arrays, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Subspaces:
        """Load what :meth:`save` wrote, as NumPy arrays; :meth:`to` takes them elsewhere.

        Parameters
        ----------
        path : path
        verify : bool, default True
            Refuse a file that is not what was written, by its checksum, and numbers that are not finite.

        Raises
        ------
        OSError, ValueError
            When there is no such file, or it is damaged or holds something else.
        """
        arrays, facts = load_arrays(path, "Subspaces", verify)
        with reading(path):
            bases = split_bases(arrays)
            if (most := max(map(len, bases))) > bases[0].shape[1]:
                raise ValueError(f"dims must be at most the {bases[0].shape[1]} columns of bases, got {most}")
            check_facts([facts["objective"], facts["energy"]], facts["history"], facts["converged"])
            if not isinstance(facts["n_reseeded"], int):
                raise ValueError("n_reseeded must be a whole number")
            return cls(bases, arrays.get("offsets"), unpack_labels(arrays["labels"], len(bases)), **facts)

    def __repr__(self) -> str:
        dims = f"j={self.dims[0]}" if len(set(self.dims)) == 1 else f"j={min(self.dims)}..{max(self.dims)}"
        flats = "flats" if self.offsets is not None else "subspaces"
        state = "converged" if self.converged else "not converged"
        steps = f"{self.n_iter} step" + "s" * (self.n_iter != 1)
        return (
            f"Subspaces({self.k} {flats} of dimension {dims} in R^{self.d}, {self.labels.shape[0]} rows, "
            f"relative error {self.relative_error:.4g}, {state} after {steps})"
        )


def _as_is(x: Any, home: Home) -> Array:
    """x as a NumPy or CuPy array of its own dtype on the home's device."""
    return place(import_array(x, "array"), home.device)
