"""Which kernels a fit will ask for, so that they are compiled side by side before it does."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import loader

RESIDENT_BYTES = 640
"""Of a row, up to which `assign.cu` keeps rows in shared memory, where there are 227 KiB of it."""


def prepare(dtype: DTypeLike, d: int) -> None:
    """Begin to compile what a fit of rows of d numbers takes. One too many costs a core, one too few a wait."""
    loader.prepare(variants_of_a_fit(np.dtype(dtype).name, d))


def compile_all() -> int:
    """Compile all that there is, and tell how many variants that is."""
    return len([module.result() for module in loader.prepare(loader.all_variants())])


@functools.cache
def variants_of_a_fit(dtype: str, d: int) -> list[loader.Variant]:
    """What the kernels of a fit define, for any numbers of rows and of flats."""
    single, bytes_of_row = dtype == "float32", d * np.dtype(dtype).itemsize
    real = "float" if single else "double"
    steps = [1 << (-(-d // 32) - 1).bit_length()] if single else []
    wanted: dict[str, dict[str, list[Any]]] = {
        "assign": {
            "PRODUCT": ["SplitTF32", "Half"] if single else ["Double"],
            "RESIDENT": [int(bytes_of_row <= RESIDENT_BYTES)],
        },
        "eigen": {"REAL": ["double", real], "ROWS": [next((rows for rows in (1, 2, 4) if d <= 32 * rows), None)]},
        "grouped": {"REAL": [real], "EACH": [next((each for each in (2, 4, 8, 16) if d <= 32 * each), 32)]},
        "groups": {},
        "halves": {} if single else {"REAL": []},
        "moments": {
            "REAL": ["double", real],
            "TILE": [64, 128 if d > 64 else 64],
            "PIECE": [piece for piece in (1, 2, 4) if d % piece == 0],
        },
        "power": {},
        "status": {},
        "subspace": {},
        **{source: {"STEPS": steps} for source in ("candidates", "screen", "seeding")},
    }
    return [
        (source, defines)
        for source, defines in loader.all_variants()
        if source in wanted and all(defines.get(name) in of for name, of in wanted[source].items())
    ]
