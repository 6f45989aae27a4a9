"""What concerns assignment on GPUs alone, emulated on the CPU: divided work, alignment, memory.

What ``assign`` and ``sqdistances`` mean is tested in ``contract/``.
"""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from contract.backends import screening
from contract.problems import problem
from emulator import H100, emulated, needs_compiler
from exercises import DTYPES, RAGGED, SMALL, check_assign, cuda_assign
from helpers import assert_labels, scale, tolerance
from planted import random_bases

from ksubspaces.kernels import Flats, reference
from ksubspaces.kernels.cuda import loader, screen

pytestmark = needs_compiler

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f4", "f8"])
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


@dtypes
@pytest.mark.parametrize("splits", [1, 16])
@pytest.mark.parametrize("limits", [H100, SMALL], ids=["resident", "streamed"])
@affine
def test_however_the_work_is_divided(dtype, limits, splits, affine, monkeypatch):
    X, flats, rng = problem(150, 83, RAGGED, dtype, affine)
    penalty = rng.random(len(RAGGED))
    monkeypatch.setattr(cuda_assign, "MAX_SPLITS", splits)
    with emulated(limits=limits):
        search = cuda_assign._Search(X, flats)
        assert (search.splits > 1) == (splits > 1)
        assert search.resident == (limits is H100)
        check_assign(X, flats, penalty)


@dtypes
def test_rows_that_are_not_aligned(dtype):
    X, flats, _ = problem(140, 24, [5, 20, 11], dtype, True)
    memory = np.empty(X.size + 1, X.dtype)
    shifted = memory[1:].reshape(X.shape)
    shifted[:] = X
    strided = np.asfortranarray(X)[::-1]
    with emulated():
        check_assign(shifted, flats)
        check_assign(strided, flats)


@dtypes
@affine
@pytest.mark.parametrize("splits", [1, 16])
def test_ties_go_to_the_lowest_flat(dtype, affine, splits, monkeypatch):
    """Equal flats are equally far, bit for bit, wherever they stand among the others, which lie within them."""
    rng = np.random.default_rng(0)
    basis = random_bases(rng, 12, [4 + affine], dtype)[0]
    bases, tied = [], []
    for width in [3, 0, 70, 1, 9, 200, 2] * 3:
        bases += [basis[: min(3, width - start)] for start in range(0, max(width, 1), 3)]
        tied.append(len(bases))
        bases.append(basis)
    offsets = np.repeat(rng.normal(size=(1, 12)), len(bases), axis=0).astype(dtype) if affine else None
    flats, X = Flats.from_bases(bases, offsets), rng.normal(size=(70, 12)).astype(dtype)
    monkeypatch.setattr(cuda_assign, "MAX_SPLITS", splits)
    with emulated():
        labels, _ = cuda_assign.assign(X, flats)
        distances = cuda_assign.sqdistances(X, flats)
    assert np.all(labels == tied[0])
    assert np.all(distances[:, tied] == distances[:, tied[:1]])


@pytest.mark.parametrize("screened", [False, True])
def test_memory_beside_the_result_is_for_the_flats_and_a_few_numbers_a_row(screened, monkeypatch):
    X, flats, _ = problem(100_000, 16, [8] * 100, np.float32, False)
    monkeypatch.setattr(loader, "kernel", lambda *_: lambda *_, **__: None)
    monkeypatch.setattr(loader, "limits", lambda: H100)
    monkeypatch.setattr(screen, "PRODUCTS", 0 if screened else np.inf)
    tracemalloc.start()
    cuda_assign.assign(X, flats)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (200 if screened else 100) * len(X) + 20 * 4 * 800 * 16
    assert peak < 0.4 * len(X) * flats.k * 4


@pytest.mark.parametrize(("narrow", "launches"), [(True, 5), (False, 5)])
def test_labels_take_few_launches_once_rows_are_ready(narrow, launches, monkeypatch):
    X, flats, _ = problem(150, 24, [5, 20, 11], np.float32, False)
    kept, begun = {}, []
    with emulated(), screening(narrow), monkeypatch.context() as patch:
        emulated_kernel = loader.kernel

        def kernel(*which):
            launch = emulated_kernel(*which)
            return lambda *args, **options: begun.append(which[1]) or launch(*args, **options)

        patch.setattr(loader, "kernel", kernel)
        first, _ = cuda_assign.assign(X, flats, residuals=False, kept=kept)
        assert begun.pop(0) == "prepare"
        assert len(begun) == launches
        begun.clear()
        again, _ = cuda_assign.assign(X, flats, residuals=False, kept=kept)
    assert len(begun) == launches
    np.testing.assert_array_equal(first, again)


def test_a_bound_that_proves_nothing_costs_no_label():
    """Lists have room for all rows."""
    X, flats, _ = problem(150, 64, [8] * 20, np.float32, False)
    X = np.repeat(X[:50], 3, axis=0)
    twice = Flats.from_bases([flats.basis(c // 3) for c in range(60)])
    for narrow in (True, False):
        with emulated(), screening(narrow):
            labels, _ = cuda_assign.assign(X, twice, residuals=False)
        assert np.all(labels % 3 == 0)
        assert_labels(labels, reference.sqdistances(X, twice), tolerance(np.float32) * scale(X))


@pytest.mark.parametrize(("free", "screened"), [(2**20, True), (2**10, False)])
def test_rows_are_screened_only_where_there_is_room(free, screened, monkeypatch):
    X, flats, _ = problem(150, 24, [5, 20, 11], np.float32, False)
    pool = SimpleNamespace(free_bytes=lambda: free // 2)
    card = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (free // 2, 2**30))))
    card.get_default_memory_pool = lambda: pool
    monkeypatch.setattr(screen, "LARGE", 0)
    monkeypatch.setattr(loader, "namespace", lambda _: card)
    with screening():
        assert screen.pays(X, flats, residuals=False, kept=None) == screened
        assert screen.pays(X, flats, residuals=False, kept={"halves": None})


@pytest.mark.parametrize(("d", "dims"), [(128, [64, 64, 128]), (300, [64, 64, 0])])
def test_flats_without_directions_after_a_full_tile(d, dims):
    X, flats, _ = problem(40, d, dims, np.float32, False)
    with emulated():
        check_assign(X, flats)
        with screening():
            labels, _ = cuda_assign.assign(X, flats, residuals=False)
    assert_labels(labels, reference.sqdistances(X, flats), tolerance(np.float32) * scale(X))
