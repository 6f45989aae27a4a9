"""What concerns moments, grouping and residuals on GPUs alone, emulated on the CPU: slots, layouts, variants.

What the operations mean is tested in ``contract/``.
"""

import numpy as np
import pytest
from contract.checks import assert_accurate
from contract.problems import labels_and_moved, problem
from emulator import H100, emulated, modes, needs_compiler
from helpers import scale

from ksubspaces.kernels import group_rows, reference
from ksubspaces.kernels.cuda import grouped, groups, loader, memory, moments

pytestmark = needs_compiler
DTYPES = [np.float32, np.float64]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def assert_same_bits(a, b):
    for name in ("raw", "first", "mass", "counts", "origins"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@modes
@pytest.mark.parametrize("shared_memory", [232448, 4 * 4 * 1500, 4])
@pytest.mark.parametrize(("n", "k"), [(5000, 37), (2500, 1500)])
def test_rows_are_grouped_stably(n, k, shared_memory, mode, monkeypatch):
    """With counters for each warp of a block, for fewer warps, and in no shared memory at all."""
    monkeypatch.setattr(groups, "SEGMENT", (768, 2048))
    labels = np.random.default_rng(n).integers(0, k, n).astype(np.int32)
    with emulated(mode, H100._replace(shared_memory=shared_memory)):
        found, counts = groups.group_rows(labels, k), groups.label_counts(labels, k)
    np.testing.assert_array_equal(found.order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(found.starts, np.searchsorted(np.sort(labels), np.arange(k + 1)))
    np.testing.assert_array_equal(counts, found.counts)


@modes
@pytest.mark.parametrize(("n", "k", "chunk"), [(0, 2, 4), (10, 1, 4), (100, 7, 8), (900, 1500, 16), (3000, 3, 1024)])
def test_groups_are_cut_into_slots(n, k, chunk, mode):
    labels = np.random.default_rng(n).integers(0, k, n).astype(np.int32) // 2 * 2  # every other group is empty
    with emulated(mode):
        found = groups.cut(groups.group_rows(labels, k), chunk)
    sizes = -(-np.bincount(labels, minlength=k) // chunk)
    np.testing.assert_array_equal(found.slots, np.concatenate([[0], np.cumsum(sizes)]))
    owners = np.repeat(np.arange(k), sizes)
    np.testing.assert_array_equal(found.owners[: len(owners)], owners)
    assert np.all(found.owners[len(owners) :] == k)


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
        got = moments.second_moments(X, group_rows(labels, 3), weights)
        monkeypatch.setattr(moments, "WORKSPACE", 1)  # slot after slot, in the same order
        assert_same_bits(moments.second_moments(X, group_rows(labels, 3), weights), got)
        sums = moments.second_moments(X, group_rows(labels, 3), weights, products=False)
    want = reference.second_moments(X, group_rows(labels, 3), weights)
    assert_accurate(got.raw, want.raw, dtype)
    want = reference.second_moments(X, group_rows(labels, 3), weights, products=False)
    np.testing.assert_allclose(sums.first, want.first, rtol=0, atol=1e-11)
    np.testing.assert_allclose(sums.mass, want.mass, rtol=1e-14)
    np.testing.assert_array_equal(got.counts, want.counts)
    assert not got.raw[1].any()


@dtypes
def test_a_large_common_offset_costs_no_entry_digits(dtype):
    rng = np.random.default_rng(2)
    X = (rng.normal(size=(3000, 12)) + 1000).astype(dtype)
    labels = rng.integers(0, 2, 3000).astype(np.int32)
    with emulated():
        got = moments.second_moments(X, group_rows(labels, 2), center=True)
    want = reference.second_moments(X, group_rows(labels, 2), center=True)
    assert_accurate(got.raw, want.raw, dtype)
    np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-6 * want.scatter.max())
    np.testing.assert_allclose(got.means, want.means, rtol=1e-12)


@dtypes
@affine
def test_updated_moments_are_symmetric_and_means_alone_the_same(dtype, affine):
    X, _, rng = problem(900, 37, [1] * 4, dtype, affine)
    old, new, rows = labels_and_moved(rng, 900, 4, 130)
    with emulated():
        updated, only_means = (
            moments.second_moments(X, group_rows(old, 4), None, affine, products) for products in (True, False)
        )
        for part in (updated, only_means):
            moments.update_moments(part, X, rows, old[rows], new[rows])
    np.testing.assert_array_equal(updated.raw, updated.raw.transpose(0, 2, 1))
    if affine:
        np.testing.assert_allclose(only_means.sums, updated.sums, rtol=1e-10)


def test_unusual_inputs():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 8)).astype(np.float32)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    shifted = np.empty(60 * 8 + 1, np.float32)[1:].reshape(60, 8)  # rows are not aligned to 16 bytes
    shifted[:] = X
    assert [memory.pieces(X.dtype, d, rows) for d, rows in ((8, X), (8, shifted), (7, X))] == [4, 1, 1]
    want = reference.second_moments(X, group_rows(labels, 2))
    with emulated():
        for same in (shifted, np.asfortranarray(X), X[::-1][::-1]):
            assert_accurate(moments.second_moments(same, group_rows(labels, 2)).raw, want.raw, np.float32)
        only_means = moments.second_moments(X, group_rows(labels, 2), products=False)
    np.testing.assert_allclose(
        only_means.means, [X[labels == c].mean(axis=0, dtype=float) for c in range(2)], atol=1e-12
    )


def test_compiled_variants_are_declared(monkeypatch):
    asked = []
    with emulated(), monkeypatch.context() as patch:
        kernel = loader.kernel
        patch.setattr(loader, "kernel", lambda *a: (asked.append((a[0], a[2] if a[2:] else {})), kernel(*a))[1])
        for dtype in DTYPES:
            for d in (64, 63, 128, 127):
                moments.second_moments(np.ones((2, d), dtype), group_rows(np.zeros(2, np.int32), 1), center=True)
    declared = moments.VARIANTS + groups.VARIANTS
    assert all(variant in declared for variant in asked)
    assert all(variant in asked for variant in declared)


@pytest.mark.parametrize(("tile", "itemsize"), [(64, 4), (128, 4), (64, 8)])
def test_blocks_fit_a_multiprocessor(tile, itemsize):
    """One block on the smallest of those whose tensor cores know TF32, two on an A100."""
    needed = moments._shared_memory(tile, itemsize)
    assert needed <= 99 << 10
    assert 2 * (needed + 1024) <= 164 << 10


@pytest.mark.parametrize(("n", "d", "dims"), [(513, 33, [5, 20, 0, 33, 16, 17]), (200, 16, [4] * 37)], ids=str)
@affine
def test_rows_against_their_flats_a_block_at_a_time(n, d, dims, affine, monkeypatch):
    """By products, which else are for more columns."""
    monkeypatch.setattr(grouped, "BLOCK_BYTES", 8 * d * 50)
    monkeypatch.setattr(grouped, "_by_products", lambda flats: True)
    X, flats, rng = problem(n, d, dims, np.float32, affine)
    chosen = group_rows(rng.integers(0, len(dims), n).astype(np.int32), len(dims))
    with emulated():
        residuals, (coefficients, _) = grouped.residuals(X, chosen, flats), grouped.coefficients(X, chosen, flats)
    want = reference.residuals(X, chosen, flats)
    np.testing.assert_allclose(residuals, want, rtol=1e-10, atol=1e-13 * scale(X))
    np.testing.assert_allclose(coefficients, reference.coefficients(X, chosen, flats)[0], rtol=1e-6, atol=1e-5)
