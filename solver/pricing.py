"""Rules of the alternation under which every flat has the dimension that its rows are worth at a price.

Minimises ``f + lambda P``: f the objective, P the number of parameters, lambda the price of one.

====== ===============================================================================================
dims   direction i of cluster c is kept iff its eigenvalue exceeds ``lambda (n_c + d)``, what it costs
assign each row to ``argmin_c w_i r_c(x_i) + lambda j_c``
lambda in every step, such that the directions kept fill the budget
====== ===============================================================================================

With one cluster that is the truncated SVD, with dimensions all alike it is MESSI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Eigenspaces, Flats

from . import nearby
from .allocation import allocate
from .alternation import State
from .arrays import Array, namespace
from .coefficients import count_parameters
from .problem import Problem
from .refit import RunningMoments

NOISE = 4  # times the rounding of the largest eigenvalue and the root of d: an eigenvalue below that is none
PATIENCE = 1  # steps in a row that may gain nothing: a new price can cost at first what it brings later


@dataclass(frozen=True, eq=False)
class Spectra:
    """What a refit can choose from: all eigenvectors of each cluster's second moments.

    Attributes
    ----------
    vectors : (k, q, d) array
        Those of the largest eigenvalues first; q = d, or the rows of the largest cluster where these are at most d/2.
    values : (k, q) float64 array
        Eigenvalues, on the host; zeros where a cluster has fewer.
    offsets : (k, d) array or None
    """

    vectors: Array
    values: np.ndarray
    offsets: Array | None

    def flats(self, dims: Sequence[int], dtype: DTypeLike) -> Flats:
        """The best flats of these dimensions."""
        layout = kernels.layout_of(self.vectors.shape[2], tuple(dims))
        bases, complements = layout.leading(self.vectors.astype(dtype, copy=False))
        return Flats(layout, bases, None if self.offsets is None else self.offsets.astype(dtype), complements)

    def left(self, dims: Sequence[int]) -> np.ndarray:
        """What flats of these dimensions leave of each cluster, (k,): the sums of the other eigenvalues."""
        return np.where(np.arange(self.values.shape[1]) < np.asarray(dims)[:, None], 0, self.values).sum(axis=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Solution(State):
    """Labels, the best flats that are worth their price with them, and what is left of the rows then.

    Attributes
    ----------
    fitted : Flats
        In the precision that they were computed in.
    counts : (k,) int64 array
        Rows of each cluster, on the host.
    price : float
        lambda.
    costs : (k,) array
        What each cluster adds to the objective.
    """

    fitted: Flats
    counts: np.ndarray
    price: float
    costs: np.ndarray

    @property
    def k(self) -> int:
        """Number of clusters."""
        return len(self.dims)

    @property
    def dims(self) -> tuple[int, ...]:
        """Dimension of each flat."""
        return self.fitted.layout.dims

    def flats(self, dtype: DTypeLike) -> Flats:
        """Its flats, in a precision."""
        own = self.fitted
        offsets = None if own.offsets is None else own.offsets.astype(dtype, copy=False)
        complements = None if own.complements is None else own.complements.astype(dtype, copy=False)
        return Flats(own.layout, own.bases.astype(dtype, copy=False), offsets, complements)


def drop_rounding(values: np.ndarray, d: int, dtype: np.dtype) -> None:
    """Set eigenvalues (k, q) that are rounding to zero, in place."""
    floor = NOISE * np.sqrt(d) * float(np.finfo(dtype).eps)
    values[values <= floor * values.max(axis=1, initial=0, keepdims=True)] = 0


class Priced:
    """What rules have in common that choose directions by their price.

    Parameters
    ----------
    problem : Problem
        Its ``dims`` are of no account.
    exact : (m,) array of row numbers, optional
        Rows that are kept as they are, in a cluster of their own. Their weight in the problem is zero; whatever their
        labels, they count for nothing in the other clusters.
    """

    def __init__(self, problem: Problem, exact: Array | None = None) -> None:
        self.problem, self.exact, self.d = problem, exact, problem.X.shape[1]
        self._moments: RunningMoments | None = None
        self._nearby: nearby.Nearby | None = None

    def choose(
        self, spectra: Spectra, counts: np.ndarray, unseen: np.ndarray
    ) -> tuple[Sequence[int], float, np.ndarray]:
        """Dimensions that clusters with these spectra and numbers of rows are worth, the price, and what each costs.

        ``unseen`` (k,) is by what share of itself each direction lowers what is left of the rows at hand below what
        is left of all that they stand for.
        """
        raise NotImplementedError

    def refit(self, state: Solution, exact: bool = False) -> Flats:
        return state.flats(self.problem.X.dtype)

    def assign(self, flats: Flats, state: Solution) -> tuple[Array, Array | None]:
        """Labels at the state's price, and residuals."""
        penalty = namespace(self.problem.X).asarray(state.price * np.array(flats.layout.dims))
        return self._assign(flats, penalty)

    def _assign(self, flats: Flats, penalty: Array) -> tuple[Array, Array | None]:
        X, weights, near = self.problem.X, self.problem.own_weights, self._nearby
        if self.problem.on_card or not nearby.pays(len(X), flats.k):
            return kernels.assign(X, flats, penalty, weights, residuals=False)
        if near is not None and near.k == flats.k and near.steps < nearby.STEPS:
            return nearby.assign(X, near, flats, penalty, weights), None
        labels, self._nearby = nearby.find(X, flats, penalty, weights)
        return labels, None

    def measure(self, state: Solution, flats: Flats, labels: Array, residuals: Array | None) -> Solution:
        if not self.problem.on_card and not (labels != state.labels).any():
            return replace(state, moved=0)
        return self.solve(labels, state.k, before=state.labels)

    def confirm(self) -> bool:
        return True

    def solve(self, labels: Array, k: int, dtype: DTypeLike | None = None, before: Array | None = None) -> Solution:
        """The flats that these labels are worth, computed in X's dtype or the one given, and which rows moved."""
        spaces, offsets = self._running(k).eigenspaces(labels, None, dtype)
        counts, values, unseen, moved = self._fetch(labels, spaces, before)
        vectors = spaces.bases.reshape(k, -1, self.d)
        spectra = Spectra(vectors, values[:, : vectors.shape[1]], offsets)
        dims, price, costs = self.choose(spectra, counts, unseen)
        fitted = spectra.flats(dims, vectors.dtype)
        found = Solution(labels, fitted=fitted, counts=counts, price=price, costs=costs)
        return replace(found, objective=float(costs.sum()), moved=moved)

    def appraise(self, labels: Array, k: int) -> np.ndarray:
        """What each cluster would cost, (k,): eigenvalues tell, which take a third of the time of eigenvectors."""
        spaces, offsets = self._running(k).eigenspaces(labels, (0,) * k)
        counts, values, unseen, _ = self._fetch(labels, spaces)
        return self.choose(Spectra(spaces.bases, values, offsets), counts, unseen)[2]

    def release(self) -> None:
        """Keep neither second moments nor the flats near each row until they are asked for again."""
        self._moments = self._nearby = None

    def _running(self, k: int) -> RunningMoments:
        if self._moments is None or self._moments.k != k:
            self._moments = RunningMoments(self.problem, k)
        return self._moments

    def _fetch(
        self, labels: Array, spaces: Eigenspaces, before: Array | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """On the host, with one wait: rows of each cluster, the eigenvalues, what is unseen, and how many rows moved.

        j directions fitted to m rows in place of n leave 2 j / m less of those than of the others (the optimism of a
        fit: Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", section 7.4).
        """
        assert spaces.eigenvalues is not None
        k = len(spaces.eigenvalues)
        drawn = rows = kernels.label_counts(labels, k)
        moved = (labels != (labels if before is None else before)).sum()
        if self.problem.stands is not None:
            rows = kernels.group_rows(labels, k).sums(self.problem.stands)
        if self.exact is not None:
            rows = rows - kernels.label_counts(labels[self.exact], k)
        values, counts, moved, drawn = kernels.fetch([spaces.eigenvalues, rows, moved, drawn])
        unseen = (
            2 / np.maximum(drawn, 1) * (1 - drawn / np.maximum(counts, 1))
            if self.problem.stands is not None
            else 0 * counts
        )
        drop_rounding(values, self.d, spaces.bases.dtype)
        return np.rint(counts).astype(np.int64), values, unseen, int(moved)


class Budget(Priced):
    """The price is such that the directions kept fill a number of parameters, all told.

    Where rows of the problem stand for others, ``n_rows`` and ``n_exact`` say how many there are.
    """

    def __init__(
        self,
        problem: Problem,
        n_parameters: int,
        exact: Array | None = None,
        n_rows: int | None = None,
        n_exact: int | None = None,
    ) -> None:
        super().__init__(problem, exact)
        self.n_parameters = n_parameters
        self.n_exact = n_exact if n_exact is not None else 0 if exact is None else len(exact)
        self.n_rows = len(problem.X) - self.n_exact if n_rows is None else n_rows

    def choose(
        self, spectra: Spectra, counts: np.ndarray, unseen: np.ndarray
    ) -> tuple[Sequence[int], float, np.ndarray]:
        room = self.n_parameters - self.overhead(len(counts))
        dims, price = allocate(spectra.values, counts + self.d, room)
        left = spectra.left(dims) * (1 + unseen * np.array(dims))
        return dims, price, left if room >= 0 else np.full(len(dims), np.inf)

    @property
    def linear(self) -> Budget:
        """The same for subspaces through the origin."""
        given = self.n_parameters, self.exact, self.n_rows, self.n_exact
        return Budget(replace(self.problem, affine=False), *given)

    def overhead(self, k: int) -> int:
        """Parameters of k clusters before their first direction: labels, offsets, and the rows kept as they are."""
        counts, dims = [self.n_rows] + [0] * (k - 1), [0] * k
        if self.n_exact:
            counts.append(self.n_exact)
            dims.append(min(self.n_exact, self.d))
        return count_parameters(counts, dims, self.d, self.problem.affine)

    def rows_of(self, solution: Solution, chosen: Sequence[int]) -> list[Array]:
        """Numbers of the rows of each chosen cluster."""
        labels = solution.labels
        if self.exact is not None:
            labels = labels.copy()
            labels[self.exact] = solution.k
        groups = kernels.group_rows(labels, solution.k + 1)
        return [groups.rows(c) for c in chosen]


class FixedPrice(Priced):
    """Pairs of flats, each for the rows of one cluster, at a price that stays: the trial of a split.

    Parameters
    ----------
    part : Problem
        Rows of one cluster after another; those of cluster c go to flat 2 c or to 2 c + 1.
    starts : sequence of ints
        Where the rows of each cluster begin, and the end.
    price : float
    shares : (m,) array
        Rows that each cluster has, for each of those here.
    """

    def __init__(self, part: Problem, starts: Sequence[int], price: float, shares: np.ndarray) -> None:
        super().__init__(part)
        self.starts, self.price, self.shares = starts, price, np.repeat(shares, 2)

    def choose(
        self, spectra: Spectra, counts: np.ndarray, unseen: np.ndarray
    ) -> tuple[Sequence[int], float, np.ndarray]:
        directions = self.price * (self.shares * counts + self.d)  # what one of each side costs
        dims = (self.shares[:, None] * spectra.values > directions[:, None]).sum(axis=1)
        left = self.shares * spectra.left(dims) * (1 + unseen * dims)
        return dims.tolist(), self.price, left + directions * dims

    def _assign(self, flats: Flats, penalty: Array) -> tuple[Array, Array | None]:
        return assign_within(self.problem, self.starts, flats, penalty)


def assign_within(
    part: Problem, starts: Sequence[int], flats: Flats, penalty: Array | None = None
) -> tuple[Array, Array]:
    """Labels of the best of their own cluster's flats for rows of one cluster after another, and residuals.

    Each cluster has as many flats as the others, one after another.
    """
    X, xp, ways = part.X, namespace(part.X), flats.k // (len(starts) - 1)
    labels, residuals = xp.empty(len(X), np.int32), xp.empty(len(X), X.dtype)
    for c, (first, end) in enumerate(pairwise(starts)):
        rows, own = slice(first, end), range(ways * c, ways * c + ways)
        costs = None if penalty is None else penalty[own.start : own.stop]
        weights = None if part.own_weights is None else part.own_weights[rows]
        side, residuals[rows] = kernels.assign(X[rows], flats.take(own), costs, weights)
        labels[rows] = own.start + side
    return labels, residuals


def compact(solution: Solution) -> Solution:
    """The same without clusters that have no rows."""
    kept = np.flatnonzero(solution.counts).tolist()
    if len(kept) == solution.k:
        return solution
    numbers = np.cumsum(solution.counts > 0, dtype=np.int32) - np.int32(1)
    return replace(
        solution,
        labels=namespace(solution.labels).asarray(numbers)[solution.labels],
        fitted=solution.fitted.take(kept),
        counts=solution.counts[kept],
        costs=solution.costs[kept],
    )
