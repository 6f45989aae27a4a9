"""Levels of b bits for numbers of unit spread: each on its own (Lloyd and Max), or read off a trellis.

A trellis of 1,024 states comes within 0.8 to 1.6 dB of what b bits can say of a Gaussian number, where a quantiser of
single numbers stays 1.6 to 4.3 dB away. Its levels are Gaussian numbers in random order (a random code: "QTIP", Tseng
et al., NeurIPS 2024), moved to the means of what falls to them (Marcellin and Fischer, 1990); trained ones are in
``trellis.safetensors``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ..storage import load_arrays, save_arrays

MOST = 8  # bits of a number
TRELLIS_BITS = 7  # with more, a window would be little wider than a number's own bits
WIDTHS = (8, 10)  # bits of the windows for which there are trained levels
SAMPLE = (2048, 128)  # streams of Gaussian numbers on which a trellis is trained
TURNS = 40
TRAINED = Path(__file__).with_name("trellis.safetensors")


@dataclass(frozen=True, eq=False)
class Code:
    """Levels of 0 to 8 bits, and what they leave of a number of unit spread.

    Attributes
    ----------
    levels : tuple of 9 float32 arrays
        2^b ascending numbers, or 2^width where windows overlap.
    errors : (9,) float64 array
        Mean squared error for a Gaussian.
    slopes : (9,) float64 array
        Share of a number's own square in that: b bits leave ``errors - slopes + slopes u^2`` of a number u, nearly.
    """

    levels: tuple[np.ndarray, ...]
    errors: np.ndarray
    slopes: np.ndarray

    @property
    def widths(self) -> np.ndarray:
        """Bits of the window of b bits, (9,)."""
        return np.array([table.size.bit_length() - 1 for table in self.levels], np.uint8)


@cache
def code(width: int = 0) -> Code:
    """The code of Gaussian numbers: scalar, or with trellises of 2^width states up to 7 bits."""
    trained = load_arrays(TRAINED, "Trellis")[0] if width else {}
    levels = [np.zeros(1, np.float32)]
    for b in range(1, MOST + 1):
        name = f"{width} {b}"
        levels.append(trained[name].astype(np.float32) if name in trained else lloyd_max(b)[0])
    errors, slopes = zip(*map(_measure, levels, range(MOST + 1)), strict=True)
    return Code(tuple(levels), np.array(errors), np.array(slopes))


def lloyd_max(b: int) -> tuple[np.ndarray, float]:
    """The 2^b best levels of a Gaussian number, and their mean squared error (Lloyd, 1957; Max, 1960)."""
    from scipy.stats import norm

    ends = norm.ppf(np.linspace(0, 1, 2**b + 1))
    for _ in range(2000):
        shares = np.diff(norm.cdf(ends))
        levels = -np.diff(norm.pdf(ends)) / shares
        new = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        if np.abs(new[1:-1] - ends[1:-1]).max(initial=0) < 1e-7:
            break
        ends = new
    return levels.astype(np.float32), float(1 - (shares * levels**2).sum())


def train(width: int, b: int, sample: tuple[int, int] = SAMPLE, turns: int = TURNS) -> np.ndarray:
    """Levels of b bits for windows of ``width``, trained on Gaussian numbers."""
    from scipy.stats import norm

    rng, states = np.random.default_rng(b), 1 << width
    levels = norm.ppf((rng.permutation(states) + 0.5) / states).astype(np.float32)
    if b > 4:  # where levels are dense, the best ones are spread wider than the numbers (Panter and Dite, 1951)
        levels *= np.float32(np.sqrt(1.5))
    Z = rng.standard_normal(sample).astype(np.float32)
    for _ in range(turns):
        windows = _windows(levels, b, Z)
        sums = np.bincount(windows.ravel(), Z.ravel(), minlength=states)
        levels = ((sums + 2 * levels) / (np.bincount(windows.ravel(), minlength=states) + 2)).astype(np.float32)
    return levels


def _windows(levels: np.ndarray, b: int, Z: np.ndarray) -> np.ndarray:
    from ksubspaces.kernels.cpu_trellis import search

    return search(Z, np.full(Z.shape[1], b), [levels] * (MOST + 1))


def _measure(levels: np.ndarray, b: int) -> tuple[float, float]:
    """What levels of b bits leave of Gaussian numbers, and how that grows with their squares."""
    if b == 0:
        return 1.0, 1.0
    Z = np.random.default_rng(MOST + b).standard_normal((64, 256)).astype(np.float32)
    squares, left = np.square(Z, dtype=np.float64), np.square(Z - levels[_windows(levels, b, Z)], dtype=np.float64)
    slope = float(np.polyfit(squares.ravel(), left.ravel(), 1)[0])
    # The sample's own spread is corrected for, as if each square were 1.
    error = float(left.mean()) + slope * (1 - float(squares.mean()))
    return error, min(max(slope, 0.0), error)


def save_trained(path: Path = TRAINED, widths: Sequence[int] = WIDTHS) -> None:
    """Train the levels of all windows, for minutes, and write them where :func:`code` finds them."""
    arrays = {
        f"{width} {b}": train(width, b).astype(np.float16) for width in widths for b in range(1, TRELLIS_BITS + 1)
    }
    save_arrays(path, "Trellis", arrays, {"sample": SAMPLE, "turns": TURNS})
