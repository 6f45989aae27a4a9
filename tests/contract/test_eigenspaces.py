"""Leading eigenspaces of matrices and of blocks of rows."""

import numpy as np
import pytest

from contract.checks import assert_eigenspaces, bases_of, captured
from contract.problems import matrices
from ksubspaces.kernels import reference


def check_top_eigenspaces(backend, d, dtype):
    S, dims = matrices(d)
    got, want = backend.top_eigenspaces(S, dims, dtype), reference.top_eigenspaces(S, dims)
    assert_eigenspaces(got, want, dims, d, dtype)
    assert all(V.dtype == dtype for V in bases_of(got))
    for j, values, most in zip(dims, want.eigenvalues, captured(S, bases_of(got)), strict=True):
        assert most >= values[:j].sum() * (1 - 1e-5) - 1e-9  # the best, even where eigenvalues repeat


@pytest.mark.operation("top_eigenspaces")
@pytest.mark.parametrize("d", [1, 2, 7, 64, 129])
def test_top_eigenspaces(backend, d, dtype):
    check_top_eigenspaces(backend, d, dtype)


@pytest.mark.operation("top_eigenspaces", many=True)
@pytest.mark.parametrize("d", [100, 128, 384])
def test_top_eigenspaces_of_large_matrices(backend, d, dtype):
    check_top_eigenspaces(backend, d, dtype)


@pytest.mark.operation("top_eigenspaces", reference=True)
def test_top_eigenspaces_of_tiny_and_huge_matrices_in_float32(backend):
    S = np.diag([3.0, 2.0, 1.0])
    got = backend.top_eigenspaces(np.stack([S * 1e-60, S * 1e60]), [1, 1], np.float32)
    for basis, eigenvalues, factor in zip(bases_of(got), got.eigenvalues, (1e-60, 1e60), strict=True):
        np.testing.assert_allclose(np.abs(basis), [[1, 0, 0]], atol=1e-6)
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
            V = bases_of(got)[c]
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
    np.testing.assert_allclose(np.abs(bases_of(got)[0]), [[1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(np.sqrt(got.eigenvalues[0]), factor * np.array([3, 2]), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(bases_of(got)[1], axis=1), 1)


@pytest.mark.operation("batched_svd", reference=True)
def test_batched_svd_of_empty_blocks(backend, dtype):
    got = backend.batched_svd([np.zeros((0, 4), dtype)] * 2, 2)
    for V, w in zip(bases_of(got), got.eigenvalues, strict=True):
        np.testing.assert_allclose(V @ V.T, np.eye(2), atol=1e-6)
        assert not np.any(w)
