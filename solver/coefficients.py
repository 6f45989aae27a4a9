"""Coefficients of rows in the flats of their clusters, and how many numbers they take together with the bases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from .arrays import Array


def count_parameters(counts: Sequence[int], dims: Sequence[int], d: int, affine: bool) -> int:
    """Numbers in a factorization: coefficients, bases, a label per row if there is a choice, and offsets if affine."""
    flats = sum(m * j + j * d for m, j in zip(counts, dims, strict=True))
    labels = sum(counts) if len(dims) > 1 else 0
    return flats + labels + affine * len(dims) * d


def split_coefficients(packed: Array, counts: Sequence[int], dims: Sequence[int]) -> list[Array]:
    """The coefficients (n_c, j_c) of each cluster, as views of all of them one after another."""
    sizes = [m * j for m, j in zip(counts, dims, strict=True)]
    ends = accumulate(sizes)
    parts = (packed[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return [part.reshape(m, j) for part, m, j in zip(parts, counts, dims, strict=True)]
