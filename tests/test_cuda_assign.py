"""The assignment kernels, emulated on the CPU, against the float64 reference."""

import importlib
import tracemalloc
from functools import partial

import numpy as np
import pytest
from emulator import H100, emulated, modes, needs_compiler
from helpers import assert_labels, scale, tolerance
from planted import random_bases
from test_kernels import SHAPES, assert_far_flat_costs_others_nothing, problem

from ksubspaces.kernels import Flats, layout_of, reference
from ksubspaces.kernels.cuda import loader

cuda = importlib.import_module("ksubspaces.kernels.cuda.assign")  # the package has a function of that name

pytestmark = needs_compiler

# Emulation is slow: enough rows for a block and some of the next.
shapes = pytest.mark.parametrize(
    ("n", "d", "dims"), [(min(n, 200), d, dims) for n, d, dims in SHAPES], ids=lambda v: str(v).replace(" ", "")
)
PRECISIONS = {"fp32": np.float32, "fp16x3": np.float32, "float64": np.float64}
precisions = pytest.mark.parametrize("precision", PRECISIONS)
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
SMALL = loader.Limits(shared_memory=65536, multiprocessors=132)  # rows do not stay in shared memory
RAGGED = [3, 0, 50, 9, 150, 1, 0, 41, 80, 2, 35, 0, 30, 83, 38, 0]


def options(precision):
    return {} if precision == "float64" else {"precision": precision}


def check(X, flats, precision="fp32", penalty=None, weights=None, tol=None):
    """Compare labels, residuals and distances with the reference's; returns the residuals."""
    tol = (tol or tolerance(X.dtype)) * (scale(X) + (penalty is not None))
    labels, residuals = cuda.assign(X, flats, penalty, weights, **options(precision))
    distances = reference.sqdistances(X, flats)
    cost = distances if weights is None else weights[:, None] * distances
    assert_labels(labels, cost if penalty is None else cost + penalty, tol)
    assert residuals.dtype == X.dtype
    assert np.all(residuals >= 0)
    chosen = distances[np.arange(len(X)), labels]
    np.testing.assert_allclose(residuals, chosen, rtol=0, atol=tol)
    np.testing.assert_allclose(cuda.sqdistances(X, flats, **options(precision)), distances, rtol=0, atol=tol)
    return residuals


@shapes
@affine
@precisions
@modes
def test_assign(n, d, dims, affine, precision, mode):
    X, flats, _ = problem(n, d, dims, PRECISIONS[precision], affine)
    with emulated(mode):
        check(X, flats, precision)


@shapes
@precisions
def test_assign_with_penalty_and_weights(n, d, dims, precision):
    X, flats, rng = problem(n, d, dims, PRECISIONS[precision], False)
    penalty, weights = rng.random(len(dims)), rng.random(n) * (rng.random(n) > 0.2)
    with emulated():
        check(X, flats, precision, penalty, weights)


@shapes
@affine
def test_tf32_has_eleven_bits(n, d, dims, affine):
    X, flats, _ = problem(n, d, dims, np.float32, affine)
    with emulated():
        check(X, flats, "tf32", tol=1e-3)


@precisions
@pytest.mark.parametrize("splits", [1, 16])
@pytest.mark.parametrize("limits", [H100, SMALL], ids=["resident", "streamed"])
@affine
def test_however_the_work_is_divided(precision, limits, splits, affine, monkeypatch):
    X, flats, rng = problem(150, 83, RAGGED, PRECISIONS[precision], affine)
    penalty = rng.random(len(RAGGED))
    monkeypatch.setattr(cuda, "MAX_SPLITS", splits)
    with emulated(limits=limits):
        search = cuda._Search(X, flats, "fp32")
        assert (search.splits > 1) == (splits > 1)
        assert search._is_resident() == (limits is H100)
        check(X, flats, precision, penalty)


@precisions
def test_rows_that_are_not_aligned(precision):
    X, flats, _ = problem(140, 24, [5, 20, 11], PRECISIONS[precision], True)
    memory = np.empty(X.size + 1, X.dtype)
    shifted = memory[1:].reshape(X.shape)
    shifted[:] = X
    strided = np.asfortranarray(X)[::-1]
    with emulated():
        check(shifted, flats, precision)
        check(strided, flats, precision)


@precisions
@affine
@pytest.mark.parametrize("splits", [1, 16])
def test_ties_go_to_the_lowest_flat(precision, affine, splits, monkeypatch):
    """Equal flats are equally far, bit for bit, wherever they stand among the others."""
    rng = np.random.default_rng(0)
    dtype = PRECISIONS[precision]
    basis = random_bases(rng, 9, [4 + affine], dtype)[0]
    offset = rng.normal(size=9).astype(dtype) if affine else None
    others = [3, 0, 70, 1, 9, 200, 2] * 3
    bases = [basis if i % 2 else np.zeros((j, 9), dtype) for i, j in enumerate(np.repeat(others, 2))]
    offsets = None if offset is None else np.repeat(offset[None], len(bases), axis=0)
    flats = Flats(layout_of(9, tuple(map(len, bases))), np.concatenate(bases), offsets, None)
    X = rng.normal(size=(70, 9)).astype(dtype)
    monkeypatch.setattr(cuda, "MAX_SPLITS", splits)
    with emulated():
        labels, _ = cuda.assign(X, flats, **options(precision))
        distances = cuda.sqdistances(X, flats, **options(precision))
    assert np.all(labels == 1)
    assert np.all(distances[:, 1::2] == distances[:, [1]])


