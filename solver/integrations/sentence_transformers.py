"""Static embeddings of sentence-transformers whose table is factored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..checks import Passed
from ._types import AnyModule

try:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
except ImportError:
    try:
        from sentence_transformers.models import StaticEmbedding  # type: ignore[no-redef]  # before 6
    except ImportError:
        raise ImportError(
            "ksubspaces.integrations.sentence_transformers needs sentence-transformers: "
            'pip install "ksubspaces[transformers]"'
        ) from None

from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

from ._entries import describe_layers, empty

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SubspaceStaticEmbedding"]

WEIGHTS = "model.safetensors"
ENTRY = "ksubspaces"  # in the facts of that file


class SubspaceStaticEmbedding(StaticEmbedding):
    """A ``StaticEmbedding`` whose table is a :class:`SubspaceEmbeddingBag` or a :class:`PackedEmbeddingBag`.

    ``compress_model`` makes one of a ``StaticEmbedding`` in a pipeline. It saves its factors where that saves the
    table. ``SentenceTransformer(path, trust_remote_code=True)`` opens it, as a module of another package, and
    ``load_compressed(path)`` without more.

    Examples
    --------
    >>> import torch
    >>> from sentence_transformers import SentenceTransformer
    >>> from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from ksubspaces.integrations.transformers import compress_model
    >>> words = Tokenizer(models.WordLevel({str(i): i for i in range(200)}, unk_token="0"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> table = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    >>> model = SentenceTransformer(modules=[StaticEmbedding(words, embedding_weights=table)], device="cpu")
    >>> report = compress_model(model, 0.4, k=2, seed=0)
    >>> type(model[0]).__name__, model.encode("7 19").shape
    ('SubspaceStaticEmbedding', (16,))
    """

    saves_factors = True

    def save(self, output_path: str, *args: Passed, **options: Passed) -> None:
        """Write factors and tokenizer into a folder."""
        entry = describe_layers(self)["embedding"]
        state = {name: part.contiguous() for name, part in self.embedding.state_dict().items()}
        save_file(state, Path(output_path) / WEIGHTS, {"format": "pt", ENTRY: json.dumps(entry)})
        self.tokenizer.save(str(Path(output_path) / "tokenizer.json"))

    @classmethod
    def load(cls, model_name_or_path: str, **options: Passed) -> Self:  # type: ignore[override]
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            When the folder lacks factors.
        """
        names = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        where = {name: options[name] for name in names if name in options}
        words: Passed = cls.load_file_path(model_name_or_path, "tokenizer.json", **where)
        path: Passed = cls.load_file_path(model_name_or_path, WEIGHTS, **where)
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {}).get(ENTRY, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if entry is None:
            raise ValueError(f"{path} holds no factors: it was not written by ksubspaces")
        module: AnyModule = cls(Tokenizer.from_file(words), embedding_dim=1)
        module.embedding = empty(entry)
        module.embedding.load_state_dict(state, assign=True)
        module.num_embeddings, module.embedding_dim = entry["shape"]
        return module
