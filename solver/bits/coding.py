"""From a plan to what is stored: bases, coefficients by least squares for the bases as stored, and both once more."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import scipy.linalg

from ksubspaces import kernels
from ksubspaces.kernels.cpu_trellis import search

from .levels import Code
from .stored import SCALE_STEPS, decode_powers, encode_powers, join_nibbles, order_terms, pack_numbers
from .transforms import CODED, TIERS, Plan, Rows

RIDGE = 1e-6  # of least squares, as a share of the diagonal
BLOCK = 1 << 11  # rows at a time, whose bits are whole bytes
FEWEST = 16  # numbers that fell to a level, up to which it stays


@dataclass(eq=False)
class _Cluster:
    """What is coded of one cluster: its stored vectors V (m, d), and terms and rows of each of its groups."""

    kind: int
    basis_bits: np.ndarray
    rows: list[np.ndarray]
    terms: list[np.ndarray]
    bits: list[np.ndarray]  # (m,) of each group
    V: np.ndarray = field(init=False)
    basis_windows: np.ndarray = field(init=False)


def encode(rows: Rows, found: Plan, code: Code, passes: int = 2) -> tuple[dict[str, np.ndarray], int, np.ndarray]:
    """Arrays of :class:`.stored.Stored` by name, those of codes and bases; ``scale_unit``; each row's group."""
    code = replace(code, levels=tuple(_rounded(table) for table in code.levels))
    parts, (n, d) = _clusters(rows, found, code), rows.A.shape
    for turn in range(passes):
        last = turn + 1 == passes
        coded, scales = [], [_scales(rows, cluster, g) for cluster in parts for g in range(len(cluster.rows))]
        scale_codes, unit = encode_powers(np.concatenate(scales), SCALE_STEPS)
        sizes = np.cumsum([len(own) for own in scales])
        own_scales = iter(np.split(decode_powers(scale_codes, unit, SCALE_STEPS), sizes[:-1]))
        tally = _Tally(code)
        for cluster in parts:
            m = len(cluster.V)
            gram, cross = np.zeros((m, m)), np.zeros((m, d))
            for own, terms, bits in zip(cluster.rows, cluster.terms, cluster.bits, strict=True):
                scale = next(own_scales)
                for start in range(0, len(own), BLOCK):
                    part = slice(start, start + BLOCK)
                    X = rows.take(own[part])
                    Z = _coefficients(X, cluster.V[terms]) / scale
                    windows = search(Z, bits[terms], code.levels, scale**2)
                    if last:
                        coded.append(_pack(windows, bits[terms], code))
                    else:
                        levels = tally.add(Z, windows, bits[terms])
                        if cluster.kind == CODED:
                            decoded = (levels * scale).astype(np.float64)  # terms may depend on one another
                            weighted = decoded * rows.weights[own[part], None]
                            gram[np.ix_(terms, terms)] += weighted.T @ decoded
                            cross[terms] += weighted.T @ X
            if not last and cluster.kind == CODED and m:
                _store_basis(cluster, _solve(gram, cross), code)
        if not last:
            code = replace(code, levels=tally.fitted())
    groups, clusters = np.zeros(n, np.int64), list[int]()
    for c, cluster in enumerate(parts):
        for own in cluster.rows:
            groups[own] = len(clusters)
            clusters.append(c)
    bases = [c for c in parts if c.kind == CODED]
    basis_bits = np.concatenate([np.zeros(0, np.int64), *(c.basis_bits for c in bases)])
    basis_windows = np.concatenate([np.zeros((0, d), np.uint16), *(c.basis_windows for c in bases)])
    used = {0, *basis_bits.tolist(), *(b for c in parts for bits in c.bits for b in bits.tolist())}
    code = replace(code, levels=tuple(t if b in used else t[:1] for b, t in enumerate(code.levels)))
    arrays: dict[str, np.ndarray] = {
        "clusters": np.array(clusters, np.uint16),
        "dims": np.array([len(c.V) for c in parts], np.uint16),
        "kinds": np.array([c.kind for c in parts], np.uint8),
        "basis_bits": join_nibbles(basis_bits),
        "basis_codes": _pack(basis_windows.reshape(1, -1), np.repeat(basis_bits, d), code),
        "bits": join_nibbles(np.concatenate([b for c in parts for b in c.bits])),
        "scales": scale_codes,
        "codes": np.concatenate([np.zeros(0, np.uint8), *coded]),
        "windows": code.widths,
        "levels": np.concatenate([np.zeros(0, np.float32), *(t for t in code.levels if t.size > 1)]).astype(np.float16),
    }
    return arrays, unit, groups


def _rounded(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float16).astype(np.float32)


