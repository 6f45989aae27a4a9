"""The meaning of each operation, in plain float64 NumPy. Every device is tested against it.

Nothing here is fast or saves memory. Arguments and results are as in :mod:`ksubspaces.kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from .factors import Factors
from .flats import Array, Eigenspaces, Flats, layout_of, wants_complement
from .groups import Groups
from .moments import Moments
from .packed import PackedRows


def sqdistances(X: Array, flats: Flats) -> np.ndarray:
    """r_c(x_i) = |x - mu_c - V_c^T V_c (x - mu_c)|^2 for every row and flat, (n, k)."""
    X = np.asarray(X, dtype=np.float64)
    distances = np.empty((len(X), flats.k))
    for c in range(flats.k):
        V = np.asarray(flats.basis(c), dtype=np.float64)
        centred = X if flats.offsets is None else X - np.asarray(flats.offsets[c], dtype=np.float64)
        rest = centred - (centred @ V.T) @ V
        distances[:, c] = np.sum(rest * rest, axis=1)
    return distances


def assign(
    X: Array, flats: Flats, penalty: Array | None = None, weights: Array | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """label_i = argmin_c w_i r_c(x_i) + penalty_c (ties: lowest c), and r of that flat."""
    distances = sqdistances(X, flats)
    cost = distances if weights is None else np.asarray(weights, dtype=np.float64)[:, None] * distances
    if penalty is not None:
        cost = cost + np.asarray(penalty, dtype=np.float64)
    labels = np.argmin(cost, axis=1)
    return labels.astype(np.int32), distances[np.arange(len(labels)), labels]


def two_nearest(X: Array, flats: Flats) -> tuple[np.ndarray, np.ndarray]:
    """Labels and distances (n, 2) of the two least of each row (ties: lowest c); of a single flat, it again and inf."""
    distances = sqdistances(X, flats)
    if flats.k == 1:
        return np.zeros((len(X), 2), np.int32), np.pad(distances, ((0, 0), (0, 1)), constant_values=np.inf)
    labels = np.argsort(distances, axis=1, kind="stable")[:, :2]
    return labels.astype(np.int32), np.take_along_axis(distances, labels, axis=1)


def group_rows(labels: Array, k: int, before: Array | None = None) -> Groups:
    """Row numbers by label, where each label's begin, and how many labels differ from those before."""
    moved = None if before is None else np.array(sum(a != b for a, b in zip(labels, before, strict=True)))
    rows = [[i for i, label in enumerate(labels) if label == c] for c in range(k)]
    starts = np.cumsum([0, *map(len, rows)])
    order = np.array([i for numbers in rows for i in numbers], dtype=np.int64)
    return Groups(order, starts, moved=moved, whole=True)


def residuals(X: Array, groups: Groups, flats: Flats) -> np.ndarray:
    """r of each row's own flat, (n,) float64."""
    result = np.zeros(len(X))
    result[groups.order] = sqdistances(X, flats)[groups.order, groups.owners]
    return result


def coefficients(
    X: Array, groups: Groups, flats: Flats, residuals: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """(x - mu_c) V_c^T of the rows of one group after another, packed; and r of each row's own flat."""
    mu = np.zeros((flats.k, X.shape[1])) if flats.offsets is None else flats.offsets
    parts = [(X[groups.rows(c)] - np.float64(mu[c])) @ flats.basis(c).T for c in range(flats.k)]
    left = _residuals(X, groups, flats) if residuals else None
    return np.concatenate([part.ravel() for part in parts]).astype(X.dtype), left


_residuals = residuals


def second_moments(
    X: Array,
    groups: Groups,
    weights: Array | None = None,
    center: bool = False,
    products: bool = True,
    dtype: DTypeLike | None = None,
) -> Moments:
    """Weighted first and second moments of the rows of each group, about the means if ``center``; all in float64."""
    X, k = np.asarray(X, dtype=np.float64), groups.k
    w = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=np.float64)
    d = X.shape[1]
    raw, first, origins = np.zeros((k, d, d)), np.zeros((k, d)), np.zeros((k, d))
    mass, counts = np.zeros(k), np.zeros(k, dtype=np.int64)
    for c in range(k):
        members, wc = X[groups.rows(c)], w[groups.rows(c)]
        mass[c], counts[c] = wc.sum(), len(members)
        if center and mass[c] > 0:
            origins[c] = wc @ members / mass[c]
        centred = members - origins[c]
        first[c] = wc @ centred
        raw[c] = (wc[:, None] * centred).T @ centred
    if products and not center:
        return Moments(raw, None, None, counts, None, center)
    return Moments(raw if products else None, first, mass, counts, origins, center)


