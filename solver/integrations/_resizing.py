"""A table of factors with more rows, or fewer.

New rows lie in clusters of their own, as they are: up to d of them are a basis, with the identity as coefficients; more
are coefficients in the identity, where the storage holds them exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ._factors import Blocks, Factors


class _Cluster(NamedTuple):
    rows: Tensor
    """Their numbers, in the order of their places."""
    block: Tensor
    basis: Tensor
    scales: Tensor | None
    offset: Tensor | None

    def first(self, n: int) -> _Cluster:
        """What it has of the first n rows of the table; the very same tensors if that is all."""
        kept = self.rows < n
        if bool(kept.all()):
            return self
        scales = None if self.scales is None else self.scales[kept]
        return self._replace(rows=self.rows[kept], block=self.block[kept], scales=scales)


@torch.no_grad()
def resize(factors: Factors, n: int, new: Tensor) -> None:
    """Resize a table to n rows, in place: its own first rows, then the new rows (m, d).

    Clusters without a row go, but for the first. Parameters that are as they were stay the same objects.
    """
    clusters = [cluster.first(n - len(new)) for cluster in _clusters(factors)]
    k = len(clusters) - factors.n_fixed
    free = [cluster for cluster in clusters[:k] if len(cluster.rows)] or clusters[:1]
    fixed = [cluster for cluster in clusters[k:] if len(cluster.rows)]
    _write(factors, [*free, *_exact(factors, new, n - len(new)), *fixed], len(fixed))


def _clusters(factors: Factors) -> Iterator[_Cluster]:
    table = factors.table()
    numbers = table.places.argsort().split(list(factors.counts))
    scales = [None] * len(numbers) if table.scales is None else table.scales.split(list(factors.counts))
    offsets = [None] * len(numbers) if table.offsets is None else table.offsets.unbind()
    yield from map(_Cluster, numbers, table.blocks, table.bases, scales, offsets)


def _exact(factors: Factors, new: Tensor, start: int) -> Iterator[_Cluster]:
    d = factors.shape[1]
    basis, block = factors.bases.tensors()[0], factors.coefficients.tensors()[0]
    new = new.to(basis)
    holds = block.is_floating_point() and torch.promote_types(basis.dtype, block.dtype) == block.dtype
    offset = None if factors.offsets is None else basis.new_zeros(d)
    for rows in new.split(len(new) if holds and len(new) > d else d):
        m = len(rows)
        identity = torch.eye(min(m, d), dtype=basis.dtype, device=basis.device)
        coefficients, directions = (identity, rows) if m <= d else (rows, identity)
        scales = None if factors.scales is None else factors.scales.new_ones(m)
        numbers = torch.arange(start, start + m, device=basis.device)
        yield _Cluster(numbers, coefficients.to(block.dtype), directions, scales, offset)
        start += m


def _write(factors: Factors, clusters: list[_Cluster], n_fixed: int) -> None:
    factors.counts = tuple(len(cluster.rows) for cluster in clusters)
    factors.dims = tuple(len(cluster.basis) for cluster in clusters)
    factors.n_fixed = n_fixed
    factors.bases = Blocks([cluster.basis for cluster in clusters], n_fixed)
    factors.coefficients = Blocks([cluster.block for cluster in clusters], n_fixed)
    order = torch.cat([cluster.rows for cluster in clusters])
    factors.places = order.argsort().int()
    if factors.scales is not None:
        factors.scales = torch.cat([cluster.scales for cluster in clusters if cluster.scales is not None])
    if factors.offsets is not None:
        free = [cluster.offset for cluster in clusters[: len(clusters) - n_fixed] if cluster.offset is not None]
        factors.offsets = nn.Parameter(torch.stack(free))
