"""The flats that the kernels measure distances to, in the form that makes the distances cheap and exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Array = Any  # a NumPy or CuPy array: the kernels take either


class Eigenspaces(NamedTuple):
    """The leading eigenspace of each matrix of a batch, and what is left of the space.

    Attributes
    ----------
    bases : list of (j_c, d) arrays
        Orthonormal rows: eigenvectors of the j_c largest eigenvalues, largest first.
    eigenvalues : list of arrays
        All eigenvalues that were computed, descending, never negative.
    complements : list of (d - j_c, d) arrays or None
        Orthonormal rows spanning what the bases leave; ``None`` where it would have cost extra.
    exact : bool
        ``False`` if the bases are one step of an iteration closer to the leading eigenspaces, not those themselves.
    """

    bases: list[Array]
    eigenvalues: list[Array]
    complements: list[Array | None]
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Flats:
    """k flats ``mu_c + span(V_c)`` in R^d.

    Parameters
    ----------
    bases : sequence of (j_c, d) arrays
        V_c, orthonormal rows.
    offsets : (k, d) array, optional
        mu_c; ``None`` means that every flat passes through the origin.
    complements : sequence of (d - j_c, d) arrays or None
        W_c, orthonormal rows spanning what V_c leaves, for flats with j_c > d/2; ``None`` for the others, and where it
        is not at hand.

    Notes
    -----
    With j_c > d/2 the residual ``|W_c (x - mu_c)|^2`` is cheaper than ``|x - mu_c|^2 - |V_c (x - mu_c)|^2``
    and has no cancellation, so it is the one that is used when W_c is there.
    """

    bases: Sequence[Array]
    offsets: Array | None
    complements: Sequence[Array | None]

    @classmethod
    def from_bases(cls, bases: Sequence[Array], offsets: Array | None = None) -> Flats:
        """Flats from bases alone; the complements come from a complete QR."""
        return cls(list(bases), offsets, [complement(V) if wants_complement(*V.shape) else None for V in bases])

    @classmethod
    def from_eigenspaces(cls, spaces: Eigenspaces, offsets: Array | None = None) -> Flats:
        """Flats from eigenspaces, whose complements are there already."""
        pairs = zip(spaces.bases, spaces.complements, strict=True)
        return cls(spaces.bases, offsets, [W if wants_complement(*V.shape) else None for V, W in pairs])

    @classmethod
    def joined(cls, parts: Sequence[Flats]) -> Flats:
        """The flats of all parts, of which all or none have offsets."""
        offsets = None
        if parts[0].offsets is not None:
            xp = _namespace(parts[0].offsets)
            offsets = xp.concatenate([part.offsets for part in parts])
        return cls([V for p in parts for V in p.bases], offsets, [W for p in parts for W in p.complements])

    @property
    def k(self) -> int:
        """Number of flats."""
        return len(self.bases)

    @cached_property
    def centre(self) -> Array | None:
        """Median of the offsets (d,) in float64, about which distances are taken; ``None`` without offsets.

        Offsets far from zero would cost digits in ``|x|^2 - ...``; and the median, unlike the mean, no single far flat
        moves.
        """
        if self.offsets is None:
            return None
        xp = _namespace(self.offsets)
        return xp.median(xp.asarray(self.offsets, dtype=np.float64), axis=0)


def wants_complement(j: int, d: int) -> bool:
    """Whether distances to a j-flat of R^d are taken along what it leaves rather than along itself."""
    return 2 * j > d


def _namespace(array: Array) -> Any:
    return np if isinstance(array, np.ndarray) else __import__("cupy")


def complement(basis: Array) -> Array:
    """Orthonormal rows (d - j, d) spanning the orthogonal complement of the rows of ``basis`` (j, d)."""
    xp = _namespace(basis)
    Q = xp.linalg.qr(basis.T, mode="complete")[0]
    return xp.ascontiguousarray(Q[:, basis.shape[0] :].T)
