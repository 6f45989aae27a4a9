"""What the downstream benchmark trains: MiniLM with a linear head that says whether a sentence is positive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import BertModel

from ksubspaces import Factorization
from ksubspaces.storage import write_whole

from ..lib.encoder import Ids, batches, dense, load_encoder, padded, pooled, with_embedding

BATCH = 32
ENCODER_RATE, HEAD_RATE = 5e-5, 1e-3
DECAY = 0.01
WARM_UP = 0.06
"""Share of the steps over which the learning rate rises, before it falls to 0; both linearly."""
POOL = 50
"""Batches whose sentences are sorted by length together, so that little is padded while batches stay random."""


class Classifier(nn.Module):
    """An encoder, mean pooling and a linear head; above 0 is positive."""

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, 1)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = pooled(self.encoder, ids, mask)
        with torch.autocast("cpu", enabled=False):  # bfloat16 has too few digits to rank sentences by
            return self.head(states)[:, 0]


class Vocabulary:
    """The rows of the table that occur in some sentences, under new numbers.

    The others neither change in training nor matter to the result, so all is done with a table of these alone.
    """

    def __init__(self, ids: Sequence[Ids]) -> None:
        self.rows = np.unique(np.concatenate([np.asarray(sentence) for sentence in ids]))

    def renumber(self, ids: Sequence[Ids]) -> list[Ids]:
        """Sentences in the new numbers."""
        return [np.searchsorted(self.rows, sentence).tolist() for sentence in ids]

    def restrict(self, factors: Factorization) -> Factorization:
        """Factors of these rows; the bases are those of the whole."""
        keep = np.zeros(len(factors), dtype=bool)
        keep[self.rows] = True
        blocks = [block[keep[factors.labels == c]] for c, block in enumerate(factors.blocks)]
        return Factorization(factors.labels[self.rows], blocks, factors.bases, factors.offsets)


def new_classifier(table: np.ndarray, seed: int) -> Classifier:
    """The pretrained encoder with this table of word embeddings, trained with the rest, and a new head."""
    embedding = nn.Embedding.from_pretrained(torch.from_numpy(table.copy()), freeze=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier(with_embedding(load_encoder(), embedding))


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write its weights, the table of the vocabulary among them."""
    write_whole(path, save(classifier.state_dict()))


def load_classifier(path: Path) -> Classifier:
    """What :func:`save_classifier` wrote."""
    weights = load_file(path)
    classifier = Classifier(with_embedding(load_encoder(), dense(weights["encoder.embeddings.word_embeddings.weight"])))
    classifier.load_state_dict(weights)
    return classifier.eval()


def table_of(classifier: Classifier) -> np.ndarray:
    """Its word embeddings."""
    return classifier.encoder.get_input_embeddings().weight.detach().numpy()


def swap(classifier: Classifier, embedding: nn.Module) -> Classifier:
    """Give it other word embeddings."""
    classifier.encoder.set_input_embeddings(embedding)
    return classifier


def train(classifier: Classifier, ids: Sequence[Ids], positive: np.ndarray, *, epochs: int, seed: int) -> None:
    """Fine-tune all weights with AdamW and bfloat16 autocast; the same seed gives the same batches."""
    classifier.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(_groups(classifier))
    steps = epochs * -(-len(ids) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (WARM_UP * steps + 1), 1 - step / steps)
    )
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout
        for _ in range(epochs):
            for chosen in shuffled(ids, rng):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = classifier(*padded([ids[i] for i in chosen]))
                target = torch.from_numpy(positive[chosen].astype(np.float32))
                optimizer.zero_grad()
                nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
                nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
                optimizer.step()
                schedule.step()
    classifier.eval()


def _groups(classifier: Classifier) -> list[dict]:
    """Word embeddings are not decayed: those that a batch lacks would shrink."""
    words = list(classifier.encoder.get_input_embeddings().parameters())
    head = list(classifier.head.parameters())
    apart = {id(parameter) for parameter in [*words, *head]}
    others = [parameter for parameter in classifier.parameters() if id(parameter) not in apart]
    return [
        {"params": others, "lr": ENCODER_RATE, "weight_decay": DECAY},
        {"params": words, "lr": ENCODER_RATE, "weight_decay": 0.0},
        {"params": head, "lr": HEAD_RATE, "weight_decay": 0.0},
    ]


def shuffled(ids: Sequence[Ids], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Numbers of the sentences of each batch of one epoch: random, yet of like length."""
    lengths = np.array([len(sentence) for sentence in ids])
    order = rng.permutation(len(ids))
    found = []
    for start in range(0, len(order), POOL * BATCH):
        pool = order[start : start + POOL * BATCH]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        found += [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
    for place in rng.permutation(len(found)):
        yield found[place]


def logits(classifier: Classifier, ids: Sequence[Ids]) -> np.ndarray:
    """The head's answer to each sentence."""
    answers = np.empty(len(ids), np.float32)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for places, tokens, mask in batches(ids):
            answers[places] = classifier(tokens, mask).numpy()
    return answers
