"""What concerns decoding on GPUs alone, emulated on the CPU: storage, the choice of a way, variants.

What ``lookup`` means is tested in ``contract/``.
"""

import importlib

import numpy as np
import pytest
from contract.backends import decoding
from contract.checks import DECODED, assert_decoded
from contract.problems import factors
from emulator import emulated, modes, needs_compiler

from ksubspaces import Factorization
from ksubspaces.kernels import reference
from ksubspaces.kernels.cuda import loader, lookup
from ksubspaces.kernels.factors import Factors

pytestmark = needs_compiler
module = importlib.import_module(lookup.__module__)
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
ways = pytest.mark.parametrize("direct", [True, False], ids=["direct", "grouped"])


@ways
@affine
@pytest.mark.parametrize("d", [16, 33, 136])
def test_lookup_of_float16(d, affine, direct):
    made, rng = factors(300, d, [8, 0, 11, 16], np.float16, affine)
    rows = rng.permutation(300)
    with emulated(), decoding(direct):
        assert_decoded(lookup(rows, made), rows, made, DECODED[np.float16])


def as_bits(array):
    """bfloat16 numbers near those of an array, as their 16 bits."""
    return (np.asarray(array, np.float32).view(np.uint32) + 0x8000 >> 16).astype(np.uint16)


def from_bits(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


@ways
@affine
@pytest.mark.parametrize("d", [16, 33, 136])
def test_lookup_of_bfloat16(d, affine, direct):
    made, rng = factors(300, d, [8, 0, 11, 16], np.float32, affine)
    stored = Factors(
        labels=made.labels,
        positions=made.positions,
        blocks=[as_bits(block) for block in made.blocks],
        bases=[as_bits(V) for V in made.bases],
        offsets=as_bits(made.offsets) if affine else None,
    )
    made.blocks, made.bases = [from_bits(block) for block in stored.blocks], [from_bits(V) for V in stored.bases]
    made.offsets = from_bits(stored.offsets) if affine else None
    rows = rng.permutation(300)
    with emulated(), decoding(direct):
        got = lookup(rows, stored)
    assert got.dtype == np.uint16
    want = reference.lookup(rows, made)
    np.testing.assert_allclose(from_bits(got), want, rtol=2**-8, atol=1e-6)


@modes
def test_many_rows_are_grouped(mode, monkeypatch):
    made, rng = factors(500, 24, [3, 7, 5], np.float32, True)
    monkeypatch.setattr(module, "DIRECT_BYTES", 100 * 5 * 24 * 4)
    names = []
    with emulated(mode), monkeypatch.context() as patch:
        kernel = loader.kernel
        patch.setattr(loader, "kernel", lambda *a: (names.append(a[1]), kernel(*a))[1])
        for n_rows, name in ((100, "decode_directly"), (101, "decode_grouped")):
            rows = rng.integers(0, 500, n_rows)
            assert_decoded(lookup(rows, made), rows, made, DECODED[np.float32])
            assert names[-1] == name


@ways
def test_lookup_of_a_factorization(direct):
    made, rng = factors(90, 10, [4, 2], np.float32, True)
    made.blocks[0] = np.asfortranarray(made.blocks[0])
    whole = Factorization(made.labels, made.blocks, made.bases, made.offsets)
    rows = rng.integers(0, 90, 40)
    with emulated(), decoding(direct):
        for _ in range(2):  # the second time with the addresses that are known by then
            assert_decoded(lookup(rows, whole._local), rows, made, DECODED[np.float32])


def test_dtypes_that_cannot_be_decoded():
    made, _ = factors(9, 4, [2, 2], np.float32, False)
    made.blocks[1] = made.blocks[1].astype(np.float64)
    with pytest.raises(TypeError, match=r"one dtype, here float32; convert"):
        lookup(np.arange(3), made)
    made.bases = [V.astype(np.int32) for V in made.bases]
    with pytest.raises(TypeError, match=r"not int32; convert"):
        lookup(np.arange(3), made)


def test_compiled_variants_are_declared(monkeypatch):
    asked = []
    with emulated(), monkeypatch.context() as patch:
        patch.setattr(loader, "kernel", lambda source, name, defines=None: record(asked, source, defines))
        for dtype in (np.float32, np.float64, np.float16, np.uint16):
            for d in (64, 65):
                for direct in (True, False):
                    made, _ = factors(9, d, [2, 2], dtype, False)
                    with decoding(direct):
                        lookup(np.arange(3), made)
    mine = [variant for variant in asked if variant[0] == "lookup"]
    assert all(variant in module.VARIANTS for variant in mine)
    assert all(variant in mine for variant in module.VARIANTS)


def record(asked, source, defines):
    asked.append((source, defines))
    return lambda *_args, **_options: None
