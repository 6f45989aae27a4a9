"""The code of a matrix in a number of bytes: clusters of transforms, one transform, and rotations compete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ksubspaces import kernels

from ..arrays import row_blocks
from ..problem import Problem
from ..progress import Bar
from ..seeding import kmeans
from .coding import encode
from .levels import WIDTHS, Code, code
from .stored import GAIN_STEPS, Stored, decode_powers, encode_powers, label_bits, pack_numbers, size_of
from .transforms import CODED, PLAIN, ROTATED, Layout, Plan, Rows, Size, plan, size_for, tiers_of

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
ERRS = 1.5  # times what was expected, from where on what was coded is compared with a rotation
NEAR = 1.3  # times the budget of a contest, up to which its winner stands


class TooFew(ValueError):
    """There is no room for even the least code."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is coded, and what for.

    Attributes
    ----------
    A : (n, d) float32 array
    weights : (n,) float64 array
    exact : (m,) array of row numbers, ascending
    kept : (m, d) array
        These rows as they are kept.
    width : int
        Bits of a trellis' window; 0 for numbers coded one by one.
    """

    A: np.ndarray
    weights: np.ndarray
    exact: np.ndarray
    kept: np.ndarray
    width: int

    @property
    def others(self) -> np.ndarray:
        """Rows that are coded."""
        rows = np.ones(len(self.A), bool)
        rows[self.exact] = False
        return np.flatnonzero(rows)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A plan of one way to code, and the rows it is for."""

    way: str
    kind: int
    code: Code
    rows: Rows
    gains: Gains | None
    plan: Plan

    @property
    def name(self) -> str:
        """What it is called."""
        return self.way if self.gains is None else f"{self.way}, a gain for each row"

    @property
    def left(self) -> float:
        """Weighted squared error that is expected."""
        return self.plan.left * self.rows.unit


@dataclass(frozen=True, eq=False)
class Coded:
    """What is stored, its weighted squared error, and what was planned."""

    stored: Stored
    error: float
    candidate: Candidate


