"""What a budget in bits stores of a matrix: arrays by name, how many bytes they take, and how they are read.

Terms of a group (a cluster and a tier of weight) are ordered by falling bits, then by direction. Bits are packed from
the least significant on; rows of a group follow each other without padding, groups begin at a byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ksubspaces.kernels.packed import PADDING, WIDEST, PackedRows

from .allocation import Layout
from .levels import MOST
from .transforms import CODED, PLAIN, make_basis

SCALE_STEPS, GAIN_STEPS = 8, 8  # of a factor of two: a byte spans 31 of them


@dataclass(frozen=True, eq=False)
class Stored:
    """Arrays as they are in a file, and facts about them.

    Attributes
    ----------
    arrays : mapping of str to array
        ``labels`` (packed), ``clusters``, ``dims``, ``kinds``, ``basis_bits``, ``basis_codes``, ``bits``, ``scales``,
        ``codes``, ``windows``, ``levels``, ``offsets`` (clusters, d), and if there are any ``gains``, ``exact_rows``,
        ``exact``.
    facts : mapping
        ``n``, ``d``, ``dtype``, ``exponent`` (of a power of two that multiplies all), ``scale_unit``, ``gain_unit``.
    """

    arrays: Mapping[str, np.ndarray]
    facts: Mapping[str, int | float | str]

    @property
    def nbytes(self) -> int:
        """Bytes of all that is stored."""
        return sum(array.nbytes for array in self.arrays.values())

    def unpack(self, scaled: bool = False) -> PackedRows:
        """The form in which rows are decoded; ``scaled`` without the power of two that multiplies all.

        Raises
        ------
        ValueError, IndexError, KeyError
            When parts do not fit together.
        """
        a, n, d = self.arrays, int(self.facts["n"]), int(self.facts["d"])
        clusters, dims = a["clusters"].astype(np.int32), a["dims"].astype(np.int64)
        k, n_groups, exact = len(dims), len(clusters), a.get("exact")
        _require(len(a["kinds"]) == k and a["kinds"].max(initial=0) <= PLAIN, "kinds are not those of k bases")
        _require(
            n_groups > 0 and clusters.max() < k and bool((np.diff(clusters) >= 0).all()), "clusters are not ordered"
        )
        widths = a["windows"].astype(np.int64)
        _require(widths.shape == (MOST + 1,) and widths.max() <= WIDEST, f"windows must be 9 widths up to {WIDEST}")
        levels = a["levels"].astype(np.float32)
        sizes = np.where(widths > 0, 1 << widths, 0)
        _require(levels.shape == (sizes.sum(),), f"levels must be {sizes.sum()} numbers")
        first_level = np.cumsum(sizes) - sizes
        exact_rows = a.get("exact_rows", np.zeros(0, np.int32))
        width = label_bits(n_groups + (exact is not None))
        _require(a["labels"].shape == (-(-n * width // 8),), f"labels must be {n} numbers of {width} bits")
        groups = unpack_numbers(a["labels"], np.full(n, width)).astype(np.int32)
        _require(bool((groups < n_groups + (exact is not None)).all()), f"labels must be below {n_groups}")
        bases = self._bases(dims, widths, levels, first_level)

        starts_of_bases = np.cumsum([0, *dims])
        lengths = dims[clusters]
        bits = split_nibbles(a["bits"], int(lengths.sum()))
        _require(bits.max(initial=0) <= MOST and not (widths[np.unique(bits[bits > 0])] == 0).any(), "bits are damaged")
        _require(len(a["scales"]) == int((bits > 0).sum()), f"scales must be {int((bits > 0).sum())} numbers")
        skips, shifts, masks, tables, directions, bounds, row_bits = [], [], [], [], [], [0], []
        for g, own in enumerate(np.split(bits, np.cumsum(lengths)[:-1])):
            terms = order_terms(own)
            ends, wide = np.cumsum(own[terms]), widths[own[terms]]
            skips.append(np.maximum(ends - wide, 0))
            shifts.append(np.maximum(wide - ends, 0))
            masks.append((1 << wide) - 1)
            tables.append(first_level[own[terms]])
            directions.append(starts_of_bases[clusters[g]] + terms)
            bounds.append(bounds[-1] + len(terms))
            row_bits.append(int(own.sum()))

        def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
            return np.concatenate(parts).astype(np.int32)

        scales = decode_powers(a["scales"], int(self.facts["scale_unit"]), SCALE_STEPS)
        counts = np.bincount(groups, minlength=n_groups + 1)
        sizes_of_groups = -(-counts[:n_groups] * np.array(row_bits, np.int64) // 8)
        _require(a["codes"].shape == (sizes_of_groups.sum(),), f"codes must be {sizes_of_groups.sum()} bytes")
        first_bytes = np.cumsum(sizes_of_groups) - sizes_of_groups
        starts = np.empty(n, np.int64)
        for g in range(n_groups):
            own_rows = np.flatnonzero(groups == g)
            starts[own_rows] = 8 * first_bytes[g] + np.arange(len(own_rows)) * row_bits[g]
        kept = np.flatnonzero(groups == n_groups)
        if exact is not None:
            _require(exact.shape == (len(kept), d) and bool((exact_rows == kept).all()), "exact rows are not their own")
            starts[kept] = np.arange(len(kept))
        gains = a.get("gains")
        if gains is not None:
            _require(gains.shape == (n, 1), f"gains must be of shape ({n}, 1)")
            gains = decode_powers(gains, int(self.facts["gain_unit"]), GAIN_STEPS, zero=True)
        offsets = a.get("offsets", np.zeros((k, d), np.float16))
        _require(offsets.shape == (k, d), f"offsets must be of shape ({k}, {d})")
        unit = np.float32(1 if scaled else 2.0 ** int(self.facts["exponent"]))
        return PackedRows(
            np.concatenate([a["codes"], np.zeros(PADDING, np.uint8)]),
            groups,
            starts,
            np.array(bounds, np.int64),
            clusters,
            joined(skips),
            joined(shifts),
            joined(masks),
            joined(tables),
            scales * unit,
            joined(directions),
            np.zeros(bounds[-1], np.int32),
            levels,
            bases,
            gains,
            offsets.astype(np.float32) * unit,
            None if exact is None else (np.zeros_like if scaled else np.asarray)(exact, np.float32),
        )

    def _bases(self, dims: np.ndarray, widths: np.ndarray, levels: np.ndarray, first_level: np.ndarray) -> np.ndarray:
        """Basis vectors (sum dims, d): read off their codes, or made by a formula."""
        a, d = self.arrays, int(self.facts["d"])
        coded = np.repeat(a["kinds"] == CODED, dims)
        bits = split_nibbles(a["basis_bits"], int(coded.sum()))
        _require(bits.max(initial=0) <= MOST and not (widths[bits[bits > 0]] == 0).any(), "basis_bits are damaged")
        bases = np.empty((len(coded), d), np.float32)
        codes = np.concatenate([a["basis_codes"], np.zeros(PADDING, np.uint8)])
        size = -(-int(bits.sum()) * d // 8)
        _require(a["basis_codes"].shape == (size,), f"basis_codes must be {size} bytes")
        start = 0
        for at, b in zip(np.flatnonzero(coded).tolist(), bits.tolist(), strict=True):
            bases[at] = read_stream(codes, start, b, int(widths[b]), d, levels[first_level[b] :]) / np.sqrt(d)
            start += b * d
        ends = np.cumsum(dims)
        for c, kind in enumerate(a["kinds"].tolist()):
            if kind != CODED:
                _require(dims[c] == d, "a basis made by a formula has d vectors")
                bases[ends[c] - d : ends[c]] = make_basis(kind, d)
        return bases


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def size_of(
    d: int,
    labels: int,
    rows: Sequence[np.ndarray],
    kinds: Sequence[int],
    layouts: Sequence[Layout],
    level_sizes: np.ndarray,
) -> int:
    """Bytes of what is stored of these layouts, all known before anything is coded.

    ``labels`` are their bytes, ``rows`` (tiers,) of each cluster, ``level_sizes`` (9,) how many levels b bits have.
    """
    used = np.zeros(MOST + 1, bool)
    zeros = any(counts[-1] for counts in rows)  # these are a cluster of their own
    total = labels + (3 + 2 * d) * (len(layouts) + zeros) + MOST + 1
    basis_bits = basis_count = nibbles = groups = 0
    for counts, kind, layout in zip(rows, kinds, layouts, strict=True):
        kept = layout.kept if kind == CODED else np.arange(layout.bits.shape[1])
        own = layout.bits[counts > 0][:, kept]
        used[np.unique(own)] = True
        total += int((own > 0).sum()) + int((-(-counts[counts > 0] * own.sum(axis=1) // 8)).sum())
        nibbles += own.size
        groups += len(own)
        if kind == CODED:
            used[np.unique(layout.basis_bits[kept])] = True
            basis_bits += d * int(layout.basis_bits[kept].sum())
            basis_count += len(kept)
    used[0] = False
    total += -(-nibbles // 2) + -(-basis_bits // 8) + -(-basis_count // 2) + 2 * groups
    return total + 2 * int(level_sizes[used].sum())


def order_terms(bits: np.ndarray) -> np.ndarray:
    """Directions that have bits, in the order of the stream."""
    on = np.flatnonzero(bits)
    return on[np.argsort(-bits[on], kind="stable")]


def label_bits(groups: int) -> int:
    """Bits of a label."""
    return (groups - 1).bit_length()


def pack_numbers(numbers: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Numbers (n, m) of ``bits`` (m,) bits each, one after another, as bytes; the lowest bit comes first."""
    owner = np.repeat(np.arange(len(bits)), bits)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(bits) - bits, bits)
    parts, rows = [], 8 * max(1, (1 << 16) // max(1, len(owner)))  # whole bytes whatever the bits of a row
    for start in range(0, len(numbers), rows):
        each = (numbers[start : start + rows].astype(np.uint32)[:, owner] >> place.astype(np.uint32)) & 1
        parts.append(np.packbits(each.astype(np.uint8).ravel(), bitorder="little"))
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


def unpack_numbers(codes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """The inverse of :func:`pack_numbers` for one row of as many bits each."""
    if not len(bits) or bits[0] == 0:
        return np.zeros(len(bits), np.int64)
    each = np.unpackbits(codes, count=int(bits.sum()), bitorder="little").reshape(len(bits), -1)
    return each @ (1 << np.arange(each.shape[1]))


def read_stream(codes: np.ndarray, start: int, b: int, width: int, m: int, levels: np.ndarray) -> np.ndarray:
    """m levels of b bits each, from bit ``start`` on, their windows ``width`` wide."""
    ends = (np.arange(m) + 1) * b
    skips, shifts = np.maximum(ends - width, 0), np.maximum(width - ends, 0)
    at = start + skips
    words = sum(codes[(at >> 3) + i].astype(np.int64) << (8 * i) for i in range(PADDING))
    return levels[((words >> (at & 7)) << shifts) & ((1 << width) - 1)]


def join_nibbles(numbers: np.ndarray) -> np.ndarray:
    """Numbers below 16, two a byte, the first one low."""
    padded = np.append(numbers.ravel(), [0] * (numbers.size % 2)).astype(np.uint8)
    return padded[::2] | padded[1::2] << np.uint8(4)


def split_nibbles(codes: np.ndarray, m: int) -> np.ndarray:
    """The inverse of :func:`join_nibbles`."""
    _require(codes.shape == (-(-m // 2),), f"{m} numbers of four bits take {-(-m // 2)} bytes, not {codes.shape}")
    return np.stack([codes & 15, codes >> 4], axis=1).ravel()[:m].astype(np.int64)


def encode_powers(numbers: np.ndarray, steps: int, zero: bool = False) -> tuple[np.ndarray, int]:
    """Positive numbers as codes of a byte, in ``steps`` of a factor of two, and the unit.

    What is too small for them is the smallest, or with ``zero`` 0.
    """
    positive = numbers[numbers > 0]
    top = int(np.ceil(np.log2(positive.max(initial=0) or 1)))
    unit = top - (255 // steps)
    with np.errstate(divide="ignore"):
        codes = np.round((np.log2(numbers) - unit) * steps)
    return np.clip(codes, 0, 255).astype(np.uint8), unit


def decode_powers(codes: np.ndarray, unit: int, steps: int, zero: bool = False) -> np.ndarray:
    """What :func:`encode_powers` stored, float32."""
    numbers = np.exp2(unit + codes.astype(np.float64) / steps).astype(np.float32)
    return np.where(codes == 0, np.float32(0), numbers) if zero else numbers
