"""The MiniLM sentence encoder, its sentence vectors, and how far another table of word embeddings moves them.

Nothing here touches global state: threads and seeds are the caller's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ksubspaces.demo import minilm_folder
from ksubspaces.tokens import count_tokens

from . import texts

MAX_TOKENS = 128
BATCH = 64
SENTENCES = 2000
PAIRS = 50_000

Ids = list[int]


def load_encoder() -> BertModel:
    """The pretrained encoder, for inference."""
    folder = minilm_folder()
    with torch.random.fork_rng(devices=[]):  # its weights are drawn before they are loaded
        model = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}, False)
    return model.eval()


def load_tokenizer() -> Tokenizer:
    """The encoder's tokenizer, without padding: :func:`batches` pads."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def encode(sentences: Sequence[texts.Sentence]) -> list[Ids]:
    """Token numbers of each sentence, special ones included."""
    return [found.ids for found in load_tokenizer().encode_batch([sentence.text for sentence in sentences])]


@cache
def training_counts() -> np.ndarray:
    """How often each token occurs in the training texts, movie reviews and editorials."""
    return count_tokens(load_tokenizer(), (sentence.text for sentence in texts.training(texts.load_all())))


def with_embedding(model: BertModel, embedding: nn.Module) -> BertModel:
    """The same model with other word embeddings; it shares everything else, and the one given stays as it is."""
    ours = model.get_input_embeddings()
    return copy.deepcopy(model, {id(p): p for p in model.parameters()} | {id(ours): embedding})


def dense(table: Any) -> nn.Embedding:
    """A table (NumPy or Torch) as an embedding that is not trained."""
    return nn.Embedding.from_pretrained(torch.as_tensor(table))


def batches(ids: Sequence[Ids], size: int = BATCH) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Sentences of like length together, so that little is padded: their places, ids and mask."""
    order = np.argsort([len(sentence) for sentence in ids], kind="stable")
    for start in range(0, len(order), size):
        places = order[start : start + size]
        yield places, *padded([ids[place] for place in places])


def padded(ids: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Ids (b, t) with zeros after the shorter sentences, and the mask of those that count."""
    lengths = torch.tensor([len(sentence) for sentence in ids])
    mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
    filled = torch.zeros(mask.shape, dtype=torch.long)
    filled[mask] = torch.tensor([token for sentence in ids for token in sentence])
    return filled, mask


def pooled(model: BertModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean of the last layer's vectors over each sentence's tokens, (b, d)."""
    states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def sentence_vectors(model: BertModel, ids: Sequence[Ids]) -> np.ndarray:
    """Unit vectors (n, d) of sentences."""
    vectors = np.empty((len(ids), model.config.hidden_size), np.float32)
    with torch.inference_mode():
        for places, tokens, mask in batches(ids):
            vectors[places] = nn.functional.normalize(pooled(model, tokens, mask), dim=1).numpy()
    return vectors


@dataclass(frozen=True)
class Fidelity:
    """How well sentence vectors were kept: mean cosine to the original's, Spearman of the similarities of pairs."""

    cosine: float
    spearman: float


class Probe:
    """Held-out sentences of both sets, always the same, on which the encoder is compared with itself, table changed."""

    def __init__(self, sentences: int = SENTENCES) -> None:
        held_out = texts.held_out(texts.load_all())
        chosen = np.random.default_rng(0).permutation(len(held_out))[:sentences]
        self.model = load_encoder()
        self.ids = encode([held_out[i] for i in chosen])
        self.vectors = sentence_vectors(self.model, self.ids)

    def fidelity(self, table: np.ndarray) -> Fidelity:
        """What another table of word embeddings leaves of the sentence vectors."""
        return fidelity(self.vectors, sentence_vectors(with_embedding(self.model, dense(table)), self.ids))


def fidelity(original: np.ndarray, other: np.ndarray) -> Fidelity:
    """Compare unit vectors of the same sentences; the pairs are always the same for as many sentences."""
    first, second = sentence_pairs(len(original))
    similarities = [np.einsum("ij,ij->i", vectors[first], vectors[second]) for vectors in (original, other)]
    cosine = np.einsum("ij,ij->i", original, other, dtype=np.float64).mean()
    return Fidelity(float(cosine), float(spearmanr(*similarities).statistic))


def sentence_pairs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of different sentences, drawn evenly with a fixed seed."""
    rng = np.random.default_rng(0)
    first = rng.integers(n, size=PAIRS)
    return first, (first + rng.integers(1, n, size=PAIRS)) % n
