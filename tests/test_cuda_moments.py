"""Moments, grouping and residuals for GPUs, run on the CPU by the emulator, against the float64 reference."""

import importlib

import numpy as np
import pytest
from emulator import MODES, emulated, modes, needs_compiler
from test_kernels import DTYPES, SHAPES, affine, assert_moments, dtypes, problem

from ksubspaces.kernels import reference
from ksubspaces.kernels.cuda import groups, loader, memory, moments, residuals

pytestmark = needs_compiler
shapes = pytest.mark.parametrize(("n", "d", "dims"), SHAPES, ids=lambda v: str(v).replace(" ", ""))


def assert_accurate(S, want, dtype):
    """Every entry within a few units of rounding of what its row and column could contribute."""
    tol = 1e-6 if dtype == np.float32 else 1e-14
    size = np.sqrt(np.einsum("cii->ci", want))
    assert np.all(np.abs(S - want) <= tol * size[:, :, None] * size[:, None, :] + 1e-300)
    np.testing.assert_array_equal(S, S.transpose(0, 2, 1))


def assert_same_bits(a, b):
    for name in ("raw", "first", "mass", "counts", "origins"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@modes
@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (5, 9), (31, 2), (700, 1), (1000, 7), (5000, 37), (2500, 2500)])
def test_rows_are_grouped_stably(n, k, mode):
    labels = np.random.default_rng(n).integers(0, k, n).astype(np.int32)
    with emulated(mode):
        order, starts = groups.group_by_label(labels, k)
    assert order.dtype == starts.dtype == np.int64
    np.testing.assert_array_equal(order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(starts, np.searchsorted(labels[order], np.arange(k + 1)))
    with emulated(mode):
        counts = groups.label_counts(labels, k)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, reference.label_counts(labels, k))


@modes
@pytest.mark.parametrize(("n", "k", "chunk"), [(0, 2, 4), (10, 1, 4), (100, 7, 8), (900, 1500, 16), (3000, 3, 1024)])
def test_groups_are_cut_into_slots(n, k, chunk, mode):
    labels = np.random.default_rng(n).integers(0, k, n).astype(np.int32) // 2 * 2  # every other group is empty
    with emulated(mode):
        found = groups.grouped(labels, k, chunk)
    sizes = -(-np.bincount(labels, minlength=k) // chunk)
    np.testing.assert_array_equal(found.slots, np.concatenate([[0], np.cumsum(sizes)]))
    owners = np.repeat(np.arange(k), sizes)
    np.testing.assert_array_equal(found.owners[: len(owners)], owners)
    assert np.all(found.owners[len(owners) :] == k)


@shapes
@dtypes
@affine
def test_second_moments(n, d, dims, dtype, affine):
    """Weighted if affine; whatever the order in which blocks and warps run, with the same bits."""
    X, _, rng = problem(n, d, dims, dtype, affine)
    k = len(dims)
    labels = rng.integers(0, k, n).astype(np.int32)
    weights = rng.random(n).astype(dtype) if affine else None
    found = []
    for mode in MODES:
        with emulated(mode):
            found.append(moments.second_moments(X, labels, k, weights, center=affine))
    want = reference.second_moments(X, labels, k, weights, center=affine)
    assert_moments(found[0], want, X, dtype)
    assert found[0].raw.dtype == found[0].first.dtype == found[0].mass.dtype == np.float64
    assert found[0].counts.dtype == np.int64
    if not affine:
        assert_accurate(found[0].raw, want.raw, dtype)
    for other in found[1:]:
        assert_same_bits(other, found[0])


@modes
@dtypes
@pytest.mark.parametrize("d", [5, 70, 132])
def test_clusters_of_several_slots(d, dtype, mode, monkeypatch):
    monkeypatch.setattr(moments, "CHUNK", 128)
    rng = np.random.default_rng(d)
    X = rng.normal(size=(700, d)).astype(dtype)
    labels = (rng.random(700) < 0.2).astype(np.int32) * 2  # cluster 1 is empty
    weights = rng.random(700)
    with emulated(mode):
        got = moments.second_moments(X, labels, 3, weights)
        monkeypatch.setattr(moments, "WORKSPACE", 1)  # slot after slot, in the same order
        assert_same_bits(moments.second_moments(X, labels, 3, weights), got)
    want = reference.second_moments(X, labels, 3, weights)
    assert_accurate(got.raw, want.raw, dtype)
    np.testing.assert_allclose(got.first, want.first, rtol=0, atol=1e-11)
    np.testing.assert_allclose(got.mass, want.mass, rtol=1e-14)
    np.testing.assert_array_equal(got.counts, want.counts)
    assert not got.raw[1].any()


@dtypes
def test_a_large_common_offset_costs_no_digits(dtype):
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(3000, 12)) + 1000).astype(dtype)
    labels = rng.integers(0, 2, 3000).astype(np.int32)
    with emulated():
        got = moments.second_moments(X, labels, 2, center=True)
    want = reference.second_moments(X, labels, 2, center=True)
    assert_accurate(got.raw, want.raw, dtype)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-6 * want.scatter.max())
    np.testing.assert_allclose(got.means, want.means, rtol=1e-12)


