"""Flats in a form that makes distances to them cheap and exact.

k flats are one array of stacked rows, and a :class:`Layout` says which rows are whose. A list of k arrays is made only
where a user asks for one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

Array: TypeAlias = np.ndarray
"""A NumPy or CuPy array. To mypy it is NumPy's, whose methods and attributes CuPy's arrays have as well."""

Kept: TypeAlias = "dict[object, Any]"
"""What a device keeps of rows or groups for as long as they are used; a key tells the kind of its value."""


@dataclass(frozen=True)
class Layout:
    """Which rows of a stack belong to which of k flats in R^d; on the host, and made once by :func:`layout_of`.

    Parameters
    ----------
    d : int
        Dimension of the space, the length of a row.
    dims : tuple of int
        Dimension j_c of each flat, its number of rows.
    """

    d: int
    dims: tuple[int, ...]

    @cached_property
    def k(self) -> int:
        """Number of flats."""
        return len(self.dims)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.d, self.dims))

    @cached_property
    def starts(self) -> np.ndarray:
        """Rows ``starts[c]:starts[c + 1]`` are those of flat c; (k + 1,) int64."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.dims, dtype=np.int64)])

    @cached_property
    def total(self) -> int:
        """Number of rows."""
        return sum(self.dims)

    @cached_property
    def width(self) -> int:
        """Dimension of the largest flat."""
        return max(self.dims, default=0)

    @cached_property
    def uniform(self) -> bool:
        """Whether all flats have the same dimension, so that the stack is an array (k, j, d) as well."""
        return len(set(self.dims)) <= 1

    @cached_property
    def owners(self) -> np.ndarray:
        """Flat of each row, (total,)."""
        return np.repeat(np.arange(self.k), self.dims)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Number of each row within its flat, (total,)."""
        return np.arange(self.total) - self.starts[self.owners]

    @cached_property
    def wide(self) -> np.ndarray:
        """Whether distances to a flat are taken along its complement, for it is the smaller; (k,) bool."""
        return np.array([wants_complement(j, self.d) for j in self.dims], bool)

    @cached_property
    def narrow(self) -> np.ndarray:
        """``False`` k times: what ``wide`` is where complements are not at hand."""
        return np.zeros(self.k, bool)

    @cached_property
    def has_wide(self) -> bool:
        """Whether any flat is wide."""
        return wants_complement(self.width, self.d)

    @cached_property
    def complements(self) -> Layout:
        """Layout of the complements of the wide flats."""
        return layout_of(self.d, tuple(self.d - j if wants_complement(j, self.d) else 0 for j in self.dims))

    @cached_property
    def shorter(self) -> Layout:
        """Layout of the complements of the wide flats and the bases of the others."""
        return layout_of(self.d, tuple(min(j, self.d - j) for j in self.dims))

    @cached_property
    def shorter_rows(self) -> np.ndarray:
        """Those rows, among all bases and then all complements."""
        owners, ranks = self.shorter.owners, self.shorter.ranks
        return ranks + np.where(self.wide[owners], self.total + self.complements.starts[owners], self.starts[owners])

    def rows(self, c: int) -> slice:
        """Rows of flat c."""
        return slice(int(self.starts[c]), int(self.starts[c + 1]))

    def split(self, stack: Array) -> list[Array]:
        """The rows of each flat, as views."""
        return [stack[self.rows(c)] for c in range(self.k)]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Dimension of each flat, (k,)."""
        return np.array(self.dims, np.int64)

    @cached_property
    def left_ranks(self) -> np.ndarray:
        """Number of each row of the complements within its flat, those of the basis counted."""
        return self.complements.ranks + self.sizes[self.complements.owners]

    @cached_property
    def _sent(self) -> dict[tuple[str, int], Array]:
        return {}

    def sent(self, like: Array, name: str) -> Array:
        """The array of this layout with this name, on the device of another array. It is sent there once."""
        if isinstance(like, np.ndarray):
            return getattr(self, name)
        key = name, like.device.id
        if key not in self._sent:
            self._sent[key] = namespace(like).asarray(getattr(self, name))
        return self._sent[key]

    def pad(self, stack: Array) -> Array:
        """The stack as an array (k, width, d), with zeros after shorter flats; a view if all have one dimension."""
        if self.uniform:
            return stack.reshape(self.k, self.width, self.d)
        xp = namespace(stack)
        padded = xp.zeros((self.k, self.width, self.d), stack.dtype)
        padded[self.sent(stack, "owners"), self.sent(stack, "ranks")] = stack
        return padded

    def pack(self, rows: Array) -> Array:
        """The stack of the first rows of each of ``rows`` (k, width or more, d)."""
        if self.uniform:
            return namespace(rows).ascontiguousarray(rows[:, : self.width]).reshape(-1, self.d)
        return rows[self.sent(rows, "owners"), self.sent(rows, "ranks")]

    def leading(self, vectors: Array) -> tuple[Array, Array | None]:
        """Bases from the first rows of each of ``vectors`` (k, d, d), and complements from the others if any is wide.

        Copies, unless they are all there is: a part would keep the rest in memory.
        """
        xp = namespace(vectors)
        if self.uniform:
            j = self.width
            if j == self.d:
                return xp.ascontiguousarray(vectors).reshape(-1, self.d), vectors[:0, 0]
            bases = xp.array(vectors[:, :j], order="C").reshape(-1, self.d)
            return bases, xp.array(vectors[:, j:], order="C").reshape(-1, self.d) if self.has_wide else None
        bases = self.pack(vectors)
        left = self.complements.sent(vectors, "owners"), self.sent(vectors, "left_ranks")
        return bases, vectors[left] if self.has_wide else None


