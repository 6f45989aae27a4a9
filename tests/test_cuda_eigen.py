"""What concerns batched eigenspaces on GPUs alone, emulated on the CPU: solvers, failures, power steps.

What the operations mean is tested in ``contract/``.
"""

import numpy as np
import pytest
from contract.checks import assert_decomposed, assert_eigenspaces, captured
from contract.problems import matrices
from emulator import MODES, emulated, modes, needs_compiler

from ksubspaces.kernels import reference
from ksubspaces.kernels.cuda import eigen, loader

pytestmark = needs_compiler
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])


def spectra(d, rng):
    """Matrices (d, d) with names: usual ones, and those that break eigensolvers."""
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = rng.normal(size=(3 * d, -(-d // 4))) @ Q[: -(-d // 4)] + 0.1 * rng.normal(size=(3 * d, d))

    def gram(*shape):
        A = rng.normal(size=shape)
        return A.T @ A

    def turned(eigenvalues):
        S = (Q * eigenvalues) @ Q.T
        return (S + S.T) / 2

    steps = np.arange(d)
    return {
        "full rank": gram(2 * d, d),
        "a subspace and noise": X.T @ X,
        "half rank": gram(max(1, d // 2), d),
        "rank one": gram(1, d),
        "zero": np.zeros((d, d)),
        "identity": np.eye(d),
        "ones": np.ones((d, d)),
        "diagonal, out of order": np.diag(np.roll(1.0 + steps, d // 2)),
        "three eigenvalues, repeated": turned(1.0 + steps % 3),
        "geometric": turned(0.5**steps),
        "tiny": 1e-200 * gram(2 * d, d),
        "huge": 1e200 * gram(2 * d, d),
        "float32 has rounded it": gram(max(1, d // 3), d).astype(np.float32).astype(np.float64),
    }


@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 32, 33, 64, 65, 100, 128])
@dtypes
def test_jacobi(d, dtype):
    S = np.stack(list(spectra(d, np.random.default_rng(d)).values()))
    found = []
    for mode in MODES if d <= 65 else ["late"]:  # from 65 on the layout is the same
        with emulated(mode):
            values, vectors = eigen.eigh(S, np.dtype(dtype))
            eigen.check()
        assert_decomposed(S, values, vectors, dtype)
        found.append((values, vectors))
    assert not values[4].any()
    for values, vectors in found[1:]:  # whatever the order in which warps run
        np.testing.assert_array_equal(values, found[0][0])
        np.testing.assert_array_equal(vectors, found[0][1])


@modes
def test_jacobi_keeps_the_precision_of_float64(mode):
    rng = np.random.default_rng(1)
    Q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    eigenvalues = np.geomspace(1, 1e-6, 40)
    with emulated(mode):
        values, vectors = eigen.eigh(((Q * eigenvalues) @ Q.T)[None], np.dtype(np.float64))
    np.testing.assert_allclose(values[0], eigenvalues, rtol=0, atol=2e-15)
    np.testing.assert_allclose(np.abs(np.sum(vectors[0] * Q.T, axis=1)), 1, atol=1e-12)


def test_no_matrices_at_all():
    with emulated():
        values, vectors = eigen.eigh(np.zeros((0, 5, 5)), np.dtype(np.float32))
    assert values.shape == (0, 5)
    assert vectors.shape == (0, 5, 5)


@pytest.mark.parametrize("d", [5, 40, 70])
@dtypes
def test_what_does_not_converge_is_an_error(d, dtype):
    good = np.stack([np.eye(d)] * 3)
    for bad in (np.nan, np.inf, -1.0):
        S = good.copy()
        S[1, 2, 2] = bad
        with emulated(), pytest.raises(RuntimeError, match=r"1 of 3 matrices did not .* number 1: .* check X"):
            eigen.top_eigenspaces(S, [1, 2, 3], dtype)
        with emulated():
            eigen.top_eigenspaces(good, [1, 2, 3], dtype)  # told once


def test_only_the_precisions_there_are():
    with pytest.raises(TypeError, match="float32 or float64, not in float16"):
        eigen.top_eigenspaces(np.eye(3)[None], [1], np.float16)


@pytest.mark.parametrize("d", [7, 129])
@dtypes
def test_matrices_take_turns(d, dtype, monkeypatch):
    monkeypatch.setattr(eigen, "BATCH_BYTES", 3 * d * d * np.dtype(dtype).itemsize)  # four matrices take two turns
    S, dims = matrices(d)
    with emulated():
        got = eigen.top_eigenspaces(S, dims, dtype)
    assert_eigenspaces(got, reference.top_eigenspaces(S, dims), dims, d, dtype)


@pytest.mark.parametrize("k", [1, 2])
def test_every_solver_gives_the_same(k, monkeypatch):
    S = np.stack([A.T @ A for A in np.random.default_rng(2).normal(size=(k, 50, 24))])
    found = []
    for solver in ("jacobi", "batched", "each"):
        monkeypatch.setattr(eigen, "CROSSINGS", [(np.inf, 1, solver)])
        with emulated():
            found.append(eigen.eigh(1e60 * S, np.dtype(np.float32)))
    for values, vectors in found:
        np.testing.assert_allclose(values, found[0][0], rtol=2e-5)
        np.testing.assert_allclose(np.abs(np.sum(vectors * found[0][1], axis=2)), 1, atol=1e-4)


def test_compiled_variants_are_declared(monkeypatch):
    asked = []
    with emulated():
        kernel = loader.kernel
        monkeypatch.setattr(loader, "kernel", lambda *a: (asked.append((a[0], a[2])), kernel(*a))[1])
        for dtype in DTYPES:
            for d in (1, 32, 33, 64, 65, 128):
                eigen.eigh(np.eye(d)[None], np.dtype(dtype))
    assert all(variant in eigen.VARIANTS for variant in asked)
    assert all(variant in asked for variant in eigen.VARIANTS)


def test_batched_svd_gives_as_many_eigenvalues_as_a_block_can_have():
    blocks = [np.random.default_rng(m).normal(size=(m, 20)) for m in (0, 1, 19, 20, 50)]
    with emulated():
        got = eigen.batched_svd(blocks, 3)
    assert [int((values > 0).sum()) for values in got.eigenvalues] == [min(A.shape) for A in blocks]


def power_step(S, bases):
    """The bases after a block power step from a list of them."""
    step = eigen.block_power_step(S, [len(V) for V in bases], np.concatenate(bases))
    assert not step.exact
    return step.layout.split(step.bases)


@dtypes
@pytest.mark.parametrize("d", [9, 60])
def test_a_block_power_step_never_loses(d, dtype):
    rng = np.random.default_rng(d)
    matrices = spectra(d, rng)
    S = np.stack(list(matrices.values()))
    dims = [(3, 1, d, d // 2, 0)[c % 5] for c in range(len(S))]
    bases = [np.linalg.qr(rng.normal(size=(d, d)))[0][:j].astype(dtype) for j in dims]
    for _ in range(4):
        step = power_step(S, bases)
        tol = 100 * np.finfo(dtype).eps
        for c, (old, new) in enumerate(zip(captured(S, bases), captured(S, step), strict=True)):
            assert new >= old - tol * np.trace(S[c]), list(matrices)[c]
        for V, j in zip(step, dims, strict=True):
            assert V.dtype == dtype
            np.testing.assert_allclose(V.astype(np.float64) @ V.T, np.eye(j), atol=10 * tol)
        bases = step


def test_block_power_steps_reach_the_best_subspace():
    rng = np.random.default_rng(0)
    S = np.stack([np.cov(rng.normal(size=(30, 300)) * (1 + 3 * (np.arange(30) < 5))[:, None]) for _ in range(3)])
    bases = [np.linalg.qr(rng.normal(size=(30, 30)))[0][:5] for _ in S]
    for _ in range(30):
        bases = power_step(S, bases)
    best = [w[:5].sum() for w in reference.top_eigenspaces(S, [5] * 3).eigenvalues]
    np.testing.assert_allclose(captured(S, bases), best, rtol=1e-9)


@dtypes
def test_a_start_is_used_where_eigenvectors_are_dear(dtype, monkeypatch):
    rng = np.random.default_rng(5)
    S = np.stack([A.T @ A for A in rng.normal(size=(2, 40, 12))])
    start = [np.linalg.qr(rng.normal(size=(12, 12)))[0][:4] for _ in S]
    with emulated():
        exact = eigen.top_eigenspaces(S, [4, 4], dtype, np.concatenate(start))
        monkeypatch.setattr(eigen, "CROSSINGS", [(np.inf, 0, "each")])
        step = eigen.top_eigenspaces(S, [4, 4], dtype, np.concatenate(start))
    assert exact.exact
    assert not step.exact
    assert step.bases.dtype == dtype
    step, exact = (spaces.layout.split(spaces.bases) for spaces in (step, exact))
    for first, later, best in zip(captured(S, start), captured(S, step), captured(S, exact), strict=True):
        assert first < later < best


def test_a_block_power_step_survives_a_cholesky_that_fails():
    rng = np.random.default_rng(4)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    S = np.stack([(Q * 1e-9 ** np.arange(12)) @ Q.T, np.eye(12)])
    bases = [np.linalg.qr(rng.normal(size=(12, 12)))[0][:6].astype(np.float32) for _ in S]
    step = power_step(S, bases)
    for V in step:
        np.testing.assert_allclose(V @ V.T, np.eye(6), atol=1e-5)
    assert captured(S, step)[0] >= 0.999999
