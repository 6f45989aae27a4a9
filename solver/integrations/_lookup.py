"""Looks up rows of a factored table in Torch, in three forms for its three ways to run a model.

Rows lie sorted by cluster: ``places[i]`` is where row i is, cluster c being the places from ``counts[0] + ... +
counts[c - 1]`` on. So the distinct places asked for, sorted, are grouped by cluster as well, and each cluster takes one
gather and one product whatever the number of repeats.

- :func:`decode` is plain differentiable operations; its group sizes depend on the data.
- :func:`lookup` hides that from ``torch.compile`` in one operation, ``ksubspaces::lookup``.
- :func:`decode_static` has shapes that depend on shapes alone, for tracing and export, and costs k times the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Passed
from ._types import Context


class Table(NamedTuple):
    """The factors of a table (n, d), as tensors.

    Attributes
    ----------
    places : (n,) integers
        Where each row lies among the rows sorted by cluster.
    starts : k + 1 int
        First place of each cluster, and n.
    blocks : k tensors (n_c, j_c), floating point or int8
    bases : k tensors (j_c, d)
        Their dtype is that of the rows.
    scales : (n,) or None
        What int8 coefficients are multiplied by, by place.
    offsets : (k, d) or None
    """

    places: Tensor
    starts: Sequence[int]
    blocks: Sequence[Tensor]
    bases: Sequence[Tensor]
    scales: Tensor | None
    offsets: Tensor | None

    def coefficients(self, c: int, positions: Tensor | None = None) -> Tensor:
        """Coefficients of cluster c, or those at some positions in it, in the dtype of the rows."""
        block = self.blocks[c]
        # The gradient of an embedding is faster than that of an index, and the same in every run.
        rows = (block if positions is None else F.embedding(positions, block)).to(self.bases[c].dtype)
        if self.scales is None:
            return rows
        scales = self.scales[self.starts[c] : self.starts[c + 1]]
        return rows * (scales if positions is None else scales[positions]).unsqueeze(-1)

    def rows(self, c: int, positions: Tensor | None = None) -> Tensor:
        """Rows of cluster c, or those at some positions in it."""
        products = self.coefficients(c, positions) @ self.bases[c]
        return products if self.offsets is None else products + self.offsets[c]


def in_own_dtype(device: torch.device) -> AbstractContextManager[object]:
    """Without autocast: rows have the dtype of the table, as those of ``nn.Embedding`` have."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class _Request(NamedTuple):
    """Distinct places, ascending, cluster c's in ``bounds[c]:bounds[c + 1]``, and the one that each id stands for."""

    positions: list[Tensor]
    inverse: Tensor
    bounds: list[int]
    padding: int
    """Which of them is the padding row's; -1 if none is."""


def _prepare_request(ids: Tensor, table: Table, padding_idx: int) -> _Request:
    asked = table.places.index_select(0, ids.reshape(-1))
    distinct, inverse = torch.unique(asked, return_inverse=True)
    marks = torch.tensor(table.starts, dtype=distinct.dtype, device=distinct.device)
    if padding_idx >= 0:
        place = table.places[padding_idx : padding_idx + 1]
        marks = torch.cat([marks, place, place + 1])
    found = torch.searchsorted(distinct, marks).tolist()  # the one wait for the device
    bounds, padding = found[: len(table.blocks) + 1], found[len(table.blocks) + 1 :]
    distinct = distinct.long()
    spans = zip(pairwise(bounds), table.starts, strict=False)
    positions = [distinct[first:last] - start for (first, last), start in spans]
    return _Request(positions, inverse, bounds, padding[0] if padding and padding[0] < padding[1] else -1)


def decode(ids: Tensor, table: Table, padding_idx: int = -1) -> Tensor:
    """Rows (*ids.shape, d); the padding row passes no gradient on (-1: there is none).

    Raises
    ------
    IndexError
        When a number is not in [0, n).
    """
    with in_own_dtype(ids.device):
        rows, inverse, padding = decode_distinct(ids, table, padding_idx)
        return F.embedding(inverse, rows, padding).view(*ids.shape, rows.shape[1])


def decode_distinct(ids: Tensor, table: Table, padding_idx: int = -1) -> tuple[Tensor, Tensor, int | None]:
    """Distinct rows, the number among them of each id (flat), and that of the padding row, if it is there."""
    request = _prepare_request(ids, table, padding_idx)
    rows = torch.cat([table.rows(c, positions) for c, positions in enumerate(request.positions)])
    return rows, request.inverse, None if request.padding < 0 else request.padding


