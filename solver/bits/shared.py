"""Several matrices under one budget: one price of a bit over all of them.

What counts of each is its relative error, so energies are in shares of their matrix. Each is coded once at as many bits
a number; at the price where what the plans then found take together fits the budget, each one's part of it is read off.
"""

from __future__ import annotations

from collections.abc import Sequence

from .allocation import Energies, bracket, price
from .compression import Quantizer
from .quantized import QuantizedFactorization
from .search import Candidate, TooFew


class Quantizers:
    """Several matrices, in packed bits of any size together."""

    def __init__(self, each: Sequence[Quantizer]) -> None:
        self.each = each

    @property
    def size(self) -> int:
        """Numbers of all."""
        return sum(one.shape[0] * one.shape[1] for one in self.each)

    def within(self, nbytes: float) -> list[QuantizedFactorization]:
        """The least sum of relative errors that is found in so many bytes together.

        Raises
        ------
        TooFew
            When there is no room for the least code of each.
        """
        if len(self.each) == 1:
            return [self.each[0].within(nbytes)]
        for one in self.each:
            _begin(one, nbytes / self.size * one.shape[0] * one.shape[1])
        found, left = [], nbytes
        parts = self._parts(nbytes)
        for number, (one, part) in enumerate(zip(self.each, parts, strict=True)):
            # What those before did not use falls to those after them.
            own = left * part / sum(parts[number:])
            found.append(one.within(int(own)))
            left -= found[-1].nbytes
        return found

    def _parts(self, nbytes: float) -> list[float]:
        """Bytes of each at one price of a bit."""
        plans = [_Plan(one) for one in self.each]

        def sizes(theta: float) -> list[float]:
            return [plan.size(theta) for plan in plans]

        low, high = bracket(len(plans), lambda theta: sum(sizes(theta)) <= nbytes)
        few, many = sizes(high), sizes(low)
        if sum(few) > nbytes:
            raise TooFew(f"{nbytes:.0f} bytes are too few for all of these tables; give more bits or bytes")
        share = (nbytes - sum(few)) / max(1, sum(many) - sum(few))  # layouts change in steps
        return [less + min(share, 1) * (more - less) for less, more in zip(few, many, strict=True)]


def _begin(one: Quantizer, nbytes: float) -> None:
    """Find clusters at about this size, or at the least at which there are any."""
    while True:
        try:
            one.search.within(nbytes)
            return
        except TooFew:
            nbytes *= 2


class _Plan:
    """What a matrix takes at a price, by the clusters that won it last; energies are shares of its own."""

    def __init__(self, one: Quantizer) -> None:
        candidate = one.search.winner
        self.candidate: Candidate = candidate
        unit = candidate.rows.unit / one.energy if one.energy > 0 else 0.0
        self.energies = [Energies(own.rows, own.energy * unit, own.entries) for own in candidate.plan.energies]
        self.fits = one.search.size(candidate)

    def size(self, theta: float) -> float:
        """Bytes at a price of a bit."""
        layouts = price(self.energies, theta, self.candidate.code.errors)
        return self.fits([own.rows for own in self.energies], self.candidate.plan.kinds, layouts)
