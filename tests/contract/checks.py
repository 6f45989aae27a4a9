"""What results must be like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from helpers import scale, tolerance

from ksubspaces.kernels import Eigenspaces, Moments, layout_of, reference

DECODED = {np.float64: 1e-14, np.float32: 1e-6, np.float16: 1e-3}
"""What a decoded number may be off by, relative to the largest."""


def assert_moments(got: Moments, want: Moments, X: Any, dtype: Any) -> None:
    np.testing.assert_array_equal(got.counts, want.counts)
    mass = 1 + (want.counts if want.mass is None else want.mass).max()
    assert (got.first is None) == (want.first is None)
    if want.first is not None:
        np.testing.assert_allclose(got.mass, want.mass, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(got.sums, want.sums, rtol=0, atol=tolerance(dtype) * mass * np.abs(X).max())
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=tolerance(dtype) * mass * scale(X))


def assert_accurate(S: Any, want: Any, dtype: Any) -> None:
    """Every entry within a few units of rounding of what its row and column could contribute."""
    tol = 1e-6 if dtype == np.float32 else 1e-14
    size = np.sqrt(np.einsum("cii->ci", want))
    assert np.all(np.abs(S - want) <= tol * size[:, :, None] * size[:, None, :] + 1e-300)
    np.testing.assert_array_equal(S, S.transpose(0, 2, 1))


def assert_eigenspaces(got: Eigenspaces, want: Eigenspaces, dims: Sequence[int], d: int, dtype: Any) -> None:
    tol = 1e-4 if dtype == np.float32 else 1e-9
    assert got.layout == want.layout == layout_of(d, tuple(dims))
    assert got.bases.shape == (sum(dims), d)
    assert (got.complements is None) == (2 * max(dims) <= d)
    for c, j in enumerate(dims):
        V = basis(got, c).astype(np.float64)
        np.testing.assert_allclose(V @ V.T, np.eye(j), atol=tol)
        if 2 * j > d:
            full = np.concatenate([V, got.complements[got.layout.complements.rows(c)]])
            np.testing.assert_allclose(full @ full.T, np.eye(d), atol=tol)
        m = min(got.eigenvalues.shape[1], want.eigenvalues.shape[1])
        allowed = tol * ((want.eigenvalues[c][0] if m else 1) + 1e-300)
        np.testing.assert_allclose(got.eigenvalues[c, :m], want.eigenvalues[c, :m], rtol=0, atol=allowed)
        assert np.all(got.eigenvalues[c, m:] == 0)
        assert np.all(want.eigenvalues[c, m:] <= allowed)


def basis(spaces: Eigenspaces, c: int) -> Any:
    """Basis (j_c, d) of matrix c."""
    return spaces.bases[spaces.layout.rows(c)]


def assert_decomposed(S: Any, values: Any, vectors: Any, dtype: Any) -> None:
    """S = V^T diag(values) V with orthonormal V and the eigenvalues of NumPy, to a few units of rounding."""
    S, unit = np.asarray(S), float(np.finfo(dtype).eps)
    d = S.shape[-1]
    norm = np.trace(S, axis1=1, axis2=2)[:, None, None] + 1e-300
    V = vectors.astype(np.float64)
    assert vectors.dtype == dtype
    assert values.dtype == np.float64
    assert np.all(values >= 0)
    assert np.all(np.diff(values, axis=1) <= 0)
    assert np.abs(V @ V.transpose(0, 2, 1) - np.eye(d)).max() <= 6 * np.sqrt(d) * unit
    rebuilt = V.transpose(0, 2, 1) @ (values[:, :, None] / norm * V)
    rounded = 1e-7 * (len(S) > 1)  # of the matrix that has negative eigenvalues, which the result has as zeros
    assert np.abs(rebuilt - S / norm).max() <= 6 * unit + rounded
    expected = np.maximum(np.linalg.eigvalsh(S / norm)[:, ::-1], 0)
    assert np.abs(values / norm[:, 0] - expected).max() <= 6 * np.sqrt(d) * unit


def captured(S: Any, bases: Sequence[Any]) -> list[float]:
    """Trace of V S V^T for each matrix and basis."""
    return [np.trace(V.astype(np.float64) @ M @ V.astype(np.float64).T) for M, V in zip(S, bases, strict=True)]


def assert_decoded(got: Any, rows: Any, made: Any, tol: float) -> None:
    want = reference.lookup(rows, made)
    assert got.shape == want.shape
    assert got.dtype == made.bases[0].dtype
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * max(1.0, np.abs(want).max(initial=0)))


def assert_lowered(lower: Any, distances: Any, trials: Any, weights: Any) -> None:
    """``lower`` does to the trials what the reference does, and gives the same sums; twice, the same bits."""
    expected, again = trials.copy(), trials.copy(order="K")
    sums = reference.lower_distances(distances, expected, weights)
    got = lower(distances, trials, weights)
    np.testing.assert_array_equal(trials, expected)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, sums, rtol=1e-12)
    np.testing.assert_array_equal(lower(distances, again, weights), got)
