"""Rows that a compression keeps just as they are: one more cluster behind the others."""

from __future__ import annotations

from dataclasses import replace

from ksubspaces.kernels import Flats, layout_of

from .arrays import Array, Home, namespace, scaled
from .factorization import Factorization, factorize


def with_exact(
    A: Array,
    labels: Array,
    flats: Flats,
    exact: Array,
    home: Home,
    exponent: int,
    weights: tuple[Array | None, float],
) -> Factorization:
    """The factorization of the other rows, and those kept as one more cluster.

    Up to d of them are a basis themselves, with the identity for coefficients; more are coefficients of the identity.
    """
    xp, d, k = namespace(A), A.shape[1], flats.k
    labels = labels.copy()
    labels[exact] = k
    offsets = None if flats.offsets is None else xp.concatenate([flats.offsets, xp.zeros((1, d), flats.offsets.dtype)])
    with_point = Flats(layout_of(d, (*flats.layout.dims, 0)), flats.bases, offsets, flats.complements)
    part = factorize(A, labels, with_point, home, exponent, weights, exact)
    rows, identity = scaled(A[exact], exponent), xp.eye(min(len(exact), d), dtype=A.dtype)
    block, basis = (identity, rows) if len(exact) <= d else (rows, identity)
    return replace(part, blocks=[*part.blocks[:k], home.back(block)], bases=[*part.bases[:k], home.back(basis)])
