"""The best flats for given labels: spanned by the leading eigenvectors of each cluster's second moments."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ksubspaces import kernels
from ksubspaces.kernels import Eigenspaces, Flats, Groups, Kept, Layout, Moments
from ksubspaces.kernels.moments import traces
from ksubspaces.kernels.products import measure_captured, side_by_side

from .arrays import Array, namespace
from .problem import Problem

RESIDENT_BYTES = 64 << 20  # second moments of all clusters are kept if they take less than this ...
RESIDENT_SHARE = 0.5  # ... or than this share of X
UPDATE_SHARE = 0.4  # an update touches a moved row twice, so it pays while fewer than this share of the rows moved
FADED = 0.05  # share of itself to which a cluster's moments may shrink by updates
UPDATE_SIZE = 1 << 14  # numbers in X below which all moments take less time than finding out which rows moved
KEPT_SHARE = 0.005  # of a cluster's rows that may come and go before its eigenvectors are computed anew
SOLVED_BYTES = 4 << 20  # of second moments that are solved at a time where they are not kept
UPDATES = 16  # in a row, before moments are computed afresh to shed what rounding added up


class _Solved(NamedTuple):
    """Eigenvectors (k, d, d) of clusters, the labels they were last asked for, and how many rows of each cluster have
    come or gone since its own were computed, (k,)."""

    labels: Array
    vectors: Array
    drift: np.ndarray


class RunningMoments:
    """Second moments of k clusters whose labels change little by little: only rows that moved are touched."""

    def __init__(self, problem: Problem, k: int, products: bool = True) -> None:
        self.problem, self.k, self.d, self.products = problem, k, problem.X.shape[1], products
        self.moments: Moments | None = None
        self.labels: Array | None = None
        self.updates = 0
        self.peak: Array | None = None
        self.solved: _Solved | None = None
        self.kept: Kept | None = {} if problem.on_card else None

    @property
    def resident(self) -> bool:
        """Whether there is room for those of all clusters at a time."""
        most = max(RESIDENT_BYTES, RESIDENT_SHARE * self.problem.X.nbytes)
        return not self.products or self.k * self.d**2 * 8 <= most

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
        self.moments = None  # lest old and new ones are held together
        self.moments, _ = self._afresh(labels)
        self.labels, self.updates, self.peak = labels, 0, None
        if not fresh:
            self._faded(self.moments)
        return self.moments

    def after(self, labels: Array, before: Array) -> tuple[Moments, Array | None]:
        """The moments afresh, and how many rows have other labels than before."""
        self.moments, moved = self._afresh(labels, before=before)
        self.labels, self.updates, self.peak = labels, 0, None
        return self.moments, moved

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

    def eigenspaces(
        self,
        labels: Array,
        dims: Sequence[int] | None,
        dtype: DTypeLike | None = None,
        start: Array | None = None,
        exact: bool = True,
        nearly: bool = False,
    ) -> tuple[Eigenspaces, Array | None]:
        """The leading eigenspace of each cluster, and best offsets; without dims all of it, or what few rows span.

        In X's precision ``exact``, or ``nearly`` so, or some steps from ``start``; in another one, nothing is kept.
        Clusters whose second moments take too much memory together are taken some at a time.
        """
        p, precision = self.problem, dtype or self.problem.X.dtype
        at_once = max(1, (RESIDENT_BYTES if dtype is None or p.on_card else SOLVED_BYTES) // (8 * self.d**2))
        if dtype is not None:
            self.moments = self.labels = None
        if self.products and not (self.resident if dtype is None else self.k <= at_once):
            return self._by_chunks(labels, dims, precision, at_once)
        moments = self(labels) if dtype is None else self._afresh(labels, dtype)[0]
        if not self.products:
            layout = kernels.layout_of(self.d, p.dims)
            return trivial_eigenspaces(layout, p.X.dtype, namespace(p.X)), p.offsets(moments)
        if dims is None and dtype is None and not p.on_card:
            return self._refreshed(labels, moments.scatter), p.offsets(moments)
        dims = [self.d] * self.k if dims is None else dims
        spaces = kernels.top_eigenspaces(moments.scatter, dims, precision, start, exact, self.kept, nearly)
        return spaces, p.offsets(moments)

    def _refreshed(self, labels: Array, S: Array) -> Eigenspaces:
        """All eigenvectors; those of before, with what they capture now, of clusters that have hardly changed.

        The next call overwrites them.
        """
        k, d, dtype = self.k, self.d, self.problem.X.dtype
        anew: np.ndarray = np.arange(k)
        drift: np.ndarray = np.zeros(k)
        vectors = np.empty((k, d, d), dtype) if self.solved is None else self.solved.vectors
        values = np.empty((k, d))
        if self.solved is not None:
            then = self.solved.labels
            moved = kernels.changed_rows(then, labels)
            drift = self.solved.drift + sum(kernels.label_counts(own[moved], k) for own in (then, labels))
            stale = drift > KEPT_SHARE * kernels.label_counts(labels, k)
            anew, kept = np.flatnonzero(stale), np.flatnonzero(~stale)

            def keep(c: int) -> None:
                values[c] = measure_captured(S[c], vectors[c])

            deque(side_by_side(keep, kept.tolist(), len(kept) * d**3), maxlen=0)
        at_once = max(4, SOLVED_BYTES // (8 * d * d))
        for part in (anew[first : first + at_once] for first in range(0, len(anew), at_once)):
            spaces = kernels.top_eigenspaces(S[part], [d] * len(part), dtype)
            vectors[part], values[part], drift[part] = spaces.bases.reshape(-1, d, d), spaces.eigenvalues, 0
        self.solved = _Solved(labels, vectors, drift)
        return Eigenspaces(kernels.layout_of(d, (d,) * k), vectors.reshape(-1, d), values, vectors[:0, 0])

    def _afresh(
        self, labels: Array, dtype: DTypeLike | None = None, before: Array | None = None
    ) -> tuple[Moments, Array | None]:
        p, groups = self.problem, kernels.group_rows(labels, self.k, before, self.kept)
        moments = kernels.second_moments(p.X, groups, p.weights, p.affine, self.products, dtype, self.kept)
        return moments, groups.moved

    def _by_chunks(
        self, labels: Array, dims: Sequence[int] | None, dtype: DTypeLike | None, at_once: int
    ) -> tuple[Eigenspaces, Array | None]:
        k, d, xp, groups = self.k, self.d, namespace(labels), kernels.group_rows(labels, self.k)
        most = max(np.diff(groups.bounds).tolist())
        layout = kernels.layout_of(d, tuple(dims or [d if 2 * most > d else most] * k))
        bases, values = xp.empty((layout.total, d), dtype), xp.zeros((k, d))
        offsets = xp.empty((k, d)) if self.problem.affine else None
        complements = xp.empty((layout.complements.total, d), dtype) if layout.has_wide else None
        for first in range(0, k, at_once):
            end = min(first + at_once, k)
            own = groups.take(first, end), layout.dims[first:end]
            spaces, means = eigenspaces(self.problem, *own, dtype, most)
            bases[layout.starts[first] : layout.starts[end]] = spaces.bases
            assert spaces.eigenvalues is not None
            values[first:end, : spaces.eigenvalues.shape[1]] = spaces.eigenvalues
            if complements is not None and spaces.complements is not None:
                complements[layout.complements.starts[first] : layout.complements.starts[end]] = spaces.complements
            if offsets is not None:
                offsets[first:end] = means
        return Eigenspaces(layout, bases, values, complements), offsets


def are_trivial(dims: Sequence[int], d: int) -> bool:
    """Whether flats are points (j = 0) or the whole space (j = d) all: there are no eigenvectors to look for."""
    return not any(0 < j < d for j in dims)


def trivial_eigenspaces(layout: Layout, dtype: DTypeLike, xp: ModuleType) -> Eigenspaces:
    """Those of such flats, as arrays of NumPy or CuPy."""
    bases = xp.tile(xp.eye(layout.d, dtype=dtype), (layout.total // layout.d, 1))
    return Eigenspaces(layout, bases, None, bases[:0] if layout.has_wide else None)


def best_flats(moments: Moments, layout: Layout, affine: bool, dtype: DTypeLike) -> Flats:
    """The best flats for clusters of these moments; of points and whole spaces the means alone are asked."""
    means = moments.means if affine else None
    if are_trivial(layout.dims, layout.d):
        return trivial_eigenspaces(layout, dtype, namespace(moments.counts)).flats(means)
    return kernels.top_eigenspaces(moments.scatter, layout.dims, dtype).flats(means)


def fit_flats(problem: Problem, rows: Sequence[Array], dims: Sequence[int], dtype: DTypeLike) -> Flats:
    """The best flat of each dimension for its list of row numbers; one near it where eigenvectors are dear."""
    xp, sizes = namespace(problem.X), [len(own) for own in rows]
    groups = Groups(xp.concatenate(rows), xp.asarray(np.cumsum([0, *sizes])))
    spaces, offsets = eigenspaces(problem, groups, dims, dtype, max(sizes), exact=False)
    return spaces.flats(offsets)


def eigenspaces(
    problem: Problem, groups: Groups, dims: Sequence[int], dtype: DTypeLike | None, most: int, exact: bool = True
) -> tuple[Eigenspaces, Array | None]:
    """The leading eigenspace of each group of at most ``most`` rows of X, and best offsets; from the rows
    themselves where these are few, else from their second moments."""
    X, xp, weights = problem.X, namespace(problem.X), problem.weights
    few = 2 * most <= X.shape[1]
    moments = kernels.second_moments(X, groups, weights, problem.affine, not few, dtype)
    offsets = problem.offsets(moments)
    if not few:
        return kernels.top_eigenspaces(moments.scatter, dims, dtype, exact=exact), offsets
    blocks = []
    for c in range(groups.k):
        A = X[groups.rows(c)].astype(dtype)
        if offsets is not None:
            A -= offsets[c].astype(dtype)
        if weights is not None:
            A *= xp.sqrt(weights[groups.rows(c)]).astype(dtype)[:, None]
        blocks.append(A)
    return kernels.batched_svd(blocks, dims), offsets
