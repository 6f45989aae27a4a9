"""Power steps on GPUs, emulated on the CPU: small matrices by the kernel, others by products."""

import numpy as np
import pytest
from contract.checks import captured
from contract.problems import spectra
from emulator import MODES, emulated, needs_compiler

from ksubspaces.kernels import layout_of, reference
from ksubspaces.kernels.cuda import eigen, loader, power

pytestmark = needs_compiler
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])


@pytest.fixture(params=["kernel", "products"])
def way(request, monkeypatch):
    if request.param == "products":
        monkeypatch.setattr(power, "REACH", 0)
    return request.param


def random_start(rng, d, dims, dtype):
    return np.concatenate([np.linalg.qr(rng.normal(size=(d, d)))[0][:j] for j in dims]).astype(dtype)


def steps(S, dims, dtype, start=None, modes=("late",)):
    """The bases after power steps, the same bits in each mode, and which are ok."""
    found = []
    for mode in modes:
        with emulated(mode):
            found.append(power.power_steps(S, layout_of(S.shape[1], tuple(dims)), np.dtype(dtype), start))
    first = found[0]
    assert not first.exact
    assert first.eigenvalues is first.complements is None
    assert first.bases.dtype == dtype
    for other in found[1:]:
        np.testing.assert_array_equal(other.bases, first.bases)
        np.testing.assert_array_equal(other.ok, first.ok)
    return first.layout.split(first.bases), first.ok


def made_orthonormal(Y, ok):
    k, j, d = Y.shape
    work = power.Orthonormal(layout_of(d, (j,) * k), Y)
    work(Y, ok)
    assert not work.turns.any()
    return Y


