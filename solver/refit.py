"""The best flats for given labels: spanned by the leading eigenvectors of each cluster's second moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Eigenspaces, Flats, Groups, Moments
from ksubspaces.kernels.moments import traces

from .arrays import Array, namespace
from .problem import Problem

RESIDENT_BYTES = 64 << 20  # second moments of all clusters are kept if they take less than this ...
RESIDENT_SHARE = 0.5  # ... or than this share of X
UPDATE_SHARE = 0.4  # an update touches a moved row twice, so it pays while fewer than this share of the rows moved
FADED = 0.05  # share of itself to which a cluster's moments may shrink by updates
UPDATE_SIZE = 1 << 14  # numbers in X below which all moments take less time than finding out which rows moved
UPDATES = 16  # in a row, before moments are computed afresh to shed what rounding added up


class RunningMoments:
    """Second moments of k clusters whose labels change little by little: only rows that moved are touched."""

    def __init__(self, problem: Problem, k: int, products: bool = True) -> None:
        self.problem, self.k, self.products = problem, k, products
        self.moments: Moments | None = None
        self.labels: Array | None = None
        self.updates = 0
        self.peak: Array | None = None

    @property
    def resident(self) -> bool:
        """Whether there is room for those of all clusters at a time."""
        X = self.problem.X
        return not self.products or self.k * X.shape[1] ** 2 * 8 <= max(RESIDENT_BYTES, RESIDENT_SHARE * X.nbytes)

    def __call__(self, labels: Array) -> Moments:
        p = self.problem
        if p.X.shape[0] * p.X.shape[1] < UPDATE_SIZE:
            return self._afresh(labels)
        if self.moments is not None and self.labels is not None and self.updates < UPDATES:
            moved = kernels.changed_rows(self.labels, labels)
            if len(moved) <= UPDATE_SHARE * len(labels):
                kernels.update_moments(self.moments, p.X, moved, self.labels[moved], labels[moved], p.weights)
                self.labels, self.updates = labels, self.updates + 1
                if not self._faded(self.moments):
                    return self.moments
        self.moments = self._afresh(labels)
        self.labels, self.updates, self.peak = labels, 0, None
        self._faded(self.moments)
        return self.moments

    def _afresh(self, labels: Array) -> Moments:
        p = self.problem
        return kernels.second_moments(p.X, kernels.group_rows(labels, self.k), p.weights, p.affine, self.products)

    def _faded(self, moments: Moments) -> bool:
        """Whether updates have left some cluster with moments so much smaller than what was added and taken away that
        rounding shows: most of its rows have left, or its mean is now far from the origin of its sums."""
        if moments.raw is None:
            return False
        left, held = traces(moments.scatter), traces(moments.raw)
        xp = namespace(left)
        before = left if self.peak is None else self.peak
        self.peak = xp.maximum(before, left)
        return bool(((left < FADED * before) | ((left > 0) & (left < FADED * held))).any())


class Refit:
    """Best flats for given labels; between calls it keeps second moments, where those of all clusters fit in memory."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        d = problem.X.shape[1]
        self.moments = RunningMoments(problem, problem.k, any(0 < j < d for j in problem.dims))
        self.bases: Array | None = None
        self.warm = True  # may start from the last bases; what comes of it is in ``exact``
        self.exact = True

    def __call__(self, labels: Array, exact: bool = False) -> Flats:
        if not self.moments.resident:
            return self._one_at_a_time(labels, np.float64 if exact else self.problem.X.dtype)
        if exact:
            p, groups = self.problem, kernels.group_rows(labels, self.problem.k)
            moments = kernels.second_moments(p.X, groups, p.weights, p.affine, self.moments.products, np.float64)
        else:
            moments = self.moments(labels)
        if moments.raw is None:
            spaces = _trivial_eigenspaces(self.problem)
        else:
            dtype, start = (np.float64, None) if exact else (self.problem.X.dtype, self.bases if self.warm else None)
            spaces = kernels.top_eigenspaces(moments.scatter, self.problem.dims, dtype, start, start is None)
            self.bases, self.exact = spaces.bases, spaces.exact
        return spaces.flats(moments.means if self.problem.affine else None)

    def _one_at_a_time(self, labels: Array, dtype: Any) -> Flats:
        p = self.problem
        xp, k, d = namespace(p.X), p.k, p.X.shape[1]
        layout = kernels.layout_of(d, p.dims)
        bases = xp.empty((layout.total, d), dtype)
        complements = xp.empty((layout.complements.total, d), dtype) if layout.has_wide else None
        offsets = xp.empty((k, d)) if p.affine else None
        groups = kernels.group_rows(labels, k)
        for c in range(k):
            spaces, mean = eigenspaces(p, [groups.rows(c)], p.dims[c], dtype)
            bases[layout.rows(c)] = spaces.bases
            if complements is not None and spaces.complements is not None:
                complements[layout.complements.rows(c)] = spaces.complements
            if offsets is not None:
                offsets[c] = mean[0]
        return Flats(layout, bases, offsets, complements)


def fit_flats(problem: Problem, groups: Sequence[Array], j: int, dtype: Any) -> Flats:
    """The best j-flat for each group of rows of X."""
    spaces, means = eigenspaces(problem, groups, j, dtype)
    return spaces.flats(means if problem.affine else None)


def eigenspaces(problem: Problem, groups: Sequence[Array], j: int, dtype: Any) -> tuple[Eigenspaces, Array]:
    """The j-dimensional eigenspace of each group of rows of X, and their means (k, d); for few rows from themselves,
    else from their second moments."""
    X, xp, weights = problem.X, namespace(problem.X), problem.weights
    sizes = [len(rows) for rows in groups]
    few = 2 * max(sizes) <= X.shape[1]
    rows = Groups(xp.concatenate(groups), xp.asarray(np.cumsum([0, *sizes])))
    moments = kernels.second_moments(X, rows, weights, problem.affine, not few, dtype)
    if not few:
        return kernels.top_eigenspaces(moments.scatter, [j] * len(groups), dtype), moments.means
    blocks = []
    for rows, mean in zip(groups, moments.means, strict=True):
        A = X[rows].astype(dtype)
        if problem.affine:
            A -= mean.astype(dtype)
        if weights is not None:
            A *= xp.sqrt(weights[rows]).astype(dtype)[:, None]
        blocks.append(A)
    return kernels.batched_svd(blocks, j), moments.means


def _trivial_eigenspaces(problem: Problem) -> Eigenspaces:
    """Points (j = 0) and the whole space (j = d): no eigenvectors to look for."""
    xp, d, dtype = namespace(problem.X), problem.X.shape[1], problem.X.dtype
    layout = kernels.layout_of(d, problem.dims)
    bases = xp.tile(xp.eye(d, dtype=dtype), (layout.total // d, 1)) if layout.total else xp.zeros((0, d), dtype)
    return Eigenspaces(layout, bases, None, xp.zeros((0, d), dtype) if layout.has_wide else None)
