"""Rows on whole models: the MiniLM folder compressed, saved and loaded again; seconds, memory, sentence vectors; then
static models (:mod:`.static_models`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ksubspaces import compress

from ..lib.compare import Row
from ..lib.whole_model import RATIO, measure
from .compress import exact_error, within

COSINE, SPEARMAN, PRIOR_COSINE = 0.996, 0.994, 0.991
SECONDS, MEMORY = 180, 3.0


def rows(X: np.ndarray, *, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn; those of encoders only where these and their texts can be had."""
    if not quick:
        yield from folders(X)
    try:
        from . import static_models
    except ImportError as error:
        yield Row("static models", "left out: sentence-transformers is not here", result="", note=str(error))
    else:
        yield from static_models.rows(quick=quick)


def folders(X: np.ndarray) -> Iterator[Row]:
    """The MiniLM folder with weights from counts, and from the prior."""
    try:
        from ..lib import encoder

        probe = encoder.Probe()
    except (ImportError, RuntimeError) as error:
        yield Row("MiniLM folder", "left out: the encoder or its texts are not here", result="", note=str(error))
        return
    svd = probe.fidelity(compress(X, RATIO, k=1).reconstruct())
    yield whole(X, probe, svd, texts=True, target=(COSINE, SPEARMAN))
    yield whole(X, probe, svd, texts=False, target=(PRIOR_COSINE, 0.0))


def whole(X: np.ndarray, probe: Any, svd: Any, *, texts: bool, target: tuple[float, float]) -> Row:
    """`compress_model` and `save_compressed` in one process, `load_compressed` and sentence vectors in this one."""
    from ksubspaces.integrations.transformers import load_compressed

    from ..lib.encoder import fidelity, sentence_vectors

    with tempfile.TemporaryDirectory(prefix="ksubspaces-") as scratch:
        cold = measure(Path(scratch) / "cold", texts=texts, cold=True)
        made = measure(Path(scratch) / "model", texts=texts, cold=False)
        model = load_compressed(Path(scratch) / "model")
    kept = fidelity(probe.vectors, sentence_vectors(model, probe.ids))
    factors = model.get_input_embeddings().to_factorization().to("numpy")
    error = exact_error(X, factors)
    memory, cold_memory = (found["peak_bytes"] / found["model_bytes"] for found in (made, cold))
    cosine, spearman = target
    reached = kept.cosine >= cosine and kept.spearman >= spearman
    failed = within(factors, (1 - RATIO) * X.size)
    if not np.isclose(error, made["relative_error"], rtol=1e-4):
        failed = f"the report tells of an error of {made['relative_error']:.6g}, the loaded table's is {error:.6g}"
    sizes = " -> ".join(f"{made[name] / 1e6:.1f} MB" for name in ("model_bytes", "bytes"))
    by = f"counts in {made['texts']:,} texts" if texts else "the prior, no texts"
    return Row(
        f"MiniLM folder, {RATIO:.0%} fewer parameters, weights from {by}",
        f"compress_model, saved and loaded: cosine / Spearman of {len(probe.ids):,} held-out sentences; peer: SVD",
        result=f"{sizes} in {made['seconds']:.0f} s, at most {memory:.2f} x the model's size in memory",
        ours=f"{kept.cosine:.4f} / {kept.spearman:.4f}",
        peer=f"{svd.cosine:.4f} / {svd.spearman:.4f}",
        target=f">= {cosine}" + (f" / {spearman}" if spearman else "") + f", <= {SECONDS} s, <= {MEMORY:g} x",
        reached=reached and made["seconds"] <= SECONDS and memory <= MEMORY,
        failed=failed,
        note=f"peak of the process less imports, kernels ready; with Numba getting them ready counted as well "
        f"{cold_memory:.2f} x, {cold['seconds']:.0f} s",
        raw={"cosine": kept.cosine, "spearman": kept.spearman, "warm": made, "cold": cold},
    )
