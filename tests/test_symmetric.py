"""Eigenproblems on one thread each, against LAPACK's drivers in float64."""

import ctypes

import numpy as np
import pytest

from ksubspaces.kernels import lapack, products, symmetric

KINDS = ["plain", "low rank", "identity", "zero", "diagonal", "repeated"]


def matrix(kind, d, rng):
    if kind in ("identity", "zero"):
        return np.eye(d) * (kind == "identity")
    if kind == "diagonal":
        return np.diag(rng.random(d))
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    values = rng.random(d) ** 3
    if kind == "low rank":
        values[2:] = 0
    if kind == "repeated":
        values[: d // 2] = 1
    return (Q * values) @ Q.T


def assert_solves(S, values, vectors):
    d, tol = len(S), 50 * len(S) * np.finfo(vectors.dtype).eps
    V = vectors.astype(np.float64)
    np.testing.assert_allclose(V @ V.T, np.eye(d), atol=tol)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(S), rtol=0, atol=tol)
    np.testing.assert_allclose(V @ S, values[:, None] * V, atol=tol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 2, 3, 41, 130])
@pytest.mark.parametrize("kind", KINDS)
def test_eigenpairs_are_those_of_lapack(kind, d, dtype):
    S = matrix(kind, d, np.random.default_rng())
    values, vectors = symmetric.eigenpairs(S.astype(dtype))
    assert vectors.dtype == dtype
    assert_solves(S, values, vectors)
    np.testing.assert_allclose(symmetric.eigenvalues(S.astype(dtype)), values, rtol=0, atol=1e-12 * d)


def test_where_representations_fail_lapack_solves_the_matrix_whole(monkeypatch):
    def fail(*arguments):
        ctypes.cast(arguments[-1], ctypes.POINTER(ctypes.c_int)).contents.value = 1

    monkeypatch.setattr(symmetric, "_lapack", lambda name: fail)
    S = matrix("plain", 50, np.random.default_rng())
    assert_solves(S, *symmetric.eigenpairs(S.copy()))
    with pytest.raises(np.linalg.LinAlgError):
        symmetric.eigenvalues(S.copy())


def test_the_same_bits_side_by_side_and_one_by_one(monkeypatch):
    rng, d = np.random.default_rng(), lapack.SHARED + 5
    S = np.stack([matrix("plain", d, rng) for _ in range(7)])
    S[3] = 0
    dims = [2, 3, d, 60, 1, 84, 7]
    monkeypatch.setattr(products, "LARGE", 1)
    for threads in (1, 3):
        monkeypatch.setattr(products, "count_threads", lambda threads=threads: threads)
        got = lapack.top_eigenspaces(S, dims, np.float32)
        for c, j in enumerate(dims):
            alone = lapack.top_eigenspaces(S[c : c + 1], [j], np.float32)
            np.testing.assert_array_equal(got.bases[got.layout.rows(c)], alone.bases)
            np.testing.assert_array_equal(got.eigenvalues[c : c + 1], alone.eigenvalues)
        values = lapack.top_eigenspaces(S, [0] * len(S), np.float32).eigenvalues
        np.testing.assert_allclose(values, got.eigenvalues, rtol=0, atol=1e-5)