def decode_static(ids: Tensor, table: Table) -> Tensor:
    """As :func:`decode`, in operations whose shapes are known beforehand: every row is decoded in every cluster."""
    places = table.places[ids].long()
    result = table.bases[0].new_zeros(*ids.shape, table.bases[0].shape[1])
    with in_own_dtype(ids.device):
        for c, (start, stop) in enumerate(pairwise(table.starts)):
            if start < stop:
                inside = (places >= start) & (places < stop)
                rows = table.rows(c, (places - start).clamp(0, stop - start - 1))
                result = torch.where(inside.unsqueeze(-1), rows, result)
    return result


@torch.library.custom_op("ksubspaces::lookup", mutates_args=())
def lookup(
    ids: Tensor,
    places: Tensor,
    starts: Sequence[int],
    blocks: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Tensor | None,
    offsets: Tensor | None,
    padding_idx: int,
) -> Tensor:
    """:func:`decode` as one operation that ``torch.compile`` does not look into."""
    return decode(ids, Table(places, starts, blocks, bases, scales, offsets), padding_idx)


@torch.library.custom_op("ksubspaces::lookup_backward", mutates_args=())
def lookup_backward(
    gradient: Tensor,
    ids: Tensor,
    places: Tensor,
    starts: Sequence[int],
    blocks: Sequence[Tensor],
    bases: Sequence[Tensor],
    scales: Tensor | None,
    offsets: Tensor | None,
    padding_idx: int,
) -> list[Tensor]:
    """Gradients of the blocks (none if they are codes), the bases, and the offsets if there are any."""
    table = Table(places, starts, blocks, bases, scales, offsets)
    with in_own_dtype(ids.device):
        request = _prepare_request(ids, table, padding_idx)
        d = bases[0].shape[1]
        summed = scatter(gradient.reshape(-1, d), request.inverse, request.bounds[-1], request.padding)
        spans = [summed[first:last] for first, last in pairwise(request.bounds)]
        of_blocks = []
        for block, V, own, positions in zip(blocks, bases, spans, request.positions, strict=True):
            if block.is_floating_point():
                of_blocks.append(scatter((own @ V.T).to(block.dtype), positions, len(block)))
        of_bases = [table.coefficients(c, request.positions[c]).T @ own for c, own in enumerate(spans)]
        of_offsets = [] if offsets is None else [torch.stack([own.sum(0) for own in spans])]
    return [*of_blocks, *of_bases, *of_offsets]


def scatter(gradient: Tensor, indices: Tensor, n: int, padding: int = -1) -> Tensor:
    """Rows of the gradient added up by index, (n, ...): what an embedding's own gradient is."""
    return torch.ops.aten.embedding_dense_backward(gradient.contiguous(), indices, n, padding, False)


@lookup.register_fake
def _(ids: Tensor, places: Tensor, starts: object, blocks: object, bases: Sequence[Tensor], *_: object) -> Tensor:
    return bases[0].new_empty(*ids.shape, bases[0].shape[1])


@lookup_backward.register_fake
def _(gradient: Tensor, ids: Tensor, places: Tensor, starts: Sequence[int], *factors: Passed) -> list[Tensor]:
    blocks, bases, _, offsets, _ = factors
    parts = [block for block in blocks if block.is_floating_point()] + list(bases)
    return [torch.empty_like(part) for part in [*parts, *([] if offsets is None else [offsets])]]


def _keep(ctx: Context, inputs: tuple[Passed, ...], output: Tensor) -> None:
    ids, places, ctx.starts, blocks, bases, scales, offsets, ctx.padding_idx = inputs
    ctx.k = len(blocks)
    ctx.save_for_backward(ids, places, *blocks, *bases, scales, offsets)


def _gradients(ctx: Context, gradient: Tensor) -> tuple[object, ...]:
    ids, places, *factors, scales, offsets = ctx.saved_tensors
    blocks, bases = factors[: ctx.k], factors[ctx.k :]
    found = lookup_backward(gradient, ids, places, ctx.starts, blocks, bases, scales, offsets, ctx.padding_idx)
    rest = iter(found)
    of_blocks = [next(rest) if block.is_floating_point() else None for block in blocks]
    of_bases = [next(rest) for _ in bases]
    return None, None, None, of_blocks, of_bases, None, next(rest, None), None


lookup.register_autograd(_gradients, setup_context=_keep)


def is_static(ids: Tensor) -> bool:
    """Whether shapes may not depend on the ids: compiled, traced, exported, or on the meta device."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or getattr(ids, "is_meta", False)


def check_ids(ids: Tensor) -> None:
    """Refuse what are no numbers of rows."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int64, torch.int32):
        got = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"ids must be a tensor of int32 or int64, got {got}")


def check_padding(padding_idx: int | None, n: int) -> int | None:
    """The number from 0 on of a padding row that may be counted from the end of n rows; None if there is none."""
    if padding_idx is None:
        return None
    if not -n <= padding_idx < n:
        raise ValueError(f"padding_idx must be a row from 0 to {n - 1}, got {padding_idx}")
    return padding_idx % n
