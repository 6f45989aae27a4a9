"""Embedding bags, factored and in packed bits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import Passed
from ._embedding import SubspaceEmbedding
from ._lookup import check_ids, decode_distinct, in_own_dtype, is_static
from ._packed import PackedEmbedding
from ._types import AnyClass, AnyModule

MODES = ("sum", "mean", "max")


class Bags(nn.Module):
    """Sums, means or maxima of the rows that an embedding looks up: the base of both bags, before their embedding."""

    embedding_dim: int
    padding_idx: int | None

    def __init__(
        self, *shapes: Passed, mode: str = "mean", include_last_offset: bool = False, **options: Passed
    ) -> None:
        super().__init__(*shapes, **options)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, got {mode!r}")
        self.mode = mode
        self.include_last_offset = include_last_offset

    @staticmethod
    def _options_of(embedding: AnyModule) -> dict[str, Passed]:
        return {"mode": embedding.mode, "include_last_offset": embedding.include_last_offset}

    def _distinct(self, ids: Tensor) -> tuple[Tensor, Tensor, int | None]:
        """Distinct rows, the number among them of each id, and that of the padding row, if it is there."""
        raise NotImplementedError

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Bags of ids (bags, d), as of ``nn.EmbeddingBag``.

        Parameters
        ----------
        input : (bags, ids in each) or (ids,) tensor of int32 or int64
        offsets : (bags,) tensor, optional
            Where each bag begins in ids of one dimension.
        per_sample_weights : tensor of the shape of input, optional
            What rows are multiplied by, with mode "sum".

        Raises
        ------
        IndexError, TypeError, ValueError
            When an id is not in [0, n), or arguments do not fit, as Torch says.
        """
        if is_static(input):
            rows = super().forward(input).reshape(-1, self.embedding_dim)
            numbers = torch.arange(len(rows), device=input.device).view(input.shape)
            padding = None
            if self.padding_idx is not None:  # a row more, for all ids of padding
                padding = len(rows)
                rows = F.pad(rows, (0, 0, 0, 1))
                numbers = torch.where(input == self.padding_idx, padding, numbers)
        else:
            check_ids(input)
            with in_own_dtype(input.device):
                rows, numbers, padding = self._distinct(input)
            numbers = numbers.view(input.shape)
        return F.embedding_bag(
            numbers,
            rows,
            None if offsets is None else offsets.to(numbers.dtype),
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=padding,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, mode={self.mode!r}"


class PackedEmbeddingBag(Bags, PackedEmbedding):
    """An ``nn.EmbeddingBag`` whose table is in packed bits: what a budget in bits makes of a bag.

    Parameters
    ----------
    num_embeddings, embedding_dim, nbytes, **options
        As in :class:`PackedEmbedding`. As in ``nn.EmbeddingBag``, the padding row is left out of bags.
    mode, include_last_offset
        As in :class:`SubspaceEmbeddingBag`.

    Raises
    ------
    ValueError
        When mode is none of these.

    Examples
    --------
    >>> import torch
    >>> from ksubspaces.integrations.torch import SubspaceEmbeddingBag
    >>> bag = torch.nn.EmbeddingBag(200, 16, mode="sum")
    >>> layer = SubspaceEmbeddingBag.from_embedding(bag, bits=4.0, seed=0)
    >>> type(layer).__name__, layer(torch.tensor([5, 7, 5, 9]), offsets=torch.tensor([0, 3])).shape
    ('PackedEmbeddingBag', torch.Size([2, 16]))
    """

    def _distinct(self, ids: Tensor) -> tuple[Tensor, Tensor, int | None]:
        distinct, numbers = torch.unique(ids, return_inverse=True)
        padding = -1 if self.padding_idx is None else self.padding_idx
        found = (distinct == padding).nonzero().flatten().tolist()
        return self.decode(distinct, padding), numbers, found[0] if found else None


class SubspaceEmbeddingBag(Bags, SubspaceEmbedding):
    """An ``nn.EmbeddingBag`` whose table is factored: sums, means or maxima of rows, by bags of ids.

    Parameters
    ----------
    num_embeddings, embedding_dim, counts, dims, **options
        As in :class:`SubspaceEmbedding`. As in ``nn.EmbeddingBag``, the padding row is left out of bags.
    mode : {"sum", "mean", "max"}, default "mean"
    include_last_offset : bool, default False
        Whether offsets have one entry more, the number of ids.

    Raises
    ------
    ValueError
        When mode is none of these, or as :class:`SubspaceEmbedding` raises.

    Examples
    --------
    >>> import torch
    >>> from ksubspaces.integrations.torch import SubspaceEmbeddingBag
    >>> bag = torch.nn.EmbeddingBag(200, 16, mode="sum")
    >>> layer = SubspaceEmbeddingBag.from_embedding(bag, 0.4, k=2, seed=0)
    >>> layer(torch.tensor([5, 7, 5, 9]), offsets=torch.tensor([0, 3])).shape
    torch.Size([2, 16])
    """

    _dense: AnyClass = nn.EmbeddingBag
    _packed: AnyClass = PackedEmbeddingBag

    def _distinct(self, ids: Tensor) -> tuple[Tensor, Tensor, int | None]:
        return decode_distinct(ids, self.table(), -1 if self.padding_idx is None else self.padding_idx)
