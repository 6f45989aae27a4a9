"""Peers of a budget in bits: what each stores, byte for byte, and the table that these bytes decode to.

Every peer has the settings that suit it: scales are searched for, levels and codebooks fitted to the rows by their
weights, and whatever holds real numbers is stored in float16. What is made by a formula from a seed stores the seed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numba
import numpy as np
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from ksubspaces import Factorization, QuantizedFactorization

Arrays = Mapping[str, np.ndarray]

SCALES = np.linspace(1.05, 0.3, 26, dtype=np.float32)
"""Tried as the largest level, in shares of a group's largest entry."""
CODE_BITS = 8
"""Bits of a code of product quantisation: 256 centres, faiss' own default and what its fast scans read."""


@dataclass(frozen=True)
class Code:
    """A table as stored.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        All that is stored; codes are packed bits.
    decode : callable
        The table (n, d) float32 from such arrays alone.
    encoded : ndarray of shape (n, d)
        What the encoder took the table to become, computed without packing anything.
    """

    arrays: Arrays
    decode: Callable[[Arrays], np.ndarray]
    encoded: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    def reopened(self) -> np.ndarray:
        """The table that a file of these arrays decodes to: what is measured."""
        file = io.BytesIO()
        np.savez(file, **self.arrays)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            return self.decode(dict(arrays))

    def fault(self, decoded: np.ndarray) -> str:
        """Empty when the decoded table is the one that the encoder meant, else the complaint."""
        off = float(np.abs(decoded - self.encoded).max())
        allowed = 1e-4 * float(np.abs(self.encoded).max())
        return "" if off <= allowed else f"decodes to a table that is off by {off:.3g}, {allowed:.3g} is allowed"


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Integers below 2^bits, bits at most 8, as a stream of bits, least significant first."""
    each = np.unpackbits(codes.astype(np.uint8).reshape(-1, 1), axis=1, count=bits, bitorder="little")
    return np.packbits(each.reshape(-1), bitorder="little")


def unpack(stream: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The first `count` integers of a stream of :func:`pack`."""
    each = np.unpackbits(stream, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(each, axis=1, bitorder="little").reshape(-1)


def float16(A: np.ndarray) -> Code:
    """Every number in half precision."""
    half = A.astype(np.float16)
    return Code({"table": half}, lambda arrays: arrays["table"].astype(np.float32), half.astype(np.float32))


def saved(factors: QuantizedFactorization) -> Code:
    """Ours: the bytes of the file that `save` writes. Rows asked for one by one must be those of the whole."""
    content = np.frombuffer(factors.to_bytes(), np.uint8)

    def decode(arrays: Arrays) -> np.ndarray:
        return np.asarray(QuantizedFactorization.from_bytes(arrays["content"].tobytes()).reconstruct())

    rows = np.random.default_rng(0).permutation(len(factors))
    encoded = np.empty(factors.shape, np.float32)
    encoded[rows] = factors[rows]
    return Code({"content": content}, decode, encoded)


# --- integers with a scale for each group ---


def integers(A: np.ndarray, bits: int, group: int) -> Code:
    """Neighbouring numbers of a row in groups, a float16 scale for each, as torchao, llm-compressor and onnxruntime do.

    A level is (code - (2^bits - 1) / 2) * scale: evenly spaced and symmetric, of which the scale with the least squared
    error is searched. Groups at the end of a row may be shorter.
    """
    n, d = A.shape
    codes, scales = _quantised(A, bits, group)

    def decode(arrays: Arrays) -> np.ndarray:
        codes = unpack(arrays["codes"], bits, n * d).reshape(n, d)
        return _scaled(codes, bits, arrays["scales"], group)

    return Code({"codes": pack(codes, bits), "scales": scales}, decode, _scaled(codes, bits, scales, group))


def _quantised(A: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (n, d) uint8 and scales (n, groups) float16."""
    n, d = A.shape
    scales = np.empty((n, -(-d // group)), np.float16)
    for g in range(scales.shape[1]):
        block = np.ascontiguousarray(A[:, g * group : (g + 1) * group], dtype=np.float32)
        scales[:, g] = _best_scales(block, np.float32((2**bits - 1) / 2))
    spread = np.repeat(scales.astype(np.float32), group, axis=1)[:, :d]
    half = np.float32((2**bits - 1) / 2)
    steps = np.divide(A, spread, out=np.zeros(A.shape, np.float32), where=spread > 0)
    return np.clip(np.rint(steps + half), 0, 2**bits - 1).astype(np.uint8), scales


def _scaled(codes: np.ndarray, bits: int, scales: np.ndarray, group: int) -> np.ndarray:
    spread = np.repeat(scales.astype(np.float32), group, axis=1)[:, : codes.shape[1]]
    return (codes - np.float32((2**bits - 1) / 2)) * spread


@numba.njit(parallel=True, cache=True)
def _best_scales(blocks: np.ndarray, half: float) -> np.ndarray:
    """For each row the scale with the least squared error: each of SCALES, then the least squares of its levels."""
    found = np.zeros(len(blocks), np.float32)
    for i in numba.prange(len(blocks)):
        block = blocks[i]
        peak = np.abs(block).max()
        least = np.float32(np.inf)
        for share in SCALES:
            scale = share * peak / half
            if scale == 0:
                break
            along = np.float32(0)
            energy = np.float32(0)
            for x in block:
                level = min(max(np.rint(x / scale + half), 0), 2 * half) - half
                along += x * level
                energy += level * level
            error = -along * along / energy  # beside the block's own energy
            if error < least:
                least, found[i] = error, along / energy
    return found


# --- a rotation, then Lloyd-Max levels ---


@cache
def lloyd_max(bits: int) -> np.ndarray:
    """The 2^bits levels of least squared error for a unit Gaussian, by Lloyd's iteration on its own integrals."""
    levels = norm.ppf((np.arange(2**bits) + 0.5) / 2**bits)
    for _ in range(2000):
        edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
        levels = -np.diff(norm.pdf(edges)) / np.diff(norm.cdf(edges))
    return levels.astype(np.float32)


@cache
def gaussian_error(bits: int) -> float:
    """Mean squared error of these levels: a unit's variance less that of the levels, each its cell's mean."""
    levels = lloyd_max(bits).astype(np.float64)
    edges = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    return float(1 - np.square(levels) @ np.diff(norm.cdf(edges)))


def rotated(A: np.ndarray, bits: float, weights: np.ndarray, seed: int) -> Code:
    """Rows in a random basis, a float16 scale for each, Lloyd-Max levels, and bits shared out over rows by weight.

    Each row has a whole number of bits for all its numbers, 0 to 8, those that lose least weighted squared error for
    the bits of the whole; which is stored in half a byte a row.
    """
    n, d = A.shape
    Z = A @ _rotation(d, seed).T
    spreads = np.linalg.norm(Z, axis=1) / np.sqrt(d)
    own = _shared_out(weights * np.square(spreads), bits * n * d - 4 * n, d)
    scales, codes, encoded = np.zeros(n, np.float16), {}, np.zeros_like(A)
    for b in np.unique(own[own > 0]):
        rows, levels = own == b, lloyd_max(b)
        edges = (levels[1:] + levels[:-1]) / 2
        scale = spreads[rows]
        for _ in range(3):  # codes for the scale, then the scale for the codes
            unit = Z[rows] / np.maximum(scale, np.finfo(np.float32).tiny)[:, None]
            chosen = np.searchsorted(edges, unit).astype(np.uint8)
            q = levels[chosen]
            scale = (Z[rows] * q).sum(axis=1) / np.square(q).sum(axis=1)
        scales[rows] = scale
        codes[f"codes{b}"] = pack(chosen, b)
        encoded[rows] = q * scales[rows].astype(np.float32)[:, None]
    stored = {"bits": pack(own, 4), "scales": scales[own > 0], "seed": np.array([seed]), **codes}

    def decode(arrays: Arrays) -> np.ndarray:
        own = unpack(arrays["bits"], 4, n)
        scales, Z = np.zeros(n, np.float32), np.zeros((n, d), np.float32)
        scales[own > 0] = arrays["scales"]
        for b in np.unique(own[own > 0]):
            rows = own == b
            Z[rows] = lloyd_max(b)[unpack(arrays[f"codes{b}"], b, rows.sum() * d).reshape(-1, d)]
        return (Z * scales[:, None]) @ _rotation(d, int(arrays["seed"][0]))

    return Code(stored, decode, encoded @ _rotation(d, seed))


def _rotation(d: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((d, d)))[0].astype(np.float32)


def _shared_out(energies: np.ndarray, budget: float, d: int) -> np.ndarray:
    """Bits of each row, 0 to 8, by one price: the least that keeps all of them, d bits a number, within the budget."""
    choices = np.arange(9)
    errors = np.array([1.0, *(gaussian_error(b) for b in choices[1:])])
    rates = d * choices + np.where(choices > 0, 16, 0)

    def chosen(price: float) -> np.ndarray:
        return (d * energies[:, None] * errors + price * rates).argmin(axis=1)

    low, high = 1e-12 * energies.max(), 1e3 * energies.max()
    for _ in range(60):
        price = np.sqrt(low * high)
        low, high = (price, high) if rates[chosen(price)].sum() > budget else (low, price)
    found = chosen(high)
    # Rows alike change together at one price; those of the largest weight go first until the budget is used.
    left = budget - rates[found].sum()
    for row in np.argsort(-energies, kind="stable"):
        more = rates[min(found[row] + 1, 8)] - rates[found[row]]
        if more > left:
            break
        if found[row] < 8:
            found[row] += 1
            left -= more
    return found.astype(np.uint8)


# --- product quantisation ---


@threadpool_limits.wrap(limits=1)  # its many small products gain nothing by threads, and lose much on a busy machine
def product(A: np.ndarray, columns: int, weights: np.ndarray, seed: int, *, optimised: bool = False) -> Code:
    """faiss' (optimised) product quantisation: a byte for each `columns` columns, which need not divide d.

    faiss' own k-means finds the 256 centres of each part, rows weighted; centres, and the rotation of OPQ (which faiss
    finds from rows drawn by weight), are stored in float16.
    """
    import faiss

    n, d = A.shape
    parts = -(-d // columns)
    padded = np.zeros((n, parts * columns), np.float32)
    padded[:, :d] = A
    rotation = None
    if optimised:
        drawn = np.random.default_rng(seed).choice(n, n, p=weights / weights.sum())
        transform = faiss.OPQMatrix(padded.shape[1], parts)
        transform.niter = 20
        transform.train(padded[drawn])
        rotation = faiss.vector_to_array(transform.A).reshape(padded.shape[1], -1).astype(np.float16)
        padded = padded @ rotation.T.astype(np.float32)
    pq = faiss.ProductQuantizer(padded.shape[1], parts, CODE_BITS)
    centres = np.empty((parts, pq.ksub, columns), np.float16)
    for part in range(parts):
        means = faiss.Kmeans(columns, pq.ksub, niter=25, seed=seed + 1, max_points_per_centroid=n)
        means.train(padded[:, part * columns : (part + 1) * columns], weights=weights.astype(np.float32))
        centres[part] = means.centroids
    faiss.copy_array_to_vector(centres.astype(np.float32).ravel(), pq.centroids)
    codes = pq.compute_codes(padded)
    stored = {"codes": codes, "centres": centres} | ({} if rotation is None else {"rotation": rotation})

    def turned_back(rows: np.ndarray, rotation: np.ndarray | None) -> np.ndarray:
        # What float16 left of the rotation is not quite orthogonal, so back is by its inverse.
        back = rows if rotation is None else rows @ np.linalg.inv(rotation.astype(np.float64)).T.astype(np.float32)
        return back[:, :d]

    def decode(arrays: Arrays) -> np.ndarray:
        rows = arrays["centres"][np.arange(parts), arrays["codes"]].astype(np.float32)
        return turned_back(rows.reshape(n, -1), arrays.get("rotation"))

    return Code(stored, decode, turned_back(pq.decode(codes), rotation))


# --- factors in eight bits ---


def svd(A: np.ndarray, rank: int, weights: np.ndarray) -> Code:
    """The best subspace for the weighted rows: coordinates in int8 with a scale for each row, the basis in float16."""
    moments = (A * weights[:, None].astype(A.dtype)).T @ A
    V = np.linalg.eigh(moments.astype(np.float64))[1][:, ::-1][:, :rank].T.astype(np.float32)
    return _eight_bit([A @ V.T], [V], np.zeros(len(A), np.uint8))


def factored(factors: Factorization) -> Code:
    """Coefficients in int8 with a scale for each row, bases in float16, labels in as many bits as they need."""
    return _eight_bit(factors.blocks, factors.bases, np.asarray(factors.labels))


def _eight_bit(blocks: list[np.ndarray], bases: list[np.ndarray], labels: np.ndarray) -> Code:
    n, label_bits = len(labels), int(len(bases) - 1).bit_length()
    stored: dict[str, np.ndarray] = {}
    encoded = np.zeros((n, bases[0].shape[1]), np.float32)
    if label_bits:
        stored["labels"] = pack(labels, label_bits)
    for c, (block, basis) in enumerate(zip(blocks, bases, strict=True)):
        if basis.size == 0 or block.size == 0:
            continue
        codes, scales = _quantised(np.asarray(block, np.float32), 8, basis.shape[0])
        stored |= {f"codes{c}": codes, f"scales{c}": scales, f"basis{c}": basis.astype(np.float16)}
        encoded[labels == c] = _scaled(codes, 8, scales, basis.shape[0]) @ stored[f"basis{c}"].astype(np.float32)

    def decode(arrays: Arrays) -> np.ndarray:
        found = np.zeros(encoded.shape, np.float32)
        labels = unpack(arrays["labels"], label_bits, n) if label_bits else np.zeros(n, np.uint8)
        for c in range(len(bases)):
            if f"codes{c}" in arrays:
                basis = arrays[f"basis{c}"].astype(np.float32)
                found[labels == c] = _scaled(arrays[f"codes{c}"], 8, arrays[f"scales{c}"], len(basis)) @ basis
        return found

    return Code(stored, decode, encoded)
