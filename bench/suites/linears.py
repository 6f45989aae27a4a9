"""Rows on linear layers: MiniLM's feed-forward layers compressed in the metric of what comes into them, and without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ksubspaces import compress
from ksubspaces.metric import compress_in_metric

from ..lib.compare import Row

RATIOS = (0.3, 0.5)
TEXTS, SENTENCES = 1000, 1000
ABOVE = 1.001
"""Ours may not be above the best SVD by more, in the mean error of outputs."""

Matrix = np.ndarray
Method = Callable[[Matrix, Matrix, float], Matrix]
"""A weight (out, in), the second moment of its inputs, the share of parameters to save: what is left of the weight."""


def svd(W: Matrix, M: Matrix, ratio: float) -> Matrix:
    return compress(W, ratio, k=1).reconstruct()


def svd_in_metric(W: Matrix, M: Matrix, ratio: float) -> Matrix:
    """As DRONE and SVD-LLM have it."""
    return compress_in_metric(W, M, ratio, k=1).reconstruct()


def messi(W: Matrix, M: Matrix, ratio: float) -> Matrix:
    """Three subspaces of equal dimension, of the longer side, as the method is for tall matrices."""
    tall = W if len(W) >= W.shape[1] else W.T
    found = compress(tall, ratio, k=3, dims="equal", seed=0).reconstruct()
    return found if tall is W else found.T


def ours(W: Matrix, M: Matrix, ratio: float) -> Matrix:
    return compress_in_metric(W, M, ratio, seed=0).reconstruct()


METHODS: Mapping[str, Method] = {"SVD": svd, "SVD in the metric": svd_in_metric, "MESSI": messi, "ours": ours}


def rows(X: np.ndarray, *, quick: bool) -> Iterator[Row]:
    """A row for each size; none where the encoder or its texts cannot be had."""
    if quick:
        return
    try:
        from ..lib import encoder, texts

        probe = encoder.Probe(SENTENCES)
        sentences = [sentence.text for sentence in texts.training(texts.load_all())[:TEXTS]]
    except (ImportError, RuntimeError) as error:
        yield Row("MiniLM feed-forward", "left out: the encoder or its texts are not here", result="", note=str(error))
        return
    metrics = _metrics(probe.model, sentences)
    for ratio in RATIOS:
        yield compare(probe, metrics, ratio)


def _metrics(model: Any, sentences: list[str]) -> dict[str, Matrix]:
    from transformers import AutoTokenizer

    from ksubspaces.demo import minilm_folder
    from ksubspaces.integrations.transformers import activation_metric

    names = [
        f"encoder.layer.{layer}.{part}.dense"
        for layer in range(model.config.num_hidden_layers)
        for part in ("intermediate", "output")
    ]
    return activation_metric(model, names, sentences, AutoTokenizer.from_pretrained(minilm_folder()))


def compare(probe: Any, metrics: Mapping[str, Matrix], ratio: float) -> Row:
    """All layers by each method: mean relative error of outputs, and cosine of sentence vectors."""
    from ..lib.encoder import fidelity, sentence_vectors

    found: dict[str, Any] = {}
    for method, make in METHODS.items():
        model, errors = copy.deepcopy(probe.model), []
        for name, M in metrics.items():
            layer = model.get_submodule(name)
            W = layer.weight.detach().numpy()
            smaller = make(W, M, ratio)
            difference = (W - smaller).astype(np.float64)
            errors.append(float(np.sum((difference @ M) * difference) / np.sum((W @ M) * W)))
            layer.weight.data.copy_(layer.weight.new_tensor(smaller))
        kept = fidelity(probe.vectors, sentence_vectors(model, probe.ids))
        found[method] = {"errors": errors, "error": float(np.mean(errors)), "cosine": kept.cosine}
    told = {method: f"{entry['error']:.4f} / {entry['cosine']:.4f}" for method, entry in found.items()}
    best, mine = found["SVD in the metric"], found["ours"]
    return Row(
        f"MiniLM's {len(metrics)} feed-forward layers, {ratio:.0%} fewer parameters",
        f"mean error of outputs / cosine of {len(probe.ids):,} held-out sentences; peer: SVD in the metric",
        result=f"SVD {told['SVD']}, MESSI {told['MESSI']}",
        ours=told["ours"],
        peer=told["SVD in the metric"],
        target=f"error <= {ABOVE} of the peer's",
        reached=mine["error"] <= ABOVE * best["error"],
        failed="" if mine["error"] <= ABOVE * best["error"] else "ours is above the peer's error",
        note=f"metric: second moments of inputs over {TEXTS:,} training texts; error in it, sentences not among them",
        raw=found,
    )
