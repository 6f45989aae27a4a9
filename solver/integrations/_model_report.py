"""The report of a compressed model: size and error of each table, and the rows that lost most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from ..arrays import scaled
from ..checks import Passed, check_matrix
from ..report import svd_curve
from ..storage import Facts

LISTED_ROWS = 20
_BLOCK = 1 << 20  # numbers decoded at once

Decoded = Callable[[int, int], np.ndarray]
"""Rows from one number up to another, decoded from what the table has become."""


@dataclass(frozen=True)
class RowLoss:
    """A row that lost much.

    Attributes
    ----------
    row : int
    share : float
        Its part of the table's squared error, weighted if the table was.
    relative_error : float
        Squared, over its own squared norm.
    """

    row: int
    share: float
    relative_error: float


@dataclass(frozen=True)
class ModuleReport:
    """One table, and the modules that share it. Errors are squared and relative to the squared norm of the table.

    Attributes
    ----------
    name : str
        Of the module within the model.
    kind : {"embedding", "bag", "linear"}
    tied : tuple of str
        Other modules that hold the same table.
    shape : (n, d)
    n_parameters_before, n_parameters, nbytes_before, nbytes : int
        Of the table alone, without a bias.
    relative_error, svd_relative_error : float
        Of the factors as they are stored, and of the truncated SVD with as many parameters.
    weighted_error, svd_weighted_error : float or None
        The same with each row weighted, the SVD's being the least of any one subspace in that measure; None if there
        were no weights.
    weights : str
        Where the weights came from.
    n_exact : int
        Rows kept as they were.
    dims, counts : tuple of int
        Dimension and rows of each cluster; rows kept exactly are the last one.
    storage : str
        Dtype of the coefficients.
    seconds : float
    most_lost : tuple of RowLoss
        Rows with the largest share of the error.
    most_distorted : tuple of RowLoss
        Rows with the largest relative error of their own.
    bits : float or None
        Bits stored for each number, if that was the budget. ``n_parameters`` are then numbers of the table's dtype that
        take as many bytes, and the SVD is the one of these.
    """

    name: str
    kind: str
    tied: tuple[str, ...]
    shape: tuple[int, int]
    n_parameters_before: int
    n_parameters: int
    nbytes_before: int
    nbytes: int
    relative_error: float
    svd_relative_error: float
    weighted_error: float | None
    svd_weighted_error: float | None
    weights: str
    n_exact: int
    dims: tuple[int, ...]
    counts: tuple[int, ...]
    storage: str
    seconds: float
    most_lost: tuple[RowLoss, ...]
    most_distorted: tuple[RowLoss, ...]
    bits: float | None = None

    @property
    def size_told(self) -> str:
        """What was spent, before and after, in what it was spent in."""
        if self.bits is not None:
            return f"{self.nbytes_before:,} bytes -> {self.nbytes:,}, {self.bits:.2f} bits a number,"
        return f"{self.n_parameters_before:,} parameters -> {self.n_parameters:,}"


@dataclass(frozen=True)
class ModelReport:
    """A compressed model. ``print`` shows it as a table.

    Attributes
    ----------
    model : str
        Name of its class.
    modules : tuple of ModuleReport
    n_parameters_before, n_parameters, nbytes_before, nbytes : int
        Of the whole model, what is shared counted once.
    seconds : float
    options : dict
        What was asked for.
    left : tuple of str
        Heads that are not tied to what was compressed, and were left as they are.
    cosine : float or None
        Mean cosine of sentence vectors to those of before, on the texts held back, where ``min_cosine`` was asked for.
    """

    model: str
    modules: tuple[ModuleReport, ...]
    n_parameters_before: int
    n_parameters: int
    nbytes_before: int
    nbytes: int
    seconds: float
    options: Facts
    left: tuple[str, ...] = ()
    cosine: float | None = None

    def after(self, earlier: ModelReport | None) -> ModelReport:
        """This together with what was compressed earlier in the same model."""
        if earlier is None:
            return self
        return replace(
            self,
            modules=(*earlier.modules, *self.modules),
            n_parameters_before=earlier.n_parameters_before,
            nbytes_before=earlier.nbytes_before,
            seconds=earlier.seconds + self.seconds,
            left=tuple(name for name in earlier.left if all(name != module.name for module in self.modules)),
        )

    def to_dict(self) -> Facts:
        """All of it in types that JSON knows."""
        return asdict(self)

    @classmethod
    def from_dict(cls, facts: Facts) -> ModelReport:
        """The inverse of :meth:`to_dict`.

        Raises
        ------
        KeyError, TypeError
            When entries are missing or are not what they should be.
        """
        modules = []
        for entry in facts["modules"]:
            given = {f.name: _tuples({"bits": None, **entry}[f.name]) for f in fields(ModuleReport)}
            for name in ("most_lost", "most_distorted"):
                given[name] = tuple(RowLoss(**row) for row in entry[name])
            modules.append(ModuleReport(**given))
        left = tuple(facts.get("left", ()))  # of which earlier versions knew nothing
        given = {f.name: {"cosine": None, **facts}[f.name] for f in fields(cls) if f.name != "left"}
        return cls(**given | {"modules": tuple(modules), "left": left})

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {self.n_parameters_before:,} parameters -> {self.n_parameters:,}, "
            f"{self.nbytes_before / 1e6:,.1f} MB -> {self.nbytes / 1e6:,.1f} MB, {self.seconds:.1f} s"
        ]
        for m in self.modules:
            kept = f", {m.n_exact} kept exactly" if m.n_exact else ""
            lines.append(f"  {' = '.join([m.name, *m.tied])}  ({m.kind} {m.shape[0]:,} x {m.shape[1]:,}{kept})")
            lines.append(
                f"    {m.size_told} in {len(m.dims)} clusters; "
                f"relative error {m.relative_error:.4f} (SVD {m.svd_relative_error:.4f})"
            )
            if m.weighted_error is not None:
                lines.append(
                    f"    weighted error {m.weighted_error:.4f} (SVD {m.svd_weighted_error:.4f}); weights: {m.weights}"
                )
            else:
                lines.append(f"    weights: {m.weights}")
        if self.cosine is not None:
            lines.append(f"  mean cosine of sentence vectors on texts held back {self.cosine:.4f}")
        for name in self.left:
            lines.append(
                f"  {name} is not tied to the embedding, and was left; modules='embeddings+heads' compresses both"
            )
        return "\n".join(lines)


def _tuples(value: Passed) -> Passed:
    return tuple(value) if isinstance(value, list) else value


class Baseline:
    """The truncated SVDs of a table, plain and weighted, to compare its compressed form with.

    Parameters
    ----------
    table : ndarray of shape (n, d)
        Kept, not copied; to be made before the table is compressed, when there is most memory left.
    weights : ndarray of shape (n,), optional
    """

    def __init__(self, table: np.ndarray, weights: NDArray[np.float64] | None) -> None:
        self.table, self.weights = table, weights
        self.exponent = check_matrix(table, "weight", dtype=np.float64)
        self.plain, self.weighted = svd_curve(table), None
        if weights is not None:
            self.weighted = svd_curve(table, weights)

    def compare(self, decoded: Decoded, n_parameters: int) -> Facts:
        """Errors of decoded rows, those of the SVD, and the rows that lost most: entries of a ModuleReport."""
        errors, energies = _by_row(self.table, decoded, self.exponent)
        found: Facts = {
            "relative_error": _ratio(errors.sum(), energies.sum()),
            "svd_relative_error": self.plain.at(n_parameters),
            "weighted_error": None,
            "svd_weighted_error": None,
        }
        shares = errors
        if self.weights is not None and self.weighted is not None:
            shares = self.weights * errors
            found["weighted_error"] = _ratio(shares.sum(), float(self.weights @ energies))
            found["svd_weighted_error"] = self.weighted.at(n_parameters)
        shares = shares / (shares.sum() or 1)
        relative = np.divide(errors, energies, out=np.zeros_like(errors), where=energies > 0)

        def listed(by: NDArray[np.float64]) -> tuple[RowLoss, ...]:
            rows = np.argsort(-by, kind="stable")[:LISTED_ROWS]
            return tuple(RowLoss(int(i), float(shares[i]), float(relative[i])) for i in rows if errors[i] > 0)

        return {**found, "most_lost": listed(shares), "most_distorted": listed(relative)}


def _by_row(table: np.ndarray, decoded: Decoded, exponent: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared error and squared norm of each row of ``2^-exponent`` the table."""
    n, d = table.shape
    errors, energies = np.empty(n), np.empty(n)
    step = max(1, _BLOCK // d)
    for start in range(0, n, step):
        stop = min(start + step, n)
        rows = table[start:stop].astype(np.float64)
        difference = scaled(rows - decoded(start, stop), -exponent)
        rows = scaled(rows, -exponent)
        errors[start:stop] = np.einsum("ij,ij->i", difference, difference)
        energies[start:stop] = np.einsum("ij,ij->i", rows, rows)
    return errors, energies


def _ratio(error: float, energy: float) -> float:
    return float(error / energy) if energy > 0 else 0.0
