"""Rows on compression: the error at a given size, beside one SVD and MESSI's equal dimensions, plain and weighted."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ksubspaces import Factorization, compress

from ..lib.compare import Row, not_above, timed
from ..lib.peers import svd_error

TARGETS = {0.4: 0.1020, 0.6: 0.222, 0.8: 0.422}
"""Relative error to reach for each share of the parameters saved."""
SECONDS = 180
WEIGHTED_RATIO, WEIGHTED_TARGET = 0.6, 0.06


def rows(X: np.ndarray, *, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    for ratio, target in TARGETS.items():
        if not quick or ratio == 0.4:
            yield error(X, ratio, target)
    counts = word_counts()
    if counts is not None and not quick:
        yield weighted_error(X, counts)


def error(X: np.ndarray, ratio: float, target: float) -> Row:
    """Relative error at a size, and how long it took."""
    seconds, ours = timed(lambda: compress(X, ratio, seed=0))
    peer_seconds, messi = timed(lambda: compress(X, ratio, k=5, dims="equal", seed=0))
    parameters = (1 - ratio) * X.size
    reached, equal = exact_error(X, ours), exact_error(X, messi)
    svd = svd_error(X, parameters)
    return Row(
        f"MiniLM, {ratio:.0%} fewer parameters",
        "relative error, default arguments; peer: one SVD; MESSI (k=5, equal dimensions, our solver)",
        result=f"{svd / reached:.2f} x and {equal / reached:.2f} x less error",
        ours=f"{reached:.4f} in {seconds:.0f} s, k={len(ours.bases)}",
        peer=f"{svd:.4f}; {equal:.4f} in {peer_seconds:.0f} s",
        target=f"<= {target} in {SECONDS} s",
        reached=reached <= target and seconds <= SECONDS,
        failed=within(ours, parameters) or within(messi, parameters) or not_above(reached, svd, "relative error"),
        note=f"{ours.n_parameters:,} parameters of {X.size:,}",
        raw={"seconds": seconds, "dims": ours.dims, "counts": ours.counts, "svd": svd, "messi": equal},
    )


def weighted_error(X: np.ndarray, counts: np.ndarray) -> Row:
    """Error weighted by how often a token occurs, of a compression that weighs rows by the root of that."""
    ratio = WEIGHTED_RATIO
    parameters = (1 - ratio) * X.size
    made = {
        "ours": timed(lambda: compress(X, ratio, sample_weight=np.sqrt(counts + 1), seed=0)),
        "SVD": timed(lambda: compress(X, ratio, k=1)),
        "MESSI k=5": timed(lambda: compress(X, ratio, k=5, dims="equal", seed=0)),
        "ours, unweighted": timed(lambda: compress(X, ratio, seed=0)),
    }
    errors = {name: exact_error(X, factors, counts) for name, (_, factors) in made.items()}
    ours = errors.pop("ours")
    return Row(
        f"MiniLM, {ratio:.0%} fewer parameters",
        "relative error weighted by token counts; ours with weights (count + 1)^0.5; peers: " + ", ".join(errors),
        result=f"{min(errors.values()) / ours:.1f} x less error than the best of them",
        ours=f"{ours:.4f} in {made['ours'][0]:.0f} s",
        peer="; ".join(f"{value:.3f}" for value in errors.values()),
        target=f"< {WEIGHTED_TARGET}",
        reached=ours < WEIGHTED_TARGET,
        failed=next(filter(None, (within(factors, parameters) for _, factors in made.values())), ""),
        note=f"counts of {int(counts.sum()):,} tokens of movie reviews and editorials",
        raw={"errors": errors, "seconds": {name: seconds for name, (seconds, _) in made.items()}},
    )


def word_counts() -> np.ndarray | None:
    """How often each token of the table occurs in texts that people wrote; ``None`` where they cannot be had."""
    try:
        from ksubspaces.tokens import count_tokens

        from ..lib.encoder import load_tokenizer
        from ..lib.texts import load, training

        texts = [sentence.text for source in ("movies", "editorials") for sentence in training(load(source))]
        return count_tokens(load_tokenizer(), texts)
    except (ImportError, RuntimeError):
        return None


def exact_error(X: np.ndarray, factors: Factorization, weights: np.ndarray | None = None) -> float:
    """The error from the decoded rows in float64, with nothing of the solver's."""
    w = np.ones(len(X)) if weights is None else weights
    decoded = np.empty(X.shape)
    for c, (block, basis) in enumerate(zip(factors.blocks, factors.bases, strict=True)):
        decoded[factors.labels == c] = block.astype(np.float64) @ basis
    decoded -= X
    return float(w @ np.square(decoded).sum(axis=1) / (w @ np.square(X, dtype=np.float64).sum(axis=1)))


def within(factors: Factorization, parameters: float) -> str:
    """Empty when the factors take no more numbers than they may, counted from the arrays."""
    stored = sum(part.size for part in (*factors.blocks, *factors.bases)) + (len(factors.bases) > 1) * len(factors)
    return "" if stored <= parameters else f"{stored:,} numbers are stored, {parameters:,.0f} were allowed"
