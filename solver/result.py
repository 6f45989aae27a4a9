"""What :class:`Subspaces` and :class:`Factorization` tell alike: their sizes, and how the fit went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import AnyArray
from .coefficients import count_parameters


class Result:
    """Rows in k clusters, each with a flat."""

    bases: list[AnyArray]
    offsets: AnyArray | None
    labels: AnyArray
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

    @property
    def nbytes(self) -> int:
        """Bytes that the arrays take in memory."""
        return sum(int(array.nbytes) for array in self._arrays())

    def _arrays(self) -> list[AnyArray]:
        return [self.labels, *self.bases, *([] if self.offsets is None else [self.offsets])]


@dataclass(frozen=True)
class Record:
    """How the fit of a factorization went, and how near its rows came; by default, that this is not known."""

    relative_error: float = float("nan")
    energy: float = float("nan")
    history: list[float] = field(default_factory=list)
    converged: bool = False
    seconds: float = float("nan")

    def facts(self) -> dict[str, Any]:
        """What is kept in a file: nothing of the time it took, nor of an error that is no number."""
        known = np.isfinite([self.relative_error, self.energy, *self.history]).all()
        return {name: value for name, value in asdict(self).items() if known and name != "seconds"}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Record:
        """The inverse; nothing is known of files that were written before there were records."""
        names = ("relative_error", "energy", "history", "converged")
        if not set(names) <= facts.keys():
            return cls()
        check_facts([facts["relative_error"], facts["energy"]], facts["history"], facts["converged"])
        return cls(**{name: facts[name] for name in names})


def check_facts(numbers: list[Any], history: Any, converged: Any) -> None:
    """What a file tells of a fit is of the kind that a fit tells."""
    if not all(isinstance(number, (int, float)) and np.isfinite(number) for number in [*numbers, *history]):
        raise ValueError("errors, objective, energy and history must be finite numbers")
    if not isinstance(converged, bool):
        raise ValueError("converged must be true or false")
