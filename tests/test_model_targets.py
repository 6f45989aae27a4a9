"""Where a compressed model may be saved, and that nothing else is lost there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from files import contents
from models import compressed, gpt2

from ksubspaces.integrations import _saving
from ksubspaces.integrations.transformers import load_compressed, save_compressed


class TestTargets:
    @pytest.fixture
    def model(self) -> Any:
        model = gpt2()
        compressed(model)
        return model

    def test_a_folder_in_use_is_replaced_only_when_told(self, tmp_path, model):
        target = tmp_path / "model"
        save_compressed(model, target)
        (target / "notes.txt").write_text("of the model there was")
        before = contents(target)
        with pytest.raises(FileExistsError, match="is not empty; overwrite it"):
            save_compressed(model, target)
        assert contents(target) == before
        save_compressed(model, target, overwrite=True)
        assert "notes.txt" not in contents(target)
        load_compressed(target)
        assert [path.name for path in tmp_path.iterdir()] == ["model"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_folder_with_anything_else_is_never_replaced(self, tmp_path, monkeypatch, model, overwrite):
        target = tmp_path / "papers"
        target.mkdir()
        (target / "precious.txt").write_text("mine")
        (tmp_path / "link").symlink_to(target)
        for path in (target, tmp_path / "link"):
            with pytest.raises(FileExistsError, match="holds something else than a compressed model"):
                save_compressed(model, path, overwrite=overwrite)
        assert contents(target) == {"precious.txt": b"mine"}
        save_compressed(model, tmp_path / "model")
        monkeypatch.chdir(tmp_path / "model")
        for path in (".", "", tmp_path / "model"):
            with pytest.raises(FileExistsError, match=r"is the working folder|is not empty"):
                save_compressed(model, path, overwrite=overwrite)
        assert "ksubspaces.json" in contents(tmp_path / "model")

    def test_an_empty_folder_will_do(self, tmp_path, model):
        (tmp_path / "model").mkdir()
        save_compressed(model, tmp_path / "model")
        load_compressed(tmp_path / "model")

    def test_a_file_or_a_missing_folder(self, tmp_path, model):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileExistsError, match="is a file; name a folder"):
            save_compressed(model, tmp_path / "file")
        with pytest.raises(FileNotFoundError, match="no such folder to save in"):
            save_compressed(model, tmp_path / "nowhere" / "model")

    def test_read_only(self, model):
        with pytest.raises(OSError):
            save_compressed(model, "/proc/model")  # read-only for root too

    def test_full(self, tmp_path, model):
        """A real one: the process may write no file past a few bytes."""
        save_compressed(model, tmp_path / "model")
        before = contents(tmp_path)
        program = f"""
import resource, signal
from ksubspaces.integrations.transformers import load_compressed, save_compressed
model = load_compressed({str(tmp_path / "model")!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    save_compressed(model, {str(tmp_path / "model")!r}, overwrite=True)
except OSError as error:
    raise SystemExit(f"refused: {{error}}")
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert "refused: " in done.stderr
        assert contents(tmp_path) == before

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_an_interruption_leaves_what_was_there(self, tmp_path, monkeypatch, model, overwrite):
        target = tmp_path / "model"
        if overwrite:
            save_compressed(model, target)
        before = contents(tmp_path)

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(_saving, "_versions", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_compressed(model, target, overwrite=overwrite)
        assert contents(tmp_path) == before
        assert len(list(tmp_path.iterdir())) == overwrite
