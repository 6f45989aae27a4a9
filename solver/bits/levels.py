"""Levels of b bits for numbers of unit spread: each on its own (Lloyd and Max), or read off a trellis.

A trellis of 2^width states comes within 0.3 to 0.5 dB of what b bits can say of a Gaussian number, where a quantiser of
single numbers stays 1 to 1.5 dB away (Marcellin and Fischer, 1990; "QTIP", Tseng et al., NeurIPS 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

MOST = 8  # bits of a number
TRELLIS_BITS = 4  # with more, what a trellis gains is not worth its states
SAMPLE = (256, 128)  # streams of Gaussian numbers on which a trellis is trained
TURNS = 12


@dataclass(frozen=True, eq=False)
class Code:
    """Levels of 0 to 8 bits, and what they leave of a number of unit spread.

    Attributes
    ----------
    levels : tuple of 9 float32 arrays
        2^b ascending numbers, or 2^width where windows overlap.
    errors : (9,) float64 array
        Mean squared error for a Gaussian.
    """

    levels: tuple[np.ndarray, ...]
    errors: np.ndarray

    @property
    def widths(self) -> np.ndarray:
        """Bits of the window of b bits, (9,)."""
        return np.array([table.size.bit_length() - 1 for table in self.levels], np.uint8)


@cache
def code(width: int = 0) -> Code:
    """The code of Gaussian numbers: scalar, or with trellises of 2^width states up to 4 bits."""
    pairs = [(np.zeros(1, np.float32), 1.0)]
    for b in range(1, MOST + 1):
        pairs.append(_trellis(b, width) if b <= TRELLIS_BITS and b < width else lloyd_max(b))
    return Code(tuple(table for table, _ in pairs), np.array([error for _, error in pairs]))


def lloyd_max(b: int) -> tuple[np.ndarray, float]:
    """The 2^b best levels of a Gaussian number, and their mean squared error (Lloyd, 1957; Max, 1960)."""
    from scipy.stats import norm

    ends = norm.ppf(np.linspace(0, 1, 2**b + 1))
    for _ in range(2000):
        shares, heights = np.diff(norm.cdf(ends)), norm.pdf(ends)
        levels = (heights[:-1] - heights[1:]) / shares
        new = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        if np.abs(new[1:-1] - ends[1:-1]).max(initial=0) < 1e-7:
            break
        ends = new
    return levels.astype(np.float32), float(1 - (shares * levels**2).sum())


def _trellis(b: int, width: int) -> tuple[np.ndarray, float]:
    """Levels of a trellis for Gaussian numbers, trained on some, and their mean squared error on others."""
    from scipy.stats import norm

    from ksubspaces.kernels.cpu_trellis import search

    rng, states = np.random.default_rng(b), 1 << width
    windows = np.arange(states)
    # The 2^b successors of a state differ in their highest bits: these spread, the others shift them a little.
    newest, older = windows >> (width - b), windows & ((1 << (width - b)) - 1)
    shift = (older * 2654435761 % 2**32) / 2**32
    levels = norm.ppf(np.clip((newest + shift) / 2**b, 1e-3, 1 - 1e-3)).astype(np.float32)
    tables, bits = [np.zeros(1, np.float32)] * (MOST + 1), np.full(SAMPLE[1], b)
    Z = rng.standard_normal(SAMPLE).astype(np.float32)
    for _ in range(TURNS):
        tables[b] = levels
        levels = fit_levels(levels, search(Z, bits, tables), Z)
    tables[b] = levels
    Z = rng.standard_normal(SAMPLE).astype(np.float32)
    return levels, float(np.square(Z - levels[search(Z, bits, tables)]).mean())


def fit_levels(levels: np.ndarray, windows: np.ndarray, Z: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Each level the mean of the numbers that were given it; one that few were given stays."""
    numbers, own = windows.ravel(), None if weights is None else weights.ravel()
    sums = np.bincount(numbers, Z.ravel() if own is None else Z.ravel() * own, minlength=levels.size)
    counts = np.bincount(numbers, own, minlength=levels.size)
    seen = np.bincount(numbers, minlength=levels.size) > 3
    return np.where(seen, sums / np.where(counts > 0, counts, 1), levels).astype(np.float32)
