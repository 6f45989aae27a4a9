"""Starts of the alternation: functions (problem, rng) -> labels (n,) int32, and starts that a caller gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats
from ksubspaces.kernels.products import project

from .alternation import FixedDims, State, alternate
from .arrays import AnyArray, Array, Matrix, enter, namespace, row_blocks, scaled, squared_lengths
from .checks import check_labels
from .problem import Problem
from .refit import fit_flats
from .subspaces import Subspaces

CANDIDATES = 4  # tried at each draw, the best kept
BOUNDED_CANDIDATES = 12  # where outliers are among those drawn
KMEANS_STEPS = 10


def random_partition(problem: Problem, rng: np.random.Generator) -> Array:
    """Clusters of equal size, drawn at random: the start of the MESSI paper."""
    n = len(problem.X)
    return namespace(problem.X).asarray(rng.permutation(n) % problem.k, dtype=np.int32)


def kmeans_plusplus(problem: Problem, rng: np.random.Generator) -> Array:
    """Greedy D^2 seeding for flats (after k-means++, Arthur and Vassilvitskii 2007).

    One flat after another: draw a row with probability proportional to its weighted squared distance to the flats so
    far, fit a flat to the rows closest to it in direction (in place, if affine), do so for a few draws and keep the
    flat that leaves the lowest potential. Larger flats come first.
    """
    X, k, dims = problem.X, problem.k, problem.dims
    at_once = None if problem.affine else kernels.seed(X, dims, problem.weights, rng)
    if at_once is not None:
        return at_once
    through = Through(problem)

    def distances(c: int, drawn: Array) -> Array:
        return kernels.sqdistances(X, through(drawn, [dims[c]] * len(drawn)))

    largest_first = sorted(range(k), key=lambda c: -dims[c])
    return _draw(largest_first, problem.distance_to_middle(), problem.weights, distances, rng)[0]


def bounded_kmeans_plusplus(problem: Problem, rng: np.random.Generator, most: float) -> tuple[Array, Array]:
    """The same with squared distances cut off at ``most``, and these distances: outliers are no likelier than others.

    More rows are tried at each draw, as all that are far from the flats so far may be outliers in the end.
    """
    X, dims, through, xp = problem.X, problem.dims, Through(problem), namespace(problem.X)

    def distances(c: int, drawn: Array) -> Array:
        return xp.minimum(kernels.sqdistances(X, through(drawn, [dims[c]] * len(drawn))), X.dtype.type(most))

    largest_first = sorted(range(problem.k), key=lambda c: -dims[c])
    return _draw(largest_first, xp.ones(len(X), X.dtype), problem.weights, distances, rng, *2 * [BOUNDED_CANDIDATES])


def _draw(
    clusters: Sequence[int],
    odds: Array,
    weights: Array | None,
    distances: Callable[[int, Array], Array],
    rng: np.random.Generator,
    first: int = CANDIDATES,
    more: int = CANDIDATES,
) -> tuple[Array, Array]:
    """Labels of the nearest of what is drawn for one cluster after another, and distances to it.

    ``distances(c, drawn)`` are those of all rows to what each row drawn makes of cluster c, of which the best is kept;
    ``odds`` are the distances before there is a cluster, for which ``first`` rows are drawn, and ``more`` for others.
    """
    xp, n = namespace(odds), len(odds)
    weights = xp.ones(n, odds.dtype) if weights is None else weights
    labels, nearest = xp.zeros(n, dtype=np.int32), xp.full(n, np.inf, odds.dtype)
    for turn, c in enumerate(clusters):
        drawn = kernels.sample_rows(weights * odds, more if turn else first, rng)
        if len(drawn) == 0:
            break  # no row is away from what there is
        trials = distances(c, drawn)
        best = kernels.lower_distances(nearest, trials, weights).argmin()  # the host need not know which
        odds = trials.T.take(best, axis=0)
        labels[odds < nearest] = c
        nearest = odds
    return labels, nearest


class Through:
    """Makes a flat for each row drawn, fitted to the rows closest to it; for dimension 0 it is the row itself."""

    def __init__(self, problem: Problem) -> None:
        self.problem, X, weights = problem, problem.X, problem.weights
        self.points = problem.affine and not any(problem.dims)
        self.lengths = None if problem.affine else _lengths(X)
        self.n_positive = len(X) if weights is None else int((weights > 0).sum())

    def __call__(self, drawn: Array, dims: Sequence[int]) -> Flats:
        """A flat of each dimension through each row drawn."""
        X = self.problem.X
        if self.points:
            return Flats.points(X[drawn], X.dtype)
        return fit_flats(self.problem, self._closest(drawn, max(dims)), dims, X.dtype)

    def _closest(self, drawn: Array, j: int) -> list[Array]:
        """The rows of positive weight closest to each row drawn, by |cos|, or by distance if affine: half a cluster,
        and more than j."""
        X, weights, n = self.problem.X, self.problem.weights, len(self.problem.X)
        m = min(self.n_positive, max(self.n_positive // (2 * self.problem.k), j + 1))
        if self.lengths is None:
            closeness = -kernels.sqdistances(X, Flats.points(X[drawn], X.dtype)).T
        else:
            closeness = abs(_cosines(X, self.lengths, drawn))
        if weights is not None:
            closeness[:, weights <= 0] = -np.inf
        return list(closeness.argpartition(n - m, axis=1)[:, n - m :])


def _cosines(X: Matrix, lengths: Array, drawn: Array) -> Array:
    """Cosines (p, n) between rows drawn and all rows, zero where either is zero."""
    xp = namespace(X)
    lengths = xp.maximum(lengths, np.sqrt(np.finfo(X.dtype).tiny))
    units, cosines = X[drawn] / lengths[drawn, None], xp.empty((len(drawn), len(X)), X.dtype)
    for start, block in row_blocks(X):
        cosines[:, start : start + len(block)] = project(block, units.T).T
    cosines /= lengths
    return cosines


def _lengths(X: Matrix) -> Array:
    return namespace(X).sqrt(squared_lengths(X))


def kmeans(problem: Problem, rng: np.random.Generator) -> Array:
    """Labels of a few steps of spherical k-means; of ordinary k-means if affine."""
    if not problem.affine:
        return _spherical_kmeans(problem, rng)
    points = replace(problem, dims=(0,) * problem.k)
    start = State(kmeans_plusplus(points, rng))
    return alternate(start, FixedDims(points), max_iter=KMEANS_STEPS, tol=1e-3).labels


def _spherical_kmeans(problem: Problem, rng: np.random.Generator) -> Array:
    """Clusters by direction: nearest of k unit centres, each the direction of its rows' sum of unit vectors."""
    X, k, xp = problem.X, problem.k, namespace(problem.X)
    lengths = _lengths(X)
    weights = xp.where(lengths > 0, 1, 0).astype(X.dtype)
    if problem.weights is not None:
        weights = weights * problem.weights
    labels = kernels.seed_directions(X, k, weights, rng)
    if labels is None:
        labels = _draw(range(k), xp.ones_like(lengths), weights, lambda c, drawn: _angles(X, lengths, drawn), rng, 1)[0]
    per_length = weights / xp.where(lengths > 0, lengths, 1)
    centres = xp.zeros((k, X.shape[1]))
    for _ in range(KMEANS_STEPS):
        sums = kernels.second_moments(X, kernels.group_rows(labels, k), per_length, products=False).known_sums[0]
        norms = xp.sqrt((sums * sums).sum(axis=1, keepdims=True))
        found = norms > 0
        centres = xp.where(found, sums / (norms + ~found), centres)
        units = centres.T.astype(X.dtype)
        assigned = xp.concatenate([project(block, units).argmax(axis=1) for _, block in row_blocks(X)]).astype(np.int32)
        settled = not problem.on_card and bool((assigned == labels).all())  # a card goes on rather than wait
        labels = assigned
        if settled:
            break
    return labels


