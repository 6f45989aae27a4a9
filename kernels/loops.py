"""The loops between the products, compiled by Numba and cached on disk.

They take only arrays that the kernels made (contiguous, writable), so each loop is compiled once per dtype.
"""

from __future__ import annotations

import functools

import numpy as np
from numba import njit

EPS = float(np.finfo(np.float64).eps)
SWEEPS = 30  # convergence is quadratic, a handful is enough


def _jit(function):  # type: ignore[no-untyped-def]
    # Sums may be reordered to use SIMD; NaN and infinity keep their meaning.
    compile_loop = functools.partial(njit, nogil=True, fastmath={"reassoc", "contract", "nsz"})
    try:
        return compile_loop(cache=True)(function)
    except RuntimeError:  # nowhere to write: compile in each process
        return compile_loop()(function)


@_jit
def nearest(  # type: ignore[no-untyped-def]
    projected, starts, shifts, exact, lengths, crossed, added, first, penalty, weights, cost, labels, nearest
):
    """Lower ``cost`` and set labels and residuals where one of these flats is strictly better.

    projected (P, m): products of probes and rows; probes starts[c]:starts[c+1] belong to flat ``first + c``.
    """
    m = cost.size
    total = np.empty(m, cost.dtype)
    for c in range(starts.size - 1):
        residual(projected, starts[c], starts[c + 1], shifts, exact[c], lengths, crossed, added, c, total)
        number, fixed = first + c, penalty[c]
        for i in range(m):
            price = weights[i] * total[i] + fixed
            better = price < cost[i]
            cost[i] = price if better else cost[i]
            nearest[i] = total[i] if better else nearest[i]
            labels[i] = number if better else labels[i]


@_jit
def two_nearest(projected, starts, shifts, exact, lengths, crossed, added, first, labels, nearest):  # type: ignore[no-untyped-def]
    """Set labels and residuals (2, m) where one of these flats is nearer than those so far."""
    m = nearest.shape[1]
    total = np.empty(m, nearest.dtype)
    for c in range(starts.size - 1):
        residual(projected, starts[c], starts[c + 1], shifts, exact[c], lengths, crossed, added, c, total)
        number = np.int32(first + c)
        for i in range(m):
            here, best, second = total[i], nearest[0, i], nearest[1, i]
            nearest[0, i] = here if here < best else best
            nearest[1, i] = best if here < best else (here if here < second else second)
            labels[1, i] = labels[0, i] if here < best else (number if here < second else labels[1, i])
            labels[0, i] = number if here < best else labels[0, i]


@_jit
def distances(projected, starts, shifts, exact, lengths, crossed, added, out):  # type: ignore[no-untyped-def]
    """Residuals out (k, m) to every flat of the group."""
    for c in range(starts.size - 1):
        residual(projected, starts[c], starts[c + 1], shifts, exact[c], lengths, crossed, added, c, out[c])


@_jit
def residual(projected, start, stop, shifts, exact, lengths, crossed, added, c, total):  # type: ignore[no-untyped-def]
    """Sum of squares of the shifted products; it is the residual if ``exact``, else what is missing from |x - mu_c|^2.

    That is ``lengths + crossed[c] + added[c]``, or the lengths alone without offsets.
    """
    total[:] = 0
    for p in range(start, stop):
        row = projected[p]
        shift = shifts[p]
        for i in range(total.size):
            t = row[i] - shift
            total[i] += t * t
    if exact:
        return
    if crossed.shape[0] == 0:
        for i in range(total.size):
            total[i] = max(lengths[i] - total[i], 0)
    else:
        cross, square = crossed[c], added[c]
        for i in range(total.size):
            total[i] = max(cross[i] + lengths[i] + square - total[i], 0)


@_jit
def lower(distances, trials, weights):  # type: ignore[no-untyped-def]
    """Lower each row of trials (p, n) to at most the distances (n,), and return their weighted sums (p,)."""
    potentials = np.zeros(trials.shape[0])
    for c in range(trials.shape[0]):
        trial, potential = trials[c], 0.0
        for i in range(trial.size):
            lowered = min(trial[i], distances[i])
            trial[i] = lowered
            potential += weights[i] * lowered
        potentials[c] = potential
    return potentials


