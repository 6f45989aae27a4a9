"""Tables of a model in packed bits together: one budget for all, or the least that keeps sentence vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from ..bits.compression import Quantizer
from ..bits.quantized import QuantizedFactorization
from ..bits.search import TooFew
from ..bits.shared import Quantizers
from ..bits.smallest import Trial, Unreachable, smallest
from ..checks import Passed, Seed
from ._embedding import and_row
from ._linear import SubspaceLinear
from ._modules import LAYERS, Layer, SharedTable, put
from ._sentences import SentenceVectors
from ._token_rows import TokenRows

SHARE = 0.1  # of the squared error that sentence vectors lose, about: where a search begins


class TablesInBits:
    """Tables to be coded, with the weights and exact rows of each.

    Parameters
    ----------
    tables : sequence of SharedTable
    rows : sequence of TokenRows
    relative, coder, device, seed, progress
        As in :func:`ksubspaces.compress`.
    by
        As in :class:`SubspaceLinear`, for linear layers.

    Raises
    ------
    TypeError, ValueError
        When there are other options, which are for factors of numbers.
    """

    def __init__(
        self,
        tables: Sequence[SharedTable],
        rows: Sequence[TokenRows],
        *,
        relative: bool = False,
        coder: str = "trellis",
        by: str = "rows",
        device: str | None = None,
        seed: Seed = None,
        progress: bool = False,
        **others: Passed,
    ) -> None:
        for name, value in others.items():
            if value not in (None, "auto"):
                raise ValueError(f"{name} is for factors of numbers; in bits it is found, so leave it out")
        self.tables, self.by = tables, by
        shared = {"relative": relative, "coder": coder, "device": device, "seed": seed, "progress": progress}
        self.quantizers = Quantizers([self._quantizer(*pair, shared) for pair in zip(tables, rows, strict=True)])

    def within(self, nbytes: float) -> list[QuantizedFactorization]:
        """Codes of all tables in so many bytes together, under one price of a bit."""
        return self.quantizers.within(nbytes)

    def smallest(
        self, model: nn.Module, vectors: SentenceVectors, min_cosine: float
    ) -> tuple[list[QuantizedFactorization], float]:
        """The smallest codes that are found with which sentence vectors keep this cosine, and the cosine they keep;
        the model is left as it is.

        Raises
        ------
        ValueError
            When no number of bits does.
        """

        def attempt(nbytes: float) -> Trial[list[QuantizedFactorization]] | None:
            try:
                codes = self.within(nbytes)
            except TooFew:
                return None
            try:
                for table, code in zip(self.tables, codes, strict=True):
                    put(model, table.replacements(self.layer(table, code)))
                lost = 1 - vectors.cosine()
            finally:
                for table in self.tables:
                    put(model, table.holders)
            return Trial(codes, sum(code.nbytes for code in codes), lost)

        allowed, size = 1 - min_cosine, self.quantizers.size
        bits = max(0.5, math.log2(SHARE / allowed) / 2)
        try:
            found = smallest(attempt, allowed, bits * size / 8, size)
        except Unreachable as failure:
            raise ValueError(
                f"min_cosine={min_cosine} is more than the most bits there are keep of these texts, "
                f"{1 - failure.lost:.6f}; ask for less"
            ) from None
        return found.result, 1 - found.lost

    def layer(self, table: SharedTable, code: QuantizedFactorization) -> Layer:
        """The layer in packed bits that takes the place of a table."""
        if table.kind == "linear":
            return SubspaceLinear.from_linear(table.module, code=code, by=self.by)
        layer: Layer = LAYERS[table.kind][1].from_embedding(table.module, code=code)
        return layer

    def _quantizer(self, table: SharedTable, rows: TokenRows, shared: dict[str, Passed]) -> Quantizer:
        weight, exact = table.module.weight.detach(), rows.exact
        if table.kind == "linear":
            weight = weight if self.by == "rows" else weight.T
        elif table.module.padding_idx is not None:
            exact = and_row(exact, table.module.padding_idx, len(weight))
        try:
            return Quantizer(weight, sample_weight=rows.weights, exact_rows=exact, **shared)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{table.name}: {error}") from error
