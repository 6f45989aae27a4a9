"""What concerns batched eigenspaces on GPUs alone, emulated on the CPU: solvers and failures.

What the operations mean is tested in ``contract/``.
"""

import numpy as np
import pytest
from contract.checks import assert_decomposed, assert_eigenspaces
from contract.problems import matrices, spectra
from emulator import MODES, emulated, modes, needs_compiler

from ksubspaces.kernels import reference
from ksubspaces.kernels.cuda import eigen, loader

pytestmark = needs_compiler
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])


@pytest.mark.parametrize("d", [1, 2, 3, 7, 16, 32, 33, 64, 65, 100, 128])
@dtypes
def test_jacobi(d, dtype):
    S = np.stack(list(spectra(d, np.random.default_rng(d)).values()))
    found = []
    for mode in MODES if d <= 65 else ["late"]:  # from 65 on the layout is the same
        with emulated(mode):
            values, vectors = eigen.eigh(S, np.dtype(dtype))
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
    with emulated(), monkeypatch.context() as patch:
        kernel = loader.kernel
        patch.setattr(loader, "kernel", lambda *a: (asked.append((a[0], a[2])), kernel(*a))[1])
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
