"""How many bits each direction gets: one price of a bit decides for coefficients and for entries of bases.

Direction t of cluster c gets ``b_crt`` bits for the coefficient of each row of tier r, and ``b'_ct`` bits for each of
the d entries of its basis vector. With ``E_crt`` the weighted energy of these rows along it, what is left of them is::

    sum_r E_crt min(1, g(b_crt) + g(b'_ct))      g(b): error of b bits for a number of unit spread

and a bit costs theta: that is reverse water-filling for a mixture of Gaussians (PrismQuant, arXiv 2605.15507), with the
bases priced like the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SCALE_BITS, LAYOUT_BITS = 8, 4  # of a coefficient's scale, and of the note how many bits it has
HALVINGS = 26


@dataclass(frozen=True, eq=False)
class Energies:
    """Of one cluster: rows of each tier (tiers,), their weighted energy along each direction (tiers, directions).

    ``entries`` is how many numbers a basis vector has to be coded, 0 where the basis is made by a formula.
    """

    rows: np.ndarray
    energy: np.ndarray
    entries: int


@dataclass(frozen=True, eq=False)
class Layout:
    """Of one cluster: bits (tiers, directions) of coefficients, and of a basis vector's entries (directions,)."""

    bits: np.ndarray
    basis_bits: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Directions that are stored."""
        return np.flatnonzero(self.bits.any(axis=0))

    def left(self, errors: np.ndarray) -> np.ndarray:
        """Share of the energy that is left, (tiers, directions)."""
        return np.where(self.bits > 0, np.minimum(1, errors[self.bits] + errors[self.basis_bits]), 1)


def price(energies: Sequence[Energies], theta: float, errors: np.ndarray) -> list[Layout]:
    """The best layouts where a bit costs theta."""
    return [_price_one(own, theta, errors) for own in energies]


def _price_one(own: Energies, theta: float, errors: np.ndarray) -> Layout:
    from ksubspaces.kernels.loops import price_bits  # Numba is not for whoever only reads

    layout = Layout(np.zeros(own.energy.shape, np.int64), np.zeros(own.energy.shape[1], np.int64))
    fixed = LAYOUT_BITS * (int((own.rows > 0).sum()) + (own.entries > 0))
    price_bits(own.energy, own.rows, own.entries, theta, errors, fixed, SCALE_BITS, layout.bits, layout.basis_bits)
    return layout


def allocate(
    energies: Sequence[Energies], budget: float, errors: np.ndarray, size: Callable[[Sequence[Layout]], float]
) -> tuple[list[Layout], float]:
    """The best layouts of at most ``budget`` in size, and the price of a bit there.

    Layouts change in steps, all rows of a tier at once; what the last step leaves goes to single directions.
    """
    total = sum(float(own.energy.sum()) for own in energies)
    low, high = bracket(total, lambda theta: size(price(energies, theta, errors)) <= budget)
    found = price(energies, high, errors)
    return _fill(energies, found, price(energies, low, errors), budget, errors, size), high


def bracket(total: float, fits: Callable[[float], bool]) -> tuple[float, float]:
    """The least price of a bit that fits, and one just below it, where all energy is ``total``: (below, price)."""
    low, high = total * 1e-18 + 1e-300, total + 1e-300
    for _ in range(HALVINGS):
        theta = float(np.sqrt(low * high))
        low, high = (low, theta) if fits(theta) else (theta, high)
    return low, high


def expect(energies: Sequence[Energies], layouts: Sequence[Layout], errors: np.ndarray) -> float:
    """Energy that layouts are expected to leave."""
    return sum(float((own.energy * at.left(errors)).sum()) for own, at in zip(energies, layouts, strict=True))


def _fill(
    energies: Sequence[Energies],
    found: list[Layout],
    more: Sequence[Layout],
    budget: float,
    errors: np.ndarray,
    size: Callable[[Sequence[Layout]], float],
) -> list[Layout]:
    """Layouts that take of a larger layout what fits, the directions first that gain most for their bits."""
    steps = []
    for c, (own, few, many) in enumerate(zip(energies, found, more, strict=True)):
        gain = (own.energy * (few.left(errors) - many.left(errors))).sum(axis=0)
        cost = (own.rows[:, None] * (many.bits - few.bits)).sum(axis=0) + own.entries * (
            many.basis_bits - few.basis_bits
        )
        steps += [(gain[t] / cost[t], c, int(t)) for t in np.flatnonzero((gain > 0) & (cost > 0))]
    order = sorted(steps, reverse=True)

    def with_first(many: int) -> list[Layout]:
        layouts = [Layout(own.bits.copy(), own.basis_bits.copy()) for own in found]
        for _, c, t in order[:many]:
            layouts[c].bits[:, t], layouts[c].basis_bits[t] = more[c].bits[:, t], more[c].basis_bits[t]
        return layouts

    least, most = 0, len(order)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if size(with_first(middle)) <= budget else (least, middle - 1)
    return with_first(least)