def update_moments(
    moments: Moments, X: Array, rows: Array, old: Array, new: Array, weights: Array | None = None
) -> None:
    """Move ``rows`` of X from clusters ``old`` to clusters ``new``, in place."""
    for i, a, b in zip(rows, old, new, strict=True):
        w = 1.0 if weights is None else float(weights[i])
        for c, sign in ((a, -1), (b, 1)):
            x = np.asarray(X[i], dtype=np.float64)
            moments.counts[c] += sign
            if moments.first is not None:
                first, mass, origins = moments.known_sums
                x = x - origins[c]
                mass[c] += sign * w
                first[c] += sign * w * x
            if moments.raw is not None:
                moments.raw[c] += sign * w * np.outer(x, x)


def measure_objective(moments: Moments, flats: Flats) -> np.ndarray:
    """tr S_c - tr V_c S_c V_c^T with S_c = sum w (x - mu_c)(x - mu_c)^T."""
    objective = np.zeros(flats.k)
    for c in range(flats.k):
        V, S = np.asarray(flats.basis(c), dtype=np.float64), moments.known_raw[c]
        if moments.first is not None or flats.offsets is not None:
            first, mass, origin = (part[c] for part in moments.known_sums)
            shift = (0 if flats.offsets is None else flats.offsets[c]) - origin
            S = S - np.outer(first, shift) - np.outer(shift, first) + mass * np.outer(shift, shift)
        objective[c] = max(0.0, np.trace(S) - np.trace(V @ S @ V.T))
    return objective


def top_eigenspaces(
    S: Array, dims: Sequence[int], dtype: DTypeLike | None = None, start: Array | None = None, exact: bool = True
) -> Eigenspaces:
    """Top dims[c] eigenvectors of each S_c, eigenvalues descending, and the eigenvectors left."""
    spaces = []
    for matrix in S:
        values, vectors = np.linalg.eigh(np.asarray(matrix, dtype=np.float64))
        spaces.append((np.maximum(values[::-1], 0), vectors[:, ::-1].T))
    return _stacked(spaces, dims)


def batched_svd(blocks: Sequence[Array], rank: Sequence[int] | int) -> Eigenspaces:
    """Top right singular vectors of each (n_c, d) block; completed to ``rank`` orthonormal rows when n_c is less."""
    spaces = []
    for block in blocks:
        _, s, Vt = np.linalg.svd(np.asarray(block, dtype=np.float64), full_matrices=True)
        spaces.append((s * s, Vt))
    return _stacked(spaces, [rank] * len(blocks) if isinstance(rank, int) else rank)


def _stacked(spaces: list[tuple[np.ndarray, np.ndarray]], dims: Sequence[int]) -> Eigenspaces:
    """The first rows of each of the vectors (d, d), the others where they are fewer, and the eigenvalues."""
    d = spaces[0][1].shape[1]
    bases = [vectors[:j] for (_, vectors), j in zip(spaces, dims, strict=True)]
    complements = [vectors[j:] for (_, vectors), j in zip(spaces, dims, strict=True) if wants_complement(j, d)]
    eigenvalues = np.zeros((len(spaces), max(len(values) for values, _ in spaces)))
    for row, (values, _) in zip(eigenvalues, spaces, strict=True):
        row[: len(values)] = values
    layout = layout_of(d, tuple(dims))
    return Eigenspaces(layout, np.concatenate(bases), eigenvalues, np.concatenate(complements) if complements else None)


