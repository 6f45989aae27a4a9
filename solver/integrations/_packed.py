"""A table in packed bits as a Torch module, and an embedding of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.types import Device

from ksubspaces.kernels.packed import PackedRows

from ..bits.quantized import QuantizedFactorization
from ..checks import Passed
from ._lookup import check_ids, check_padding, in_own_dtype
from ._packed_lookup import FLOATS, INTEGERS, PackedTensors, decode, decode_rows, decode_static
from ._scaling import PLAIN, Scaling, tell_options

if TYPE_CHECKING:
    from typing_extensions import Self


ROWS = 4096  # of a table decoded at once
ALWAYS_WIDE = ("scales", "levels", "gains")  # few numbers of many magnitudes, which halves would round or lose


class PackedFactors(nn.Module):
    """A table (n, d) in packed bits: the bytes of its file, and what decodes them.

    In the state dict it is one tensor of bytes, ``stored``, until :meth:`unfreeze` is called: nothing of it trains, it
    casts to any dtype and back without loss, and what a checkpoint takes is what ``nbytes`` says. Unfrozen, what the
    bytes say of bases, scales, levels, gains, offsets and rows kept exactly are parameters, in the state dict as well,
    and train; which bits a row has stays.

    Parameters
    ----------
    n, d, nbytes : int
        Rows and columns of the table, and bytes that are stored. All are zero, to be filled by ``load_state_dict``.
    unfrozen : dict of str to shape, optional
        Shapes of parameters, as ``parameter_shapes`` has them.
    device, dtype
        As in any Torch module; ``dtype`` is that of decoded rows.
    """

    stored: Tensor
    groups: Tensor
    bounds: Tensor
    clusters: Tensor
    directions: Tensor
    bases: Tensor

    def __init__(
        self,
        n: int,
        d: int,
        nbytes: int = 0,
        *,
        unfrozen: Mapping[str, Sequence[int]] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.shape = (n, d)
        self.longest = 0
        self.register_buffer("stored", torch.zeros(nbytes, dtype=torch.uint8, device=device))
        for name in INTEGERS:
            self.register_buffer(name, torch.zeros(0, dtype=torch.int32, device=device), persistent=False)
        for name in FLOATS:
            shape = (unfrozen or {}).get(name)
            if unfrozen and shape is None:
                self.register_parameter(name, None)
            elif shape is not None:
                self.register_parameter(name, nn.Parameter(torch.zeros(tuple(shape), device=device, dtype=dtype)))
            else:
                self.register_buffer(name, torch.zeros(0, device=device, dtype=dtype), persistent=False)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of it trains."""
        return "bases" not in self._parameters

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the parameters of an unfrozen table by name; None if it is frozen."""
        return None if self.is_frozen else {name: tuple(part.shape) for name, part in self._named_floats()}

    @property
    def dtype(self) -> torch.dtype:
        """That of decoded rows."""
        return self.bases.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of a state dict: those stored, and those of the parameters."""
        return self.stored.numel() + sum(part.numel() * part.element_size() for part in self.parameters(recurse=False))

    @property
    def bits(self) -> float:
        """Bits stored for each number of the table."""
        return 8 * self.nbytes / (self.shape[0] * self.shape[1])

    @property
    def n_parameters(self) -> int:
        """Numbers of the layer's dtype that take as many bytes."""
        return -(-self.nbytes // self.dtype.itemsize)

    @property
    def storage(self) -> str:
        """What is stored, in words."""
        return f"{self.bits:.2f} bits a number"

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each cluster, and those kept exactly if there are any."""
        labels = torch.cat([self.clusters, self.clusters.new_tensor([self._k])])[self.groups.long()]
        counts = torch.bincount(labels, minlength=self._k + 1).tolist()
        return tuple(counts if counts[-1] else counts[:-1])

    @property
    def dims(self) -> tuple[int, ...]:
        """Directions that rows of each cluster have bits for; 0 for rows kept exactly, if there are any."""
        owners = self.clusters.long().repeat_interleave(self.bounds.diff())
        distinct = torch.stack([owners, self.directions.long()]).unique(dim=1)[0]
        return (*torch.bincount(distinct, minlength=self._k).tolist(), 0)[: len(self.counts)]

    @property
    def _k(self) -> int:
        return int(self.clusters.max()) + 1 if len(self.clusters) else 0

    def unfreeze(self) -> Self:
        """Make parameters of what decodes the bits, in the dtype of the layer; a checkpoint then holds them, too."""
        if self.is_frozen:
            dtype = self.dtype
            for name, part in self._named_floats():
                delattr(self, name)
                self.register_parameter(name, nn.Parameter(part.to(dtype, copy=True)))
        return self

    def packed(self) -> PackedTensors:
        """What decodes rows, as tensors where the module lives."""
        return PackedTensors(*(getattr(self, name) for name in PackedTensors._fields))

    def to_factorization(self) -> QuantizedFactorization:
        """What is stored, without what was trained since.

        Raises
        ------
        ValueError
            When the bytes are not those of a file.
        """
        return QuantizedFactorization.from_bytes(self.stored.cpu().numpy().tobytes())

    def fill(self, factorization: QuantizedFactorization) -> Self:
        """Take a copy of what a factorization of this shape stores."""
        stored = torch.frombuffer(bytearray(factorization.to_bytes()), dtype=torch.uint8)
        self.stored = stored.to(self.stored.device)
        return self.refresh()

    def refresh(self) -> Self:
        """Unpack what is stored, on the device and in the dtype of the module; parameters stay as they are."""
        return self.take(self.to_factorization().packed)

    def take(self, packed: PackedRows) -> Self:
        """Decode by arrays of the host; parameters stay as they are."""
        frozen, dtype = self.is_frozen, self.dtype
        if packed.groups.shape != (self.shape[0],) or packed.bases.shape[1] != self.shape[1]:
            found = (len(packed.groups), packed.bases.shape[1])
            raise ValueError(f"the bytes stored are those of a table of shape {found}, not {self.shape}")
        self.longest = int(np.diff(packed.bounds).max(initial=0))
        for name in (*INTEGERS, *(FLOATS if frozen else ())):
            part = getattr(packed, name)
            if part is not None:
                part = torch.from_numpy(np.array(part)).to(self.stored.device)
                if part.is_floating_point() and name not in ALWAYS_WIDE:
                    part = part.to(dtype)
            setattr(self, name, part)
        return self

    def decode(self, ids: Tensor, padding_idx: int = -1) -> Tensor:
        """Rows (*ids.shape, d) of numbers in [0, n); the padding row passes no gradient on."""
        if ids.is_meta or self.stored.is_meta:
            return self.bases.new_empty(*ids.shape, self.shape[1])
        packed = self.packed()
        with in_own_dtype(ids.device):
            if torch.compiler.is_exporting() or torch.jit.is_tracing():
                return decode_static(ids, packed, self.longest)
            flat = ids.reshape(-1)
            if torch.compiler.is_compiling() or (torch.is_grad_enabled() and self._trains()):
                rows = decode(flat, packed[: len(INTEGERS)], *packed[len(INTEGERS) :], padding_idx)
            else:
                rows = decode_rows(flat, packed)
        return rows.view(*ids.shape, self.shape[1])

    def to_dense(self) -> Tensor:
        """The table (n, d) decoded, differentiable in the parameters."""
        return self.decode(torch.arange(self.shape[0], device=self.stored.device))

    @torch.no_grad()
    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop - 1 of the table, decoded in float32 at least."""
        wide = torch.promote_types(self.dtype, torch.float32)
        return self.decode(torch.arange(start, stop, device=self.stored.device)).to(wide)

    def products(self, x: Tensor) -> Tensor:
        """``x @ to_dense().T``, (..., d) to (..., n), without the whole table at once."""
        return torch.cat([x @ rows.T for rows in self._blocks()], dim=-1)

    def combinations(self, x: Tensor) -> Tensor:
        """``x @ to_dense()``, (..., n) to (..., d), without the whole table at once."""
        parts = x.split(ROWS, dim=-1)
        return torch.stack([part @ rows for part, rows in zip(parts, self._blocks(), strict=True)]).sum(0)

    def _blocks(self) -> list[Tensor]:
        numbers = torch.arange(self.shape[0], device=self.stored.device)
        return [self.decode(part) for part in numbers.split(ROWS)]

    def _named_floats(self) -> list[tuple[str, Tensor]]:
        return [(name, part) for name in FLOATS if (part := getattr(self, name)) is not None]

    def _trains(self) -> bool:
        return any(part.requires_grad for part in self.parameters(recurse=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.dtype
        super()._apply(fn, recurse)
        if self.is_frozen and self.dtype != before and self.groups.numel() and not self.stored.is_meta:
            self.refresh()  # what was rounded comes back, and what halves would lose was never theirs
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Passed) -> None:
        given = state.get(f"{prefix}stored")
        if given is not None and given.dtype == torch.uint8 and given.ndim == 1:
            self.stored = self.stored.new_empty(given.shape)
        super()._load_from_state_dict(state, prefix, *args)
        if given is not None and not self.stored.is_meta:
            self.refresh()

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.extra_repr()})"

    def extra_repr(self) -> str:
        n, d = self.shape
        return f"{n}, {d}, {self.bits:.2f} bits a number{'' if self.is_frozen else ', unfrozen'}"


