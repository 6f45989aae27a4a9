"""Static models of sentence-transformers and model2vec, where the table is the model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip

torch = import_or_skip("torch")
import_or_skip("transformers", "5")
sentence_transformers = import_or_skip("sentence_transformers", "6")
tokenizers = import_or_skip("tokenizers")

from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding  # noqa: E402

from ksubspaces.integrations.sentence_transformers import SubspaceStaticEmbedding  # noqa: E402
from ksubspaces.integrations.torch import PackedEmbeddingBag, SubspaceEmbeddingBag  # noqa: E402
from ksubspaces.integrations.transformers import (  # noqa: E402
    compress_model,
    load_compressed,
    save_compressed,
)

N, D = 200, 24
TEXTS = [f"w{i} w{i * 7 % N} w{i * 11 % N}" for i in range(1, 30)]  # without w0, which is what is not known


def words() -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(N)}, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


def table() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, 8)).astype(np.float32) @ rng.normal(size=(8, D)).astype(np.float32)


def static_model() -> Any:
    parts = [StaticEmbedding(words(), embedding_weights=table()), Normalize()]
    return sentence_transformers.SentenceTransformer(modules=parts, device="cpu", prompts={"query": "w3 "})


SIZES = {
    "float32": {"ratio": 0.5, "k": 1},
    "float16": {"ratio": 0.5, "k": 1, "storage": "float16"},
    "int8": {"ratio": 0.5, "k": 1, "storage": "int8"},
    "bits": {"bits": 6.0},
}


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(tmp_path, size):
    model = static_model()
    before = model.encode(TEXTS)
    report = compress_model(model, texts=TEXTS, seed=0, **SIZES[size])
    (module,) = report.modules
    assert (module.name, module.kind, module.weights) == ("0.embedding", "bag", "counted in texts")
    vectors = model.encode(TEXTS)
    assert (before * vectors).sum(1).min() > 0.999
    assert type(model[0].embedding) is (PackedEmbeddingBag if size == "bits" else SubspaceEmbeddingBag)
    model.save_pretrained(str(tmp_path / "own"))
    save_compressed(model, tmp_path / "model")
    for name in ("own", "model"):
        loaded = load_compressed(tmp_path / name)
        assert type(loaded) is type(model)
        assert type(loaded[0]) is SubspaceStaticEmbedding
        assert loaded[0].embedding.storage == (
            f"{report.modules[0].bits:.2f} bits a number" if size == "bits" else size
        )
        assert (loaded.prompts["query"], loaded.compression_report) == ("w3 ", report)
        np.testing.assert_allclose(loaded.encode(TEXTS), vectors, atol=1e-6)
        assert "SentenceTransformer" in (tmp_path / name / "README.md").read_text()
    stored = sum(path.stat().st_size for path in (tmp_path / "model").rglob("*.safetensors"))
    assert report.modules[0].nbytes <= stored <= report.modules[0].nbytes + 2048
    loaded.save_pretrained(str(tmp_path / "again"))
    np.testing.assert_allclose(load_compressed(tmp_path / "again").encode(TEXTS), vectors, atol=1e-6)


def test_doors_in_a_process_that_did_not_import_ksubspaces(tmp_path):
    """With trust it opens, as sentence-transformers imports what a folder names; without, it says what that is."""
    model = static_model()
    compress_model(model, 0.5, texts=TEXTS, k=1, seed=0)
    save_compressed(model, tmp_path / "model")
    program = f"""
import json
from sentence_transformers import SentenceTransformer
found = SentenceTransformer({str(tmp_path / "model")!r}, device="cpu", trust_remote_code=True).encode({TEXTS[:2]!r})
try:
    SentenceTransformer({str(tmp_path / "model")!r}, device="cpu")
except ValueError as error:
    print(json.dumps([found.tolist(), str(error)]))
"""
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    vectors, refusal = json.loads(ran.stdout.splitlines()[-1])
    np.testing.assert_allclose(vectors, model.encode(TEXTS[:2]), atol=1e-6)
    assert "ksubspaces.integrations.sentence_transformers.SubspaceStaticEmbedding" in refusal
    assert "trust_remote_code=True" in refusal


def test_no_file_of_the_folder_is_run(tmp_path):
    model = static_model()
    compress_model(model, 0.5, texts=TEXTS, k=1, seed=0)
    save_compressed(model, tmp_path / "model")
    modules = json.loads((tmp_path / "model" / "modules.json").read_text())
    modules[1]["type"] = "evil.Normalize"
    (tmp_path / "model" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Normalize: pass\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_compressed(tmp_path / "model", verify=False)
    assert not (tmp_path / "ran").exists()


def test_it_trains():
    model = static_model()
    compress_model(model, 0.5, texts=TEXTS, k=1, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(3):
        vectors = model(model.preprocess(TEXTS))["sentence_embedding"]
        loss = (vectors @ vectors.T).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[2] < losses[0]


def model2vec_folder(folder: Path) -> tuple[Any, Path]:
    model2vec = import_or_skip("model2vec")
    model = model2vec.StaticModel(vectors=table(), tokenizer=words(), normalize=True)
    model.save_pretrained(folder)
    return model, folder


def test_a_static_model_of_model2vec(tmp_path):
    given, folder = model2vec_folder(tmp_path / "given")
    with pytest.raises(TypeError, match=r"got StaticModel; open it as .*StaticEmbedding\.from_model2vec\(PATH\)"):
        compress_model(given, 0.5)
    parts = [StaticEmbedding.from_model2vec(str(folder)), Normalize()]
    model = sentence_transformers.SentenceTransformer(modules=parts, device="cpu")
    np.testing.assert_allclose(model.encode(TEXTS), given.encode(TEXTS), atol=1e-6)
    compress_model(model, 0.5, texts=TEXTS, k=1, seed=0)
    save_compressed(model, tmp_path / "model")
    vectors = load_compressed(tmp_path / "model").encode(TEXTS)
    assert (vectors * given.encode(TEXTS)).sum(1).min() > 0.999
