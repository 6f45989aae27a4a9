"""The code of a matrix in a number of bytes: clusters of transforms, one transform, and rotations compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ksubspaces import kernels

from ..arrays import row_blocks
from ..problem import Problem
from ..progress import Bar
from ..seeding import kmeans
from .coding import encode
from .levels import WIDTHS, Code, code
from .stored import GAIN_STEPS, Stored, decode_powers, encode_powers, label_bits, pack_numbers, size_of
from .transforms import CODED, PLAIN, ROTATED, Layout, Plan, Rows, plan, tiers_of

WAYS = (
    ("rotation", ROTATED, 1),
    ("columns as they are", PLAIN, 1),
    ("one transform", CODED, 1),
    ("6 transforms", CODED, 6),
    ("16 transforms", CODED, 16),
)
"""What competes: a name, the kind of bases, and how many clusters it begins with. Those that are not worth their bases
fall empty."""
TURNS = 4
WIDTH = max(WIDTHS)  # bits of the window of a trellis
FINALISTS, FEWER = 6, 3  # plans that are coded at most, of a small and of a large matrix ...
CLOSE = 1.25  # ... of those that are expected to leave at most this many times as much as the best
SMALL = 1 << 20  # numbers in a matrix for which levels count


class TooFew(ValueError):
    """There is no room for even the least code."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is coded, in how many bytes, and what for.

    Attributes
    ----------
    A : (n, d) float32 array
    weights : (n,) float64 array
    exact : (m,) array of row numbers, ascending
    kept : (m, d) array
        These rows as they are kept.
    budget : bytes
    width : int
        Bits of a trellis' window; 0 for numbers coded one by one.
    """

    A: np.ndarray
    weights: np.ndarray
    exact: np.ndarray
    kept: np.ndarray
    budget: int
    width: int

    @property
    def others(self) -> np.ndarray:
        """Rows that are coded."""
        rows = np.ones(len(self.A), bool)
        rows[self.exact] = False
        return np.flatnonzero(rows)


def search(target: Target, rng: np.random.Generator, bar: Bar | None) -> tuple[Stored, str, float]:
    """The best code that is found, what it is called, and its weighted squared error."""
    contests: list[tuple[float, int, str, Code, Rows, Gains | None, Plan]] = []
    for gained in (False, True):
        rows, gains = _rows(target, gained)
        for name, kind, k in WAYS:
            for own in _codes(target):
                enough = CLOSE * min((contest[0] for contest in contests), default=np.inf) / rows.unit
                found = _plan(target, rows, kind, k, own, gained, enough, rng)
                if found is None:
                    continue
                if bar is not None:
                    bar.update(name, found.left * rows.unit, "planned")
                contests.append((found.left * rows.unit, len(contests), name, own, rows, gains, found))
    if not contests:
        raise TooFew("labels, levels and scales alone take more")
    contests.sort(key=lambda contest: contest[:2])
    close = [contest for contest in contests if contest[0] <= CLOSE * contests[0][0]]
    # What is expected of rows of very different lengths errs most, so the best with gains and without are both coded.
    firsts = [next((c for c in contests if (c[5] is None) == plain), contests[0]) for plain in (True, False)]
    contests = [*firsts, *(c for c in close if not any(c is first for first in firsts))]
    best = None
    for _, _, name, own, rows, gains, found in contests[: FINALISTS if target.A.size <= SMALL else FEWER]:
        stored = _store(target, rows, gains, found, own)
        error = measure(target, stored)
        if bar is not None:
            bar.update(name, error, "coded")
        if best is None or error < best[2]:
            best = stored, name if gains is None else f"{name}, a gain for each row", error
    if bar is not None:
        bar.finish()
    assert best is not None
    return best


def measure(target: Target, stored: Stored) -> float:
    """Weighted squared error of a code, in float64."""
    packed, error = stored.unpack(scaled=True), 0.0
    for start, block in row_blocks(target.A):
        rows = np.arange(start, start + len(block))
        difference = block - kernels.decode(rows, packed)
        error += float(target.weights[rows] @ np.einsum("ij,ij->i", difference, difference, dtype=np.float64))
    return error


def _rows(target: Target, gained: bool) -> tuple[Rows, Gains | None]:
    """Rows to code; with gains, all of a length near 1, and the gains' codes with their unit."""
    A, weights = target.A, target.weights
    if len(target.exact):
        A, weights = A[target.others], weights[target.others]
    gains = None
    if gained:
        lengths = np.sqrt(np.einsum("ij,ij->i", A, A, dtype=np.float64))
        codes, unit = encode_powers(lengths, GAIN_STEPS, zero=True)
        gains = Gains(codes, unit)
        own = decode_powers(codes, unit, GAIN_STEPS, zero=True)
        A, weights = A / np.where(own > 0, own, 1)[:, None], weights * np.square(own, dtype=np.float64)
    mean = weights.mean() or 1.0
    weights = weights / mean
    return Rows(A, weights, float(mean), tiers_of(weights, A)), gains


