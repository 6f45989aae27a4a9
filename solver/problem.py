"""What is to be fitted: rows, their weights, and the kind of flats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Moments, Rows, Streamed
from ksubspaces.kernels.rows import as_rows

from .arrays import Array, Matrix, namespace


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows X (n, d), their weights (n,) in multiples of a unit, a dimension per flat, whether flats have offsets.

    Each row may stand for several others, as many as ``stands`` (n,) says; its weight is then that of all of them.
    """

    X: Rows
    weights: Array | None
    dims: tuple[int, ...]
    affine: bool
    unit: float = 1.0
    stands: Array | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            X: Matrix,
            weights: Array | None,
            dims: tuple[int, ...],
            affine: bool,
            unit: float = 1.0,
            stands: Array | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "X", as_rows(self.X))  # what a device prepares of them outlives a call

    @property
    def k(self) -> int:
        return len(self.dims)

    @cached_property
    def least(self) -> np.ndarray:
        """Rows that each flat passes through, whatever they are: j, or j + 1 if affine; (k,) int64."""
        return np.array(self.dims, np.int64) + self.affine

    @property
    def on_card(self) -> bool:
        """Whether the rows live on a card, not in host memory."""
        return self.X.xp is not np and not isinstance(self.X, Streamed)

    @cached_property
    def own_weights(self) -> Array | None:
        """Weight of each row alone, not of those that it stands for."""
        return self.weights if self.weights is None or self.stands is None else self.weights / self.stands

    def objective(self, residuals: Array) -> Array:
        """``sum_i w_i r_i`` in units, a float64 number where the residuals are."""
        weighted = residuals if self.weights is None else self.weights * residuals
        return weighted.sum(dtype=np.float64)

    def total(self, residuals: Array) -> float:
        """``sum_i w_i r_i`` in float64."""
        return self.unit * float(self.objective(residuals))

    def offsets(self, moments: Moments) -> Array | None:
        """Best offsets of flats for rows of these moments: their means, if affine."""
        return moments.means if self.affine else None

    def counts(self, labels: Array) -> Array:
        """Rows of positive weight in each cluster, (k,), where the labels are."""
        if self.weights is None:
            return kernels.label_counts(labels, self.k)
        counted = namespace(labels).where(self.weights > 0, labels, np.int32(self.k))
        return kernels.label_counts(counted, self.k + 1)[: self.k]

    def distance_to_middle(self) -> Array:
        """Squared distance of each row to the origin, or to the weighted mean if affine."""
        xp, d = namespace(self.X), self.X.shape[1]
        middle = None
        if self.affine:
            zeros = xp.zeros(len(self.X), np.int32)
            middle = kernels.second_moments(self.X, kernels.group_rows(zeros, 1), self.weights, products=False).means
        point = Flats(kernels.layout_of(d, (0,)), xp.zeros((0, d), self.X.dtype), middle, None)
        return kernels.sqdistances(self.X, point)[:, 0]
