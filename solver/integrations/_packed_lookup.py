"""Looks up rows of packed bits in Torch, in the forms that its ways to run a model need.

- :func:`decode_rows` runs the kernel of the device, and passes no gradient on.
- :func:`decode_grouped` is plain operations, one group after another: what stands in where a device has no kernel or
  numbers are of float64.
- :func:`decode` puts the one forward and the other backward into one operation, ``ksubspaces::decode``, which
  ``torch.compile`` does not look into.
- :func:`decode_static` has shapes that depend on shapes alone, for tracing and export. It multiplies each row with the
  vectors of all clusters.

Windows are read by division and remainder of nonnegative int64, since ONNX shifts no signed numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ksubspaces import kernels
from ksubspaces.kernels.packed import WIDEST, PackedRows

from ..arrays import AnyArray
from ..checks import Passed
from ._lookup import scatter
from ._types import Context


class PackedTensors(NamedTuple):
    """What a :class:`PackedRows` holds, as tensors: first its integers, then what can train."""

    codes: Tensor
    groups: Tensor
    starts: Tensor
    bounds: Tensor
    clusters: Tensor
    skips: Tensor
    shifts: Tensor
    masks: Tensor
    tables: Tensor
    directions: Tensor
    blocks: Tensor
    scales: Tensor
    levels: Tensor
    bases: Tensor
    gains: Tensor | None = None
    offsets: Tensor | None = None
    exact: Tensor | None = None

    def widened(self) -> PackedTensors:
        """With float32 in the place of halves."""
        dtype = torch.promote_types(self.bases.dtype, torch.float32)
        parts = ((name, getattr(self, name)) for name in FLOATS)
        return self._replace(**{name: part.to(dtype) for name, part in parts if part is not None})

    def to_rows(self, convert: Callable[[Tensor], AnyArray]) -> PackedRows:
        """For the kernels of a device, each part converted."""
        parts = self._asdict().items()
        rows: dict[str, AnyArray] = {name: part if part is None else convert(part) for name, part in parts}
        return PackedRows(**rows)


FLOATS = ("scales", "levels", "bases", "gains", "offsets", "exact")
INTEGERS = tuple(name for name in PackedTensors._fields if name not in FLOATS)


def _windows(packed: PackedTensors, first: Tensor, e: Tensor) -> Tensor:
    """Numbers in the windows of terms e, (m,) or (b, m), of rows that begin at bit ``first`` (b, 1)."""
    powers = torch.tensor([2**i for i in range(WIDEST)], device=first.device)
    bits = first + packed.skips[e]
    bytes_ = bits.div(8, rounding_mode="trunc").clamp(max=len(packed.codes) - 3)  # a term may be another group's
    codes = [packed.codes[bytes_ + i].long() for i in range(3)]  # 7 bits before a window and its own 16 fit
    words = codes[0] + 256 * codes[1] + 65536 * codes[2]
    behind = words.div(powers[(bits - 8 * bytes_).clamp(max=7)], rounding_mode="trunc")
    return (behind * powers[packed.shifts[e].long()]) % (packed.masks[e].long() + 1)


def _factors(packed: PackedTensors, rows: Tensor, first: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
    """Of what multiplies the vectors of terms e, (m,) or (b, m), in rows (b,): where the levels are, scales, gains."""
    levels = packed.tables[e] + _windows(packed, first, e)
    if packed.gains is None:
        return levels, packed.scales[e], 1.0
    blocks, own = packed.blocks[e].long(), packed.gains[rows]
    return levels, packed.scales[e], own[:, blocks] if blocks.ndim == 1 else own.gather(1, blocks)


def _by_group(rows: Tensor, packed: PackedTensors) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Groups of the rows (b,): the group, which of these are its rows, and its terms; the host waits for the device."""
    groups = packed.groups[rows]
    bounds = [*packed.bounds.tolist(), len(packed.skips)]
    bounds[-1] = bounds[-2]  # rows that are kept have no terms
    counts = torch.bincount(groups, minlength=len(bounds) - 1).tolist()
    for g, chosen in enumerate(groups.argsort(stable=True).split(counts)):
        if len(chosen):
            yield g, chosen, torch.arange(bounds[g], bounds[g + 1], device=rows.device)


