"""Which rows share a transform, and which transform: the alternation under the price of a bit.

Rows of one cluster share an orthonormal basis, in which they are coded; rows of one tier of weight (a factor of two)
share a layout of bits. At the price theta of a bit a row goes where it costs least::

    argmin_c  w_i sum_t z_it^2 min(1, g(b_crt) + g(b'_ct)) + theta sum_t b_crt       z = V_c x_i, r its tier

With one cluster that is transform coding (Karhunen-Loeve), with bits from {0, 32} K-subspaces within a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ksubspaces import kernels

from .allocation import Energies, Layout, allocate

TIERS = 10  # the last of them for rows of zeros, which take no bits and stay zero
BLOCK = 1 << 14  # rows multiplied at a time
CODED, ROTATED, PLAIN = range(3)  # kinds of bases: coded entry by entry, or made by a formula


@dataclass(frozen=True, eq=False)
class Rows:
    """What is coded: rows (n, d) float32, weights (n,) in multiples of a unit, and each row's tier (n,)."""

    A: np.ndarray
    weights: np.ndarray
    unit: float
    tiers: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """Clusters, their bases and layouts, before anything is coded.

    Attributes
    ----------
    labels : (n,) int32 array
    bases : list of (d, d) float32 arrays
        Orthonormal, the directions of most energy first where they are coded.
    kinds : list of int
    layouts : list of Layout
    left : float
        Weighted squared error that is expected, in units.
    nbytes : float
        Bytes that it takes.
    """

    labels: np.ndarray
    bases: list[np.ndarray]
    kinds: list[int]
    layouts: list[Layout]
    left: float
    nbytes: float


Size = Callable[[Sequence[np.ndarray], Sequence[int], Sequence[Layout]], float]
"""Bytes of clusters with so many rows in each tier, kinds of bases, and layouts."""


def tiers_of(weights: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Tiers of a factor of two from the largest weight down; the last but one has all that are lighter."""
    largest = weights.max()
    shares = np.where(weights > 0, weights, np.ldexp(largest, -TIERS)) / (largest or 1)
    tiers = np.minimum(np.floor(-np.log2(np.where(shares > 0, shares, 1))), TIERS - 2).astype(np.int32)
    tiers[~A.any(axis=1)] = TIERS - 1
    return tiers


def plan(rows: Rows, labels: np.ndarray, kind: int, budget: float, errors: np.ndarray, size: Size, turns: int) -> Plan:
    """Alternate from these labels: bases and layouts for the rows, rows to where they cost least."""
    best: Plan | None = None
    for turn in range(turns + 1):
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
        bases, energies = _transforms(rows, labels, kind)
        kinds = [kind] * len(bases)
        fits = partial(size, [own.rows for own in energies], kinds)
        layouts, theta = allocate(energies, budget, errors, fits)
        left = sum(
            float((own.energy * layout.left(errors)).sum()) for own, layout in zip(energies, layouts, strict=True)
        )
        if best is None or left < best.left:
            best = Plan(labels, bases, kinds, layouts, left, fits(layouts))
        if turn == turns or len(bases) == 1:
            break
        labels = _assign(rows, bases, layouts, theta, errors)
    assert best is not None
    return best


def rotation(d: int) -> np.ndarray:
    """An orthonormal matrix (d, d) that mixes all columns: cosines with random signs, the same for every d."""
    import scipy.fft

    signs = np.random.default_rng(d).integers(0, 2, d) * 2 - 1
    return (scipy.fft.dct(np.eye(d), axis=0, norm="ortho") * signs).astype(np.float32)


def make_basis(kind: int, d: int) -> np.ndarray:
    """The basis that a formula makes."""
    return rotation(d) if kind == ROTATED else np.eye(d, dtype=np.float32)


def _transforms(rows: Rows, labels: np.ndarray, kind: int) -> tuple[list[np.ndarray], list[Energies]]:
    d, k = rows.A.shape[1], int(labels.max()) + 1
    groups = kernels.group_rows(labels, k)
    if kind == CODED:
        moments = kernels.second_moments(rows.A, groups, rows.weights.astype(rows.A.dtype))
        spaces = kernels.top_eigenspaces(moments.scatter, [d] * k, np.float32)
        bases = list(np.asarray(spaces.bases).reshape(k, d, d))
    else:
        bases = [make_basis(kind, d)] * k
    energies = []
    for c, V in enumerate(bases):
        own, energy = groups.rows(c), np.zeros((TIERS, d))
        for start in range(0, len(own), BLOCK):
            part = own[start : start + BLOCK]
            squares = np.square(rows.A[part] @ V.T)
            for r in np.unique(rows.tiers[part]):
                at = rows.tiers[part] == r
                energy[r] += rows.weights[part][at] @ squares[at]
        counts = np.bincount(rows.tiers[own], minlength=TIERS)
        energies.append(Energies(counts, energy, d if kind == CODED else 0))
    return bases, energies


def _assign(
    rows: Rows, bases: Sequence[np.ndarray], layouts: Sequence[Layout], theta: float, errors: np.ndarray
) -> np.ndarray:
    """Labels of least cost; what directions without bits leave is the rest of the row's energy."""
    labels = np.empty(len(rows.A), np.int32)
    kept = [(V, 1 - layout.left(errors), layout.bits.sum(axis=1)) for V, layout in zip(bases, layouts, strict=True)]
    for r in range(TIERS):
        own = np.flatnonzero(rows.tiers == r)
        for start in range(0, len(own), BLOCK):
            part = own[start : start + BLOCK]
            X, costs = rows.A[part], np.empty((len(part), len(kept)))
            for c, (V, saved, bits) in enumerate(kept):
                on = np.flatnonzero(saved[r])
                Z = X @ (V[on] * np.sqrt(saved[r, on])[:, None].astype(np.float32)).T
                costs[:, c] = theta * bits[r] - rows.weights[part] * np.einsum("ij,ij->i", Z, Z)
            labels[part] = costs.argmin(axis=1)
    return labels
