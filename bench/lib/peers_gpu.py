"""What the operations on a card are measured against: that card's libraries, each at its best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ksubspaces.kernels import Flats

WHOLE, CACHED = 1 << 30, 32 << 20
"""Bytes of products at a time: few large ones, or such as stay in the card's cache."""
LARGEST_HALF = 2.0**14
"""What numbers are scaled to before float16 takes them; it reaches to 65504."""


class Absent(Exception):
    """A peer that this machine does not have; the message says what is missing."""


def torch_there() -> Any:
    """Torch, where it can use the card."""
    try:
        import torch
    except ImportError:
        raise Absent("Torch is not installed") from None
    if not torch.cuda.is_available():
        raise Absent("this Torch has no CUDA")
    return torch


# --- assignment ---


def probes(flats: Flats) -> tuple[list[Any], bool]:
    """What every side multiplies the rows by, flat by flat, and whether these are complements (of all or none)."""
    return flats.direction_layout.split(flats.directions), flats.complements is not None


def assign_by_cluster(X: Any, flats: Flats) -> tuple[Any, Any]:
    """Nearest flats by cuBLAS products in float32 and reductions, one cluster after another."""
    import cupy

    lengths, (parts, exact) = cupy.einsum("ij,ij->i", X, X), probes(flats)
    labels, best = cupy.empty(len(X), np.int32), cupy.full(len(X), np.inf, X.dtype)
    for c, P in enumerate(parts):
        squares = cupy.square(X @ P.T).sum(axis=1)
        cost = squares if exact else lengths - squares
        labels = cupy.where(cost < best, np.int32(c), labels)
        best = cupy.minimum(cost, best)
    return labels, best


def assign_by_rows(X: Any, flats: Flats) -> tuple[Any, Any]:
    """Nearest flats by cuBLAS products in float32 and reductions, all clusters at a time for a chunk of the rows."""
    import cupy

    lengths, (parts, exact) = cupy.einsum("ij,ij->i", X, X), probes(flats)
    labels, best = cupy.empty(len(X), np.int32), cupy.empty(len(X), X.dtype)
    stacked = cupy.concatenate(parts)
    chunk = max(1, WHOLE // (len(stacked) * X.dtype.itemsize))
    for start in range(0, len(X), chunk):
        span = slice(start, start + chunk)
        squares = cupy.square(X[span] @ stacked.T).reshape(-1, flats.k, len(parts[0])).sum(axis=2)
        cost = squares if exact else lengths[span, None] - squares
        labels[span], best[span] = cost.argmin(axis=1), cost.min(axis=1)
    return labels, best


class SplitHalves:
    """Nearest flats by float16 products with float32 sums, ``[Xh Xl Xh] [Vh Vh Vl]^T``.

    h is a number in float16 and l what that leaves of it, so that only products of two remainders are missing. Rows
    and flats are split beforehand, which is not timed.
    """

    def __init__(self, X: Any, flats: Flats) -> None:
        import cupy

        torch = self.torch = torch_there()
        parts, self.exact = probes(flats)
        X, P = torch.from_dlpack(X), torch.from_dlpack(cupy.concatenate(parts))
        (high, low, row_scale), (probe, rest, probe_scale) = _split(torch, X), _split(torch, P)
        self.rows = torch.cat([high, low, high], dim=1)
        self.probes = torch.cat([probe, probe, rest], dim=1).T
        self.unit = (row_scale * probe_scale) ** -2
        self.k, self.lengths = flats.k, (X * X).sum(dim=1)
        self.labels = torch.zeros(len(X), dtype=torch.int64, device=X.device)
        self.best = torch.zeros_like(self.lengths)

    def __call__(self, at_once: int) -> tuple[Any, Any]:
        """Labels and squared distances, with that many bytes of products at a time."""
        n, chunk = len(self.rows), max(1, at_once // (4 * self.probes.shape[1]))
        for start in range(0, n, chunk):
            span = slice(start, min(start + chunk, n))
            products = half_product(self.rows[span], self.probes).view(span.stop - start, self.k, -1)
            # One pass over the products, which squares and a sum would not be.
            squares = self.torch.linalg.vector_norm(products, dim=2).square_().mul_(self.unit)
            cost = squares if self.exact else self.lengths[span, None] - squares
            self.torch.min(cost, dim=1, out=(self.best[span], self.labels[span]))
        return self.labels, self.best


def _split(torch: Any, T: Any) -> tuple[Any, Any, float]:
    """T times a power of two as a sum of two arrays of float16, and that power."""
    scale = 2.0 ** float(np.floor(np.log2(LARGEST_HALF / float(T.abs().max()))))
    high = (T * scale).half()
    return high, (T * scale - high.float()).half(), scale


def half_product(A: Any, B: Any) -> Any:
    """A B of two float16 matrices, in float32."""
    import torch

    try:
        return torch.mm(A, B, out_dtype=torch.float32)
    except (TypeError, NotImplementedError):
        raise Absent("this Torch multiplies no float16 into float32") from None


# --- eigenvectors ---


def eigh_of_cupy(S: Any) -> tuple[Any, Any]:
    """All eigenvalues of a batch (k, d, d), ascending, and its eigenvectors as rows: cuSOLVER's syevjBatched."""
    import cupy

    values, vectors = cupy.linalg.eigh(S)
    return values, vectors.transpose(0, 2, 1)


def eigh_of_cusolver(S: Any) -> tuple[Any, Any]:
    """The same by cuSOLVER's XsyevBatched."""
    try:
        from ksubspaces.kernels.cuda.cusolver import eigh_batched

        return eigh_batched(S)
    except (ImportError, RuntimeError) as error:
        raise Absent(f"no XsyevBatched: {error}") from None


# torch.linalg.eigh is no peer: it takes one matrix of a batch after another.
EIGENSOLVERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "cupy": eigh_of_cupy,
    "cusolver": eigh_of_cusolver,
}


# --- whole fits ---


def torch_alternation(X: Any, k: int, j: int, labels: Any, steps: int) -> tuple[float, Any]:
    """The alternation with one ``torch.linalg.svd`` per cluster and step: objective and labels."""
    import torch

    lengths = (X * X).sum(dim=1)
    for _ in range(steps):
        cost = torch.empty((len(X), k), device=X.device)
        for c in range(k):
            V = torch.linalg.svd(X[labels == c], full_matrices=False)[2][:j]
            cost[:, c] = lengths - ((X @ V.T) ** 2).sum(dim=1)
        best, labels = cost.min(dim=1)
    return float(best.double().sum()), labels
