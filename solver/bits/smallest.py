"""The smallest size at which no more is lost than allowed: few trials, each a whole encoding that is measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

TRIALS = 10
CLOSE = 0.005  # of the size, and a hundredth of what may be lost: nearer than that no more trials are made
PLENTY = (9, 12, 20, math.inf)  # bits a number that are tried before a bound is refused
AIM = -0.005  # logarithm of the share of what may be lost that a trial aims at
NAT = 1 / (16 * math.log(2))  # bytes a number by which the logarithm of what is lost falls by one: 6 dB a bit


class Unreachable(ValueError):
    """What is lost at the largest size is more than allowed."""

    def __init__(self, lost: float) -> None:
        super().__init__(f"the most bits there are lose {lost:.3g}")
        self.lost = lost


@dataclass(frozen=True)
class Trial(Generic[T]):
    """What was coded, the bytes that it takes, and what it loses."""

    result: T
    nbytes: float
    lost: float


def smallest(attempt: Callable[[float], Trial[T] | None], allowed: float, start: float, numbers: int) -> Trial[T]:
    """The smallest trial that loses at most ``allowed``, of ``numbers`` numbers.

    The logarithm of what is lost falls nearly linearly with the size, so each trial goes where the line through the
    last ones, or through the ends of the bracket, says. ``attempt`` takes a budget in bytes, and gives None where it is
    too small for anything. Three to six trials do as a rule.

    Raises
    ------
    Unreachable
        When even without a budget more is lost.
    """
    kept: Trial[T] | None = None  # the smallest that loses no more than allowed
    low, excess_low, excess_kept = 0.0, math.nan, math.nan  # the largest size that loses more; logarithms of how much
    before: tuple[float, float] | None = None
    slope, budget = NAT * numbers, start
    for turn in range(TRIALS):
        trial = attempt(budget) if budget < math.inf else _at_most(attempt, allowed, numbers)
        excess = math.nan if trial is None else _excess(trial.lost, allowed)
        if trial is not None and before is not None and excess != before[1]:
            slope = min(max((trial.nbytes - before[0]) / (before[1] - excess), slope / 4), 4 * slope)
        if trial is not None and excess <= 0:
            if before is not None and before[1] <= 0:
                excess_low /= 2  # an end that stays would hold the line back (Dowell and Jarratt, 1971: Illinois)
            if kept is None or trial.nbytes < kept.nbytes:
                kept, excess_kept = trial, excess
        else:
            if trial is not None and math.isinf(budget):
                raise Unreachable(trial.lost)
            if before is not None and before[1] > 0:
                excess_kept /= 2
            low, excess_low = max(low, budget), excess  # sizes come in steps: nothing else is up to there
        before = None if trial is None else (trial.nbytes, excess)
        if kept is not None and (0 >= excess > 4 * AIM or kept.nbytes - low <= CLOSE * kept.nbytes):
            break
        if kept is not None and low > 0:
            share = 0.5 if math.isnan(excess_low) else (excess_low - AIM) / (excess_low - excess_kept)
            budget = low + min(max(share, 0.01), 0.99) * (kept.nbytes - low)
        elif trial is None:
            budget = 2 * budget
        else:
            guess = trial.nbytes + slope * (excess - AIM)
            budget = min(max(guess, trial.nbytes / 4, (1 + 2**turn * CLOSE) * low), 4 * trial.nbytes)
        if kept is None and (turn > TRIALS // 2 or (trial is not None and trial.nbytes < 0.8 * low)):
            budget = math.inf
    assert kept is not None
    return kept


def _at_most(attempt: Callable[[float], Trial[T] | None], allowed: float, numbers: int) -> Trial[T] | None:
    """The trial that loses least of those with bits in plenty; the first of them that loses at most ``allowed``.

    What is found there differs by more than its size says: nearly as much is expected of all.
    """
    best: Trial[T] | None = None
    for bits in PLENTY:
        trial = attempt(bits * numbers / 8)
        if trial is not None and (best is None or trial.lost < best.lost):
            best = trial
        if best is not None and _excess(best.lost, allowed) <= 0:
            break
    return best


def _excess(lost: float, allowed: float) -> float:
    return math.log(max(lost, allowed * 1e-9) / allowed * (1 + 1e-6))  # so that rounding does no harm