def _angles(X: Matrix, lengths: Array, drawn: Array) -> Array:
    """``1 - cos`` (n, p) between all rows and rows drawn, zero for the same direction, up to rounding."""
    angles = 1 - _cosines(X, lengths, drawn)
    angles[angles < 8 * np.finfo(X.dtype).eps] = 0
    return angles.T


Init: TypeAlias = "str | Subspaces | AnyArray"
"""The name of a start, or labels, a list of bases or flats to start from."""

STARTS: dict[str, Callable[[Problem, np.random.Generator], Array]] = {
    "k-means++": kmeans_plusplus,
    "k-means": kmeans,
    "random": random_partition,
}


def given_labels(init: Init, problem: Problem, device: str, exponent: int) -> Array:
    """Labels that a caller starts from, or those of the flats given; the problem's rows are ``2^-exponent X``."""
    names = ", ".join(repr(name) for name in STARTS)
    (n, d), k, dtype = problem.X.shape, problem.k, problem.X.dtype
    if isinstance(init, str):
        raise ValueError(f"init must be one of {names}, or labels, bases or a Subspaces; got {init!r}")
    offsets = None
    if isinstance(init, Subspaces):
        offsets, init = init.offsets, init.bases
    elif not are_bases(init):
        given = enter(init, "init", device, np.float64)[0]
        try:
            return check_labels(given, n, k)
        except ValueError as error:
            raise ValueError(f"init is not one of {names}, a list of bases or labels: {error}") from None
    bases = [enter(V, f"init[{c}]", device, dtype)[0] for c, V in enumerate(init)]
    if len(bases) != k:
        raise ValueError(f"init has {len(bases)} bases, but k={k}")
    for c, V in enumerate(bases):
        if V.shape[1] != d or V.shape[0] > d:
            raise ValueError(f"init[{c}] must be a basis (j, {d}) with j <= {d}, got shape {tuple(V.shape)}")
        if not bool(namespace(V).isfinite(V).all()):
            raise ValueError(f"init[{c}] must be finite, but has NaN or infinity in it")
    xp = namespace(problem.X)
    bases = [xp.ascontiguousarray(xp.linalg.qr(V.T)[0].T) for V in bases]
    if offsets is not None:
        offsets = scaled(enter(offsets, "init.offsets", device, dtype)[0], -exponent)
    return kernels.assign(problem.X, Flats.from_bases(bases, offsets))[0]


def are_bases(init: Init) -> bool:
    """Whether this is a list of matrices, or one array of them (k, j, d)."""
    if isinstance(init, (list, tuple)):
        return len(init) > 0 and all(len(getattr(part, "shape", np.shape(part))) == 2 for part in init)
    return len(getattr(init, "shape", ())) == 3