@_jit
def group_by_label(labels, k):  # type: ignore[no-untyped-def]
    """Stable counting sort: row numbers ordered by label, and where each label starts (k + 1,)."""
    starts = np.zeros(k + 1, np.int64)
    for i in range(labels.size):
        starts[labels[i] + 1] += 1
    for c in range(k):
        starts[c + 1] += starts[c]
    order = np.empty(labels.size, np.int64)
    place = starts[:-1].copy()
    for i in range(labels.size):
        c = labels[i]
        order[place[c]] = i
        place[c] += 1
    return order, starts


@_jit
def nearest_directly(X, probes, starts, exact, offsets, penalty, weights, labels, nearest):  # type: ignore[no-untyped-def]
    """Labels and residuals of a few rows X (n, d), for which a matrix product would be mostly overhead."""
    for i in range(X.shape[0]):
        best = np.inf
        for c in range(starts.size - 1):
            r = X.dtype.type(residual_directly(X, i, probes, starts[c], starts[c + 1], exact[c], offsets, c))
            price = weights[i] * r + penalty[c]
            if price < best:
                best = price
                nearest[i] = r
                labels[i] = c


@_jit
def distances_directly(X, probes, starts, exact, offsets, out):  # type: ignore[no-untyped-def]
    """Residuals out (n, k) to every flat, in the same way."""
    for i in range(X.shape[0]):
        for c in range(starts.size - 1):
            out[i, c] = residual_directly(X, i, probes, starts[c], starts[c + 1], exact[c], offsets, c)


@_jit
def residual_directly(X, i, probes, start, stop, exact, offsets, c):  # type: ignore[no-untyped-def]
    """Squared distance of row i to flat c, whose probes are start to stop, in float64; offsets may be none, (0, d)."""
    d = X.shape[1]
    captured = 0.0
    for p in range(start, stop):
        product = 0.0
        for t in range(d):
            x = np.float64(X[i, t])
            if offsets.shape[0] > 0:
                x -= offsets[c, t]
            product += x * probes[p, t]
        captured += product * product
    if exact:
        return captured
    energy = 0.0
    for t in range(d):
        x = np.float64(X[i, t])
        if offsets.shape[0] > 0:
            x -= offsets[c, t]
        energy += x * x
    return max(energy - captured, 0.0)


@_jit
def add_moments(A, rows, labels, weights, sign, origins, raw, first, mass, counts):  # type: ignore[no-untyped-def]
    """Add ``sign`` times the moments of rows of A, each with a label, about their origins, to what is not empty."""
    d = A.shape[1]
    x = np.empty(d)
    summed, squared = first.shape[0] > 0, raw.shape[0] > 0
    for i in range(labels.size):
        row, c, w = rows[i], labels[i], sign * weights[i]
        counts[c] += sign
        for t in range(d):
            x[t] = A[row, t]
        if summed:
            mass[c] += w
            for t in range(d):
                x[t] -= origins[c, t]
                first[c, t] += w * x[t]
        for s in range(d if squared else 0):
            y = w * x[s]
            for t in range(d):
                raw[c, s, t] += y * x[t]


@_jit
def jacobi(S, values, vectors):  # type: ignore[no-untyped-def]
    """Eigenvalues (k, d), descending, and eigenvectors (k, d, d), as rows, of symmetric float64 S (k, d, d).

    Cyclic Jacobi (Golub and Van Loan, section 8.5), until what is off the diagonal no longer counts.
    """
    d = S.shape[1]
    for c in range(S.shape[0]):
        A, V = S[c].copy(), np.eye(d)
        for _ in range(SWEEPS):
            off, norm = 0.0, 0.0
            for p in range(d):
                norm += A[p, p] * A[p, p]
                for q in range(p):
                    off += A[p, q] * A[p, q]
            if off <= EPS * EPS * norm:
                break
            for p in range(d - 1):
                for q in range(p + 1, d):
                    if A[p, q] != 0:
                        _turn(A, V, p, q)
        order = np.argsort(-np.diag(A), kind="mergesort")
        for i in range(d):
            values[c, i] = max(A[order[i], order[i]], 0.0)
            vectors[c, i] = V[order[i]]


