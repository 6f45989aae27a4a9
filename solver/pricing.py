"""The alternation under a budget: as :mod:`.descent`, but every flat has the dimension that its rows are worth.

Minimises ``f + lambda P``: f the objective, P the number of parameters, lambda the price of one.

====== ===============================================================================================
dims   direction i of cluster c is kept iff its eigenvalue exceeds ``lambda (n_c + d)``, what it costs
assign each row to ``argmin_c w_i r_c(x_i) + lambda j_c``
lambda in every step, such that the directions kept fill the budget
====== ===============================================================================================

With one cluster that is the truncated SVD, with dimensions all alike it is MESSI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats, Layout, Moments
from ksubspaces.kernels.flats import take_rows

from .allocation import allocate
from .arrays import Array, namespace, to_numpy
from .coefficients import count_parameters
from .problem import Problem
from .refit import RunningMoments, eigenspaces

NOISE = 4  # times the rounding of the largest eigenvalue and the root of d: an eigenvalue below that is none
PATIENCE = 2  # steps in a row that may gain nothing: a new price can cost at first what it brings later


@dataclass(frozen=True, eq=False)
class Spectra:
    """What a refit can choose from: all eigenvectors of each cluster's second moments.

    Attributes
    ----------
    layout : Layout
        Of the eigenvectors: d of each cluster, or as many as it has rows where these are at most d/2.
    vectors : (sum q_c, d) array
        Stacked, those of the largest eigenvalues first.
    values : (k, q) float64 array
        Eigenvalues, on the host; zeros where a cluster has fewer.
    means : (k, d) array or None
    """

    layout: Layout
    vectors: Array
    values: np.ndarray
    means: Array | None

    def flats(self, dims: Sequence[int], dtype: Any) -> Flats:
        """The best flats of these dimensions."""
        xp, starts, layout = namespace(self.vectors), self.layout.starts, kernels.layout_of(self.layout.d, tuple(dims))
        offsets = None if self.means is None else self.means.astype(dtype, copy=False)

        def taken(rows: np.ndarray) -> Array:
            return self.vectors[xp.asarray(rows)].astype(dtype, copy=False)

        bases = taken(starts[layout.owners] + layout.ranks)
        if not layout.has_wide:
            return Flats(layout, bases, offsets, None)
        left = layout.complements
        return Flats(layout, bases, offsets, taken((starts[:-1] + layout.dims)[left.owners] + left.ranks))

    def left(self, dims: Sequence[int]) -> np.ndarray:
        """What flats of these dimensions leave of each cluster, (k,): the sums of the other eigenvalues."""
        return np.where(np.arange(self.values.shape[1]) < np.asarray(dims)[:, None], 0, self.values).sum(axis=1)

    def take(self, chosen: Sequence[int]) -> Spectra:
        """Those of the chosen clusters."""
        kept = kernels.layout_of(self.layout.d, tuple(self.layout.dims[c] for c in chosen))
        means = None if self.means is None else self.means[namespace(self.means).asarray(chosen)]
        return Spectra(kept, take_rows(self.layout, self.vectors, chosen), self.values[list(chosen)], means)


@dataclass(frozen=True, eq=False)
class Solution:
    """Labels, the best flats that the budget pays for with them, and what is left of the rows then.

    Attributes
    ----------
    labels : (n,) int32 array
    spectra : Spectra
    counts : tuple of int
        Rows of each cluster.
    dims : tuple of int
    price : float
        lambda.
    objective : float
        Infinite where clusters alone, without a direction, take more than the budget.
    """

    labels: Array
    spectra: Spectra
    counts: tuple[int, ...]
    dims: tuple[int, ...]
    price: float
    objective: float

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.dims)

    def flats(self, dtype: Any) -> Flats:
        """Its flats, in a precision."""
        return self.spectra.flats(self.dims, dtype)


class Pricing:
    """The alternation within a number of parameters.

    Parameters
    ----------
    problem : Problem
        Its ``dims`` are of no account.
    n_parameters : int
        Most that there may be, all told.
    exact : (m,) array of row numbers, optional
        Rows that are kept as they are, in a cluster of their own. Their weight in the problem is zero; whatever their
        labels, they count for nothing in the other clusters.
    """

    def __init__(self, problem: Problem, n_parameters: int, exact: Array | None = None) -> None:
        self.problem, self.n_parameters, self.exact = problem, n_parameters, exact
        self._moments: RunningMoments | None = None

    @property
    def n_exact(self) -> int:
        """Number of rows that are kept as they are."""
        return 0 if self.exact is None else len(self.exact)

    @property
    def n_rows(self) -> int:
        """Number of the others."""
        return len(self.problem.X) - self.n_exact

    def solve(self, labels: Array, k: int, dtype: Any = None) -> Solution:
        """The best that the budget pays for with these labels, computed in X's dtype or the one given."""
        d = self.problem.X.shape[1]
        counts = self._counts(labels, k)
        spectra = self._spectra(labels, k, dtype)
        room = self.n_parameters - self.overhead(k)
        dims, price = allocate(spectra.values, [m + d for m in counts], room)
        left = float(spectra.left(dims).sum()) if room >= 0 else np.inf
        return Solution(labels, spectra, counts, dims, price, left)

    @property
    def linear(self) -> Pricing:
        """The same for subspaces through the origin."""
        return Pricing(replace(self.problem, affine=False), self.n_parameters, self.exact)

    def overhead(self, k: int) -> int:
        """Parameters of k clusters before their first direction: labels, offsets, and the rows kept as they are."""
        d = self.problem.X.shape[1]
        counts, dims = [self.n_rows] + [0] * (k - 1), [0] * k
        if self.n_exact:
            counts.append(self.n_exact)
            dims.append(min(self.n_exact, d))
        return count_parameters(counts, dims, d, self.problem.affine)

    def rows_of(self, labels: Array, c: int) -> Array:
        """Numbers of the rows of a cluster."""
        inside = labels == c
        if self.exact is not None:
            inside[self.exact] = False
        return namespace(labels).flatnonzero(inside)

    def reassign(self, flats: Flats, dims: Sequence[int], price: float) -> Array:
        """Labels at a price."""
        xp = namespace(self.problem.X)
        penalty = xp.asarray([price * j for j in dims])
        return kernels.assign(self.problem.X, flats, penalty, self.problem.weights)[0]

    def settle(
        self, solution: Solution, max_iter: int, tol: float, on_step: Callable[[Solution], None] | None = None
    ) -> Solution:
        """Alternate from a solution until the objective no longer falls by ``tol`` of itself; the best one met."""
        best, idle = solution, 0
        for _ in range(max_iter):
            labels = self.reassign(solution.flats(self.problem.X.dtype), solution.dims, solution.price)
            if not bool((labels != solution.labels).any()):
                break
            solution = self.solve(labels, solution.k)
            if on_step is not None:
                on_step(solution)
            idle = 0 if solution.objective < (1 - tol) * best.objective else idle + 1
            if solution.objective < best.objective:
                best = solution
            if idle == PATIENCE:
                break
        return best

    def _counts(self, labels: Array, k: int) -> tuple[int, ...]:
        counts = kernels.label_counts(labels, k)
        if self.exact is not None:
            counts = counts - kernels.label_counts(labels[self.exact], k)
        return tuple(to_numpy(counts).tolist())

    def _spectra(self, labels: Array, k: int, dtype: Any) -> Spectra:
        problem = self.problem
        if dtype is not None:  # at the end, where nothing kept between steps is of use any more
            self._moments = None
            return self._one_at_a_time(labels, k, dtype)
        if self._moments is None or self._moments.k != k:
            self._moments = RunningMoments(problem, k)
        if not self._moments.resident:
            return self._one_at_a_time(labels, k, problem.X.dtype)
        return spectra_of(self._moments(labels), problem.affine, problem.X.dtype)

    def _one_at_a_time(self, labels: Array, k: int, dtype: Any) -> Spectra:
        xp, d, groups = namespace(labels), self.problem.X.shape[1], kernels.group_rows(labels, k)
        layout = kernels.layout_of(d, tuple(m if 2 * m <= d else d for m in np.diff(groups.bounds).tolist()))
        vectors, values, means = xp.empty((layout.total, d), dtype), xp.zeros((k, layout.width)), xp.empty((k, d))
        for c in range(k):
            spaces, mean = eigenspaces(self.problem, [groups.rows(c)], layout.dims[c], dtype)
            vectors[layout.rows(c)] = spaces.bases
            values[c, : layout.dims[c]] = spaces.eigenvalues[0, : layout.dims[c]]
            means[c] = mean[0]
        return _without_noise(layout, vectors, values, means if self.problem.affine else None)


