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
        if self.moments is not None and labels is self.labels:
            return self.moments
        fresh = p.on_card or p.X.shape[0] * p.X.shape[1] < UPDATE_SIZE  # on a card the host would wait for the rows
        if self.moments is not None and self.labels is not None and self.updates < UPDATES and not fresh:
            moved = kernels.changed_rows(self.labels, labels)
            if len(moved) <= UPDATE_SHARE * len(labels):
                kernels.update_moments(self.moments, p.X, moved, self.labels[moved], labels[moved], p.weights)
                self.labels, self.updates = labels, self.updates + 1
                if not self._faded(self.moments):
                    return self.moments
        self.moments = moments_of(p, labels, self.k, products=self.products)
        self.labels, self.updates, self.peak = labels, 0, None
        if not fresh:
            self._faded(self.moments)
        return self.moments

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


def moments_of(problem: Problem, labels: Array, k: int, dtype: Any = None, products: bool = True) -> Moments:
    """Moments of k clusters, multiplied in X's precision or the one given."""
    groups = kernels.group_rows(labels, k)
    return kernels.second_moments(problem.X, groups, problem.weights, problem.affine, products, dtype)


def eigenspaces_by_chunks(
    problem: Problem, labels: Array, k: int, dims: Sequence[int] | None, dtype: Any
) -> tuple[Eigenspaces, Array | None]:
    """The leading eigenspaces of k clusters, without dims all of them or those that few rows span, and best offsets.

    So many clusters at a time as have second moments that take little memory.
    """
    xp, d = namespace(labels), problem.X.shape[1]
    at_once = max(1, RESIDENT_BYTES // (8 * d * d))
    if k <= at_once:
        moments = moments_of(problem, labels, k, dtype)
        return kernels.top_eigenspaces(moments.scatter, dims or [d] * k, dtype), problem.offsets(moments)
    groups = kernels.group_rows(labels, k)
    most = max(np.diff(groups.bounds).tolist())
    layout = kernels.layout_of(d, tuple(dims or [d if 2 * most > d else most] * k))
    bases, values = xp.empty((layout.total, d), dtype), xp.zeros((k, d))
    offsets = xp.empty((k, d)) if problem.affine else None
    complements = xp.empty((layout.complements.total, d), dtype) if layout.has_wide else None
    for first in range(0, k, at_once):
        end = min(first + at_once, k)
        spaces, own = eigenspaces(problem, groups.take(first, end), layout.dims[first:end], dtype, most)
        bases[layout.starts[first] : layout.starts[end]] = spaces.bases
        values[first:end, : spaces.eigenvalues.shape[1]] = spaces.eigenvalues
        if complements is not None and spaces.complements is not None:
            complements[layout.complements.starts[first] : layout.complements.starts[end]] = spaces.complements
        if offsets is not None:
            offsets[first:end] = own
    return Eigenspaces(layout, bases, values, complements), offsets


def fit_flats(problem: Problem, rows: Sequence[Array], j: int, dtype: Any) -> Flats:
    """The best j-flat for each list of row numbers."""
    xp, sizes = namespace(problem.X), [len(own) for own in rows]
    groups = Groups(xp.concatenate(rows), xp.asarray(np.cumsum([0, *sizes])))
    spaces, offsets = eigenspaces(problem, groups, [j] * len(rows), dtype, max(sizes))
    return spaces.flats(offsets)


def eigenspaces(
    problem: Problem, groups: Groups, dims: Sequence[int], dtype: Any, most: int
) -> tuple[Eigenspaces, Array | None]:
    """The leading eigenspace of each group of at most ``most`` rows of X, and best offsets; from the rows
    themselves where these are few, else from their second moments."""
    X, xp, weights = problem.X, namespace(problem.X), problem.weights
    few = 2 * most <= X.shape[1]
    moments = kernels.second_moments(X, groups, weights, problem.affine, not few, dtype)
    offsets = problem.offsets(moments)
    if not few:
        return kernels.top_eigenspaces(moments.scatter, dims, dtype), offsets
    blocks = []
    for c in range(groups.k):
        A = X[groups.rows(c)].astype(dtype)
        if offsets is not None:
            A -= offsets[c].astype(dtype)
        if weights is not None:
            A *= xp.sqrt(weights[groups.rows(c)]).astype(dtype)[:, None]
        blocks.append(A)
    return kernels.batched_svd(blocks, dims), offsets


def trivial_eigenspaces(problem: Problem) -> Eigenspaces:
    """Points (j = 0) and the whole space (j = d): no eigenvectors to look for."""
    xp, d, dtype = namespace(problem.X), problem.X.shape[1], problem.X.dtype
    layout = kernels.layout_of(d, problem.dims)
    bases = xp.tile(xp.eye(d, dtype=dtype), (layout.total // d, 1)) if layout.total else xp.zeros((0, d), dtype)
    return Eigenspaces(layout, bases, None, xp.zeros((0, d), dtype) if layout.has_wide else None)
