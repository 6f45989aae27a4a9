"""What all compressed matrices share: a row is decoded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .arrays import (
    AnyArray,
    Array,
    Home,
    computing,
    energy,
    entered,
    import_array,
    namespace,
    row_blocks,
    scaled,
    to_numpy,
)
from .checks import check_matrix, check_weights
from .result import Recorded, share


class DecodedRows(Recorded):
    """A matrix in another form, whose rows are decoded by number."""

    home: Home

    if TYPE_CHECKING:

        @property
        def shape(self) -> tuple[int, int]: ...

        def _decode(self, rows: np.ndarray) -> Array:
            """Rows (b, d) of numbers (b,) from 0 on, on the device of ``home``."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: AnyArray) -> AnyArray:
        """Decoded rows: (d,) for one number, (b, d) for numbers (b,), a slice or a mask (n,).

        Raises
        ------
        IndexError
            When a number is out of range, as for any array.
        """
        chosen = row_numbers(rows, len(self))
        with computing(self.home, self.home.device):
            return self.home.back(self._decode(chosen.ravel()).reshape(*chosen.shape, self.shape[1]))

    def reconstruct(self) -> AnyArray:
        """The whole matrix (n, d), decoded."""
        return self[:]

    def measure_error(self, X: AnyArray, sample_weight: AnyArray | None = None) -> float:
        """Relative error for a matrix, ``sum_i w_i |x_i - row i decoded|^2 / sum_i w_i |x_i|^2``, in float64.

        Parameters
        ----------
        X : (n, d) array
            The matrix that was compressed, or another of its shape.
        sample_weight : (n,) array, optional
            w_i, nonnegative; default all 1.

        Raises
        ------
        ValueError, TypeError
            When X is not a finite matrix of this shape, or the weights do not fit it.

        Returns
        -------
        float
            0 when both sums are 0.
        """
        with entered(X, "X", self.home.device) as (array, _):
            exponent = check_matrix(array, "X", columns=self.shape[1], min_rows=0, dtype=np.float64)
            if len(array) != len(self):
                raise ValueError(f"X has {len(array)} rows, but the factorization has {len(self)}")
            xp, weights = namespace(array), None
            if sample_weight is not None:
                weights, _ = check_weights(sample_weight, len(self), self.home.device)
            squares = xp.empty(len(array))
            for start, block in row_blocks(array):
                end = start + len(block)
                difference = scaled(block.astype(np.float64) - self._decode(np.arange(start, end)), -exponent)
                squares[start:end] = xp.einsum("ij,ij->i", difference, difference)
            total = energy(scaled(array, -exponent), weights)
            return share(float((squares if weights is None else weights * squares).sum(dtype=np.float64)), total)


def row_numbers(rows: AnyArray, n: int) -> np.ndarray:
    """Numbers from 0 to n - 1 of the rows that an index selects from an array, in the shape of the index."""
    if isinstance(rows, slice):
        return np.arange(*rows.indices(n))
    if isinstance(rows, (bool, np.bool_, tuple, str)) or rows is None:
        raise IndexError(
            f"rows must be a number, numbers, a slice or a mask, got {rows!r}; for rows 1 and 2 say [[1, 2]]"
        )
    numbers = to_numpy(import_array(rows, "rows"))
    if numbers.size == 0 and numbers.dtype.kind == "f":  # an empty list
        numbers = numbers.astype(np.int64)
    if numbers.dtype.kind == "b":
        if numbers.shape != (n,):
            raise IndexError(f"a mask must have one entry for each of the {n} rows, got shape {numbers.shape}")
        return np.flatnonzero(numbers)
    if numbers.dtype.kind not in "iu":
        raise IndexError(f"rows must be whole numbers or a mask, got {numbers.dtype}")
    numbers = numbers.astype(np.int64)
    if numbers.size and not -n <= numbers.min() <= numbers.max() < n:
        raise IndexError(f"row {numbers[(numbers < -n) | (numbers >= n)][0]} is out of range for {n} rows")
    return np.where(numbers < 0, numbers + n, numbers)


def exact_numbers(A: Array, exact_rows: AnyArray | None) -> Array | None:
    """Different numbers of rows of A, ascending, where it lives; None if there are none."""
    if exact_rows is None:
        return None
    try:
        numbers = np.unique(row_numbers(exact_rows, len(A)))
    except (IndexError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"exact_rows does not name rows of A: {error}") from None
    return namespace(A).asarray(numbers) if len(numbers) else None
