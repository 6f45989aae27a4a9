"""Compiles kernels side by side before they are needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from . import loader


def prepare(dtype: DTypeLike, d: int) -> None:
    """Begin to compile the kernels that a fit of rows of d numbers needs; the fit waits for those that are missing."""
    loader.prepare(loader.variants_of_a_fit(np.dtype(dtype), d))


def compile_all() -> int:
    """Compile all variants of all kernels; how many there are."""
    return len([module.result() for module in loader.prepare(loader.all_variants())])
