"""How kernels are compiled and kept, with a pretended CuPy: side by side, once, and on disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ksubspaces.kernels import cuda, libraries
from ksubspaces.kernels.cuda import loader

VARIANTS = [("groups", {}), ("lookup", {"STORED": "float", "CHUNK": 64})]


class Device:
    current = threading.local()

    def __init__(self, index: int | None = None) -> None:
        self.id = getattr(self.current, "index", 0) if index is None else index

    def __enter__(self) -> None:
        self.current.index = self.id

    def __exit__(self, *_: object) -> None:
        self.current.index = 0


class CuPy:
    """As much of CuPy as compiling takes. Until as many modules are being compiled as ``together`` has parties, none
    is done."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.options: set[tuple[str, ...]] = set()
        self.together, self.fails = threading.Barrier(1), False
        self.cuda = SimpleNamespace(Device=Device)
        cupy = self

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...], backend: str) -> None:
                self.code = code
                cupy.options.add(options)

            def compile(self) -> None:
                cupy.together.wait(30)
                if cupy.fails:
                    raise RuntimeError("does not compile")
                cupy.compiled.append(self.code)

            def get_function(self, name: str) -> Any:
                return SimpleNamespace(max_dynamic_shared_size_bytes=0, name=name)

        self.RawModule = RawModule


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> CuPy:
    cupy = CuPy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(loader, "_modules", {})
    for name in ("_launch", "_numba_compiled", "_numba_texts"):
        monkeypatch.setattr(loader, name, getattr(loader, name).__wrapped__)
    return cupy


def test_kernels_are_compiled_side_by_side(cupy: CuPy) -> None:
    cupy.together = threading.Barrier(2)
    done = loader.prepare(VARIANTS)
    for source, defines in VARIANTS:
        loader.kernel(source, "any", defines)
    assert len(cupy.compiled) == 2
    assert len(cupy.options) == 1  # CuPy asks the compiler for its version once for each
    assert all(module.done() for module in done)


def test_each_is_compiled_once_for_each_device(cupy: CuPy) -> None:
    for _ in range(2):
        for module in loader.prepare(VARIANTS):
            module.result()
        loader.kernel("groups", "any")
    assert len(cupy.compiled) == 2
    with Device(1):
        loader.kernel("groups", "any")
    assert len(cupy.compiled) == 3


def test_what_fails_to_compile_is_told_and_tried_again(cupy: CuPy) -> None:
    cupy.fails = True
    for module in loader.prepare(VARIANTS):
        assert "does not compile" in str(module.exception())
    with pytest.raises(RuntimeError, match="does not compile"):
        loader.kernel("groups", "any")
    cupy.fails = False
    loader.kernel("groups", "any")
    assert len(cupy.compiled) == 1


def test_definitions_stand_in_the_text() -> None:
    text = loader.read("lookup", {"STORED": "Half", "CHUNK": 64})
    assert text.startswith('#define CHUNK 64\n#define STORED Half\n#line 1 "lookup.cu"\n')


# Numba's kernels on disk


def made(name: str) -> tuple[str, bytes]:
    return f"{name}_v1", b"code\n\n of " + name.encode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "new"))
    return tmp_path / "new"


@pytest.fixture
def making() -> list[str]:
    """Names of what was made."""
    return []


def kept(name: str, making: list[str]) -> tuple[str, bytes]:
    return loader._kept(name, lambda: (making.append(name), made(name))[1])


def test_machine_code_is_kept(folder: Path, making: list[str]) -> None:
    for name in ("fold", "fold", "lower"):
        assert kept(name, making) == made(name)
    assert making == ["fold", "lower"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data.replace(b"_v1", b"_v2")]
)
def test_damaged_code_is_made_again(folder: Path, making: list[str], damage: Any) -> None:
    kept("fold", making)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert kept("fold", making) == made("fold")
    assert making == ["fold", "fold"]


def test_a_folder_that_cannot_be_written_is_done_without(
    tmp_path: Path, making: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "folder"))
    assert kept("fold", making) == made("fold")


def test_what_is_kept_is_of_a_text_versions_and_a_kind_of_card(
    cupy: CuPy, folder: Path, making: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[bytes] = []
    cupy.cuda.Module = lambda: SimpleNamespace(load=loaded.append, get_function=lambda name: name)
    monkeypatch.setattr(Device, "compute_capability", "90", raising=False)
    monkeypatch.setattr(loader, "_by_numba", lambda source, name, *_: (making.append(name), made(name))[1])

    def how_many_are_made() -> int:
        before = len(making)
        for real in ("f4", "f8"):
            assert loader._numba_compiled(0, "irregular", "fold", ((np.dtype(real), True),)) == "fold_v1"
        return len(making) - before

    assert [how_many_are_made(), how_many_are_made()] == [2, 0]
    monkeypatch.setattr(Device, "compute_capability", "100")
    assert [how_many_are_made(), how_many_are_made()] == [2, 0]
    monkeypatch.setattr(libraries, "found", lambda: "other versions")
    assert [how_many_are_made(), how_many_are_made()] == [2, 0]
    monkeypatch.setattr(loader, "FOLDER", folder)
    for part in ("", "_kernels"):
        (folder / f"irregular{part}.py").write_text("another text")
    assert [how_many_are_made(), how_many_are_made()] == [2, 0]
    assert loaded == [made("fold")[1]] * 16


def test_numba_is_not_imported_before_there_is_something_to_compile() -> None:
    program = f"import sys, {cuda.__name__}.irregular; assert not {{'numba', 'scipy'}} & {{*sys.modules}}"
    subprocess.run([sys.executable, "-c", program], check=True)
