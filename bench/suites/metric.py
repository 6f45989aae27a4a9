"""Rows on a metric: MiniLM's feed-forward layers compressed so that their outputs are kept, beside SVD and MESSI.

The metric is the second moment of each layer's inputs over training sentences. The error is that of the outputs over
held-out sentences, and the cosine is that of these sentences' vectors once all twelve layers are replaced.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from ksubspaces import compress
from ksubspaces.demo import minilm_folder
from ksubspaces.integrations.transformers import activation_metric, compress_model

from ..lib import encoder, texts
from ..lib.compare import Row, timed

RATIOS = (0.3, 0.5)
MEASURED = 1000
"""Sentences of either half in which activations are measured."""
KEPT = 1.001
"""A peer may have this many times the parameters asked for, and no more."""

Weights = Mapping[str, np.ndarray]
Moments = Mapping[str, np.ndarray]


def rows(*, quick: bool) -> Iterator[Row]:
    """Ours beside each peer at both sizes; quick: one layer of each kind, few sentences."""
    try:
        probe = encoder.Probe(50 if quick else encoder.SENTENCES)
        sentences = texts.load_all()
    except RuntimeError as error:
        yield Row("MiniLM's feed-forward layers", "left out: texts are not here", result="", note=str(error))
        return
    names = [f"encoder.layer.{i}.{part}.dense" for i in range(1 if quick else 6) for part in ("intermediate", "output")]
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    halves = texts.training(sentences), texts.held_out(sentences)
    asked = [[sentence.text for sentence in half[:: len(half) // (50 if quick else MEASURED)]] for half in halves]
    seconds, seen = timed(lambda: activation_metric(probe.model, names, asked[0], tokenizer))
    held_out = activation_metric(probe.model, names, asked[1], tokenizer)
    weights = {name: probe.model.get_submodule(name).weight.detach().numpy() for name in names}
    for ratio in RATIOS:
        ours = _measured(probe, names, held_out, lambda r=ratio: _ours(probe.model, names, r, seen))
        for title, peer in PEERS.items():
            theirs = _measured(
                probe, names, held_out, lambda r=ratio, p=peer: _replaced(probe.model, weights, seen, r, p)
            )
            yield _row(names, ratio, title, ours, theirs, weights, seconds)


def _row(
    names: list[str],
    ratio: float,
    title: str,
    ours: dict[str, Any],
    peer: dict[str, Any],
    weights: Weights,
    seconds: float,
) -> Row:
    most = KEPT * (1 - ratio) * sum(W.size for W in weights.values())
    over = [
        f"{side} takes {found['n_parameters']} parameters"
        for side, found in (("ours", ours), ("the peer", peer))
        if found["n_parameters"] > most
    ]
    told = [f"{100 * found['error']:.2f}% / {found['cosine']:.4f}" for found in (ours, peer)]
    return Row(
        f"MiniLM's {len(names)} feed-forward layers, {ratio:.0%} fewer parameters",
        f"metric=: squared error of outputs / cosine of sentence vectors; peer: {title}",
        result=f"{ours['error'] / peer['error']:.2f} x its error, {_loss(ours) / _loss(peer):.2f} x its loss",
        ours=told[0],
        peer=told[1],
        target="no more of either",
        reached=ours["error"] <= peer["error"] * (1 + 1e-4) and ours["cosine"] >= peer["cosine"] - 1e-4,
        failed=", ".join(over),
        note=f"seconds {ours['seconds']:.1f} / {peer['seconds']:.1f}, and {seconds:.1f} to measure the metric",
        raw={"ours": ours, "peer": peer, "metric_seconds": seconds},
    )


def _loss(side: dict[str, Any]) -> float:
    return 1 - side["cosine"]


def _measured(
    probe: encoder.Probe, names: list[str], held_out: Moments, make: Callable[[], tuple[Any, int]]
) -> dict[str, Any]:
    """A model with smaller layers: its parameters, the mean relative error of their outputs, its sentence vectors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where one cluster is best
        seconds, (model, n_parameters) = timed(make)
    errors = []
    for name in names:
        before, after = (part.get_submodule(name).weight.detach().double().numpy() for part in (probe.model, model))
        left, M = before - after, held_out[name]
        errors.append(float(np.einsum("ij,ij->", left @ M, left) / np.einsum("ij,ij->", before @ M, before)))
    kept = encoder.fidelity(probe.vectors, encoder.sentence_vectors(model, probe.ids))
    return {
        "error": float(np.mean(errors)),
        "errors": errors,
        "cosine": kept.cosine,
        "spearman": kept.spearman,
        "seconds": seconds,
        "n_parameters": n_parameters,
    }


def _ours(model: Any, names: list[str], ratio: float, metric: Moments) -> tuple[Any, int]:
    smaller = copy.deepcopy(model)
    report = compress_model(smaller, ratio, modules=names, metric=metric, seed=0)
    return smaller, sum(module.n_parameters for module in report.modules)


def _replaced(
    model: Any,
    weights: Weights,
    metric: Moments,
    ratio: float,
    approximate: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, int]],
) -> tuple[Any, int]:
    """The model with approximations of its weights."""
    smaller, spent = copy.deepcopy(model), 0
    with torch.no_grad():
        for name, W in weights.items():
            approximation, n_parameters = approximate(W, metric[name], ratio)
            smaller.get_submodule(name).weight.copy_(torch.from_numpy(approximation))
            spent += n_parameters
    return smaller, spent


# --- peers: a weight (out, in), the second moment of its inputs, a ratio -> an approximation and what it takes ---


def _svd(W: np.ndarray, _: np.ndarray, ratio: float) -> tuple[np.ndarray, int]:
    n, d = W.shape
    rank = int((1 - ratio) * n * d / (n + d))
    U, values, V = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    return (U[:, :rank] * values[:rank]) @ V[:rank], rank * (n + d)


def _svd_in_metric(W: np.ndarray, M: np.ndarray, ratio: float) -> tuple[np.ndarray, int]:
    """The truncated SVD of W S with S S^T = M, taken back: of all matrices of that rank the least error of outputs."""
    values, vectors = np.linalg.eigh(M)
    scales = np.sqrt(values.clip(1e-6 * values.mean()))
    approximation, spent = _svd(W @ (vectors * scales), M, ratio)
    return approximation @ (vectors / scales).T, spent


def _messi(W: np.ndarray, _: np.ndarray, ratio: float) -> tuple[np.ndarray, int]:
    factors = compress(W, ratio, k=5, dims="equal", seed=0)
    return np.asarray(factors.reconstruct()), factors.n_parameters


PEERS: dict[str, Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, int]]] = {
    "truncated SVD": _svd,
    "truncated SVD in the same metric (DRONE, SVD-LLM)": _svd_in_metric,
    "MESSI, k=5": _messi,
}
