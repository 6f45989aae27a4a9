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
SPARE = 0.001  # of the budget: what may be left
SINGLE, ROUNDED = 64, 4  # steps that are tried one by one; bytes by which their size may be less than counted


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

    return with_first(_most_that_fit(len(order), lambda many: size(with_first(many)) <= budget))


def _most_that_fit(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that fits, where 0 does."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least


def use_up(
    energies: Sequence[Energies],
    layouts: Sequence[Layout],
    budget: float,
    errors: np.ndarray,
    tables: np.ndarray,
    size: Callable[[Sequence[Layout]], float],
) -> list[Layout]:
    """Layouts with what is left of the budget, in the smallest steps there are: bits of one direction for one tier.

    One price leaves much of a small budget, for all directions like one another change at once. A number of bits that
    is not in use yet takes ``tables`` (9,) bits more, for its levels; such numbers at once or last, what is better.
    """
    found = [_fill_up(energies, layouts, budget, errors, tables, size, last) for last in (False, True)]
    return min(found, key=lambda layouts: expect(energies, layouts, errors))


def _fill_up(
    energies: Sequence[Energies],
    layouts: Sequence[Layout],
    budget: float,
    errors: np.ndarray,
    tables: np.ndarray,
    size: Callable[[Sequence[Layout]], float],
    last: bool,
) -> list[Layout]:
    """The same, with numbers of bits that are not in use yet at once or last."""
    layouts, largest, unused = list(layouts), np.inf, tables + (np.inf if last else 0.0)
    while (spare := budget - size(layouts)) > SPARE * budget and largest > 0:
        stored = [at.basis_bits for own, at in zip(energies, layouts, strict=True) if own.entries]
        widths = np.concatenate([*(at.bits.ravel() for at in layouts), *stored])
        uses = np.bincount(widths, minlength=tables.size)
        extra, freed = np.where(uses > 0, 0, unused), np.where(uses == 1, tables, 0)
        steps = [
            (-ratio, cost, c, t, r, bits, basis_bits)
            for c, (own, at) in enumerate(zip(energies, layouts, strict=True))
            for ratio, cost, t, r, bits, basis_bits in _steps(
                own, at, extra, freed, errors, min(8 * (spare + ROUNDED), largest)
            )
        ]
        steps.sort()

        def taken(part: slice) -> list[Layout]:
            found = [Layout(own.bits.copy(), own.basis_bits.copy()) for own in layouts]  # noqa: B023
            for *_, c, t, r, bits, basis_bits in steps[part]:  # noqa: B023
                found[c].bits[r, t], found[c].basis_bits[t] = bits, basis_bits
            return found

        # Bits are counted nearly, not quite: bytes are rounded up, and levels may fall out of use.
        parts = [slice(_most_that_fit(len(steps), lambda many: size(taken(slice(many))) <= budget))]
        parts += [slice(i, i + 1) for i in range(min(len(steps), SINGLE))]
        fitting = next((part for part in parts if steps[part] and size(taken(part)) <= budget), None)
        if fitting is not None:
            layouts, largest = taken(fitting), np.inf
        elif steps:
            largest = steps[0][1] - 1
        elif last:
            last, unused, largest = False, tables, np.inf
        else:
            break
    return layouts


Step = tuple[float, float, int, int, int, int]
"""Gain for a bit, bits, direction, tier, its bits, those of the basis vector."""


def _steps(
    own: Energies, at: Layout, extra: np.ndarray, freed: np.ndarray, errors: np.ndarray, most: float
) -> list[Step]:
    """The best step of each direction that takes at most so many bits."""
    m, present = own.energy.shape[1], np.flatnonzero(own.rows)
    before, on = at.left(errors), at.bits.any(axis=0)
    fixed = np.where(on, 0, LAYOUT_BITS * (len(present) + (own.entries > 0)))
    best, found = np.zeros(m), np.zeros((4, m))
    widths = np.flatnonzero(extra <= most)
    for basis in widths if own.entries else [errors.size - 1]:
        above = np.maximum(at.basis_bits, basis)
        gains = own.energy * (before - Layout(at.bits, above).left(errors))
        for r in present:
            for b in widths:
                bits = np.maximum(at.bits[r], b)
                left = np.where((bits > 0) & (above > 0), np.minimum(1, errors[bits] + errors[above]), 1)
                gain = gains.sum(axis=0) - gains[r] + own.energy[r] * (before[r] - left)
                cost = fixed + own.entries * (above - at.basis_bits) + own.rows[r] * (bits - at.bits[r])
                cost = cost + SCALE_BITS * ((bits > 0) & (at.bits[r] == 0))
                cost = cost + extra[bits] - freed[at.bits[r]] * (bits > at.bits[r])
                if own.entries:
                    cost = cost + extra[above] - freed[at.basis_bits] * (above > at.basis_bits)
                ratio = np.where((gain > 0) & (cost <= most), gain / np.maximum(cost, 1), 0)
                better = ratio > best
                best[better] = ratio[better]
                found[:, better] = np.stack([cost, np.full(m, r), bits, above])[:, better]
    tier, bits, above = found[1:].astype(int).tolist()
    return [(float(best[t]), float(found[0, t]), t, tier[t], bits[t], above[t]) for t in np.flatnonzero(best).tolist()]
