"""The ways of compressing a table that the downstream benchmark compares, all at the same number of parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ksubspaces import Factorization, compress
from ksubspaces.tokens import token_weights

from ..lib.encoder import load_tokenizer, training_counts

FREQUENT = 167
"""Rows kept exactly by "SVD + exact rows"; they hold more than half of all tokens of the training texts."""


@dataclass(frozen=True)
class Method:
    """A way of compressing.

    Attributes
    ----------
    title : str
        What tables and plots call it.
    factor : callable
        (table, ratio, seed) -> Factorization
    clustered : bool
        Whether the result depends on the seed, so that one figure is an average over several.
    tuned : bool
        Whether it is also fine-tuned in factored form.
    """

    title: str
    factor: Callable[[np.ndarray, float, int], Factorization]
    clustered: bool = True
    tuned: bool = True


def frequent_rows() -> np.ndarray:
    """Numbers of the tokens that occur most."""
    return np.argsort(-training_counts(), kind="stable")[:FREQUENT]


METHODS = {
    "svd": Method("SVD", lambda A, ratio, seed: compress(A, ratio, k=1), clustered=False),
    "svd-exact": Method(
        f"SVD + {FREQUENT} exact rows",
        lambda A, ratio, seed: compress(A, ratio, k=1, exact_rows=frequent_rows()),
        clustered=False,
    ),
    "svd-weighted": Method(
        "SVD, weighted by counts",
        lambda A, ratio, seed: compress(A, ratio, k=1, sample_weight=token_weights(training_counts())),
        clustered=False,
        tuned=False,
    ),
    "messi-3": Method("MESSI, k=3", lambda A, ratio, seed: compress(A, ratio, k=3, dims="equal", seed=seed)),
    "messi-5": Method("MESSI, k=5", lambda A, ratio, seed: compress(A, ratio, k=5, dims="equal", seed=seed)),
    "ours": Method("ours, unweighted", lambda A, ratio, seed: compress(A, ratio, seed=seed)),
    "ours-prior": Method(
        "ours, weighted by the prior",
        lambda A, ratio, seed: compress(A, ratio, sample_weight=token_weights(load_tokenizer()), seed=seed),
    ),
    "ours-counts": Method(
        "ours, weighted by counts",
        lambda A, ratio, seed: compress(A, ratio, sample_weight=token_weights(training_counts()), seed=seed),
    ),
}
