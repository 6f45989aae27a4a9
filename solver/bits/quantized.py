"""A matrix in so many bits a number: rows are decoded from packed bits, each without its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NoReturn

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels.packed import PackedRows

from ..arrays import NUMPY, AnyArray, Array, Home, move, namespace, place, scaled
from ..decoded import DecodedRows
from ..result import UNKNOWN, Record, Saved
from ..storage import Facts, from_bytes, reading, to_bytes
from .stored import Stored


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedFactorization(DecodedRows, Saved):
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

    _KIND = "QuantizedFactorization"

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
        moved: dict[str, AnyArray] = {
            name: None if part is None else place(part, self.home.device) for name, part in parts
        }
        return PackedRows(**moved)

    def _decode(self, rows: np.ndarray) -> Array:
        xp = namespace(self._local.codes)
        decoded = kernels.decode(xp.asarray(rows), self._local).astype(self.dtype, copy=False)
        decoded = scaled(decoded, int(self.stored.facts["exponent"]))
        if "exact" in self.stored.arrays:  # with all their digits
            kept = self._unpacked.groups[rows] == len(self._unpacked.clusters)
            decoded[xp.asarray(kept)] = xp.asarray(self.stored.arrays["exact"][self._unpacked.starts[rows[kept]]])
        return decoded

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

    def _facts(self) -> Facts:
        lost = {"relative_error": self.relative_error, "energy": self.energy}
        known = np.isfinite(list(lost.values())).all()
        return {**self.stored.facts, "winner": self.winner, **(lost if known else {})}

    def _stored(self) -> dict[str, np.ndarray]:
        return dict(self.stored.arrays)

    @classmethod
    def _restored(cls, arrays: dict[str, np.ndarray], facts: Facts) -> QuantizedFactorization:
        own = {name: facts[name] for name in ("n", "d", "dtype", "exponent", "scale_unit", "gain_unit")}
        lost: Facts = {name: facts[name] for name in ("relative_error", "energy") if name in facts}
        record = Record.from_facts({**lost, "history": [], "converged": True}) if lost else UNKNOWN
        result = cls(Stored(arrays, own), str(facts["winner"]), record=record)
        _ = result._unpacked, result.dtype  # which finds parts that do not fit together
        return result

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        return to_bytes(self._KIND, self._stored(), self._facts())

    @classmethod
    def from_bytes(cls, content: bytes) -> QuantizedFactorization:
        """The inverse of :meth:`to_bytes`.

        Raises
        ------
        ValueError
            When they are not whole.
        """
        with reading("what should be a " + cls._KIND):
            return cls._restored(*from_bytes(content, cls._KIND))

    def __repr__(self) -> str:
        n, d = self.shape
        return f"{self._KIND}({n} x {d} in {self.bits:.2f} bits a number, {self.nbytes:,} bytes: {self.winner})"