@functools.lru_cache(maxsize=64)
def layout_of(d: int, dims: tuple[int, ...]) -> Layout:
    """The layout of flats of these dimensions. Every call gives the same one, which keeps what it has computed."""
    return Layout(d, dims)


@dataclass(frozen=True, eq=False)
class Flats:
    """k flats ``mu_c + span(V_c)`` in R^d.

    Parameters
    ----------
    layout : Layout
    bases : (sum j_c, d) array
        All V_c stacked, each with orthonormal rows.
    offsets : (k, d) array, optional
        mu_c; ``None`` means that every flat passes through the origin.
    complements : (sum of d - j_c, d) array, optional
        W_c of the flats with j_c > d/2, stacked: orthonormal rows spanning what V_c leaves. ``None`` if they are not at
        hand, or no flat is that large.

    Notes
    -----
    With j_c > d/2 the residual ``|W_c (x - mu_c)|^2`` is cheaper than ``|x - mu_c|^2 - |V_c (x - mu_c)|^2``
    and has no cancellation, so it is the one that is used when W_c is there.
    """

    layout: Layout
    bases: Array
    offsets: Array | None
    complements: Array | None

    @classmethod
    def from_bases(cls, bases: Sequence[Array], offsets: Array | None = None) -> Flats:
        """Flats from a list of bases alone."""
        layout = layout_of(bases[0].shape[1], tuple(len(V) for V in bases))
        return cls.spanned_by(layout, namespace(bases[0]).concatenate(bases), offsets)

    @classmethod
    def spanned_by(cls, layout: Layout, bases: Array, offsets: Array | None = None) -> Flats:
        """Flats from stacked bases alone; the complements come from a complete QR."""
        complements = None
        if layout.has_wide:
            parts = [complement(bases[layout.rows(c)]) for c in np.flatnonzero(layout.wide).tolist()]
            complements = namespace(bases).concatenate(parts)
        return cls(layout, bases, offsets, complements)

    @classmethod
    def points(cls, centres: Array, dtype: DTypeLike) -> Flats:
        """Flats of dimension 0, each a centre (k, d)."""
        k, d = centres.shape
        return cls(layout_of(d, (0,) * k), namespace(centres).zeros((0, d), dtype), centres, None)

    @property
    def k(self) -> int:
        """Number of flats."""
        return self.layout.k

    def basis(self, c: int) -> Array:
        """V_c, (j_c, d), a view."""
        return self.bases[self.layout.rows(c)]

    @property
    def exact(self) -> np.ndarray:
        """Whether squared products with directions add up to the residual, not to what a flat captures; (k,) bool."""
        return self.layout.narrow if self.complements is None else self.layout.wide

    @property
    def direction_layout(self) -> Layout:
        """Layout of the directions."""
        return self.layout if self.complements is None else self.layout.shorter

    @cached_property
    def directions(self) -> Array:
        """Directions to multiply x by, stacked: complements where there are, else bases."""
        if self.complements is None:
            return self.bases
        if self.layout.wide.all():
            return self.complements
        xp = namespace(self.bases)
        return xp.concatenate([self.bases, self.complements])[xp.asarray(self.layout.shorter_rows)]

    @cached_property
    def centre(self) -> Array | None:
        """Median of the offsets (d,) in float64, about which distances are taken; ``None`` without offsets.

        Offsets far from zero would cost digits in ``|x|^2 - ...``; and the median, unlike the mean, no single far flat
        moves.
        """
        if self.offsets is None:
            return None
        xp = namespace(self.offsets)
        return xp.median(xp.asarray(self.offsets, dtype=np.float64), axis=0)

    def followed_by(self, others: Flats) -> Flats:
        """These flats and then those, all with offsets or none."""
        xp = namespace(self.bases)

        def both(mine: Array | None, theirs: Array | None) -> Array | None:
            parts = [part for part in (mine, theirs) if part is not None]
            return xp.concatenate(parts) if parts else None

        layout = layout_of(self.layout.d, self.layout.dims + others.layout.dims)
        offsets, complements = both(self.offsets, others.offsets), both(self.complements, others.complements)
        return Flats(layout, xp.concatenate([self.bases, others.bases]), offsets, complements)

    def take(self, chosen: Sequence[int]) -> Flats:
        """The chosen flats, in that order."""
        xp, layout = namespace(self.bases), self.layout
        return Flats(
            layout_of(layout.d, tuple(layout.dims[c] for c in chosen)),
            take_rows(layout, self.bases, chosen),
            None if self.offsets is None else self.offsets[xp.asarray(chosen)],
            None if self.complements is None else take_rows(layout.complements, self.complements, chosen),
        )


