"""A matrix as k small factors: each row is its coefficients times the basis of its cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats
from ksubspaces.kernels.factors import Factors

from .arrays import NUMPY, AnyArray, Array, Home, import_array, namespace, scaled
from .arrays import energy as total_energy
from .coefficients import split_coefficients
from .decoded import DecodedRows, row_numbers
from .deprecated import Error
from .result import UNKNOWN, Record, Result, share
from .storage import Facts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

RECORDED = ("relative_error", "energy", "history", "converged")  # in a file


@dataclass(frozen=True, eq=False, repr=False)
class Factorization(DecodedRows, Result):
    """Rows in factored form: row i is ``coefficients[i] @ bases[labels[i]]``, plus ``offsets[labels[i]]`` if affine.

    Attributes
    ----------
    labels : (n,) int32 array
        Cluster of each row.
    blocks : list of k arrays (n_c, j_c)
        Coefficients of the rows of each cluster, in the order of the rows.
    bases : list of k arrays (j_c, d)
    offsets : (k, d) array or None
    record : Record
        How the fit went; ``objective``, ``history`` and the other properties tell it. NaN, empty and false where that
        is not known: in factors put together by hand or out of a layer, and in files of version 0.1.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import fit_subspaces
    >>> X = np.random.default_rng(0).normal(size=(60, 8)).astype("float32")
    >>> A = fit_subspaces(X, k=2, j=3, seed=0).factorize(X)
    >>> A[[5, 7]].shape, bool(np.allclose(A[5], A.coefficients[5] @ A.bases[A.labels[5]], atol=1e-6))
    ((2, 8), True)
    >>> A.n_parameters == 60 * 3 + 8 * (3 + 3) + 60
    True
    """

    labels: AnyArray
    blocks: list[AnyArray]
    bases: list[AnyArray]
    offsets: AnyArray | None = None
    home: Home = NUMPY
    record: Record = UNKNOWN

    _KIND = "Factorization"
    _ARRAYS = ("labels", "blocks", "bases", "offsets")

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the matrix."""
        return int(self.labels.shape[0]), int(self.bases[0].shape[1])

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows n_c of each cluster."""
        return tuple(int(block.shape[0]) for block in self.blocks)

    @property
    def ratio(self) -> float:
        """Share of the matrix's n d numbers that is saved: ``1 - n_parameters / (n d)``; negative if none is."""
        n, d = self.shape
        return 1 - self.n_parameters / (n * d) if n else 0.0

    @property
    def relative_error(self) -> float:
        """``objective / energy``; 0 when both are 0."""
        return Error(self.record.relative_error, self.measure_error)

    @property
    def coefficients(self) -> Coefficients:
        """Coefficients by row number: ``coefficients[i]`` is an array (j_c,)."""
        return Coefficients(self)

    @cached_property
    def _local(self) -> Factors:
        """The factors as NumPy or CuPy arrays, with each row's place in its block."""
        labels = import_array(self.labels, "labels")
        xp = namespace(labels)
        groups, positions = kernels.group_rows(labels, len(self.bases)), xp.empty(len(labels), dtype=np.int64)
        positions[groups.order] = xp.arange(len(labels)) - groups.starts[groups.owners]

        def own(parts: list[Array]) -> list[Array]:
            return [import_array(part, "factors") for part in parts]

        offsets = None if self.offsets is None else import_array(self.offsets, "offsets")
        return Factors(labels, positions, own(self.blocks), own(self.bases), offsets)

    def _decode(self, rows: np.ndarray) -> Array:
        return kernels.lookup(namespace(self._local.labels).asarray(rows), self._local)

    def stitch(self) -> tuple[csr_array, np.ndarray]:
        """The paper's two factors: U (n, sum j_c) sparse and V (sum j_c, d), with ``U @ V`` the decoded matrix.

        Row i of U holds its coefficients in the columns of its cluster. If affine, k columns of ones for the offsets
        follow, and V ends with the k offsets. (MESSI, section 2.2.)

        Returns
        -------
        U : scipy.sparse.csr_array
        V : ndarray
        """
        from scipy.sparse import csr_array

        own = self.to("numpy")
        n = len(self)
        dims, starts = np.array(own.dims), np.cumsum([0, *own.dims])
        affine = own.offsets is not None
        labels = own.labels
        lengths = dims[labels] + affine
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        values = np.empty(indptr[-1], dtype=own.bases[0].dtype)
        columns = np.empty(indptr[-1], dtype=np.int64)
        groups = kernels.group_rows(labels, len(dims))
        for c, block in enumerate(own.blocks):
            places = indptr[groups.rows(c)][:, None] + np.arange(dims[c])
            values[places] = block
            columns[places] = starts[c] + np.arange(dims[c])
        V = np.concatenate(own.bases)
        if own.offsets is not None:
            values[indptr[1:] - 1] = 1
            columns[indptr[1:] - 1] = starts[-1] + labels
            V = np.concatenate([V, own.offsets])
        return csr_array((values, columns, indptr), shape=(n, len(V))), V

    def _stored(self) -> dict[str, np.ndarray]:
        return {**super()._stored(), "coefficients": np.concatenate([block.ravel() for block in self.blocks])}

    def _facts(self) -> Facts:
        """Nothing of the record unless it is known."""
        own = {name: getattr(self.record, name) for name in RECORDED}
        known = np.isfinite([own["relative_error"], own["energy"], *own["history"]]).all()
        return {"ratio": self.ratio, **(own if known else {})}

    @classmethod
    def _of_parts(cls, arrays: dict[str, np.ndarray], facts: Facts, **parts: AnyArray) -> Factorization:
        dims, flat = arrays["dims"].tolist(), arrays["coefficients"]
        counts = np.bincount(parts["labels"], minlength=len(dims)).tolist()
        size = sum(m * j for m, j in zip(counts, dims, strict=True))
        if flat.shape != (size,) or flat.dtype.kind != "f":
            raise ValueError(f"coefficients must be {size} numbers, got {flat.dtype} of shape {flat.shape}")
        known = set(RECORDED) <= facts.keys()
        record = Record.from_facts({name: facts[name] for name in RECORDED}) if known else UNKNOWN
        return cls(blocks=split_coefficients(flat, counts, dims), **parts, record=record)

    def __repr__(self) -> str:
        n, d = self.shape
        return (
            f"Factorization({n} x {d} in {len(self.bases)} clusters, {self.n_parameters:,} parameters, "
            f"{100 * self.ratio:.1f}% fewer)"
        )