def refuse_beside_bits(**given: object) -> None:
    """Refuse arguments that say otherwise how much to spend, or how it is stored."""
    if names := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"a budget in bits says all of what is stored; leave out {' and '.join(names)}")


class PackedEmbedding(PackedFactors):
    """An ``nn.Embedding`` whose table is in packed bits, decoded row by row as it is looked up.

    It is what :meth:`SubspaceEmbedding.from_embedding` makes of a budget in ``bits`` or ``nbytes``. Nothing of it
    trains until it is unfrozen: then bases, scales, levels, gains, offsets and rows kept exactly do; the codes stay.

    Made from shapes alone, as here, it is to be filled by ``load_state_dict``.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Rows n and columns d of the table.
    nbytes : int
        That are stored; ``load_state_dict`` takes any other number of them as well.
    padding_idx, scaling, device, dtype
        As in :class:`SubspaceEmbedding`.
    unfrozen
        See :class:`PackedFactors`.

    Attributes
    ----------
    stored : (nbytes,) uint8 tensor
        What ``QuantizedFactorization.save`` writes.
    weight : (n, d) tensor
        The table, decoded anew each time. It is no parameter.

    Notes
    -----
    On the CPU and, with CuPy, on a card, rows are decoded by the kernels of this package; ``torch.compile`` takes them
    as one operation. Traced or exported (``torch.export``, ONNX) rows are decoded by operators that runtimes have, in
    the bases of all clusters, which is slower.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        nbytes: int = 0,
        *,
        padding_idx: int | None = None,
        scaling: tuple[float, bool] = PLAIN,
        unfrozen: Mapping[str, Sequence[int]] | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, nbytes, unfrozen=unfrozen, device=device, dtype=dtype)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = check_padding(padding_idx, num_embeddings)
        self.scaling = Scaling(*scaling)

    @classmethod
    def from_factorization(
        cls,
        factorization: QuantizedFactorization,
        *,
        padding_idx: int | None = None,
        scaling: tuple[float, bool] = PLAIN,
        dtype: torch.dtype = torch.float32,
        device: Device = None,
        **more: Passed,
    ) -> Self:
        """An embedding with a copy of what a factorization stores; the rest as in the class."""
        options = {"padding_idx": padding_idx, "scaling": scaling, "device": device, "dtype": dtype, **more}
        return cls(*factorization.shape, **options).fill(factorization)

    @property
    def weight(self) -> Tensor:
        return self.to_dense()

    def forward(self, ids: Tensor) -> Tensor:
        """Rows (*ids.shape, d) of int32 or int64 ids of any shape.

        Raises
        ------
        IndexError
            When an id is not in [0, n).
        TypeError
            When ids are not integers.
        """
        check_ids(ids)
        return self.scaling(self.decode(ids, -1 if self.padding_idx is None else self.padding_idx))

    def extra_repr(self) -> str:
        return super().extra_repr() + tell_options(self.padding_idx, self.scaling)