class Search:
    """Codes of one matrix at any size: what wins at one begins those near it."""

    def __init__(self, target: Target, rng: np.random.Generator, bar: Bar | None = None) -> None:
        self.target, self.bar, self._rng = target, bar, rng
        self._rows: dict[bool, tuple[Rows, Gains | None]] = {}
        self._labels: dict[tuple[bool, int], np.ndarray] = {}
        self._contest = 0.0  # budget of the last contest
        self._winner: Candidate | None = None  # coded last

    def within(self, budget: float) -> Coded:
        """The best code that is found in so many bytes.

        All ways compete, unless it is near a budget for which they did: then the winner begins where it ended.

        Raises
        ------
        TooFew
            When there is no room for any.
        """
        candidates, spare = list[Candidate](), list[Candidate]()
        if self._winner is not None and self._contest / NEAR <= budget <= self._contest * NEAR:
            last = self._winner
            plan = self._plan(last.rows, last.plan.labels, last.kind, last.code, last.gains is not None, budget)
            candidates = [] if plan is None else [replace(last, plan=plan)]
        if not candidates:
            (candidates, spare), self._contest = self._compete(budget), budget
        best = min(map(self._code, candidates), key=lambda coded: coded.error)
        if best.error > ERRS * best.candidate.left:
            best = min([best, *map(self._code, spare)], key=lambda coded: coded.error)
        self._winner = best.candidate
        return best

    def _code(self, candidate: Candidate) -> Coded:
        stored = _store(self.target, candidate)
        coded = Coded(stored, measure(self.target, stored), candidate)
        if self.bar is not None:
            self.bar.update(candidate.way, coded.error, "coded")
        return coded

    @property
    def winner(self) -> Candidate:
        """What was coded last."""
        assert self._winner is not None
        return self._winner

    def size(self, candidate: Candidate) -> Size:
        """Bytes of all that is stored of a plan like that of a candidate."""
        return self._size(candidate.code, candidate.gains is not None)

    def size_for(self, error: float) -> float:
        """Bytes in which one transform is expected to leave this weighted squared error: where to begin."""
        rows, _ = self._rows_of(False)
        code = _codes(self.target)[0]
        return size_for(rows, error / rows.unit, code, self._size(code, False))

    def _compete(self, budget: float) -> tuple[list[Candidate], list[Candidate]]:
        """The plans that are to be coded, and the best rotation if it is none of them.

        Its numbers are nearly Gaussian whatever the columns are, so it leaves what is expected.
        """
        found: list[Candidate] = []
        seen = set[tuple[str, bool, float, float]]()
        for gained in (False, True):
            rows, gains = self._rows_of(gained)
            for way, kind, k in WAYS:
                if k > len(rows.A):
                    continue
                for own in _codes(self.target):
                    enough = CLOSE * min((other.left for other in found), default=np.inf) / rows.unit
                    plan = self._plan(rows, self._labels_of(gained, k), kind, own, gained, budget, enough)
                    if plan is None or (key := (way, gained, plan.left, plan.nbytes)) in seen:  # 8 bits have one code
                        continue
                    seen.add(key)
                    found.append(Candidate(way, kind, own, rows, gains, plan))
                    if self.bar is not None:
                        self.bar.update(way, found[-1].left, "planned")
        if not found:
            raise TooFew("labels, levels and scales alone take more")
        found.sort(key=lambda candidate: candidate.left)
        close = [candidate for candidate in found if candidate.left <= CLOSE * found[0].left]
        # What is expected of rows of very different lengths errs most, so the best with gains and without are coded.
        firsts = [next((c for c in found if (c.gains is None) == plain), found[0]) for plain in (True, False)]
        chosen = [*firsts, *(c for c in close if not any(c is first for first in firsts))]
        chosen = chosen[: FINALISTS if self.target.A.size <= SMALL else FEWER]
        rotation = next((c for c in found if c.kind == ROTATED), chosen[0])
        return chosen, [] if any(c is rotation for c in chosen) else [rotation]

    def _rows_of(self, gained: bool) -> tuple[Rows, Gains | None]:
        if gained not in self._rows:
            self._rows[gained] = _rows(self.target, gained)
        return self._rows[gained]

    def _labels_of(self, gained: bool, k: int) -> np.ndarray:
        """Clusters to begin with."""
        rows = self._rows_of(gained)[0]
        if k == 1:
            return np.zeros(len(rows.A), np.int32)
        if (gained, k) not in self._labels:
            self._labels[gained, k] = kmeans(Problem(rows.take(slice(None)), None, (1,) * k, False), self._rng)
        return self._labels[gained, k]

    def _plan(
        self, rows: Rows, labels: np.ndarray, kind: int, code: Code, gained: bool, budget: float, enough: float = np.inf
    ) -> Plan | None:
        """The best plan within the budget; none if not even the least fits."""
        found = plan(rows, labels, kind, budget, code, self._size(code, gained), TURNS, enough)
        return found if found.nbytes <= budget else None

    def _size(self, code: Code, gained: bool) -> Size:
        """Bytes of all that is stored of a plan."""
        (n, d), m = self.target.A.shape, len(self.target.exact)
        others = n * gained + 4 * m + self.target.kept.nbytes
        level_sizes = np.array([table.size for table in code.levels])

        def size(counts: Sequence[np.ndarray], kinds: Sequence[int], layouts: Sequence[Layout]) -> int:
            n_groups = sum(int((rows > 0).sum()) for rows in counts)
            labels = -(-n * label_bits(n_groups + (m > 0)) // 8)
            return size_of(d, labels, counts, kinds, layouts, level_sizes) + others

        return size


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
    A, weights, own = target.A, target.weights, None
    if len(target.exact):
        A, weights = A[target.others], weights[target.others]
    gains = None
    if gained:
        lengths = np.sqrt(np.einsum("ij,ij->i", A, A, dtype=np.float64))
        codes, unit = encode_powers(lengths, GAIN_STEPS, zero=True)
        gains = Gains(codes, unit)
        lengths = decode_powers(codes, unit, GAIN_STEPS, zero=True)
        own, weights = np.where(lengths > 0, lengths, 1), weights * np.square(lengths, dtype=np.float64)
    mean = weights.mean() or 1.0
    weights = weights / mean
    return Rows(A, weights, float(mean), tiers_of(weights, A), own), gains


def _codes(target: Target) -> list[Code]:
    """Trellises, and for few numbers levels for each by itself, which take less room."""
    widths = [min(WIDTHS), 0] if target.width and target.A.size <= SMALL else [target.width]
    return [code(width) for width in widths]


def _store(target: Target, candidate: Candidate) -> Stored:
    arrays, scale_unit, groups = encode(candidate.rows, candidate.plan, candidate.code)
    gains = candidate.gains
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