@precisions
def test_large_j_has_no_cancellation(precision):
    rng = np.random.default_rng(1)
    dtype = PRECISIONS[precision]
    flats = Flats.from_bases(random_bases(rng, 64, [60, 60], dtype))
    X = rng.normal(size=(100, 60)) @ flats.basis(0).astype(np.float64) + 1e-4 * rng.normal(size=(100, 64))
    with emulated():
        _, residuals = cuda.assign(X.astype(dtype), flats, **options(precision))
    np.testing.assert_allclose(residuals, reference.assign(X.astype(dtype), flats)[1], rtol=0.05)


@precisions
def test_rows_on_a_flat_have_no_negative_residual(precision):
    rng = np.random.default_rng(2)
    dtype = PRECISIONS[precision]
    flats = Flats.from_bases(random_bases(rng, 40, [12, 3], dtype))
    X = (100 * rng.normal(size=(200, 12)) @ flats.basis(0)).astype(dtype)
    with emulated():
        check(X, flats, precision)


@precisions
def test_a_large_common_offset_costs_no_digits(precision):
    rng = np.random.default_rng(3)
    dtype = PRECISIONS[precision]
    X = (1000 + rng.normal(size=(150, 20))).astype(dtype)
    offsets = (1000 + rng.normal(size=(4, 20))).astype(dtype)
    flats = Flats.from_bases(random_bases(rng, 20, [2, 5, 0, 15], dtype), offsets)
    with emulated():
        check(X, flats, precision, tol=tolerance(dtype) * 200 / scale(X))


@precisions
@pytest.mark.parametrize("distance", [1e3, 1e4])
def test_a_flat_far_away_costs_the_others_no_digits(precision, distance):
    with emulated():
        assert_far_flat_costs_others_nothing(
            partial(cuda.assign, **options(precision)), PRECISIONS[precision], distance
        )


@precisions
def test_rows_of_any_size(precision):
    """Each row's error is in proportion to that row."""
    rng = np.random.default_rng(4)
    dtype = PRECISIONS[precision]
    flats = Flats.from_bases(random_bases(rng, 30, [4, 9, 1], dtype))
    X = (rng.normal(size=(128, 30)) * 10.0 ** rng.integers(-15, 16, (128, 1))).astype(dtype)
    X[5] = 0
    with emulated():
        distances = cuda.sqdistances(X, flats, **options(precision))
    error = np.abs(distances - reference.sqdistances(X, flats)).max(axis=1)
    assert np.all(error <= tolerance(dtype) * (X.astype(np.float64) ** 2).sum(axis=1))


@precisions
def test_rows_on_the_middle_of_the_offsets(precision):
    rng = np.random.default_rng(5)
    dtype = PRECISIONS[precision]
    offsets = 1e3 * rng.normal(size=(3, 8)).astype(dtype)
    flats = Flats.from_bases(random_bases(rng, 8, [2, 1, 6], dtype), offsets)
    X = np.repeat(offsets.mean(axis=0, dtype=np.float64)[None], 3, axis=0).astype(dtype)
    X[1:] += 1e-3 * rng.normal(size=(2, 8)).astype(dtype)
    with emulated():
        np.testing.assert_allclose(
            cuda.sqdistances(X, flats, **options(precision)), reference.sqdistances(X, flats), rtol=1e-5
        )


def test_no_rows():
    X, flats, _ = problem(4, 5, [2, 1], np.float32, False)
    with emulated():
        labels, residuals = cuda.assign(X[:0], flats)
        assert labels.shape == residuals.shape == (0,)
        assert cuda.sqdistances(X[:0], flats).shape == (0, 2)


def test_memory_beside_the_result_is_for_the_flats_and_a_few_numbers_a_row(monkeypatch):
    X, flats, _ = problem(100_000, 16, [8] * 100, np.float32, False)
    monkeypatch.setattr(loader, "kernel", lambda *_: lambda *_, **__: None)
    monkeypatch.setattr(loader, "limits", lambda: H100)
    tracemalloc.start()
    cuda.assign(X, flats)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(X) + 20 * 4 * 800 * 16
    assert peak < 0.4 * len(X) * flats.k * 4


def test_a_precision_that_is_none():
    X, flats, _ = problem(4, 5, [2, 1], np.float32, False)
    with emulated(), pytest.raises(ValueError, match="precision must be one of 'fp32', 'fp16x3', 'tf32', got 'fp8'"):
        cuda.assign(X, flats, precision="fp8")


def exercise():
    """Small problems that between them use every line of the kernels."""
    for limits, precision in ((SMALL, "fp32"), (H100, "fp16x3"), (SMALL, "float64"), (H100, "fp32"), (SMALL, "fp16x3")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loader, "limits", lambda limits=limits: limits)
            X, flats, rng = problem(150, 83, RAGGED, PRECISIONS[precision], True)
            penalty, weights = rng.random(len(RAGGED)), rng.random(len(X))
            check(X, flats, precision, penalty, weights)
            X, flats, rng = problem(140, 24, [5, 14, 11], PRECISIONS[precision], False)
            check(X, flats, precision)
            basis = flats.basis(0)
            on_flat = (100 * rng.normal(size=(50, len(basis))) @ basis).astype(X.dtype)
            check(on_flat, Flats.from_bases([basis]), precision)
            labels, _ = cuda.assign(on_flat, Flats.from_bases([basis] * 80), **options(precision))
            assert not labels.any()