@_jit
def _turn(A, V, p, q):  # type: ignore[no-untyped-def]
    """Turn coordinates p and q such that A[p, q] vanishes."""
    tau = (A[q, q] - A[p, p]) / (2 * A[p, q])
    t = (-1.0 if tau < 0 else 1.0) / (abs(tau) + np.sqrt(1 + tau * tau))
    cos = 1 / np.sqrt(1 + t * t)
    sin = t * cos
    for i in range(A.shape[0]):
        x, y = A[i, p], A[i, q]
        A[i, p], A[i, q] = cos * x - sin * y, sin * x + cos * y
    for i in range(A.shape[0]):
        x, y = A[p, i], A[q, i]
        A[p, i], A[q, i] = cos * x - sin * y, sin * x + cos * y
        x, y = V[p, i], V[q, i]
        V[p, i], V[q, i] = cos * x - sin * y, sin * x + cos * y


@_jit
def tridiagonalize(S, diagonal, beside, reflectors, scales):  # type: ignore[no-untyped-def]
    """Diagonal (d,) of ``T = Q^T S Q`` and what is beside it (d,); reflectors (d, d), as rows, whose product is Q.

    Householder's reduction (Golub and Van Loan, section 8.3) from the last row up. Reads and overwrites the lower
    triangle of S, row by row.
    """
    d, one = S.shape[0], S.dtype.type(1)
    v, p = np.zeros(d, S.dtype), np.zeros(d, S.dtype)
    for m in range(d - 1, 0, -1):
        row = S[m]
        diagonal[m], first, others = row[m], np.float64(row[m - 1]), 0.0
        for t in range(m - 1):
            others += np.float64(row[t]) * np.float64(row[t])
        if others == 0:
            beside[m - 1] = first
            continue
        norm = -np.sqrt(first * first + others) if first >= 0 else np.sqrt(first * first + others)
        beside[m - 1], scale, inverse = norm, S.dtype.type((norm - first) / norm), S.dtype.type(1 / (first - norm))
        for t in range(m - 1):
            v[t] = row[t] * inverse
        v[m - 1] = one
        scales[m], reflectors[m, :m] = scale, v[:m]
        p[:m] = 0  # S v, from the lower triangle alone
        for i in range(m):
            own, x, total = S[i], v[i], S.dtype.type(0)
            for t in range(i):
                total += own[t] * v[t]
                p[t] += own[t] * x
            p[i] += total + own[i] * x
        product = S.dtype.type(0)
        for t in range(m):
            product += p[t] * v[t]
        half = S.dtype.type(0.5) * scale * product
        for t in range(m):
            p[t] = scale * (p[t] - half * v[t])
        for i in range(m):
            own, x, y = S[i], v[i], p[i]
            for t in range(i + 1):
                own[t] -= x * p[t] + y * v[t]
    diagonal[0] = S[0, 0]


@_jit
def reflect_back(vectors, reflectors, scales):  # type: ignore[no-untyped-def]
    """Turn eigenvectors of T (d, d), as rows, into those of S in place: some rows at a time, which stay in cache."""
    d = vectors.shape[0]
    for first in range(0, d, 8):
        end = min(first + 8, d)
        for m in range(1, d):
            v, scale = reflectors[m], scales[m]
            if scale == 0:
                continue
            for i in range(first, end):
                own, total = vectors[i], vectors.dtype.type(0)
                for t in range(m):
                    total += own[t] * v[t]
                total *= scale
                for t in range(m):
                    own[t] -= total * v[t]


@_jit
def price_bits(energy, rows, entries, theta, errors, fixed, per_term, bits, basis_bits):  # type: ignore[no-untyped-def]
    """Bits (tiers, m) of coefficients and (m,) of basis entries that cost least where a bit costs theta.

    A direction with bits costs what is left of its energy (tiers, m), bits for each row and basis entry, ``per_term``
    bits for each tier that has any, and ``fixed`` ones. Without entries, its vector takes no bits and is exact.
    """
    tiers, m = energy.shape
    most, chosen = errors.size - 1, np.zeros(tiers, np.int64)
    for t in range(m):
        least = 0.0
        for r in range(tiers):
            least += energy[r, t]
            bits[r, t] = 0
        basis_bits[t] = 0
        for b in range(1 if entries else most, most + 1):
            base, any_bits = errors[b] if entries else 0.0, False
            total = theta * (entries * b + fixed)
            for r in range(tiers):
                best, chosen[r] = energy[r, t], 0
                for own in range(1, most + 1):
                    cost = energy[r, t] * min(1.0, errors[own] + base) + theta * (rows[r] * own + per_term)
                    if cost < best:
                        best, chosen[r], any_bits = cost, own, True
                total += best
            if any_bits and total < least:
                least, basis_bits[t] = total, b
                bits[:, t] = chosen
