"""Rows as packed bits: what a budget in bits stores of a matrix, in the form in which rows are decoded.

A row belongs to a group, a group to a cluster with a basis, and all rows of a group have the same layout of bits::

    x = offset_c + sum over the group's terms e of  scale_e gain u_e v_e          v_e: a row of the bases
    u_e = levels[table_e + window_e]                                             the level that a window of bits names
    window_e = ((bits from skip_e on) << shift_e) & mask_e                       bits count from the row's first one

Bits are numbered from the least significant of each byte, so that a window is an unaligned little-endian word, shifted.
The term that ends at bit ``end`` of its row reads the window of the ``width`` bits before it: ``skip = max(end - width,
0)``, ``shift = max(width - end, 0)``, ``mask = 2^width - 1``; where a window is wider than a term's own bits, terms
share bits, as in a bit-shift trellis (Tseng et al., "QTIP", NeurIPS 2024). A row is decoded without its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from .flats import Array

PADDING = 4  # bytes after the codes, so that the last window can be read as a word
WIDEST = 16  # bits of a window: with the 7 that may precede them in a byte they fit a word of 32


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Packed rows and what decodes them, all where ``codes`` lives.

    Attributes
    ----------
    codes : (bytes,) uint8 array
        The bits of all rows, and at least ``PADDING`` bytes after them.
    groups : (n,) int32 array
        Group of each row; one more than the last where the row is kept as it is.
    starts : (n,) int64 array
        First bit of each row in ``codes``; of a row that is kept, its place in ``exact``.
    bounds : (groups + 1,) int64 array
        Terms ``bounds[g]`` to ``bounds[g + 1]`` are those of group g, in the order of their bits.
    clusters : (groups,) int32 array
        Cluster of each group.
    skips, shifts, masks, tables : (terms,) int32 arrays
        Where a term's window begins, how far it is shifted, the bits that count, and where the term's levels begin.
    scales : (terms,) float32 array
    directions : (terms,) int32 array
        Row of ``bases`` that a term multiplies.
    blocks : (terms,) int32 array
        Column of ``gains`` that multiplies a term.
    levels : (levels,) float32 array
    bases : (directions, d) float32 array
    gains : (n, columns) float32 array, or None where every gain is 1
    offsets : (k, d) float32 array, or None
    exact : (m, d) float32 array, or None
        Rows that are kept as they are.
    """

    codes: Array
    groups: Array
    starts: Array
    bounds: Array
    clusters: Array
    skips: Array
    shifts: Array
    masks: Array
    tables: Array
    scales: Array
    directions: Array
    blocks: Array
    levels: Array
    bases: Array
    gains: Array | None = None
    offsets: Array | None = None
    exact: Array | None = None