class Eigenspaces(NamedTuple):
    """The leading eigenspace of each matrix of a batch, and what is left of the space.

    Attributes
    ----------
    layout : Layout
    bases : (sum j_c, d) array
        Orthonormal rows, stacked: eigenvectors of the j_c largest eigenvalues of each matrix, largest first.
    eigenvalues : (k, q) array or None
        Those that were computed, descending, never negative; zeros where a matrix has fewer. ``None`` from a
        step of an iteration.
    complements : (sum of d - j_c, d) array or None
        Orthonormal rows spanning what the bases of more than d/2 rows leave, stacked; ``None`` where there are no such
        bases, or it would have cost extra.
    exact : bool
        ``False`` if the bases are some steps of an iteration closer to the leading eigenspaces, not those themselves.
    ok : (k,) bool array or None
        Where it is false the iteration failed and the basis is the one it started from, or any: solve exactly, which
        says why. ``None`` if nothing can have failed.
    """

    layout: Layout
    bases: Array
    eigenvalues: Array | None
    complements: Array | None
    exact: bool = True
    ok: Array | None = None

    def flats(self, offsets: Array | None = None) -> Flats:
        """Flats that these span."""
        return Flats(self.layout, self.bases, offsets, self.complements)


def take_rows(layout: Layout, stack: Array, chosen: Sequence[int]) -> Array:
    """The rows of the chosen flats, in that order."""
    kept = layout_of(layout.d, tuple(layout.dims[c] for c in chosen))
    rows = layout.starts[np.asarray(chosen, np.int64)][kept.owners] + kept.ranks
    return stack[namespace(stack).asarray(rows)]


def wants_complement(j: int, d: int) -> bool:
    """Whether distances to a j-flat of R^d are taken along what it leaves rather than along itself."""
    return 2 * j > d


def namespace(array: Array) -> ModuleType:
    """NumPy or CuPy, whichever made the array."""
    return np if isinstance(array, np.ndarray) else __import__("cupy")


def complement(basis: Array) -> Array:
    """Orthonormal rows (d - j, d) spanning the orthogonal complement of the rows of ``basis`` (j, d)."""
    xp = namespace(basis)
    Q = xp.linalg.qr(basis.T, mode="complete")[0]
    return xp.ascontiguousarray(Q[:, basis.shape[0] :].T)