def sample_rows(weights: Array, m: int, rng: np.random.Generator) -> np.ndarray:
    """Up to m distinct rows, drawn one after another with probability proportional to the weights that are left."""
    left = np.array(weights, dtype=np.float64)
    rows: list[int] = []
    for _ in range(min(m, int(np.count_nonzero(left > 0)))):
        rows.append(int(rng.choice(len(left), p=left / left.sum())))
        left[rows[-1]] = 0
    return np.array(rows, dtype=np.int64)


def lower_distances(distances: Array, trials: Array, weights: Array) -> np.ndarray:
    """trials_ip = min(trials_ip, distances_i) in place; sum_i w_i trials_ip for each p."""
    for i, distance in enumerate(distances):
        trials[i] = [min(trial, distance) for trial in trials[i]]
    return np.sum(np.asarray(weights, dtype=np.float64)[:, None] * trials, axis=0)


def largest(costs: Array, m: int) -> np.ndarray:
    """Rows of the m largest positive costs, by cost and then by number."""
    rows = sorted((-float(cost), row) for row, cost in enumerate(costs) if cost > 0)
    return np.array([row for _, row in rows[:m]], dtype=np.int64)


def changed_rows(old: Array, new: Array) -> np.ndarray:
    """Rows i with old_i != new_i."""
    return np.array([i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b], dtype=np.int64)


def fetch(arrays: Sequence[Array]) -> list[np.ndarray]:
    """Arrays in float64."""
    return [np.array(array, np.float64) for array in arrays]


def label_counts(labels: Array, k: int) -> np.ndarray:
    """Number of rows with label c, for each c."""
    return np.array([int(np.sum(labels == c)) for c in range(k)], dtype=np.int64)


def lookup(rows: Array, factorization: Factors) -> np.ndarray:
    """Decoded rows (b, d): each row's coefficients times the basis of its cluster, plus the offset."""
    decoded = []
    for row in np.asarray(rows, dtype=np.int64):
        c = int(factorization.labels[row])
        coefficients = np.asarray(factorization.blocks[c][factorization.positions[row]], dtype=np.float64)
        x = coefficients @ np.asarray(factorization.bases[c], dtype=np.float64)
        decoded.append(x if factorization.offsets is None else x + factorization.offsets[c])
    return np.array(decoded).reshape(len(decoded), factorization.bases[0].shape[1])


def window(codes: Array, start: int, skip: int, shift: int, mask: int) -> int:
    """Bits of a packed row from ``skip`` on, as a number: the first bit is the lowest."""
    at = start + skip
    word = int.from_bytes(bytes(codes[at // 8 : at // 8 + 4]), "little") >> at % 8
    return (word << shift) & mask


def decode(rows: Array, packed: PackedRows) -> np.ndarray:
    """Rows (b, d) of packed bits: offset_c + sum_e scale_e gain levels[table_e + window_e] v_e."""
    decoded = np.zeros((len(rows), packed.bases.shape[1]))
    for out, row in zip(decoded, np.asarray(rows, dtype=np.int64), strict=True):
        g, start = int(packed.groups[row]), int(packed.starts[row])
        if g == len(packed.clusters):
            assert packed.exact is not None
            out += packed.exact[start]
            continue
        if packed.offsets is not None:
            out += packed.offsets[packed.clusters[g]]
        for e in range(int(packed.bounds[g]), int(packed.bounds[g + 1])):
            terms = packed.skips, packed.shifts, packed.masks
            level = packed.levels[packed.tables[e] + window(packed.codes, start, *(int(term[e]) for term in terms))]
            gain = 1.0 if packed.gains is None else packed.gains[row, packed.blocks[e]]
            out += np.float64(packed.scales[e]) * gain * level * packed.bases[packed.directions[e]]
    return decoded