def _clusters(rows: Rows, found: Plan, code: Code) -> list[_Cluster]:
    """Those of the plan, and one without directions where there are rows of zeros."""
    groups, parts = kernels.group_rows(found.labels, len(found.bases)), []
    for c, (layout, kind) in enumerate(zip(found.layouts, found.kinds, strict=True)):
        own = groups.rows(c)
        tiers = found.tiers[own]
        kept = layout.kept if kind == CODED else np.arange(layout.bits.shape[1])
        present = [r for r in range(TIERS - 1) if (tiers == r).any()]
        bits = [layout.bits[r, kept] for r in present]
        basis_bits = layout.basis_bits[kept] if kind == CODED else np.zeros(0, np.int64)
        own_rows, terms = [own[tiers == r] for r in present], [order_terms(b) for b in bits]
        cluster = _Cluster(kind, basis_bits, own_rows, terms, bits)
        _store_basis(cluster, found.bases[c][kept], code)
        parts.append(cluster)
    zeros, none = np.flatnonzero(found.tiers == TIERS - 1), np.zeros(0, np.int64)
    if len(zeros):
        parts.append(_Cluster(CODED, none, [zeros], [none], [none]))
        _store_basis(parts[-1], np.zeros((0, rows.A.shape[1]), np.float32), code)
    return parts


def _store_basis(cluster: _Cluster, V: np.ndarray, code: Code) -> None:
    """Vectors as they come back from their codes, of a length near 1."""
    if cluster.kind != CODED:
        cluster.V = V
        return
    d, m = V.shape[1], len(cluster.basis_bits)
    lengths = np.sqrt((V.astype(np.float64) ** 2).mean(axis=1, keepdims=True))
    units = (V / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    windows = np.zeros((m, d), np.uint16)
    stored = np.zeros((m, d), np.float32)
    for b in np.unique(cluster.basis_bits).tolist():
        at = cluster.basis_bits == b
        windows[at] = search(units[at], np.full(d, b), code.levels)
        stored[at] = code.levels[b][windows[at]] / np.float32(np.sqrt(d))
    cluster.V, cluster.basis_windows = stored, windows


def _coefficients(X: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Of rows X (n, d) in vectors V (m, d), by least squares, (n, m) float32."""
    if not len(V):
        return np.zeros((len(X), 0), np.float32)
    gram = V.astype(np.float64) @ V.T.astype(np.float64)
    return (X @ _solve(gram, V).T.astype(np.float32)).astype(np.float32)


def _solve(gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of normal equations, with a ridge; lengths, which differ most, are taken out, and what has none gets nothing."""
    lengths = np.sqrt(np.diag(gram))
    lengths = np.where(lengths > 0, lengths, 1)[:, None]
    scaled = gram / (lengths * lengths.T) + RIDGE * np.eye(len(gram))
    return scipy.linalg.solve(scaled, right / lengths, assume_a="pos") / lengths


def _scales(rows: Rows, cluster: _Cluster, g: int) -> np.ndarray:
    """Root of the weighted mean square of each term's coefficients."""
    own, terms = cluster.rows[g], cluster.terms[g]
    weights = rows.weights[own]
    if not weights.any():
        weights = np.ones(len(own))
    squares = np.zeros(len(terms))
    for start in range(0, len(own), BLOCK):
        part = slice(start, start + BLOCK)
        squares += weights[part] @ np.square(_coefficients(rows.take(own[part]), cluster.V[terms]), dtype=np.float64)
    return np.sqrt(squares / weights.sum())


class _Tally:
    """Numbers that fell to each window, from which levels are fitted."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.sums = [np.zeros(table.size) for table in code.levels]
        self.counts = [np.zeros(table.size) for table in code.levels]

    def add(self, Z: np.ndarray, windows: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Count numbers Z; what they are decoded to."""
        decoded = np.empty_like(Z)
        for b in np.unique(bits).tolist():
            at, table = bits == b, self.code.levels[b]
            own = windows[:, at]
            decoded[:, at] = table[own]
            self.sums[b] += np.bincount(own.ravel(), Z[:, at].ravel(), minlength=table.size)
            self.counts[b] += np.bincount(own.ravel(), minlength=table.size)
        return decoded

    def fitted(self) -> tuple[np.ndarray, ...]:
        """Levels that are the means of what fell to them; those of few numbers stay."""
        found = []
        for b, (table, sums, counts) in enumerate(zip(self.code.levels, self.sums, self.counts, strict=True)):
            means = np.where(counts > FEWEST, sums / np.maximum(counts, 1), table)
            if b and table.size == 1 << b:
                means = np.sort(means)
            found.append(_rounded(means.astype(np.float32)))
        return tuple(found)


def _pack(windows: np.ndarray, bits: np.ndarray, code: Code) -> np.ndarray:
    """The newest bits of each window, as bytes."""
    widths = code.widths[bits].astype(np.int64)
    return pack_numbers(windows >> (widths - bits).astype(np.uint16), bits)
