"""The smallest tables that keep sentence vectors: measured on texts held back, in models of both libraries."""

import pytest
from helpers import import_or_skip

torch = import_or_skip("torch", install="'ksubspaces[torch]'")
transformers = import_or_skip("transformers", install="'ksubspaces[transformers]'")

import models  # noqa: E402

from ksubspaces.cli import main  # noqa: E402
from ksubspaces.integrations._sentences import SentenceVectors, hold_back  # noqa: E402
from ksubspaces.integrations.transformers import ModelReport, compress_model, load_compressed  # noqa: E402

TEXTS = [f"{first} {second} {third}" for first in models.WORDS for second in models.WORDS[:4] for third in ("on", "is")]


class Letters:
    """A tokenizer of words' hashes, for models without one."""

    def __call__(self, texts, **_):
        return {"input_ids": [[sum(map(ord, word)) % models.N for word in text.split()] for text in texts]}


def pooled(model, texts):
    """The means of last hidden states, one text at a time."""
    body = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    found = []
    with torch.no_grad():
        for ids in Letters()(texts)["input_ids"]:
            found.append(body(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(dim=0))
    return torch.nn.functional.normalize(torch.stack(found).double(), dim=1)


@pytest.mark.parametrize(("make", "weights"), [(models.gpt2, None), (models.t5, models.WEIGHTS)])
def test_the_cosine_is_kept_on_texts_held_back(make, weights):
    model = make()
    model.eval()
    held = hold_back(TEXTS)[1]
    before = pooled(model, held)
    options = {"token_weights": weights, "exact_rows": None, "coder": "scalar", "seed": 0}
    report = compress_model(model, min_cosine=0.98, texts=TEXTS, tokenizer=Letters(), **options)
    cosine = float((pooled(model, held) * before).sum(dim=1).mean())
    assert cosine >= 0.98
    assert report.cosine == pytest.approx(cosine, abs=1e-4)
    assert report.modules[0].bits < 8
    assert ModelReport.from_dict(report.to_dict()) == report
    assert "texts held back" in str(report)


def test_the_model_is_left_as_it_was_where_it_cannot_be():
    model = models.bert()
    before = model.get_input_embeddings()
    options = {"texts": TEXTS, "tokenizer": Letters(), "exact_rows": None, "coder": "scalar", "seed": 0}
    with pytest.raises(ValueError, match=r"min_cosine=0\.99999999 is more than the most bits there are keep"):
        compress_model(model, min_cosine=0.99999999, **options)
    assert model.get_input_embeddings() is before
    with pytest.raises(ValueError, match="min_cosine is measured on texts"):
        compress_model(model, min_cosine=0.9)
    with pytest.raises(ValueError, match="min_cosine must be above 0 and below 1"):
        compress_model(model, min_cosine=1.0, **options)
    with pytest.raises(ValueError, match="texts must be 10 at least"):
        compress_model(model, min_cosine=0.9, **options | {"texts": TEXTS[:9]})
    with pytest.raises(ValueError, match="leave out ratio"):
        compress_model(model, 0.5, min_cosine=0.9, **options)
    assert model.get_input_embeddings() is before


def test_texts_are_held_back_from_those_counted():
    counted, held = hold_back(iter(TEXTS))
    assert sorted(counted + held) == sorted(TEXTS)
    assert len(held) == -(-len(TEXTS) // 5)
    counted, held = hold_back(map(str, range(10_000)))
    assert len(held) == 500 and not {*held} & {*counted}


def test_vectors_leave_the_training_mode():
    model = models.bert()
    model.train()
    model.bert.encoder.eval()
    vectors = SentenceVectors(model, Letters(), TEXTS[:10])
    assert vectors.cosine() == pytest.approx(1)
    assert model.training and not model.bert.encoder.training


def test_a_pipeline_and_the_command(tmp_path, capsys):
    import_or_skip("sentence_transformers", install="'ksubspaces[sentence-transformers]'")
    folder, out, file = tmp_path / "dense", tmp_path / "out", tmp_path / "texts.txt"
    model = models.sentence_model(tmp_path / "body")
    model.save(str(folder))
    file.write_text("\n".join(TEXTS))
    arguments = ["compress", folder, "--min-cosine", 0.97, "--texts", file, "--out", out, "--seed", 0]
    assert main([str(argument) for argument in arguments]) == 0
    small = load_compressed(out)
    held = hold_back(TEXTS)[1]
    before, after = (torch.nn.functional.normalize(torch.tensor(m.encode(held)), dim=1) for m in (model, small))
    cosine = float((before * after).sum(dim=1).mean())
    assert cosine >= 0.97
    assert f"held back: {small.compression_report.cosine:.4f}" in capsys.readouterr().out
    assert small.compression_report.cosine == pytest.approx(cosine, abs=1e-3)
    assert main(["compress", str(folder), "--min-cosine", "0.97"]) == 2
    assert "--min-cosine is measured on texts" in capsys.readouterr().err
