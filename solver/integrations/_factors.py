"""A factored table as a Torch module, on which embeddings and linear layers are built."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import accumulate
from operator import index
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.types import Device

from ..arrays import AnyArray, Home
from ..checks import Passed
from ..coefficients import count_parameters
from ..decoded import row_numbers
from ..factorization import Factorization
from ..storage import Facts
from ._lookup import Table, decode, in_own_dtype

if TYPE_CHECKING:
    from typing_extensions import Self

STORAGE = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.int8}
LEVELS = 127  # int8 codes go from -LEVELS to LEVELS


def check_exact(given: AnyArray | None, shape: Sequence[int], storage: str | None, dtype: torch.dtype) -> None:
    """Refuse exact rows that ``storage`` would round: more than d of them are stored as coefficients."""
    n, d = shape
    if given is None or storage is None or torch.promote_types(_storage_dtype(storage), dtype) == STORAGE[storage]:
        return
    try:
        count = len({*row_numbers(given, n).tolist()})
    except (IndexError, TypeError):  # which compress tells about
        return
    if count > d:
        raise ValueError(
            f"exact_rows holds {count} rows, more than the {d} columns, and {storage} storage cannot hold their "
            f"{str(dtype).removeprefix('torch.')} exactly; keep at most {d}, or leave storage out"
        )


class Blocks(nn.Module):
    """Matrices named "0", "1", ... in the state dict: parameters if they are floating point, else buffers.

    The last ``n_fixed`` are buffers, too. One without entries is a buffer that is not in the state dict, as many a
    library stumbles over parameters without any.
    """

    def __init__(self, blocks: Sequence[Tensor], n_fixed: int = 0) -> None:
        super().__init__()
        self._names = [str(c) for c in range(len(blocks))]
        for c, block in enumerate(blocks):
            if block.is_floating_point() and block.numel() and c < len(blocks) - n_fixed:
                self.register_parameter(str(c), block if isinstance(block, nn.Parameter) else nn.Parameter(block))
            else:
                self.register_buffer(str(c), block, persistent=bool(block.numel()))

    def tensors(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def empty_names(self) -> list[str]:
        """Names of the matrices without entries."""
        return [name for name, block in zip(self._names, self.tensors(), strict=True) if not block.numel()]

    def place_empty(self, device: torch.device) -> None:
        """Put the matrices without entries on a device, where the others are assigned."""
        for name in self.empty_names():
            setattr(self, name, torch.empty_like(getattr(self, name), device=device))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Passed) -> None:
        for name in self.empty_names():
            state_dict.pop(prefix + name, None)  # where earlier versions had them
        super()._load_from_state_dict(state_dict, prefix, *args)


class Factors(nn.Module):
    """The factors of a table (n, d): coefficients per cluster, bases, offsets if affine, and where each row lies.

    In the state dict these are ``coefficients.0`` (n_0, j_0), ..., ``bases.0`` (j_0, d), ..., ``offsets`` (k, d),
    ``places`` (n,) and, with int8 storage, ``scales`` (n,). Rows lie sorted by cluster, row i at ``places[i]``.

    Parameters
    ----------
    n, d : int
        Rows and columns of the table.
    counts, dims : sequence of k int
        Rows n_c and dimension j_c of each cluster.
    affine : bool
        Whether clusters have offsets.
    storage : {"float32", "float16", "bfloat16", "int8"}, optional
        Of the coefficients; ``None`` is ``dtype``.
    n_fixed : int, default 0
        So many of the last clusters do not train: their bases and coefficients are buffers, in ``dtype``, and their
        offsets are zero.
    device, dtype
        As in any Torch module; ``dtype`` is that of the bases, offsets and decoded rows.

    Raises
    ------
    ValueError
        When counts and dims are not k numbers each, or the counts do not add up to n.
    """

    places: Tensor
    scales: Tensor | None
    offsets: nn.Parameter | None

    def __init__(
        self,
        n: int,
        d: int,
        counts: Sequence[int],
        dims: Sequence[int],
        *,
        affine: bool = False,
        storage: str | None = None,
        n_fixed: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        counts, dims = [index(m) for m in counts], [index(j) for j in dims]
        if len(counts) != len(dims) or not counts or min(counts) < 0 or min(dims) < 0:
            raise ValueError(f"counts and dims must hold one number for each cluster, got {counts} and {dims}")
        if sum(counts) != n:
            raise ValueError(f"counts must add up to the {n} rows, but they add up to {sum(counts)}")
        if not 0 <= n_fixed < len(dims):
            raise ValueError(f"n_fixed must be less than the {len(dims)} clusters, got {n_fixed}")
        if d < 1:
            raise ValueError(f"rows must have at least one column, got {d}")
        dtype = torch.get_default_dtype() if dtype is None else dtype
        kind = dtype if storage is None else _storage_dtype(storage)
        self.counts = tuple(counts)
        self.dims = tuple(dims)
        self.n_fixed = n_fixed
        k = len(dims) - n_fixed
        # First what has the dtype of the layer: transformers takes that of a model's first parameter for the model's.
        self.bases = Blocks([torch.zeros(j, d, device=device, dtype=dtype) for j in dims], n_fixed)
        blocks = [
            torch.zeros(m, j, device=device, dtype=kind if c < k else dtype)
            for c, (m, j) in enumerate(zip(counts, dims, strict=True))
        ]
        self.coefficients = Blocks(blocks, n_fixed)
        offsets = nn.Parameter(torch.zeros(k, d, device=device, dtype=dtype)) if affine else None
        self.register_parameter("offsets", offsets)
        # Not of 16 bits, in which collectives send nothing.
        self.register_buffer("places", torch.arange(n, device=device, dtype=torch.int32))
        scales = torch.zeros(n, device=device, dtype=dtype) if kind == torch.int8 else None
        self.register_buffer("scales", scales)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, d) of the table."""
        return len(self.places), self.bases.tensors()[0].shape[1]

    @property
    def labels(self) -> Tensor:
        """(n,) int32: the cluster of each row."""
        ends = torch.tensor(self._starts[1:], device=self.places.device, dtype=torch.int32)
        return torch.bucketize(self.places.int(), ends, out_int32=True, right=True)

    @property
    def _starts(self) -> list[int]:
        return [0, *accumulate(self.counts)]

    @property
    def storage(self) -> str:
        """Dtype of the coefficients: "float32", "float16", "bfloat16", "int8" (or "float64")."""
        return str(self.coefficients.tensors()[0].dtype).removeprefix("torch.")

    @property
    def n_parameters(self) -> int:
        """Numbers stored, as a :class:`Factorization` counts them, and with int8 a scale for each row."""
        n, d = self.shape
        scales = 0 if self.scales is None else n
        points = 0 if self.offsets is None else self.n_fixed * d  # which are zero
        return count_parameters(self.counts, self.dims, d, self.offsets is not None) + scales - points

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers."""
        return sum(part.numel() * part.element_size() for part in [*self.parameters(), *self.buffers()])

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: Facts, *args: Passed
    ) -> None:
        if (key := f"{prefix}places") in state_dict:
            state_dict[key] = state_dict[key].int()  # of 16 bits before
            if local_metadata.get("assign_to_params_buffers"):
                for blocks in (self.bases, self.coefficients):
                    blocks.place_empty(state_dict[key].device)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def table(self) -> Table:
        """The factors as tensors."""
        offsets: Tensor | None = self.offsets
        if offsets is not None and self.n_fixed:
            offsets = nn.functional.pad(offsets, (0, 0, 0, self.n_fixed))
        blocks, bases = self.coefficients.tensors(), self.bases.tensors()
        return Table(self.places, self._starts, blocks, bases, self.scales, offsets)

    def to_dense(self) -> Tensor:
        """The table (n, d) decoded, differentiable in the factors."""
        table = self.table()
        with in_own_dtype(self.places.device):
            rows = torch.cat([table.rows(c) for c in range(len(table.blocks))])
        return nn.functional.embedding(self.places.long(), rows)

    @torch.no_grad()
    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop - 1 of the table, decoded in float32 at least."""
        table = self.table()
        wide = [V.to(torch.promote_types(V.dtype, torch.float32)) for V in table.bases]
        numbers = torch.arange(start, stop, device=self.places.device)
        return decode(numbers, table._replace(bases=wide))

    def products(self, x: Tensor) -> Tensor:
        """``x @ to_dense().T``, (..., d) to (..., n), through the factors."""
        table = self.table()
        parts = [x @ V.T @ table.coefficients(c).T for c, V in enumerate(table.bases)]
        if table.offsets is not None:
            shifts = (x @ table.offsets.T).split(1, dim=-1)
            parts = [part + shift for part, shift in zip(parts, shifts, strict=True)]
        return torch.cat(parts, dim=-1).index_select(-1, table.places.int())

    def combinations(self, x: Tensor) -> Tensor:
        """``x @ to_dense()``, (..., n) to (..., d), through the factors."""
        table = self.table()
        parts = x.index_select(-1, table.places.argsort()).split(list(self.counts), dim=-1)
        terms = [part @ table.coefficients(c) @ table.bases[c] for c, part in enumerate(parts)]
        if table.offsets is not None:
            terms.append(torch.stack([part.sum(-1) for part in parts], -1) @ table.offsets)
        return reduce(torch.add, terms)

    def to_factorization(self) -> Factorization:
        """A copy of the factors, as Torch tensors in float32 (float64 if that is theirs)."""
        table, labels = self.table(), self.labels
        dtype = torch.float64 if table.bases[0].dtype == torch.float64 else torch.float32

        def own(part: Tensor) -> Tensor:
            return part.detach().to(dtype, copy=True)

        places = self.places[labels.argsort(stable=True)].int().split(list(self.counts))
        positions = [part - start for part, start in zip(places, table.starts, strict=False)]
        blocks = [own(table.coefficients(c)).index_select(0, rows) for c, rows in enumerate(positions)]
        offsets = None if table.offsets is None else own(table.offsets)
        home = Home("torch", str(self.places.device))
        return Factorization(labels, blocks, [own(V) for V in table.bases], offsets, home)

    @torch.no_grad()
    def fill(self, factorization: Factorization) -> Self:
        """Take a copy of the factors of a factorization that has the shapes of these, and offsets if these do."""
        given = factorization.to("torch")
        order = given.labels.to(self.places.device).argsort(stable=True)
        self.places[order] = torch.arange(len(order), dtype=self.places.dtype, device=order.device)
        for V, basis in zip(self.bases.tensors(), given.bases, strict=True):
            V.copy_(basis)
        if self.offsets is not None:
            assert given.offsets is not None  # its shapes are these
            self.offsets.copy_(given.offsets[: len(self.offsets)])
        for own, block, start in zip(self.coefficients.tensors(), given.blocks, self._starts, strict=False):
            scales = None if self.scales is None else self.scales[start : start + len(block)]
            if scales is None or own.is_floating_point():
                own.copy_(block)
                if scales is not None:
                    scales.fill_(1)
            else:
                # The column of zeros is for blocks of dimension 0, which have no largest coefficient.
                scales.copy_(nn.functional.pad(block.abs(), (0, 1)).amax(1) / LEVELS)
                divisors = torch.where(scales > 0, scales, 1).to(block)
                own.copy_((block / divisors.unsqueeze(1)).round().clamp(-LEVELS, LEVELS))
        return self

    def __repr__(self) -> str:
        return f"{self._get_name()}({self.extra_repr()})"

    def extra_repr(self) -> str:
        n, d = self.shape
        k = len(self.dims)
        dims = f"{min(self.dims)} to {max(self.dims)}" if len(set(self.dims)) > 1 else str(self.dims[0])
        kind = "affine " if self.offsets is not None else ""
        saved = 1 - self.n_parameters / (n * d) if n else 0.0
        return f"{n}, {d}, {k} {kind}clusters of dimension {dims}, {self.storage}, {saved:.1%} fewer parameters"


def _storage_dtype(storage: str) -> torch.dtype:
    try:
        return STORAGE[storage]
    except (KeyError, TypeError):
        raise ValueError(f"storage must be None or one of {', '.join(map(repr, STORAGE))}, got {storage!r}") from None


def read_shapes(
    factorization: object, dtype: torch.dtype | None, device: Device
) -> tuple[tuple[int, int, tuple[int, ...], tuple[int, ...]], dict[str, Passed]]:
    """Shapes of a factorization (n, d, counts, dims), and whether it is affine, its dtype and device if not given."""
    if not isinstance(factorization, Factorization):
        raise TypeError(f"factorization must be a ksubspaces.Factorization, got {type(factorization).__name__}")
    own = torch.float64 if "float64" in str(factorization.bases[0].dtype) else torch.float32
    options = {
        "affine": factorization.offsets is not None,
        "dtype": own if dtype is None else dtype,
        "device": factorization.home.device if device is None else device,
    }
    return (*factorization.shape, factorization.counts, factorization.dims), options
