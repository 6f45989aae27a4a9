"""The operations on an NVIDIA GPU: CUDA C++ kernels, compiled when first used, and the host code that launches them.

Host code is written on the namespace of its arrays, so that the tests can run it, kernels and all, without a GPU.
"""

from __future__ import annotations

from .assign import assign, sqdistances, two_nearest
from .eigen import batched_svd, top_eigenspaces
from .grouped import coefficients, residuals
from .groups import group_rows, label_counts
from .irregular import changed_rows, largest, lower_distances, sample_rows
from .lookup import lookup
from .moments import second_moments, update_moments
from .packed import decode
from .power import complements as complements
from .power import measure_objective
from .seeding import seed, seed_directions
from .status import fetch

__all__ = [
    "assign",
    "batched_svd",
    "changed_rows",
    "coefficients",
    "decode",
    "fetch",
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
    "seed_directions",
    "sqdistances",
    "top_eigenspaces",
    "two_nearest",
    "update_moments",
]