def decode_grouped(ids: Tensor, packed: PackedTensors) -> Tensor:
    """Rows (b, d) of numbers (b,)."""
    wide, rows, n_groups = packed.widened(), ids.long(), len(packed.clusters)
    clusters = packed.clusters.tolist()
    out = wide.bases.new_empty(len(rows), wide.bases.shape[1])
    for g, chosen, e in _by_group(rows, packed):
        own = rows[chosen]
        first = packed.starts[own]
        if g == n_groups:
            assert wide.exact is not None
            out[chosen] = wide.exact[first]
            continue
        levels, scales, gains = _factors(packed, own, first.unsqueeze(1), e)
        x = (scales * wide.levels[levels] * gains).to(wide.bases.dtype) @ wide.bases[packed.directions[e]]
        out[chosen] = x if wide.offsets is None else x + wide.offsets[clusters[g]]
    return out.to(packed.bases.dtype)


def _gradients_grouped(rows: Tensor, packed: PackedTensors, gradient: Tensor) -> list[Tensor | None]:
    """Gradients of the floats, in their order, from those of distinct rows (b,)."""
    wide, n_groups = packed.widened(), len(packed.clusters)
    clusters, gradient = packed.clusters.tolist(), gradient.to(wide.bases.dtype)
    found = {name: None if (part := getattr(wide, name)) is None else torch.zeros_like(part) for name in FLOATS}
    of_scales, of_levels, of_bases, of_gains, of_offsets, of_exact = found.values()
    assert of_scales is not None and of_levels is not None and of_bases is not None
    for g, chosen, e in _by_group(rows, packed):
        own, G = rows[chosen], gradient[chosen]
        first = packed.starts[own]
        if g == n_groups:
            assert of_exact is not None
            of_exact[first] = G
            continue
        if of_offsets is not None:
            of_offsets[clusters[g]] += G.sum(0)
        if not len(e):
            continue
        places, scales, gains = _factors(wide, own, first.unsqueeze(1), e)
        levels, directions = wide.levels[places], packed.directions[e].long()
        of_z = G @ wide.bases[directions].T
        of_bases[directions] += (scales * levels * gains).T @ G
        of_scales[e] = (of_z * levels * gains).sum(0)
        of_levels += scatter((of_z * scales * gains).reshape(-1, 1), places.reshape(-1), len(of_levels)).squeeze(1)
        if of_gains is not None:
            sides = torch.nn.functional.one_hot(packed.blocks[e].long(), of_gains.shape[1]).to(of_z)
            of_gains[own] = (of_z * scales * levels) @ sides
    return list(found.values())


def decode_static(ids: Tensor, packed: PackedTensors, longest: int) -> Tensor:
    """Rows (*ids.shape, d), in operations whose shapes are known beforehand; ``longest``: most terms of a group."""
    wide, rows, n_groups = packed.widened(), ids.reshape(-1).long(), len(packed.clusters)
    found, first = packed.groups[rows].long(), packed.starts[rows]
    kept = (found == n_groups).unsqueeze(1)
    J, d = wide.bases.shape
    result = wide.bases.new_zeros(rows.shape[0], d)
    if longest:
        groups = found.clamp(max=n_groups - 1)
        e = packed.bounds[groups].unsqueeze(1) + torch.arange(longest, device=ids.device)
        inside = (e < packed.bounds[groups + 1].unsqueeze(1)) & ~kept
        e = e.clamp(max=len(packed.skips) - 1)
        levels, scales, gains = _factors(wide, rows, torch.where(kept, 0, first.unsqueeze(1)), e)
        z = scales * wide.levels[levels] * gains
        columns = torch.where(inside, packed.directions[e].long(), J)  # one more, for what is not a row's own
        spread = result.new_zeros(rows.shape[0], J + 1).scatter(1, columns, torch.where(inside, z, 0.0))
        result = spread[:, :J] @ wide.bases
    if wide.offsets is not None:
        result = result + wide.offsets[packed.clusters[found.clamp(max=n_groups - 1)].long()]
    if wide.exact is not None:
        last = len(wide.exact) - 1
        result = torch.where(kept, wide.exact[torch.where(kept.squeeze(1), first, 0).clamp(max=last)], result)
    return result.to(packed.bases.dtype).view(*ids.shape, d)


