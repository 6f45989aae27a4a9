"""The README's examples run as they stand."""

import re
from pathlib import Path

import pytest
from helpers import import_or_skip

from ksubspaces.demo import minilm_folder

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "minilm_folder" in block:
        import_or_skip("transformers")
        try:
            minilm_folder()
        except RuntimeError as error:
            pytest.skip(str(error))  # it says what to install
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed
    if "cosine" in printed:
        assert float(printed.split()[-1]) >= 0.99


def test_files_that_it_names_are_there():
    named = re.findall(r"(?:!\[[^]]*\]\(|`)((?:bench|solver|kernels|tests)/[\w./-]*\w)", README.read_text())
    assert named
    for path in named:
        assert (README.parent / path).exists(), path