def spectra_of(moments: Moments, affine: bool, dtype: Any) -> Spectra:
    """All eigenvectors and eigenvalues of second moments."""
    spaces = kernels.top_eigenspaces(moments.scatter, [moments.first.shape[1]] * len(moments.counts), dtype)
    return _without_noise(spaces.layout, spaces.bases, spaces.eigenvalues, moments.means if affine else None)


def _without_noise(layout: Layout, vectors: Array, values: Array, means: Array | None) -> Spectra:
    """Spectra whose eigenvalues are zero where they are rounding."""
    floor = NOISE * np.sqrt(layout.d) * float(np.finfo(vectors.dtype).eps)
    known = to_numpy(values).astype(np.float64)
    return Spectra(
        layout, vectors, np.where(known > floor * known.max(axis=1, initial=0, keepdims=True), known, 0), means
    )


def compact(solution: Solution) -> Solution:
    """The same without clusters that have no rows."""
    kept = [c for c, m in enumerate(solution.counts) if m > 0]
    if len(kept) == solution.k:
        return solution
    xp = namespace(solution.labels)
    number = np.zeros(solution.k, dtype=np.int32)
    number[kept] = np.arange(len(kept))
    return replace(
        solution,
        labels=xp.asarray(number)[solution.labels],
        spectra=solution.spectra.take(kept),
        counts=tuple(solution.counts[c] for c in kept),
        dims=tuple(solution.dims[c] for c in kept),
    )