class Coefficients(Sequence[AnyArray]):
    """The coefficients of a factorization by row number, without a second copy of them."""

    def __init__(self, factorization: Factorization) -> None:
        self._factorization = factorization

    def __len__(self) -> int:
        return len(self._factorization)

    def __getitem__(self, row: AnyArray) -> AnyArray:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        local = self._factorization._local
        row = row_numbers(row, len(self)).item()
        c, position = int(local.labels[row]), int(local.positions[row])
        return self._factorization.blocks[c][position]

    def __iter__(self) -> Iterator[AnyArray]:
        return (self[i] for i in range(len(self)))


def factorize(
    X: Array,
    labels: Array,
    flats: Flats,
    home: Home,
    exponent: int = 0,
    weights: tuple[Array | None, float] = (None, 1.0),
    exact: Array | None = None,
) -> Factorization:
    """Coefficients ``(x - mu) @ V^T`` of rows ``2^exponent X`` (n, d) in the flats of their labels, for X.

    The record has the error of the rows, with weights in multiples of a unit; the caller keeps ``exact`` ones himself.
    """
    groups = kernels.group_rows(labels, flats.k)
    packed, left = kernels.coefficients(X, groups, flats, residuals=True)
    assert left is not None
    if exact is not None:
        left[exact] = 0
    own, unit = weights
    record = _recorded(left if own is None else own * left, total_energy(X, own), unit, exponent)
    packed = home.back(scaled(packed, exponent))
    blocks = split_coefficients(packed, np.diff(groups.bounds).tolist(), flats.layout.dims)
    bases = [home.back(V) for V in flats.layout.split(flats.bases)]
    offsets = None if flats.offsets is None else home.back(scaled(flats.offsets, exponent))
    return Factorization(home.back(labels), blocks, bases, offsets, home, record)


def _recorded(squares: Array, energy: float, unit: float, exponent: int) -> Record:
    """What is known of factors whose rows ``2^exponent X`` leave these weighted squares of X's energy."""
    error = share(float(squares.sum(dtype=np.float64)), energy)
    with np.errstate(over="ignore"):
        own = float(np.ldexp(unit * energy, 2 * exponent))
    return Record(error * own, own, error)
