"""Coefficients of rows in the flats of their clusters, and how many numbers they take together with the bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ksubspaces.kernels import Flats

from .arrays import Array, namespace

MEMBERS = 8192  # rows of a cluster gathered at a time


def count_parameters(counts: Sequence[int], dims: Sequence[int], d: int, affine: bool) -> int:
    """Numbers in a factorization: coefficients, bases, a label per row if there is a choice, and offsets if affine."""
    flats = sum(m * j + j * d for m, j in zip(counts, dims, strict=True))
    labels = sum(counts) if len(dims) > 1 else 0
    return flats + labels + affine * len(dims) * d


def members_of(labels: Array, k: int) -> Iterator[tuple[int, Array]]:
    """Row numbers of one cluster after another, a bounded number at a time."""
    for c in range(k):
        rows = namespace(labels).flatnonzero(labels == c)
        for start in range(0, len(rows), MEMBERS):
            yield c, rows[start : start + MEMBERS]


def coefficients_in(X: Array, labels: Array, flats: Flats) -> Iterator[tuple[int, Array, Array]]:
    """``(x - mu_c) V_c^T`` for the rows of one cluster after another: c, row numbers, coefficients (m, j_c)."""
    for c, rows in members_of(labels, flats.k):
        part = X[rows] if flats.offsets is None else X[rows] - flats.offsets[c]
        yield c, rows, part @ flats.basis(c).T
