"""Leading eigenspaces of matrices and of blocks of rows."""

import numpy as np
import pytest
from planted import random_bases

from contract.checks import assert_eigenspaces, basis, captured
from contract.problems import matrices
from ksubspaces.kernels import reference


def check_top_eigenspaces(backend, d, dtype):
    S, dims = matrices(d)
    got, want = backend.top_eigenspaces(S, dims, dtype), reference.top_eigenspaces(S, dims)
    assert_eigenspaces(got, want, dims, d, dtype)
    assert got.bases.dtype == dtype
    for j, values, most in zip(dims, want.eigenvalues, captured(S, got.layout.split(got.bases)), strict=True):
        assert most >= values[:j].sum() * (1 - 1e-5) - 1e-9  # the best, even where eigenvalues repeat


@pytest.mark.operation("top_eigenspaces")
@pytest.mark.parametrize("d", [1, 2, 7, 64, 129])
def test_top_eigenspaces(backend, d, dtype):
    check_top_eigenspaces(backend, d, dtype)


@pytest.mark.operation("top_eigenspaces", many=True)
@pytest.mark.parametrize("d", [100, 128, 384])
def test_top_eigenspaces_of_large_matrices(backend, d, dtype):
    check_top_eigenspaces(backend, d, dtype)


@pytest.mark.operation("top_eigenspaces")
@pytest.mark.parametrize("d", [1, 2, 7, 64, 129])
def test_steps_towards_eigenspaces(backend, d, dtype):
    """From bases or from nothing: orthonormal, and they capture no less than what they start from."""
    S, dims = matrices(d)
    dims = [min(j, 30) for j in dims]
    tol, most = 1e-4 if dtype == np.float32 else 1e-9, reference.top_eigenspaces(S, dims)
    before = random_bases(np.random.default_rng(d), d, dims, dtype)
    for start in (None, np.concatenate(before)):
        got = backend.top_eigenspaces(S, dims, dtype, start, exact=False)
        assert got.bases.dtype == dtype
        bases = got.layout.split(got.bases)
        for V, j in zip(bases, dims, strict=True):
            np.testing.assert_allclose(V.astype(np.float64) @ V.T, np.eye(j), atol=tol)
        least = 0.9 * np.array(captured(S, most.layout.split(most.bases))) if start is None else captured(S, before)
        assert np.all(np.array(captured(S, bases)) >= least - tol * np.trace(S, axis1=1, axis2=2))


@pytest.mark.operation("top_eigenspaces", reference=True)
def test_top_eigenspaces_of_tiny_and_huge_matrices_in_float32(backend):
    S = np.diag([3.0, 2.0, 1.0])
    got = backend.top_eigenspaces(np.stack([S * 1e-60, S * 1e60]), [1, 1], np.float32)
    for row, eigenvalues, factor in zip(got.bases, got.eigenvalues, (1e-60, 1e60), strict=True):
        np.testing.assert_allclose(np.abs(row), [1, 0, 0], atol=1e-6)
        np.testing.assert_allclose(eigenvalues, np.array([3, 2, 1]) * factor, rtol=1e-6)


@pytest.mark.operation("batched_svd")
@pytest.mark.parametrize("d", [20, 150])
def test_batched_svd(backend, d, dtype):
    rng = np.random.default_rng(3)
    blocks = [rng.normal(size=(m, d)).astype(dtype) for m in (0, 1, 5, 19, 20, 50)]
    blocks.append(np.repeat(blocks[1], 4, axis=0))
    for rank in (0, 3, 11, d // 2 + 1, d):
        got, want = backend.batched_svd(blocks, rank), reference.batched_svd(blocks, rank)
        assert_eigenspaces(got, want, [rank] * len(blocks), d, dtype)
        for c, A in enumerate(blocks):
            V = basis(got, c)
            assert V.dtype == dtype
            rest = A - A @ V.T @ V
            best = (want.eigenvalues[c][rank:]).sum()
            np.testing.assert_allclose((rest**2).sum(), best, rtol=1e-3, atol=1e-9 * (A**2).sum() + 1e-12)


@pytest.mark.operation("batched_svd")
@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_batched_svd_of_more_rows_than_columns_and_fewer(backend, d, dtype):
    rng = np.random.default_rng(d)
    blocks = [rng.normal(size=(m, d)).astype(dtype) for m in (2 * d, max(1, d // 2))]
    blocks += [np.zeros((3, d), dtype), np.eye(d, dtype=dtype)]
    rank = min(d, 5)
    assert_eigenspaces(backend.batched_svd(blocks, rank), reference.batched_svd(blocks, rank), [rank] * 4, d, dtype)


@pytest.mark.operation("batched_svd", reference=True)
@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_batched_svd_of_tiny_and_huge_blocks(backend, factor):
    blocks = [factor * np.array([[3.0, 0, 0], [0, 0, 2]]), np.zeros((2, 3))]
    got = backend.batched_svd(blocks, [1, 1])
    np.testing.assert_allclose(np.abs(got.bases[0]), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(np.sqrt(got.eigenvalues[0, :2]), factor * np.array([3, 2]), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(got.bases[1]), 1)


@pytest.mark.operation("batched_svd", reference=True)
def test_batched_svd_of_empty_blocks(backend, dtype):
    got = backend.batched_svd([np.zeros((0, 4), dtype)] * 2, 2)
    for V in got.layout.split(got.bases):
        np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-6)
    assert not got.eigenvalues.any()
