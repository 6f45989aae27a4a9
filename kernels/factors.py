"""Factors of a matrix, as decoding reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .flats import Array


class Factors(Protocol):
    """Row i is ``blocks[c][positions[i]] @ bases[c] + offsets[c]``, where c is ``labels[i]``."""

    @property
    def labels(self) -> Array: ...

    @property
    def positions(self) -> Array: ...

    @property
    def blocks(self) -> Sequence[Array]: ...

    @property
    def bases(self) -> Sequence[Array]: ...

    @property
    def offsets(self) -> Array | None: ...
