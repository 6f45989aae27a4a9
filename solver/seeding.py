"""Starts of the alternation: each is a function (problem, rng) -> labels (n,) int32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ksubspaces import kernels
from ksubspaces.kernels import Flats

from .alternation import FixedDims, State, alternate
from .arrays import Array, Matrix, namespace, row_blocks, squared_lengths
from .problem import Problem
from .refit import fit_flats

CANDIDATES = 4  # tried at each draw, the best kept
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
    X, k, xp = problem.X, problem.k, namespace(problem.X)
    n = len(X)
    at_once = None if problem.affine else kernels.seed(X, problem.dims, problem.weights, rng)
    if at_once is not None:
        return at_once
    weights = xp.ones(n, dtype=X.dtype) if problem.weights is None else problem.weights
    n_positive = n if problem.weights is None else int((weights > 0).sum())
    labels = xp.zeros(n, dtype=np.int32)
    distance, odds, lengths = xp.full(n, np.inf, dtype=X.dtype), problem.distance_to_middle(), _lengths(X)
    for c in sorted(range(k), key=lambda c: -problem.dims[c]):
        drawn = kernels.sample_rows(weights * odds, CANDIDATES, rng)
        if len(drawn) == 0:
            break  # every row lies on a flat already
        j = problem.dims[c]
        m = min(n_positive, max(n_positive // (2 * k), j + 1))
        flats = fit_flats(problem, _closest_rows(problem, drawn, lengths, m), j, X.dtype)
        lowered = _best_trial(distance, kernels.sqdistances(X, flats), weights)[1]
        labels[lowered < distance] = c
        distance = odds = lowered
    return labels


def _best_trial(distance: Array, trials: Array, weights: Array) -> tuple[Any, Array]:
    """Which column of trials lowers the distances most, and the distances then; the host need not know which."""
    best = kernels.lower_distances(distance, trials, weights).argmin()
    return best, trials.T.take(best, axis=0)


def _closest_rows(problem: Problem, drawn: Array, lengths: Array, m: int) -> list[Array]:
    """For each drawn row the m rows of positive weight closest to it: by |cos|, or by distance if affine."""
    X, n = problem.X, len(problem.X)
    if problem.affine:
        closeness = -kernels.sqdistances(X, Flats.points(X[drawn], X.dtype)).T
    else:
        closeness = abs(_cosines(X, lengths, drawn))
    if problem.weights is not None:
        closeness[:, problem.weights <= 0] = -np.inf
    return list(closeness.argpartition(n - m, axis=1)[:, n - m :])


def _cosines(X: Matrix, lengths: Array, drawn: Array) -> Array:
    """Cosines (p, n) between rows drawn and all rows, zero where either is zero."""
    xp = namespace(X)
    lengths = xp.maximum(lengths, np.sqrt(np.finfo(X.dtype).tiny))
    units, cosines = X[drawn] / lengths[drawn, None], xp.empty((len(drawn), len(X)), X.dtype)
    for start, block in row_blocks(X):
        cosines[:, start : start + len(block)] = units @ block.T
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
    centres = _spherical_centres(X, lengths, weights, k, rng)
    if len(centres) == 0:
        return xp.zeros(len(X), dtype=np.int32)
    per_length = weights / xp.where(lengths > 0, lengths, 1)
    labels: Any = None
    for _ in range(KMEANS_STEPS):
        units = centres.T.astype(X.dtype)
        assigned = xp.concatenate([(block @ units).argmax(axis=1) for _, block in row_blocks(X)]).astype(np.int32)
        if labels is not None and not bool((assigned != labels).any()):
            break
        labels = assigned
        groups = kernels.group_rows(labels, len(centres))
        sums = kernels.second_moments(X, groups, per_length, products=False).known_sums[0]
        norms = xp.sqrt((sums * sums).sum(axis=1, keepdims=True))
        found = norms > 0
        centres = xp.where(found, sums / (norms + ~found), centres)
    return labels


def _spherical_centres(X: Matrix, lengths: Array, weights: Array, k: int, rng: np.random.Generator) -> Array:
    """Up to k unit rows by greedy k-means++ on the sphere."""
    xp = namespace(X)
    chosen: list[Array] = []
    distance, odds = xp.full(len(X), np.inf, dtype=X.dtype), xp.ones(len(X), dtype=X.dtype)
    for turn in range(k):
        drawn = kernels.sample_rows(weights * odds, CANDIDATES if turn else 1, rng)
        if len(drawn) == 0:
            break
        trials = 1 - _cosines(X, lengths, drawn).T
        trials = xp.where(trials < 8 * np.finfo(X.dtype).eps, 0, trials)  # the same direction, up to rounding
        best, distance = _best_trial(distance, trials, weights)
        odds = distance
        row = X[drawn.take(best).reshape(1)][0].astype(np.float64)
        chosen.append(row / xp.sqrt(row @ row))
    return xp.stack(chosen) if chosen else xp.zeros((0, X.shape[1]))


STARTS: dict[str, Callable[[Problem, np.random.Generator], Array]] = {
    "k-means++": kmeans_plusplus,
    "k-means": kmeans,
    "random": random_partition,
}
