"""Kernels are compiled side by side before they are asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from . import loader


def prepare(dtype: DTypeLike, d: int) -> None:
    """Begin to compile what a fit of rows of d numbers takes. One too many costs a core, one too few a wait."""
    loader.prepare(loader.variants_of_a_fit(np.dtype(dtype), d))


def compile_all() -> int:
    """Compile all that there is, and tell how many variants that is."""
    return len([module.result() for module in loader.prepare(loader.all_variants())])
