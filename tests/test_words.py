"""Tables in text, and vectors of words: read, compressed, looked up by word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from files import contents
from helpers import import_or_skip

from ksubspaces import Factorization, QuantizedFactorization, compress
from ksubspaces.cli import main
from ksubspaces.tables import read_table
from ksubspaces.words import WordVectors

N, D = 120, 10
NAMES = ["the", "naïve", "c'est", "New York", "東京", "\x85", *(f"w{i}" for i in range(N - 6))]


def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=(N, 3)) @ rng.normal(size=(3, D))).astype(np.float32)


def write_words(path: Path, header: bool = False) -> Path:
    lines = [f"{name} {' '.join(map(repr, row.tolist()))}\n" for name, row in zip(NAMES, vectors(), strict=True)]
    path.write_text(f"{N} {D}\n" * header + "".join(lines), encoding="utf-8", newline="\n")
    return path


def test_text_of_glove_and_of_word2vec(tmp_path):
    """The latter has a header; without one, a word with blanks in it can only be known by the lines before."""
    for name, header in (("glove.txt", False), ("w2v.vec", True)):
        read = WordVectors.read(write_words(tmp_path / name, header))
        assert list(read.words) == NAMES
        np.testing.assert_array_equal(read.vectors, vectors())
        np.testing.assert_array_equal(read_table(str(tmp_path / name)), vectors())
        np.testing.assert_array_equal(read["東京"], vectors()[4])
    (tmp_path / "twice.txt").write_bytes(b"a 1 2\nb\xff 3 4\na 5 6\r\n")
    twice = WordVectors.read(tmp_path / "twice.txt")
    assert twice.words == ("a", "b\udcff")
    np.testing.assert_array_equal(twice["a"], [1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 1\n", "line 2: expected a word and 2 numbers, got 2 parts"),
        ("a 1 2\nb 1 x\n", "line 2: could not convert"),
        ("a\n", "line 1: expected a word and 1 numbers"),
        ("", "holds no words"),
    ],
)
def test_text_that_is_none(tmp_path, text, message):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        WordVectors.read(tmp_path / "x.txt")


def test_csv(tmp_path):
    path = tmp_path / "x.csv"
    for head in ("", "a,b,c\n", "\ufeff"):
        path.write_text(head + "1,2.5,-3e-2\n4,5,6\n", encoding="utf-8")
        np.testing.assert_array_equal(read_table(str(path)), [[1, 2.5, -0.03], [4, 5, 6]])
    path.write_text("1,2\n3\n")
    with pytest.raises(ValueError, match=r"x\.csv is not a file of numbers with commas between"):
        read_table(str(path))
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_table(str(path))
    with pytest.raises(ValueError, match="leave out '::a'"):
        read_table(f"{path}::a")
    (tmp_path / "x.kv").write_text("")
    with pytest.raises(ValueError, match="pickles, which can run code; write it as text"):
        read_table(str(tmp_path / "x.kv"))


def test_factors_by_word(tmp_path):
    table = WordVectors(NAMES, compress(vectors(), 0.5, k=1, seed=0))
    np.testing.assert_allclose(table["naïve"], vectors()[1], atol=1e-5)
    np.testing.assert_allclose(table[["w0", "the"]], vectors()[[6, 0]], atol=1e-5)
    assert ("the" in table, "dog" in table, len(table)) == (True, False, N)
    with pytest.raises(KeyError, match="dog"):
        table["dog"]
    table.save(tmp_path / "saved")
    again = WordVectors.load(tmp_path / "saved")
    assert again.words == table.words
    np.testing.assert_array_equal(again[NAMES], table[NAMES])
    with pytest.raises(FileExistsError):
        table.save(tmp_path / "saved")
    table.save(tmp_path / "saved", overwrite=True)
    (tmp_path / "saved" / "words.txt").write_text("the\n")
    with pytest.raises(ValueError, match="1 words for 120 vectors"):
        WordVectors.load(tmp_path / "saved")


def test_words_that_do_not_fit():
    with pytest.raises(ValueError, match="2 words for 120 vectors"):
        WordVectors(["a", "b"], vectors())
    with pytest.raises(ValueError, match="the word 'a' is there twice"):
        WordVectors(["a", "b", "a"], vectors()[:3])
    with pytest.raises(TypeError, match="must be a Factorization to be saved, got ndarray"):
        WordVectors(NAMES, vectors()).save("x")


@pytest.mark.parametrize("ending", [".txt", ".vec", ".npy", ".csv"])
def test_the_command(tmp_path, capsys, ending):
    import_or_skip("rich")
    path = tmp_path / f"table{ending}"
    if ending == ".npy":
        np.save(path, vectors())
    elif ending == ".csv":
        np.savetxt(path, vectors(), delimiter=",")
    else:
        write_words(path, ending == ".vec")
    asked = ["compress", str(path), "--ratio", "0.5", "--k", "1", "--out", str(tmp_path / "small")]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "120 x 10" in printed
    assert "1,200 parameters ->" in printed
    factors = Factorization.load(tmp_path / "small" / "factorization.safetensors")
    np.testing.assert_allclose(factors.reconstruct(), vectors(), atol=1e-5)
    if ending in (".txt", ".vec"):
        np.testing.assert_allclose(WordVectors.load(tmp_path / "small")["東京"], vectors()[4], atol=1e-5)
    before = contents(tmp_path)
    assert main(asked) != 0
    assert main([*asked[:4], "--storage", "int8"]) != 0
    assert "--storage is for the folder of a model" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("budget", [("--bits", "8"), ("--max-error", "0.01")])
def test_the_command_in_bits(tmp_path, capsys, budget):
    import_or_skip("rich")
    path = tmp_path / "table.txt"
    write_words(path)
    assert main(["compress", str(path), *budget, "--seed", "0", "--out", str(tmp_path / "small")]) == 0
    assert "bits a number" in capsys.readouterr().out
    again = WordVectors.load(tmp_path / "small")
    assert isinstance(again.vectors, QuantizedFactorization)
    assert again.vectors.measure_error(vectors()) < 0.01
    assert (again["東京"] == again.vectors[4]).all()
    assert main(["compress", str(path), "--min-cosine", "0.9"]) != 0
    assert "--min-cosine is for the folder of a model" in capsys.readouterr().err


def test_a_table_that_is_not_there(tmp_path, capsys):
    assert main(["compress", str(tmp_path / "x.npy"), "--ratio", "0.5"]) != 0
    assert "no such file" in capsys.readouterr().err
