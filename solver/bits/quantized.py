"""A matrix in so many bits a number: rows are decoded from packed bits, each without its neighbours."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels.packed import PackedRows

from ..arrays import NUMPY, AnyArray, Home, computing, entered, move, namespace, place, row_blocks, scaled
from ..arrays import energy as total_energy
from ..checks import check_matrix, check_weights
from ..factorization import row_numbers
from ..result import UNKNOWN, Record, share
from ..storage import from_bytes, load_arrays, reading, save_arrays, to_bytes
from .stored import Stored

KIND = "QuantizedFactorization"


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedFactorization:
    """Rows as packed bits of their coefficients in the basis of their cluster, whose entries are packed bits as well.

    Attributes
    ----------
    stored : Stored
        All arrays that a file has, as NumPy arrays.
    winner : str
        Which of the codes that competed this is: "16 transforms" (clusters to begin with), "one transform", "rotation"
        (of all columns, by a formula), "columns as they are"; with a gain for each row or without.
    record : Record
        How near its rows came; ``relative_error``, ``energy`` and ``objective`` tell it.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import compress
    >>> A = np.random.default_rng(0).normal(size=(400, 16)).astype("float32")
    >>> code = compress(A, bits=3.0, seed=0)
    >>> code[[5, 7]].shape, code.nbytes <= 3 * A.size / 8
    ((2, 16), True)
    """

    stored: Stored
    winner: str
    home: Home = NUMPY
    record: Record = UNKNOWN

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the matrix."""
        return int(self.stored.facts["n"]), int(self.stored.facts["d"])

    @property
    def d(self) -> int:
        """Columns of the matrix."""
        return self.shape[1]

    @property
    def k(self) -> int:
        """Clusters of rows, each with a basis; rows kept as they are are in none."""
        return len(self.dims)

    @property
    def dims(self) -> tuple[int, ...]:
        """Directions that are stored of each cluster's basis."""
        return tuple(self.stored.arrays["dims"].tolist())

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each cluster."""
        return tuple(np.bincount(self.labels[self.labels < self.k], minlength=self.k).tolist())

    @cached_property
    def labels(self) -> np.ndarray:
        """Cluster of each row, (n,) int32; k for a row that is kept as it is."""
        return np.append(self._unpacked.clusters, np.int32(self.k))[self._unpacked.groups]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that are stored: codes, labels, bases, scales, levels, gains and exact rows.

        A file has these, and a header of a kilobyte or so.
        """
        return self.stored.nbytes

    @property
    def bits(self) -> float:
        """Bits stored for each number of the matrix."""
        return 8 * self.nbytes / max(1, self.shape[0] * self.shape[1])

    @property
    def dtype(self) -> np.dtype:
        """Of decoded rows."""
        return np.dtype(str(self.stored.facts["dtype"]))

    @property
    def n_parameters(self) -> int:
        """Numbers of the matrix's dtype that take as many bytes."""
        return -(-self.nbytes // self.dtype.itemsize)

    @property
    def ratio(self) -> float:
        """Share of the matrix's bytes that is saved."""
        return 1 - self.bits / (8 * self.dtype.itemsize)

    @property
    def relative_error(self) -> float:
        """``objective / energy``, of the rows and with the weights that were coded; 0 when the energy is 0."""
        return self.record.relative_error

    @property
    def energy(self) -> float:
        """``sum_i w_i |x_i|^2`` of those rows, in float64."""
        return self.record.energy

    @property
    def objective(self) -> float:
        """``sum_i w_i |x_i - row i decoded|^2`` of those rows, in float64."""
        return self.record.objective

    @property
    def seconds(self) -> float:
        """Of coding; NaN in a result that was loaded."""
        return self.record.seconds

    @property
    def packed(self) -> PackedRows:
        """The form in which rows are decoded, NumPy arrays of float32."""
        return self.stored.unpack()

    @cached_property
    def _unpacked(self) -> PackedRows:
        """The same up to the power of two that multiplies all."""
        return self.stored.unpack(scaled=True)

    @cached_property
    def _local(self) -> PackedRows:
        """That where rows are decoded."""
        if self.home.device == "cpu":
            return self._unpacked
        parts = vars(self._unpacked).items()
        moved: dict[str, Any] = {name: None if part is None else place(part, self.home.device) for name, part in parts}
        return PackedRows(**moved)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> AnyArray:
        """Decoded rows: (d,) for one number, (b, d) for numbers (b,), a slice or a mask (n,).

        Raises
        ------
        IndexError
            When a number is out of range, as for any array.
        """
        chosen = row_numbers(rows, len(self))
        with computing(self.home, self.home.device):
            decoded = self._decode(chosen.ravel())
            return self.home.back(decoded.reshape(*chosen.shape, self.d))

    def _decode(self, rows: np.ndarray) -> AnyArray:
        xp = namespace(self._local.codes)
        decoded = kernels.decode(xp.asarray(rows), self._local).astype(self.dtype, copy=False)
        decoded = scaled(decoded, int(self.stored.facts["exponent"]))
        if "exact" in self.stored.arrays:  # with all their digits
            kept = self._unpacked.groups[rows] == len(self._unpacked.clusters)
            decoded[xp.asarray(kept)] = xp.asarray(self.stored.arrays["exact"][self._unpacked.starts[rows[kept]]])
        return decoded

    def reconstruct(self) -> AnyArray:
        """The whole matrix (n, d), decoded."""
        return self[:]

    def measure_error(self, X: AnyArray, sample_weight: AnyArray | None = None) -> float:
        """Relative error for a matrix, ``sum_i w_i |x_i - row i decoded|^2 / sum_i w_i |x_i|^2``, in float64.

        Parameters
        ----------
        X : (n, d) array
            The matrix that was coded, or another of its shape.
        sample_weight : (n,) array, optional
            w_i, nonnegative; default all 1.

        Raises
        ------
        ValueError, TypeError
            When X is not a finite matrix of this shape, or the weights do not fit it.
        """
        with entered(X, "X", self.home.device) as (array, _):
            exponent = check_matrix(array, "X", columns=self.d, min_rows=0, dtype=np.float64)
            if len(array) != len(self):
                raise ValueError(f"X has {len(array)} rows, but the factorization has {len(self)}")
            xp, weights, error = namespace(array), None, 0.0
            if sample_weight is not None:
                weights, _ = check_weights(sample_weight, len(self), self.home.device)
            for start, block in row_blocks(array):
                rows = np.arange(start, start + len(block))
                difference = scaled(block.astype(np.float64) - self._decode(rows), -exponent)
                squares = xp.einsum("ij,ij->i", difference, difference)
                error += float((squares if weights is None else weights[rows] * squares).sum())
            energy = total_energy(scaled(array, -exponent), weights)
            return share(error, energy)

    def stitch(self) -> NoReturn:
        """Refused: coefficients of packed bits are no two factors of numbers.

        Raises
        ------
        TypeError
        """
        raise TypeError(
            "rows in packed bits are no product of two factors of numbers; decode them by indexing or reconstruct(), "
            "or compress(A, ratio) for factors"
        )

    def to(self, target: str) -> QuantizedFactorization:
        """The same, decoded to "numpy", "torch" or "cupy" arrays, or on another device ("cpu", "cuda")."""
        return replace(self, home=move(self.home, target))

    def _facts(self) -> dict[str, Any]:
        lost = {"relative_error": self.relative_error, "energy": self.energy}
        known = np.isfinite(list(lost.values())).all()
        return {**self.stored.facts, "winner": self.winner, **(lost if known else {})}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save to a safetensors file, whole or not at all.

        Raises
        ------
        OSError
            When the folder is missing, read-only or full; a file that was there before is left as it was.
        """
        save_arrays(path, KIND, dict(self.stored.arrays), self._facts())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> QuantizedFactorization:
        """Load what :meth:`save` wrote, as NumPy arrays; :meth:`to` takes them elsewhere.

        Parameters
        ----------
        path : path
        verify : bool, default True
            Refuse a file that is not what was written, by its checksum.

        Raises
        ------
        OSError, ValueError
            When there is no such file, or it is damaged or holds something else.
        """
        arrays, facts = load_arrays(path, KIND, verify)
        with reading(path):
            return cls._restored(arrays, facts)

    @classmethod
    def _restored(cls, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> QuantizedFactorization:
        own = {name: facts[name] for name in ("n", "d", "dtype", "exponent", "scale_unit", "gain_unit")}
        lost: dict[str, Any] = {name: facts[name] for name in ("relative_error", "energy") if name in facts}
        record = Record.from_facts({**lost, "history": [], "converged": True}) if lost else UNKNOWN
        result = cls(Stored(arrays, own), str(facts["winner"]), record=record)
        _ = result._unpacked, result.dtype  # which finds parts that do not fit together
        return result

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        return to_bytes(KIND, dict(self.stored.arrays), self._facts())

    @classmethod
    def from_bytes(cls, content: bytes) -> QuantizedFactorization:
        """The inverse of :meth:`to_bytes`.

        Raises
        ------
        ValueError
            When they are not whole.
        """
        with reading("what should be a " + KIND):
            return cls._restored(*from_bytes(content, KIND))

    def __repr__(self) -> str:
        n, d = self.shape
        return f"{KIND}({n} x {d} in {self.bits:.2f} bits a number, {self.nbytes:,} bytes: {self.winner})"