@torch.no_grad()
def decode_rows(ids: Tensor, packed: PackedTensors) -> Tensor:
    """Rows (b, d) of numbers (b,), without gradients; rows asked for twice are decoded once where that is cheap.

    Raises
    ------
    IndexError
        When a number is not in [0, n).
    """
    n, dtype = len(packed.groups), packed.bases.dtype
    if ids.device.type == "cpu" and len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < n:
        raise IndexError(f"ids must be from 0 to {n - 1}, got {int(ids.min())} to {int(ids.max())}")
    if dtype == torch.float64 or ids.device.type not in ("cpu", "cuda"):
        return decode_grouped(ids, packed)
    wide = packed.widened()
    if ids.device.type == "cpu":
        distinct, inverse = torch.unique(ids, return_inverse=True)
        arrays = wide.to_rows(lambda part: part.detach().contiguous().numpy())
        rows = torch.from_numpy(kernels.decode(distinct.numpy(), arrays))[inverse]
    else:
        torch._assert_async(((ids >= 0) & (ids < n)).all())  # which stops the device; the host does not wait
        rows = _decode_by_cupy(ids, wide)
    return rows.to(dtype)


def _decode_by_cupy(ids: Tensor, packed: PackedTensors) -> Tensor:
    """By the kernel, on Torch's stream; by Torch where CuPy is missing."""
    try:
        import cupy
    except ImportError:
        return decode_grouped(ids, packed)
    with (
        cupy.cuda.Device(ids.device.index),
        cupy.cuda.ExternalStream(torch.cuda.current_stream(ids.device).cuda_stream),
    ):
        views = packed.to_rows(lambda part: cupy.from_dlpack(part.detach().contiguous()))
        found = kernels.decode(cupy.from_dlpack(ids.detach().contiguous()), views)
        return torch.from_dlpack(found)


@torch.library.custom_op("ksubspaces::decode", mutates_args=())
def decode(
    ids: Tensor,
    integers: Sequence[Tensor],
    scales: Tensor,
    levels: Tensor,
    bases: Tensor,
    gains: Tensor | None,
    offsets: Tensor | None,
    exact: Tensor | None,
    padding_idx: int,
) -> Tensor:
    """Rows (b, d) of numbers (b,); the padding row passes no gradient on (-1: there is none)."""
    return decode_rows(ids, PackedTensors._make([*integers, scales, levels, bases, gains, offsets, exact]))


@torch.library.custom_op("ksubspaces::decode_backward", mutates_args=())
def decode_backward(
    gradient: Tensor,
    ids: Tensor,
    integers: Sequence[Tensor],
    scales: Tensor,
    levels: Tensor,
    bases: Tensor,
    gains: Tensor | None,
    offsets: Tensor | None,
    exact: Tensor | None,
    padding_idx: int,
) -> list[Tensor]:
    """Gradients of the floats that there are, in their order: those of the distinct rows, decoded once more."""
    packed = PackedTensors._make([*integers, scales, levels, bases, gains, offsets, exact])
    distinct, inverse = torch.unique(ids, return_inverse=True)
    summed = scatter(gradient, inverse, len(distinct))
    if padding_idx >= 0:
        summed = summed * (distinct != padding_idx).unsqueeze(1)
    found = zip(FLOATS, _gradients_grouped(distinct.long(), packed, summed), strict=True)
    return [part.to(getattr(packed, name).dtype) for name, part in found if part is not None]


@decode.register_fake
def _(ids: Tensor, integers: object, scales: object, levels: object, bases: Tensor, *_: object) -> Tensor:
    return bases.new_empty(ids.shape[0], bases.shape[1])


@decode_backward.register_fake
def _(gradient: Tensor, ids: Tensor, integers: object, *rest: Tensor) -> list[Tensor]:
    return [torch.empty_like(part) for part in rest[: len(FLOATS)] if part is not None]


def _keep(ctx: Context, inputs: tuple[Passed, ...], output: Tensor) -> None:
    ids, integers, *floats, ctx.padding_idx = inputs
    ctx.save_for_backward(ids, *integers, *floats)


def _gradients(ctx: Context, gradient: Tensor) -> tuple[object, ...]:
    ids, *saved = ctx.saved_tensors
    integers, floats = saved[: len(INTEGERS)], saved[len(INTEGERS) :]
    found = iter(decode_backward(gradient, ids, integers, *floats, ctx.padding_idx))
    return None, [None] * len(integers), *(None if part is None else next(found) for part in floats), None


decode.register_autograd(_gradients, setup_context=_keep)
