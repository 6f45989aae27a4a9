"""The operations on an NVIDIA GPU: CUDA C++ kernels, compiled when first used, and the host code that launches them.

Host code is written on the namespace of its arrays, so that the tests can run it, kernels and all, without a GPU.
"""

from __future__ import annotations

import numpy as np

from ..flats import Array
from .assign import assign, sqdistances
from .eigen import batched_svd, top_eigenspaces
from .grouped import coefficients, residuals
from .groups import group_rows, label_counts
from .lookup import lookup
from .moments import second_moments, update_moments
from .power import measure_objective
from .seeding import seed

__all__ = [
    "assign",
    "batched_svd",
    "changed_rows",
    "coefficients",
    "group_rows",
    "label_counts",
    "largest",
    "lookup",
    "lower_distances",
    "measure_objective",
    "residuals",
    "sample_rows",
    "second_moments",
    "seed",
    "sqdistances",
    "top_eigenspaces",
    "update_moments",
]


# What Numba compiles is imported when first used: Numba's CUDA target takes long to load, and lookup does without it.


def sample_rows(weights: Array, m: int, rng: np.random.Generator) -> Array:
    from . import irregular

    return irregular.sample_rows(weights, m, rng)


def lower_distances(distances: Array, trials: Array, weights: Array) -> Array:
    from . import irregular

    return irregular.lower_distances(distances, trials, weights)


def largest(costs: Array, m: int) -> Array:
    from . import irregular

    return irregular.largest(costs, m)


def changed_rows(old: Array, new: Array) -> Array:
    from . import irregular

    return irregular.changed_rows(old, new)
