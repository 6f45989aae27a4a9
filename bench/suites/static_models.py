"""Rows on static models, where the table is the model: compressed, saved, opened again; beside integers of the table.

Both sides end as models of sentence-transformers that encode the same texts. Bytes are those of all that is stored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers

from ksubspaces.demo import minilm_folder
from ksubspaces.integrations.transformers import compress_model, load_compressed, save_compressed

from ..lib import quantisers, texts
from ..lib.compare import Row, timed
from ..lib.encoder import SENTENCES, fidelity
from ..lib.tables import Table, bag_ids, glove_table, minilm_table, neighbours, shared_neighbours

GROUP = 64
"""Neighbouring numbers of a row that share a scale, at most, where integers are stored."""
HEADER = 4096
"""Bytes of a file beside its budget."""
QUICK_ROWS = 3000
Settings = tuple[tuple[dict[str, Any], int], ...]
SETTINGS: Settings = (
    ({"ratio": 0.4, "storage": "int8"}, 8),
    ({"bits": 4.0}, 4),
    ({"bits": 3.0}, 3),
    ({"bits": 2.0}, 2),
)
"""What is asked of ``compress_model``, and the bits of the integers beside it, which take more bytes."""


@dataclass(frozen=True)
class Case:
    """A static model: its table, its tokenizer and the texts that it is measured on."""

    table: Table
    tokenizer: Any
    texts: Sequence[str]

    def model(self, A: np.ndarray) -> Any:
        """The model with any table."""
        return SentenceTransformer(modules=[StaticEmbedding(self.tokenizer, embedding_weights=A.copy())], device="cpu")

    def encode(self, model: Any) -> tuple[float, np.ndarray]:
        """Seconds, and the vectors of the texts, of unit length."""
        model.encode(self.texts[:1])  # kernels are compiled
        return timed(lambda: model.encode(self.texts, normalize_embeddings=True, show_progress_bar=False))

    @cached_property
    def vectors(self) -> np.ndarray:
        """Those of the table as it was."""
        return self.encode(self.model(self.table.A))[1]

    def kept(self, A: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
        """Recall@10 of neighbours in a table, and how near vectors are to those of the table as it was."""
        near = neighbours(A, self.table.queries)
        return {"recall": shared_neighbours(self.table.neighbours, near), **asdict(fidelity(self.vectors, vectors))}


def minilm_case() -> Case:
    """MiniLM's word embeddings as a model by themselves, on held-out sentences."""
    held_out = texts.held_out(texts.load_all())
    chosen = np.random.default_rng(0).permutation(len(held_out))[:SENTENCES]
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    return Case(minilm_table(sentences=1), tokenizer, [held_out[i].text for i in chosen])


def glove_case(rows: int = 400_000) -> Case:
    """GloVe's vectors, the ranks of the words in the place of the words, on bags of 20 drawn as they are used."""
    tokenizer = Tokenizer(models.WordLevel({str(rank): rank for rank in range(rows)}, unk_token="0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Case(glove_table(rows), tokenizer, [" ".join(map(str, ids)) for ids in bag_ids(rows)])


def rows(*, quick: bool) -> Iterator[Row]:
    """A row for each model and setting, of a large table each second one; quick: a few words of GloVe alone."""
    few: list[tuple[Callable[[], Case], Settings]] = [(lambda: glove_case(QUICK_ROWS), SETTINGS)]
    for make, settings in few if quick else [(minilm_case, SETTINGS), (glove_case, SETTINGS[::2])]:
        try:
            case = make()
        except RuntimeError as error:
            yield Row("static models", "left out: a table or its texts are not here", result="", note=str(error))
            continue
        for options, bits in settings:
            yield compared(case, options, bits)


def compared(case: Case, options: dict[str, Any], bits: int) -> Row:
    """Ours beside integers: what each stores, what it keeps, how long it takes to make and to encode the texts."""
    ours, ours_failed = _compressed(case, options)
    peer, peer_failed = _integers(case, bits)
    A = case.table.A
    asked = " ".join(f"{name}={value:g}" if name != "storage" else str(value) for name, value in options.items())
    better = ours["nbytes"] <= peer["nbytes"] and ours["recall"] >= peer["recall"] and ours["cosine"] >= peer["cosine"]
    lost = " / ".join(f"{1 - side['recall']:.1%}" for side in (ours, peer))
    return Row(
        f"{case.table.name} {len(A):,} x {A.shape[1]} as a static model, {asked}",
        f"bytes, recall@10 of neighbours, cosine of the vectors of {len(case.texts):,} texts; peer: int{bits} of it",
        result=f"{ours['nbytes'] / peer['nbytes']:.2f} x its bytes, neighbours lost {lost}",
        ours=_told(ours),
        peer=_told(peer),
        target="no more bytes, no more lost",
        reached=better,
        failed=ours_failed or peer_failed,
        note=f"seconds to make {ours['seconds']:.1f} / {peer['seconds']:.1f}, "
        f"to encode the texts {ours['encode_seconds']:.2f} / {peer['encode_seconds']:.2f}",
        raw={"ours": ours, "peer": peer},
    )


def _compressed(case: Case, options: dict[str, Any]) -> tuple[dict[str, float], str]:
    """The model compressed, saved and opened. Bytes are those of the weights in its folder."""
    model, A = case.model(case.table.A), case.table.A
    seconds, _ = timed(lambda: compress_model(model, token_weights=case.table.weights, seed=0, **options))
    meant = model[0].embedding.to_dense().detach().numpy()
    with tempfile.TemporaryDirectory(prefix="ksubspaces-") as scratch:
        save_compressed(model, Path(scratch) / "model")
        nbytes = sum(file.stat().st_size for file in Path(scratch).rglob("*.safetensors"))
        opened = load_compressed(Path(scratch) / "model")
    found = opened[0].embedding.to_dense().detach().numpy()
    encode_seconds, vectors = case.encode(opened)
    failed = "" if np.array_equal(found, meant) else "the opened table is not the one that was saved"
    if not np.allclose(vectors, case.encode(case.model(found))[1], atol=1e-4):
        failed = failed or "the opened model does not encode as a dense one with its table"
    if "bits" in options and nbytes > options["bits"] * A.size / 8 + HEADER:
        failed = failed or f"takes {nbytes} bytes, more than {options['bits']} bits a number"
    costs = {"nbytes": nbytes, "seconds": seconds, "encode_seconds": encode_seconds}
    return costs | case.kept(found, vectors), failed


def _integers(case: Case, bits: int) -> tuple[dict[str, float], str]:
    """The table in integers, decoded, as a dense model."""
    A = case.table.A
    seconds, code = timed(lambda: quantisers.integers(A, bits, min(GROUP, A.shape[1])))
    decoded = code.reopened()
    encode_seconds, vectors = case.encode(case.model(decoded))
    costs = {"nbytes": code.nbytes, "seconds": seconds, "encode_seconds": encode_seconds}
    return costs | case.kept(decoded, vectors), code.fault(decoded)


def _told(side: dict[str, float]) -> str:
    return f"{side['nbytes'] / 1e6:.2f} MB, {side['recall']:.4f}, {side['cosine']:.4f}"
