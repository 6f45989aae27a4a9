"""Greedy k-means++ for flats on a GPU: all draws are queued, and the host waits for none of them.

A draw is seven launches. Four rows are drawn by running sums of the costs, and |cos| of all rows to them goes into
bins. The moments of the rows in the upper bins are added up by blocks and then as a whole, a few power steps give four
flats, and of these the one is taken that leaves the least sum of costs. Rows are multiplied in float16: to tell
neighbours and sums of costs that is enough.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..flats import Array, Kept
from . import loader
from .halves import half_rows, steps_of
from .memory import or_null

LONGEST = 256  # columns that the kernels reach to
FAST, SLOW = 6, 3  # power steps, by the fourth power of the moments and by themselves ...
STEADY = 12  # ... and where shared memory has no room for the former

# As in seeding.cu.
CANDIDATES, BINS, ROWS, THREADS, WARPS = 4, 2048, 2048, 256, 8
PADDING = 64  # bytes after each direction

GATHERERS = 132  # blocks that look for neighbours, each of a share of the rows
MULTIPLIERS = 528  # blocks that multiply all rows

VARIANTS: list[loader.Variant] = [
    (source, {"STEPS": steps}) for source in ("seeding", "candidates") for steps in (1, 2, 4, 8)
]


def of_a_fit(dtype: np.dtype, d: int) -> list[loader.Variant]:
    if dtype != np.float32 or d > LONGEST:
        return []
    return [(source, {"STEPS": steps_of(d)}) for source in ("seeding", "candidates")]


def seed(
    X: Array, dims: Sequence[int], weights: Array | None, rng: np.random.Generator, kept: Kept | None = None
) -> Array | None:
    """Labels of a greedy start, or ``None`` for rows and flats that the kernels do not hold.

    See :func:`ksubspaces.kernels.seed`. With weights the host waits once, to learn how many are positive.
    """
    (n, d), k = X.shape, len(dims)
    seeding = _Seeding(n, d, max(dims))
    if X.dtype != np.float32 or d > LONGEST or not seeding.fits:
        return None
    counted = n if weights is None else int((weights > 0).sum())
    seeding.begin(X, weights, kept)
    for c, uniforms in zip(sorted(range(k), key=lambda c: -dims[c]), _uniforms(X, k, rng), strict=True):
        m = min(counted, max(counted // (2 * k), dims[c] + 1))
        # Rows that have nothing to do with a candidate have a |cos| of about d^(-1/2), and only few are looked for.
        least = max(1, int(BINS / np.sqrt(d))) if 8 * m <= counted else 1
        seeding.draw(c, dims[c], uniforms, m, least)
    return seeding.labels


def seed_directions(
    X: Array, k: int, weights: Array | None, rng: np.random.Generator, kept: Kept | None = None
) -> Array | None:
    """Labels by direction, or ``None``; see :func:`ksubspaces.kernels.seed_directions`."""
    n, d = X.shape
    if X.dtype != np.float32 or d > LONGEST:
        return None
    seeding = _Seeding(n, d, 0)
    seeding.begin(X, weights, kept, of_directions=True)
    drawn = _uniforms(X, k, rng)
    drawn[0] = drawn[0, 0]  # one row at first: the best of several is near the mean, which splits nothing
    for c, uniforms in enumerate(drawn):
        seeding.draw_direction(c, uniforms)
    return seeding.labels


def _uniforms(X: Array, k: int, rng: np.random.Generator) -> Array:
    return loader.namespace(X).asarray(rng.random((k, CANDIDATES), np.float32))


class _Seeding:
    """Shapes, memory and launches of a start."""

    def __init__(self, n: int, d: int, widest: int) -> None:
        self.n, self.d = n, d
        self.steps = steps_of(d)
        self.width, self.most = 32 * self.steps, self._rows(widest)
        self.squared = self.steps <= 2
        self.multipliers, self.gatherers = min(MULTIPLIERS, -(-n // (16 * WARPS))), min(GATHERERS, -(-n // ROWS))
        self.blocks = -(-n // ROWS)

    def _rows(self, j: int) -> int:
        """Directions of a flat, filled up."""
        return -(-j // 8) * 8

    def _shared_memory(self, rows: int) -> tuple[int, int]:
        """What power steps and distances take."""
        width = self.width
        steps = 4 * (2 * rows * (width + 1) + (3 * width * width if self.squared else 0))
        return steps, CANDIDATES * rows * (2 * width + PADDING)

    @property
    def fits(self) -> bool:
        """Whether flats have dimensions, and so many that a block can hold four of them."""
        return self.most > 0 and max(self._shared_memory(self.most)) <= loader.limits().shared_memory - 1024

    def begin(self, X: Array, weights: Array | None, kept: Kept | None = None, of_directions: bool = False) -> None:
        xp, n, width, four = loader.namespace(X), self.n, self.width, CANDIDATES
        self.weights = or_null(None if weights is None else xp.ascontiguousarray(weights, dtype=np.float32))
        rows = half_rows(xp.ascontiguousarray(X), None, width, kept)
        self.halves, self.energy, self.scales = rows.halves.view(np.uint16), rows.energy, rows.scales
        self.costs, self.labels, self.sums = xp.empty(n, np.float32), xp.empty(n, np.int32), xp.empty(self.blocks)
        self.candidates, self.histogram = xp.empty(four, np.int64), xp.empty((four, BINS), np.int32)
        self.residuals, self.potentials = xp.empty((n, four), np.float32), xp.empty((self.multipliers, four))
        if not of_directions:
            self.bins = xp.empty((n, four), np.uint16)
            self.partials = xp.empty((self.gatherers, four, width, width), np.float32)
            self.S = xp.empty((four, width, width), np.float32)
            self.flats = xp.empty(four * self.most * width, np.uint16)
        of_rows = self.energy, self.weights, np.int64(n), np.int32(of_directions)
        self._run("first_costs", self.blocks, *of_rows, self.costs, self.labels, self.sums)

    def draw(self, c: int, j: int, uniforms: Array, m: int, least: int) -> None:
        """Flat c, of dimension j, through m rows near one that is drawn."""
        rows, lowest, tiles = np.int32(self._rows(j)), np.int32(least), max(1, self.width // 64) ** 2
        fast, slow = (FAST, SLOW) if self.squared else (0, STEADY)
        for_steps, for_distances = self._shared_memory(int(rows))
        self._draw_rows(uniforms)
        bins = self.candidates, lowest, self.bins.view(np.uint32), self.histogram
        self._run("cosines", self.multipliers, *self._rows_measured(), *bins)
        near = self.halves, self.scales, self.weights, np.int64(self.n), self.candidates
        found = self.bins, self.histogram, np.int64(m), lowest, self.partials
        self._run("neighbours", (self.gatherers, CANDIDATES * tiles), *near, *found)
        self._run("sum_partials", self.S.size // THREADS, self.partials, np.int32(self.gatherers), self.S)
        power = np.int32(j), rows, np.int32(fast), np.int32(slow), self.flats.view(np.uint32)
        self._run("power", CANDIDATES, self.S, *power, shared=for_steps)
        trials = self.flats, np.int32(rows // 8), self.costs, self.residuals, self.potentials
        self._run("distances", self.multipliers, *self._rows_measured(), *trials, shared=for_distances)
        self._choose(c)

    def draw_direction(self, c: int, uniforms: Array) -> None:
        """Direction c, that of a row that is drawn."""
        self._draw_rows(uniforms)
        trials = self.candidates, self.costs, self.residuals, self.potentials
        self._run("directions", self.multipliers, *self._rows_measured(), *trials)
        self._choose(c)

    def _rows_measured(self) -> tuple[loader.Argument, ...]:
        return self.halves, self.energy, self.scales, self.weights, np.int64(self.n)

    def _draw_rows(self, uniforms: Array) -> None:
        costs = self.sums, np.int64(self.blocks), self.costs, self.weights, np.int64(self.n)
        self._run("draw", 1, *costs, uniforms, self.candidates, self.histogram, threads=1024)

    def _choose(self, c: int) -> None:
        trials = self.potentials, np.int32(self.multipliers), self.residuals, self.weights, np.int64(self.n)
        self._run("choose", self.blocks, *trials, np.int32(c), self.costs, self.labels, self.sums)

    def _run(
        self, name: str, grid: int | tuple[int, int], *args: loader.Argument, threads: int = THREADS, shared: int = 0
    ) -> None:
        run = loader.kernel("candidates" if name == "power" else "seeding", name, {"STEPS": self.steps})
        run((grid,) if isinstance(grid, int) else grid, (threads,), args, shared_mem=shared)