@modes
@dtypes
@affine
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_update_moments(dtype, affine, weighted, mode):
    X, _, rng = problem(900, 37, [1] * 4, dtype, affine)
    weights = rng.random(900).astype(dtype) if weighted else None
    old = rng.integers(0, 4, 900).astype(np.int32)
    new = old.copy()
    rows = np.sort(rng.choice(900, 130, replace=False))
    new[rows] = rng.integers(0, 4, 130)
    with emulated(mode):
        updated = moments.second_moments(X, old, 4, weights, center=affine)
        moments.update_moments(updated, X, rows, old[rows], new[rows], weights)
        only_means = moments.second_moments(X, old, 4, weights, center=affine, products=False)
        moments.update_moments(only_means, X, rows, old[rows], new[rows], weights)
    want = reference.second_moments(X, new, 4, weights, center=affine)
    assert_moments(updated, want, X, dtype)
    np.testing.assert_array_equal(updated.raw, updated.raw.transpose(0, 2, 1))
    assert only_means.raw is None
    np.testing.assert_array_equal(only_means.first, updated.first)


def test_no_row_moved():
    X = np.random.default_rng(0).normal(size=(50, 3))
    labels = np.zeros(50, np.int32)
    none = np.zeros(0, np.int64)
    with emulated():
        before, after = (moments.second_moments(X, labels, 2) for _ in range(2))
        moments.update_moments(after, X, none, none.astype(np.int32), none.astype(np.int32))
    assert_same_bits(after, before)


@modes
@affine
def test_moments_of_some_rows(affine, mode):
    X, _, rng = problem(400, 9, [1] * 3, np.float64, affine)
    rows = rng.choice(400, 50, replace=False)
    labels = rng.integers(0, 3, 50).astype(np.int32)
    weights = rng.random(400)
    with emulated(mode):
        got = moments.second_moments(X, labels, 3, weights, affine, rows=rows)
    assert_moments(got, reference.second_moments(X, labels, 3, weights, affine, rows=rows), X, np.float64)


def test_unusual_inputs():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)).astype(np.float32)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    shifted = np.empty(60 * 8 + 1, np.float32)[1:].reshape(60, 8)  # rows are not aligned to 16 bytes
    shifted[:] = X
    assert (memory.pieces(X, 8), memory.pieces(shifted, 8), memory.pieces(X, 7)) == (4, 1, 1)
    want = reference.second_moments(X, labels, 2)
    with emulated():
        for same in (shifted, np.asfortranarray(X), X[::-1][::-1]):
            assert_accurate(moments.second_moments(same, labels, 2).raw, want.raw, np.float32)
        weightless = moments.second_moments(X, labels, 2, np.zeros(60), center=True)
        nothing = moments.second_moments(X[:0], labels[:0], 2)
        only_means = moments.second_moments(X, labels, 2, products=False)
    assert not weightless.raw.any()
    assert not weightless.means.any()
    assert not nothing.raw.any()
    assert not nothing.counts.any()
    np.testing.assert_allclose(only_means.means, want.means, atol=1e-12)
    with pytest.raises(ValueError, match="products=True"):
        _ = only_means.scatter


def test_compiled_variants_are_declared(monkeypatch):
    asked = []
    with emulated():
        kernel = loader.kernel
        monkeypatch.setattr(loader, "kernel", lambda *a: (asked.append((a[0], a[2] if a[2:] else {})), kernel(*a))[1])
        for dtype in DTYPES:
            for d in (64, 63, 128, 127):
                moments.second_moments(np.ones((2, d), dtype), np.zeros(2, np.int32), 1)
    declared = moments.VARIANTS + groups.VARIANTS
    assert all(variant in declared for variant in asked)
    assert all(variant in asked for variant in declared)


@pytest.mark.parametrize(("tile", "itemsize"), [(64, 4), (128, 4), (64, 8)])
def test_blocks_fit_a_multiprocessor(tile, itemsize):
    """One block on the smallest of those whose tensor cores know TF32, two on an A100."""
    needed = moments._shared_memory(tile, itemsize)
    assert needed <= 99 << 10
    assert 2 * (needed + 1024) <= 164 << 10


@shapes
@affine
def test_residuals(n, d, dims, affine, monkeypatch):
    monkeypatch.setattr(importlib.import_module(residuals.__module__), "BLOCK_BYTES", 8 * d * 90)
    X, flats, rng = problem(n, d, dims, np.float32, affine)
    labels = rng.integers(0, len(dims), n).astype(np.int32)
    with emulated():
        got = residuals(X, labels, flats)
    assert got.dtype == np.float64
    want = reference.residuals(X, labels, flats)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-13 * (X.astype(np.float64) ** 2).sum(axis=1).max())


def exercise():
    """What the planted faults must not pass: clusters of several slots, tails of all sizes, slots in several turns."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 700).astype(np.int32)
    order, starts = groups.group_by_label(labels, 5)
    np.testing.assert_array_equal(order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(starts, np.searchsorted(labels[order], np.arange(6)))
    assert np.all(np.diff(groups.grouped(labels, 5, 16).slots) == -(-np.diff(starts) // 16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "CHUNK", 64)
        patch.setattr(moments, "WORKSPACE", 3 * 4 * 3 * 128 * 128)  # three slots at a time
        for n, d, dtype in ((250, 7, np.float32), (140, 132, np.float32), (200, 66, np.float64)):
            X = (rng.normal(size=(n, d)) + 3).astype(dtype)
            weights = rng.random(n)
            labels = rng.integers(0, 3, n).astype(np.int32)
            got = moments.second_moments(X, labels, 3, weights, center=True)
            want = reference.second_moments(X, labels, 3, weights, center=True)
            assert_accurate(got.raw, want.raw, dtype)
            np.testing.assert_allclose(got.means, want.means, rtol=1e-12)
            np.testing.assert_allclose(got.mass, want.mass, rtol=1e-14)
            rows, new = np.arange(40), rng.integers(0, 3, 40).astype(np.int32)
            moments.update_moments(got, X, rows, labels[rows], new, weights)
            want = reference.second_moments(X, np.concatenate([new, labels[40:]]), 3, weights, center=True)
            np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-5 * want.scatter.max())
