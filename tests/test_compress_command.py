"""``ksubspaces compress`` from its arguments to its files, its messages and its exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import contents, piped
from helpers import import_or_skip
from models import SENTENCES, bert, gpt2, sentence_model, tokenizer, torch, transformers

from ksubspaces import cli
from ksubspaces.integrations import _saving
from ksubspaces.integrations.transformers import load_compressed

import_or_skip("rich")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT and its tokenizer."""
    bert(vocab_size=40).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def run(*arguments: Any) -> int:
    return cli.main(["compress", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Run arguments that must end with exit code 2 and a message, without a traceback; the message."""
    try:
        code = run(*arguments)
    except SystemExit as exit:  # argparse's own errors
        code = int(exit.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert "Traceback" not in captured.err
    return captured.err


def test_everything_at_once(capsys, tmp_path, folder):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(SENTENCES))
    out, report = tmp_path / "new" / "out", tmp_path / "report.html"
    arguments = ["--ratio", 0.3, "--texts", texts, "--out", out, "--report", report, "--seed", 1, "--k", 2]
    assert run(folder, *arguments) == 0
    printed = capsys.readouterr().out
    model = load_compressed(out)
    module = model.compression_report.modules[0]
    for told in (
        "bert.embeddings.word_embeddings",
        f"{module.n_parameters:,}",
        f"{module.weighted_error:.4f}",
        "counted",
    ):
        assert told in printed
    assert type(model).__name__ == "BertForMaskedLM"
    assert model.cls.predictions.decoder.factors is model.get_input_embeddings()
    assert module.n_exact == 5
    assert model.compression_report.options["seed"] == 1
    found = transformers.AutoTokenizer.from_pretrained(out)
    assert found("the cat")["input_ids"] == tokenizer()("the cat")["input_ids"]
    page = report.read_text()
    assert f"{module.weighted_error:.4f}" in page
    assert "<svg" in page
    assert "<code>[UNK]</code>" not in page  # kept exactly, so not hurt
    assert f"ksubspaces compress {folder} --ratio 0.3" in page


def test_a_sentence_model(tmp_path):
    model = sentence_model(tmp_path / "parts")
    model.save(str(tmp_path / "dense"))
    assert run(tmp_path / "dense", "--ratio", 0.2, "--out", tmp_path / "out", "--quiet") == 0
    loaded = load_compressed(tmp_path / "out")
    assert type(loaded) is type(model)
    assert (loaded.encode(SENTENCES) * model.encode(SENTENCES)).sum(1).min() > 0.9
    assert np.allclose(np.linalg.norm(loaded.encode(SENTENCES), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("hub_shows", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_quiet_prints_nothing_and_changes_no_setting(capsys, request, tmp_path, folder, shown, hub_shows):
    from huggingface_hub import utils as hub
    from transformers.utils import logging

    def settings():
        return logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()

    request.addfinalizer(logging.enable_progress_bar)
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    (hub.enable_progress_bars if hub_shows else hub.disable_progress_bars)()
    capsys.readouterr()
    report = ["--report", tmp_path / "page.html"]
    assert run(folder, "--ratio", 0.3, "--out", tmp_path / "out", *report, "--quiet") == 0
    assert tuple(capsys.readouterr()) == ("", "")
    assert settings() == (shown, hub_shows)
    assert "no such folder" in fails(capsys, tmp_path / "gone", "--ratio", 0.3, "--quiet")
    assert settings() == (shown, hub_shows)
    assert run(folder, "--ratio", 0.3, "--out", tmp_path / "again") == 0
    assert ("Writing model shards" in capsys.readouterr().err) == shown  # what there is to be quiet about


@pytest.mark.parametrize("by", ["pipe", "-"])
def test_texts_that_can_be_read_but_once(monkeypatch, tmp_path, folder, by):
    """Both the compression and the curve of the report read them."""
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES))
    arguments = ["--ratio", 0.3, "--k", 2, "--quiet"]
    assert run(folder, *arguments, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "file") == 0
    with piped(monkeypatch, "\n".join(SENTENCES).encode(), by) as path:
        report = ["--report", tmp_path / "page.html"]
        assert run(folder, *arguments, "--texts", path, "--out", tmp_path / "out", *report) == 0
    page = (tmp_path / "page.html").read_text()
    assert f"--texts {path}" in page
    assert "<svg" in page
    ours, theirs = (load_compressed(tmp_path / name).compression_report.modules[0] for name in ("out", "file"))
    assert (ours.weights, ours.weighted_error) == ("counted in texts", theirs.weighted_error)


@pytest.mark.parametrize("there", [False, True])
def test_an_interruption_leaves_what_was_there(monkeypatch, tmp_path, folder, there):
    out = tmp_path / "new" / "out"
    if there:
        assert run(folder, "--ratio", 0.3, "--out", out, "--quiet") == 0
    before = contents(tmp_path)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_saving, "write_manifest", interrupt)
    assert run(folder, "--ratio", 0.3, "--out", out, "--overwrite", "--quiet") == 130
    assert contents(tmp_path) == before
    assert (tmp_path / "new").exists() == there


def test_without_out_nothing_is_saved(capsys, monkeypatch, tmp_path, folder):
    monkeypatch.chdir(tmp_path)
    assert run(folder, "--ratio", 0.3) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]
    assert "wrote" not in capsys.readouterr().out


def test_report_without_its_curve(tmp_path, folder):
    assert run(folder, "--ratio", 0.3, "--report", tmp_path / "page.html", "--no-plot", "--quiet") == 0
    assert "<svg" not in (tmp_path / "page.html").read_text()


def test_modules_and_storage(tmp_path, folder):
    name = "bert.encoder.layer.0.output.dense"
    out = tmp_path / "out"
    assert run(folder, "--ratio", 0.05, "--modules", name, "--storage", "int8", "--k", 1, "--out", out, "--quiet") == 0
    modules = json.loads((out / "ksubspaces.json").read_text())["modules"]
    assert {key: entry["storage"] for key, entry in modules.items()} == {name: "int8"}


def test_a_model_without_a_tokenizer_is_told_of(capsys, tmp_path):
    gpt2().save_pretrained(tmp_path / "gpt2")
    with pytest.warns(UserWarning, match="all tokens count alike"):
        assert run(tmp_path / "gpt2", "--ratio", 0.4, "--report", tmp_path / "page.html", "--no-plot") == 0
    assert "none: all rows alike" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{tmp}/gone", "--ratio", "0.4"], "no such folder: {tmp}/gone"),
        (["{tmp}/file", "--ratio", "0.4"], "is a file; name the folder of a model"),
        (["{tmp}", "--ratio", "0.4"], "holds no model of transformers or sentence-transformers: it has no config.json"),
        (["{bert}"], "--ratio"),
        (["{bert}", "--ratio", "1.5"], "ratio is the share"),
        (["{bert}", "--ratio", "0.99"], "bert.embeddings.word_embeddings: ratio=0.99 leaves"),
        (["{bert}", "--ratio", "0.3", "--k", "some"], "expected a number or auto, got 'some'"),
        (["{bert}", "--ratio", "0.3", "--modules", "bert.embedding"], "which the model does not have; close to it"),
        (["{bert}", "--ratio", "0.3", "--storage", "int4"], "invalid choice: 'int4'"),
        (["{bert}", "--ratio", "0.3", "--texts", "{tmp}/gone.txt"], "no such file"),
        (["{bert}", "--ratio", "0.3", "--texts", "{tmp}/binary"], "is not text in UTF-8"),
        (["{bert}", "--ratio", "0.3", "--texts", "{tmp}/utf16"], "is it UTF-16?"),
        (["{bert}", "--ratio", "0.3", "--out", "{tmp}/file"], "is a file; name a folder"),
        (["{bert}", "--ratio", "0.3", "--out", "{bert}"], "holds something else than a compressed model"),
        (
            ["{bert}", "--ratio", "0.3", "--out", "{bert}", "--overwrite"],
            "holds something else than a compressed model",
        ),
        (["{bert}", "--ratio", "0.3", "--report", "{tmp}/gone/page.html"], "no such folder to write it in"),
        (["{bert}", "--ratio", "0.3", "--report", "{tmp}/new.html", "--out", "{tmp}/new.html"], "are both"),
        (["{bert}", "--ratio", "0.3", "--report", "{tmp}"], "is there already and no page"),
        (["{bert}", "--ratio", "0.3", "--report", "{tmp}/pipe"], "is there already and no page"),
        (["{bert}", "--ratio", "0.3", "--report", "{bert}/model.safetensors"], "is there already and no page"),
        (["{bert}", "--ratio", "0.3", "--texts", "{tmp}"], "--texts {tmp} is a folder; name a file of texts"),
        (["{tmp}/b[/x]", "--ratio", "0.3"], "holds no model of transformers"),
        (["{tmp}/short", "--ratio", "0.3"], "could not be opened, something in it is damaged or missing"),
        (["{tmp}/sentences", "--ratio", "0.3"], "holds a Foo, which is no class of sentence-transformers"),
        (["{tmp}/gone", "--ratio", "0.3", "--out", "{tmp}/gone/small"], "no such folder: {tmp}/gone"),
        (["{bert}", "--ratio", "nan", "--out", "{tmp}/new/small"], "ratio"),
        (["{bert}", "--ratio", "0.3", "--out", "/proc/model"], "/proc"),
    ],
)
def test_users_errors_are_told_without_a_traceback(capsys, tmp_path, folder, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "utf16").write_bytes("the cat sat".encode("utf-16-le"))
    for name in ("short", "b[/x]", "sentences"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "short" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "short" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    (tmp_path / "sentences" / "modules.json").write_text("[]")
    (tmp_path / "sentences" / "config_sentence_transformers.json").write_text('{"model_type": "Foo"}')
    os.mkfifo(tmp_path / "pipe")
    before = contents(tmp_path)
    names = {"tmp": tmp_path, "bert": folder}
    told = fails(capsys, *[argument.format(**names) for argument in arguments])
    assert message.format(**names) in told
    assert contents(tmp_path) == before
    assert not (tmp_path / "gone").exists() and not (tmp_path / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a test of machines without a card: nothing to install")
def test_a_card_that_is_not_there(capsys, folder):
    told = fails(capsys, folder, "--ratio", 0.3, "--device", "cuda")
    assert "--device cuda: this Torch finds no CUDA device; leave it out to use the CPU" in told


def test_models_that_are_not_to_be_compressed(capsys, tmp_path, folder):
    out = tmp_path / "out"
    assert run(folder, "--ratio", 0.3, "--out", out, "--quiet") == 0
    assert f"{out} is compressed already" in fails(capsys, out, "--ratio", 0.3)
    assert run(folder, "--ratio", 0.3, "--out", out, "--overwrite", "--quiet") == 0
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MyModel"]}))
    assert "holds a MyModel, which is no class of transformers" in fails(capsys, folder, "--ratio", 0.3)
    (folder / "config.json").write_text("{")
    assert "is not readable as JSON" in fails(capsys, folder, "--ratio", 0.3)