@dtypes
@pytest.mark.parametrize("d", [1, 9, 40])
def test_power_steps_never_lose(d, dtype, way):
    rng = np.random.default_rng(d)
    S = np.stack(list(spectra(d, rng).values()))
    dims = [(min(3, d), 1, d, d // 2, 0)[c % 5] for c in range(len(S))]
    start, tol = random_start(rng, d, dims, dtype), 100 * np.finfo(dtype).eps
    bases = layout_of(d, tuple(dims)).split(start)
    for _ in range(3):
        step, ok = steps(S, dims, dtype, start, MODES if way == "kernel" else ["late"])
        assert ok.all()
        for c, (old, new) in enumerate(zip(captured(S, bases), captured(S, step), strict=True)):
            assert new >= old - tol * np.trace(S[c]), list(spectra(d, rng))[c]
        for V, j in zip(step, dims, strict=True):
            np.testing.assert_allclose(V.astype(np.float64) @ V.T, np.eye(j), atol=tol)
        bases, start = step, np.concatenate(step)


@dtypes
def test_power_steps_reach_the_best_subspace(dtype, way):
    rng = np.random.default_rng(0)
    S = np.stack([np.cov(rng.normal(size=(30, 300)) * (1 + 3 * (np.arange(30) < 5))[:, None]) for _ in range(3)])
    best = np.array([w[:5].sum() for w in reference.top_eigenspaces(S, [5] * 3).eigenvalues])
    bases, ok = steps(S, [5] * 3, dtype)
    assert ok.all()
    assert np.all(captured(S, bases) >= 0.98 * best)
    for _ in range(15):
        bases, _ = steps(S, [5] * 3, dtype, np.concatenate(bases))
    np.testing.assert_allclose(captured(S, bases), best, rtol=1e-9 if dtype == np.float64 else 1e-5)


def test_several_rounds_are_nearly_exact(monkeypatch):
    rng, d, dims = np.random.default_rng(0), 24, (5, 14, 0, 24)
    S = np.stack([np.cov(rng.normal(size=(d, 60)) * np.geomspace(1, 0.1, d)[:, None]) for _ in dims])
    monkeypatch.setattr(power, "REACH", 0)
    monkeypatch.setattr(eigen, "CROSSINGS", [(np.inf, 0, "each")])
    best = np.array([w[:j].sum() for w, j in zip(reference.top_eigenspaces(S, dims).eigenvalues, dims, strict=True)])
    kept, layout = {}, layout_of(d, dims)
    with emulated():
        begun = eigen.top_eigenspaces(S, dims, np.float32, None, False, kept)
        nearly = eigen.top_eigenspaces(S, dims, np.float32, begun.bases, True, kept, nearly=True)
        exact = eigen.top_eigenspaces(S, dims, np.float32, None, True, kept, nearly=True)  # with nothing to begin with
    assert nearly.ok.all()
    assert not nearly.exact
    assert exact.exact
    left, before, least = (
        best - captured(S, layout.split(bases)) for bases in (nearly.bases, begun.bases, exact.bases)
    )
    assert np.all(np.abs(least) <= 1e-5 * best.max())
    assert np.all(left <= 1e-3 * best + 1e-5)
    assert left.sum() < before.sum() / 4


@dtypes
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_flat_keeps_its_basis_where_moments_are_not_finite(dtype, bad, way):
    rng = np.random.default_rng(4)
    S, dims = np.stack([A.T @ A for A in rng.normal(size=(3, 20, 12))]), [4, 5, 6]
    S[1, 3, 3] = bad
    start = random_start(rng, 12, dims, dtype)
    with np.errstate(invalid="ignore"):
        bases, ok = steps(S, dims, dtype, start)
        fresh, _ = steps(S, dims, dtype)
    np.testing.assert_array_equal(ok, [True, False, True])
    np.testing.assert_array_equal(bases[1], start[4:9])
    np.testing.assert_allclose(fresh[1] @ fresh[1].T, np.eye(5), atol=1e-6)
    with emulated(), np.errstate(invalid="ignore"), pytest.raises(RuntimeError, match=r"1 of 3 matrices .* number 1: "):
        eigen.top_eigenspaces(S, dims, dtype)


@dtypes
def test_wide_flats_are_exact_and_do_not_wait_either(dtype):
    rng = np.random.default_rng(4)
    S, dims = np.stack([A.T @ A for A in rng.normal(size=(3, 20, 12))]), [8, 2, 7]
    S[1, 3, 3] = np.nan
    with emulated():
        got = eigen.top_eigenspaces(S, dims, dtype, random_start(rng, 12, dims, dtype), exact=False)
    np.testing.assert_array_equal(got.ok, [True, False, True])
    bases, complements = got.layout.split(got.bases), got.layout.complements.split(got.complements)
    for V, W in zip(bases, complements, strict=True):
        whole = np.concatenate([V, W])
        np.testing.assert_allclose(whole @ whole.T, np.eye(len(whole)), atol=1e-5)
    best = reference.top_eigenspaces(S[::2], [8, 7]).eigenvalues
    np.testing.assert_allclose(captured(S[::2], bases[::2]), [best[0, :8].sum(), best[1, :7].sum()], rtol=1e-5)


@dtypes
def test_one_direction_may_have_nearly_all(dtype, way):
    """As the mean of word vectors: all rows of a basis then become much alike."""
    rng = np.random.default_rng(4)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    S = np.stack([(Q * 10.0 ** -np.arange(0, 12 * decades, decades)) @ Q.T for decades in (0.5, 9)])
    S[0] += 1e3 * np.outer(Q[:, 0], Q[:, 0])
    start = random_start(rng, 12, [6, 6], dtype)
    for _ in range(3):
        bases, ok = steps(S, [6, 6], dtype, start)
        assert ok.all()
        for V in bases:
            np.testing.assert_allclose(V @ V.T, np.eye(6), atol=20 * np.finfo(dtype).eps)
        start = np.concatenate(bases)
    best = np.array([w[:6].sum() for w in reference.top_eigenspaces(S, [6, 6]).eigenvalues])
    np.testing.assert_allclose(captured(S, bases), best, rtol=1e-5)


@pytest.mark.parametrize(("j", "d"), [(1, 1), (32, 32), (33, 40), (70, 129), (20, 31)])
def test_rows_are_made_orthonormal_by_panels(j, d):
    Y = np.random.default_rng(j).normal(size=(2, j, d)) * np.geomspace(1, 1e-3, j)[:, None]
    found = []
    for mode in MODES:
        with emulated(mode):
            ok = np.ones(2, bool)
            found.append(made_orthonormal(Y.copy(), ok))
        assert ok.all()
    for V, rows in zip(found[0], Y, strict=True):
        np.testing.assert_allclose(V @ V.T, np.eye(j), atol=1e-9)
        np.testing.assert_allclose(rows - rows @ V.T @ V, 0, atol=1e-9)  # the same span
        assert np.abs(np.triu(rows @ V.T, 1)).max() < 1e-9  # and each row is in that of the rows up to its own
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_rows_spanned_by_those_above_are_told():
    Y = np.random.default_rng(0).normal(size=(3, 40, 50))
    Y[1, 35] = Y[1, 3] + Y[1, 33] + 1e-7 * Y[1, 35]
    Y[2, 20, 7] = np.nan
    ok = np.ones(3, bool)
    with emulated():
        made_orthonormal(Y, ok)
    np.testing.assert_array_equal(ok, [True, False, False])


@pytest.mark.parametrize("memory", [1000, 232448])
def test_what_does_not_fit_a_block_is_multiplied_by_the_library(memory):
    rng = np.random.default_rng(0)
    S = np.stack([A.T @ A for A in rng.normal(size=(2, 40, 12))])
    asked = []
    with emulated(limits=loader.Limits(memory, 132)), pytest.MonkeyPatch.context() as patch:
        kernel = loader.kernel
        patch.setattr(loader, "kernel", lambda *a: (asked.append(a[1]), kernel(*a))[1])
        spaces = eigen.top_eigenspaces(S, [3, 3], np.float32, exact=False)
    assert spaces.ok.all()
    assert ("power" in asked) == (memory > 1000)


@dtypes
@pytest.mark.parametrize("dims", [(7, 7), (5, 9, 2, 8, 0, 6), (4,), (9, 9), (2, 3)], ids=str)
def test_complements_by_products(dims, dtype):
    layout = layout_of(9, dims)
    bases = random_start(np.random.default_rng(0), 9, dims, dtype)
    with emulated():
        found = power.complements(layout, bases)
    assert found.dtype == dtype
    for V, W, wide in zip(layout.split(bases), layout.complements.split(found), layout.wide, strict=True):
        whole = np.concatenate([V, W])
        np.testing.assert_allclose(whole @ whole.T, np.eye(9 if wide else len(V)), atol=10 * np.finfo(dtype).eps)