def _codes(target: Target) -> list[Code]:
    """Trellises, and for few numbers levels for each by itself, which take less room."""
    widths = [min(WIDTHS), 0] if target.width and target.A.size <= SMALL else [target.width]
    return [code(width) for width in widths]


def _plan(
    target: Target, rows: Rows, kind: int, k: int, own: Code, gained: bool, enough: float, rng: np.random.Generator
) -> Plan | None:
    """The best plan within the budget; none if not even the least fits."""
    (n, d), m = target.A.shape, len(target.exact)
    if k > len(rows.A):
        return None
    others = n * gained + 4 * m + target.kept.nbytes
    level_sizes = np.array([table.size for table in own.levels])

    def size(counts: Sequence[np.ndarray], kinds: Sequence[int], layouts: Sequence[Layout]) -> int:
        n_groups = sum(int((rows > 0).sum()) for rows in counts)
        labels = -(-n * label_bits(n_groups + (m > 0)) // 8)
        return size_of(d, labels, counts, kinds, layouts, level_sizes) + others

    labels = np.zeros(len(rows.A), np.int32)
    if k > 1:
        labels = kmeans(Problem(rows.A, None, (1,) * k, False), rng)
    found = plan(rows, labels, kind, target.budget, own, size, TURNS, enough)
    return found if found.nbytes <= target.budget else None


def _store(target: Target, rows: Rows, gains: Gains | None, found: Plan, own: Code) -> Stored:
    arrays, scale_unit, groups = encode(rows, found, own)
    n, d = target.A.shape
    labels, n_groups = np.full(n, len(arrays["clusters"])), len(arrays["clusters"])
    labels[target.others] = groups
    width = label_bits(n_groups + (len(target.exact) > 0))
    arrays["labels"] = pack_numbers(labels[:, None], np.array([width]))
    facts = {"n": n, "d": d, "scale_unit": scale_unit, "gain_unit": 0 if gains is None else gains.unit}
    if gains is not None:
        arrays["gains"] = np.zeros((n, 1), np.uint8)
        arrays["gains"][target.others, 0] = gains.codes
    if len(target.exact):
        arrays["exact_rows"] = target.exact.astype(np.int32)
        arrays["exact"] = target.kept
    return Stored({**arrays, "offsets": _offsets(target, Stored(arrays, facts), labels)}, facts)


def _offsets(target: Target, stored: Stored, labels: np.ndarray) -> np.ndarray:
    """What is left of each cluster's rows on average, (k, d) float16; rows of zeros stay zero.

    It is what does not average out in sums of rows. These are drawn by use, and weights are its square root, as those
    of :func:`ksubspaces.tokens.token_weights`; so here they count squared.
    """
    clusters = stored.arrays["clusters"].astype(np.int64)
    k, d = len(stored.arrays["dims"]), target.A.shape[1]
    owner, use = np.append(clusters, k)[labels], np.square(target.weights)
    packed, sums = stored.unpack(scaled=True), np.zeros((k + 1, d))
    for start, block in row_blocks(target.A):
        rows = np.arange(start, start + len(block))
        inside = (owner[rows] == np.arange(k + 1)[:, None]) * use[rows]
        sums += inside.astype(np.float32) @ (block - kernels.decode(rows, packed))
    mass = np.bincount(owner, use, minlength=k + 1)[:, None]
    return (sums / np.where(mass > 0, mass, 1))[:k].astype(np.float16)


@dataclass(frozen=True, eq=False)
class Gains:
    """Lengths of rows as codes of a byte, in steps from 2^unit on."""

    codes: np.ndarray
    unit: int
