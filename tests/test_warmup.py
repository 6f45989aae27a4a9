"""``ksubspaces warmup``, on the emulated card."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
from counting import counting
from emulator import needs_compiler
from helpers import import_or_skip

from ksubspaces import cli
from ksubspaces.cli import warmup
from ksubspaces.kernels import cuda
from ksubspaces.kernels.cuda import loader

import_or_skip("rich")
OF_A_CPU = {"update_moments", "changed_rows"}
"""Operations that fits on a card do without."""


@needs_compiler
def test_everything_is_compiled_and_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")
    monkeypatch.setattr(warmup, "SHAPES", ((24, 16, 2, 1),))
    called = set()

    def watched(name: str) -> Callable[..., Any]:
        operation = getattr(cuda, name)
        return lambda *args, **kwargs: (called.add(name), operation(*args, **kwargs))[1]

    for name in cuda.__all__:
        monkeypatch.setattr(cuda, name, watched(name))
    asked: list[object] = []
    with counting(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "prepare", lambda variants: asked.extend(variants) or [])
        assert cli.main(["warmup"]) == 0
    assert [variant for variant in loader.all_variants() if variant not in asked] == []
    assert "variants of kernels are ready for cuda:0" in capsys.readouterr().out
    assert called == set(cuda.__all__) - OF_A_CPU


def test_a_cpu_needs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warmup", "--device", "cpu"]) == 2
    assert "need no warming up" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_it_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["warmup"]) == 2
    assert "pip install" in capsys.readouterr().err
