"""Decoded rows of a factorization."""

import numpy as np
import pytest

from contract.checks import DECODED, assert_decoded
from contract.problems import factors

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


@pytest.mark.operation("lookup")
@affine
def test_lookup(backend, n, d, dims, dtype, affine):
    made, rng = factors(n, d, dims, dtype, affine)
    rows = rng.integers(0, n, min(n + 7, 200))
    assert_decoded(backend.lookup(rows, made), rows, made, DECODED[dtype])


@pytest.mark.operation("lookup")
def test_lookup_of_no_rows_and_of_one(backend, dtype):
    made, _ = factors(20, 6, [3, 2], dtype, True)
    for rows in (np.zeros(0, np.int64), np.array([7]), np.array([3, 3, 19, 0], np.int32)):
        assert_decoded(backend.lookup(rows, made), rows, made, DECODED[dtype])


@pytest.mark.operation("lookup", many=True)
@affine
def test_lookup_of_many_rows(backend, dtype, affine):
    made, rng = factors(5000, 9, [0, 5, 9], dtype, affine)
    for b in (33, 5000):
        rows = rng.integers(0, 5000, b)
        assert_decoded(backend.lookup(rows, made), rows, made, DECODED[dtype])
