"""Factors of a matrix, as rows are decoded from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .flats import Array, Kept


@dataclass(eq=False)
class Factors:
    """Row i is ``blocks[c][positions[i]] @ bases[c] + offsets[c]``, where c is ``labels[i]``.

    Attributes
    ----------
    labels : (n,) int32 array
    positions : (n,) int64 array
        Of each row among those of its cluster.
    blocks, bases : sequences of k arrays (n_c, j_c) and (j_c, d)
    offsets : (k, d) array, optional
    kept : dict
        What a device has made of them once.
    """

    labels: Array
    positions: Array
    blocks: Sequence[Array]
    bases: Sequence[Array]
    offsets: Array | None = None
    kept: Kept = field(default_factory=dict, init=False, repr=False)
