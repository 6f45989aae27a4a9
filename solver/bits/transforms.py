"""Which rows share a transform, and which transform: the alternation under the price of a bit.

Rows of one cluster share an orthonormal basis, in which they are coded; rows of one tier of it share a layout of bits.
Tiers begin as those of weight, a factor of two each. At the price theta of a bit a row goes where it costs least::

    argmin_cr  w_i sum_t (z_it^2 (h(b_crt) + g(b'_ct)) + s_crt^2 (g(b_crt) - h(b_crt))) + theta sum_t b_crt

with z = V_c x_i, where s_crt is the scale of a term, and b bits leave ``g - h + h u^2`` of a number u of unit spread.

With one cluster that is transform coding (Karhunen-Loeve), with bits from {0, 32} K-subspaces within a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ksubspaces import kernels

from .allocation import Energies, Layout, allocate, bracket, expect, price, use_up
from .levels import Code

TIERS = 10  # the last of them for rows of zeros, which take no bits and stay zero
BLOCK = 1 << 12  # rows multiplied at a time
CODED, ROTATED, PLAIN = range(3)  # kinds of bases: coded entry by entry, or made by a formula


@dataclass(frozen=True, eq=False)
class Rows:
    """What is coded.

    Attributes
    ----------
    A : (n, d) float32 array
    weights : (n,) array
        In multiples of a unit; of rows without their gains.
    unit : float
    tiers : (n,) int32 array
    gains : (n,) float32 array or None
        Lengths, which are coded for themselves, or 1: rows are coded without them. A copy without them would double the
        memory.
    """

    A: np.ndarray
    weights: np.ndarray
    unit: float
    tiers: np.ndarray
    gains: np.ndarray | None = None

    def take(self, numbers: np.ndarray | slice) -> np.ndarray:
        """These rows, without their gains."""
        return self.A[numbers] if self.gains is None else self.A[numbers] / self.gains[numbers, None]


@dataclass(frozen=True, eq=False)
class Plan:
    """Clusters, their bases and layouts, before anything is coded.

    Attributes
    ----------
    labels, tiers : (n,) int32 arrays
    bases : list of (d, d) float32 arrays
        Orthonormal, the directions of most energy first where they are coded.
    kinds : list of int
    energies : list of Energies
    layouts : list of Layout
    left : float
        Weighted squared error that is expected, in units.
    nbytes : float
        Bytes that it takes.
    """

    labels: np.ndarray
    tiers: np.ndarray
    bases: list[np.ndarray]
    kinds: list[int]
    energies: list[Energies]
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


def plan(
    rows: Rows,
    labels: np.ndarray,
    kind: int,
    budget: float,
    code: Code,
    size: Size,
    turns: int,
    enough: float = np.inf,
) -> Plan:
    """Alternate from these labels: bases and layouts for the rows, rows to where they cost least.

    What leaves more than ``enough`` after the first turn has no others.
    """
    best: Plan | None = None
    tiers, errors = rows.tiers, code.errors
    for turn in range(turns + 1):
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
        bases, energies, squares = _transforms(rows, labels, tiers, kind)
        kinds = [kind] * len(bases)
        fits = partial(size, [own.rows for own in energies], kinds)
        layouts, theta = allocate(energies, budget, errors, fits)
        left = expect(energies, layouts, errors)
        if best is None or left < best.left:
            best = Plan(labels, tiers, bases, kinds, energies, layouts, left, fits(layouts))
        if turn == turns or (turn and best.left > enough):
            break
        before = labels, tiers
        labels, tiers = _assign(rows, bases, energies, squares, layouts, theta, code)
        if (labels == before[0]).all() and (tiers == before[1]).all():
            break
    assert best is not None
    fits = partial(size, [own.rows for own in best.energies], best.kinds)
    tables = np.array([0, *(16 * table.size for table in code.levels[1:])])
    layouts = use_up(best.energies, best.layouts, budget, errors, tables, fits)
    return replace(best, layouts=layouts, left=expect(best.energies, layouts, errors), nbytes=fits(layouts))


def size_for(rows: Rows, left: float, code: Code, size: Size) -> float:
    """Bytes at which one transform is expected to leave this weighted squared error, in units."""
    energies = _transforms(rows, np.zeros(len(rows.A), np.int32), rows.tiers, CODED)[1]
    total = sum(float(own.energy.sum()) for own in energies)
    below, _ = bracket(total, lambda theta: expect(energies, price(energies, theta, code.errors), code.errors) > left)
    layouts = price(energies, below, code.errors)
    return size([own.rows for own in energies], [CODED], layouts)


def rotation(d: int) -> np.ndarray:
    """An orthonormal matrix (d, d) that mixes all columns: cosines with random signs, the same for every d."""
    import scipy.fft

    signs = np.random.default_rng(d).integers(0, 2, d) * 2 - 1
    return (scipy.fft.dct(np.eye(d), axis=0, norm="ortho") * signs).astype(np.float32)


def make_basis(kind: int, d: int) -> np.ndarray:
    """The basis that a formula makes."""
    return rotation(d) if kind == ROTATED else np.eye(d, dtype=np.float32)


def _transforms(
    rows: Rows, labels: np.ndarray, tiers: np.ndarray, kind: int
) -> tuple[list[np.ndarray], list[Energies], list[np.ndarray]]:
    """Bases of the clusters, the energies of their tiers, and the squares of their scales."""
    d, k = rows.A.shape[1], int(labels.max()) + 1
    groups = kernels.group_rows(labels, k)
    if kind == CODED:
        weights = rows.weights if rows.gains is None else rows.weights / np.square(rows.gains, dtype=np.float64)
        moments = kernels.second_moments(rows.A, groups, weights.astype(rows.A.dtype))
        spaces = kernels.top_eigenspaces(moments.scatter, [d] * k, np.float32)
        bases = list(np.asarray(spaces.bases).reshape(k, d, d))
    else:
        bases = [make_basis(kind, d)] * k
    energies, means = [], []
    for c, V in enumerate(bases):
        own, energy = groups.rows(c), np.zeros((TIERS, d))
        counts = np.bincount(tiers[own], minlength=TIERS)
        for start in range(0, len(own), BLOCK):
            part = own[start : start + BLOCK]
            squares, inside = np.square(rows.take(part) @ V.T), tiers[part] == np.arange(TIERS)[:, None]
            energy += (inside * rows.weights[part]).astype(np.float32) @ squares
        energies.append(Energies(counts, energy, d if kind == CODED else 0))
        mass = np.bincount(tiers[own], rows.weights[own], minlength=TIERS)
        means.append(energy / np.where(mass > 0, mass, 1)[:, None])
    return bases, energies, means


def _assign(
    rows: Rows,
    bases: Sequence[np.ndarray],
    energies: Sequence[Energies],
    squares: Sequence[np.ndarray],
    layouts: Sequence[Layout],
    theta: float,
    code: Code,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and tiers of least cost; rows of zeros stay in their tier."""
    labels, tiers = np.zeros(len(rows.A), np.int32), np.full(len(rows.A), TIERS - 1, np.int32)
    ways = [
        (c, V, np.flatnonzero(own.rows[:-1]), *_shares(layout, scales, code), layout.bits.sum(axis=1))
        for c, (V, own, scales, layout) in enumerate(zip(bases, energies, squares, layouts, strict=True))
        if own.rows[:-1].any()
    ]
    others = np.flatnonzero(rows.tiers < TIERS - 1)
    for start in range(0, len(others), BLOCK):
        part = others[start : start + BLOCK]
        X, w, least = rows.take(part), rows.weights[part], np.full(len(part), np.inf)
        for c, V, present, shares, constant, bits in ways:
            costs = np.square(X @ V.T) @ shares[present].T.astype(np.float32)
            costs = w[:, None] * (costs + constant[present]) + theta * bits[present]
            tier = costs.argmin(axis=1)
            cost = costs[np.arange(len(part)), tier]
            better = cost < least
            least[better], labels[part[better]], tiers[part[better]] = cost[better], c, present[tier[better]]
    return labels, tiers


def _shares(layout: Layout, squares: np.ndarray, code: Code) -> tuple[np.ndarray, np.ndarray]:
    """Of each tier: what is left of a row's squares (tiers, d), and what it adds whatever they are (tiers,)."""
    on, both = layout.bits > 0, code.errors[layout.basis_bits]
    shares = np.where(on, np.minimum(1, code.slopes[layout.bits] + both), 1)
    fixed = code.errors[layout.bits] - code.slopes[layout.bits]
    return shares, (np.where(on, fixed, 0) * squares).sum(axis=1)
