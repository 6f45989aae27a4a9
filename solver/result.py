"""What results share: the record of the fit, files, sizes, moves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from .arrays import AnyArray, Home, import_array, move, place
from .coefficients import count_parameters
from .storage import Facts, load_arrays, pack_labels, reading, save_arrays, split_bases, stack_bases, unpack_labels

F = TypeVar("F", bound="Saved")
R = TypeVar("R", bound="Result")


@dataclass(frozen=True)
class Record:
    """How a fit went, and its error. The defaults stand for what is not known.

    The results tell its attributes as their own.
    """

    objective: float = float("nan")
    energy: float = float("nan")
    relative_error: float = float("nan")
    history: list[float] = field(default_factory=list)
    converged: bool = False
    n_reseeded: int = 0
    seconds: float = float("nan")
    loss: str = "l2"
    scale: float = float("nan")

    @classmethod
    def from_facts(cls, facts: Facts) -> Record:
        """The record in a file, which has objective or relative error; the other follows from the energy."""
        told = facts["relative_error"] if "relative_error" in facts else facts["objective"]
        energy, history = facts["energy"], facts["history"]
        if not all(isinstance(number, (int, float)) and np.isfinite(number) for number in [told, energy, *history]):
            raise ValueError("errors, objective, energy and history must be finite numbers")
        other = {"objective": told * energy} if "relative_error" in facts else {"relative_error": share(told, energy)}
        record = cls(**facts, **other)
        if not isinstance(record.converged, bool):
            raise ValueError("converged must be true or false")
        if not isinstance(record.n_reseeded, int):
            raise ValueError("n_reseeded must be a whole number")
        if not isinstance(record.loss, str) or not isinstance(record.scale, float):
            raise ValueError("loss must be a name, and scale a number")
        return record


UNKNOWN = Record()


def share(error: float, energy: float) -> float:
    """``error / energy``; 0 when both are 0."""
    return error / energy if energy > 0 else (0.0 if error == 0 else float("inf"))


class Recorded:
    """What came of a fit."""

    record: Record

    @property
    def objective(self) -> float:
        """``sum_i w_i |x_i - its point|^2`` in float64, with the point of its flat that stands for each row fitted.

        Under a robust loss it is the sum of that, and so are ``energy`` and ``history``.
        """
        return self.record.objective

    @property
    def energy(self) -> float:
        """``sum_i w_i |x_i|^2`` of those rows, in float64."""
        return self.record.energy

    @property
    def relative_error(self) -> float:
        """``objective / energy``; 0 when both are 0."""
        return self.record.relative_error

    @property
    def history(self) -> list[float]:
        """Objective after each step of the run that won, in the precision of the computation.

        It never rises, up to rounding (1e-6 of ``energy`` in float32), except where ``compress`` tries a split in vain.
        A last refit and assignment in float64 follow it, so ``objective`` may be a little lower still.
        """
        return self.record.history

    @property
    def n_iter(self) -> int:
        """Length of ``history``."""
        return len(self.history)

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met, not ``max_iter`` or a callback."""
        return self.record.converged

    @property
    def n_reseeded(self) -> int:
        """How many times a cluster had fewer rows than determine its flat, and was filled with other rows."""
        return self.record.n_reseeded

    @property
    def loss(self) -> str:
        """Name of the loss that the fit minimised, "l2" by default."""
        return self.record.loss

    @property
    def scale(self) -> float:
        """Distance of a usual row to its flat by a robust fit, in its rows' units; NaN under "l2"."""
        return self.record.scale

    @property
    def seconds(self) -> float:
        """Of the fit; NaN in a result that was loaded."""
        return self.record.seconds


class Saved:
    """What files hold."""

    _KIND: ClassVar[str]  # in files

    if TYPE_CHECKING:

        def to(self: F, target: str) -> F: ...

        def _stored(self) -> dict[str, np.ndarray]:
            """The arrays that are saved of a result in NumPy's."""

        def _facts(self) -> Facts:
            """What is saved beside them."""

        @classmethod
        def _restored(cls: type[F], arrays: dict[str, np.ndarray], facts: Facts) -> F:
            """What was saved."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save to a safetensors file, whole or not at all.

        Raises
        ------
        OSError
            When the folder is missing, read-only or full; a file that was there before is left as it was.
        ValueError
            When there are numbers that are not finite.
        """
        save_arrays(path, self._KIND, self.to("numpy")._stored(), self._facts())

    @classmethod
    def load(cls: type[F], path: str | os.PathLike[str], *, verify: bool = True) -> F:
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
        arrays, facts = load_arrays(path, cls._KIND, verify)
        with reading(path):
            return cls._restored(arrays, facts)


class Clustered(Recorded):
    """Rows in k clusters, each with a flat."""

    bases: list[AnyArray]
    offsets: AnyArray | None

    if TYPE_CHECKING:

        @property
        def counts(self) -> tuple[int, ...]: ...

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.bases)

    @property
    def d(self) -> int:
        """Dimension of the space."""
        return int(self.bases[0].shape[1])

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension j_c of each flat."""
        return tuple(int(V.shape[0]) for V in self.bases)

    @property
    def n_parameters(self) -> int:
        """Numbers in the factored rows: ``sum n_c j_c + d sum j_c``, n labels if k > 1, and ``k d`` if affine."""
        return count_parameters(self.counts, self.dims, self.d, self.offsets is not None)


class Result(Clustered, Saved):
    """Clusters whose rows' labels are arrays here."""

    labels: AnyArray
    home: Home

    _ARRAYS: ClassVar[tuple[str, ...]] = ("labels", "bases", "offsets")

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take in memory."""
        return sum(int(array.nbytes) for name in self._ARRAYS for array in _each(getattr(self, name)))

    def to(self: R, target: str) -> R:
        """The same as "numpy", "torch" or "cupy" arrays, or on another device ("cpu", "cuda", "cuda:1")."""
        home = move(self.home, target)

        def moved(part: AnyArray) -> AnyArray:
            if isinstance(part, list):
                return [moved(array) for array in part]
            return None if part is None else home.back(place(import_array(part, "array"), home.device))

        return replace(self, home=home, **{name: moved(getattr(self, name)) for name in self._ARRAYS})  # type: ignore[type-var]

    def _stored(self) -> dict[str, np.ndarray]:
        arrays = {**stack_bases(self.bases), "labels": pack_labels(self.labels, self.k)}
        return arrays if self.offsets is None else {**arrays, "offsets": self.offsets}

    @classmethod
    def _restored(cls: type[R], arrays: dict[str, np.ndarray], facts: Facts) -> R:
        bases = split_bases(arrays)
        labels = unpack_labels(arrays["labels"], len(bases))
        return cls._of_parts(arrays, facts, bases=bases, offsets=arrays.get("offsets"), labels=labels)

    if TYPE_CHECKING:

        @classmethod
        def _of_parts(cls: type[R], arrays: dict[str, np.ndarray], facts: Facts, **parts: AnyArray) -> R:
            """A result of its parts and of what a file holds beside them."""


def _each(part: AnyArray) -> Iterator[AnyArray]:
    """An array, or those of a list."""
    if part is not None:
        yield from part if isinstance(part, list) else [part]
