"""What concerns decoding packed bits on GPUs alone, emulated on the CPU. What ``decode`` means: ``contract/``."""

import dataclasses
import importlib

import numpy as np
import pytest
from contract.problems import packed_rows
from counting import counting, on_card
from emulator import emulated, needs_compiler
from helpers import import_or_skip
from transfers import converted

from ksubspaces.kernels.cuda import decode, loader

pytestmark = needs_compiler
module = importlib.import_module(decode.__module__)


def test_decoding_is_one_launch_without_a_wait():
    import_or_skip("numba_cuda", install="'ksubspaces[cuda13]'")
    packed, rng = packed_rows(300, 40, [30, 8], 1, affine=True, kept=5)
    rows = rng.integers(0, 300, 200)
    with emulated():
        want = decode(rows, packed)
    with counting() as counts:
        given = converted(packed, lambda part: on_card(part) if isinstance(part, np.ndarray) else part)
        asked, before = on_card(rows), counts.now()
        got = decode(asked, given)
        found = counts.now() - before
    assert found.totals == {"launches": 1, "allocations": 1, "waits": 0, "uploads": 0}
    np.testing.assert_array_equal(got.get(), want)


def test_codes_at_an_odd_address():
    packed, rng = packed_rows(60, 7, [5, 7], 0, affine=False)
    odd = np.empty(len(packed.codes) + 2, np.uint8)
    odd = odd[1 - odd.ctypes.data % 2 :][: len(packed.codes)]
    odd[:] = packed.codes
    assert odd.ctypes.data % 2
    rows = rng.integers(0, 60, 30)
    with emulated():
        got = decode(rows, dataclasses.replace(packed, codes=odd))
        np.testing.assert_array_equal(got, decode(rows, packed))


def test_groups_that_a_device_cannot_count(monkeypatch):
    packed, _ = packed_rows(20, 3, [1] * 100, 0, affine=False)
    with emulated(), monkeypatch.context() as patch:
        patch.setattr(loader, "limits", lambda: loader.Limits(shared_memory=800, multiprocessors=1))
        with pytest.raises(ValueError, match=r"up to 190 groups, not 200"):
            decode(np.arange(20), packed)


def test_compiled_variants_are_declared(monkeypatch):
    asked = []
    with emulated(), monkeypatch.context() as patch:
        patch.setattr(loader, "kernel", lambda source, _, defines: record(asked, source, defines))
        for d in (64, 65):
            decode(np.arange(3), packed_rows(9, d, [2, 2], 0, affine=False)[0])
    assert asked == module.VARIANTS


def record(asked, source, defines):
    asked.append((source, defines))
    return lambda *_args, **_options: None
