"""Decoded rows of packed bits."""

import dataclasses

import numpy as np
import pytest
from helpers import tolerance

from contract.problems import packed_rows
from ksubspaces.kernels import reference

gains = pytest.mark.parametrize("columns", [0, 1, 3])


def assert_unpacked(got, rows, packed):
    want = reference.decode(rows, packed)
    assert got.shape == want.shape
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(np.float32) * max(1.0, np.abs(want).max(initial=0)))


@pytest.mark.operation("decode")
@gains
def test_decode(backend, n, d, dims, columns):
    packed, rng = packed_rows(n, d, dims, columns, affine=columns > 0, kept=n // 3)
    rows = rng.integers(0, n, min(n + 7, 200))
    assert_unpacked(backend.decode(rows, packed), rows, packed)


@pytest.mark.operation("decode")
def test_rows_by_themselves_are_those_of_the_whole(backend):
    packed, rng = packed_rows(170, 37, [30, 1, 0, 37], 1, affine=True, kept=9)
    whole = backend.decode(np.arange(170), packed)
    for rows in (np.zeros(0, np.int64), np.array([7]), np.array([3, 3, 169, 0], np.int32), rng.permutation(170)):
        np.testing.assert_array_equal(backend.decode(rows, packed), whole[rows])


@pytest.mark.operation("decode", many=True)
def test_decode_of_many_rows(backend):
    packed, rng = packed_rows(20_000, 9, [0, 5, 9], 0, affine=False)
    rows = rng.integers(0, 20_000, 10_000)
    assert_unpacked(backend.decode(rows, packed), rows, packed)


@pytest.mark.operation("decode", many=True)
def test_bits_beyond_those_that_32_count(backend):
    packed, _ = packed_rows(40, 5, [5, 3], 0, affine=False)
    before = 1 << 28  # bytes
    codes = np.concatenate([np.zeros(before, np.uint8), packed.codes])
    far = dataclasses.replace(packed, codes=codes, starts=packed.starts + 8 * before)
    rows = np.arange(40)
    np.testing.assert_array_equal(backend.decode(rows, far), backend.decode(rows, packed))
