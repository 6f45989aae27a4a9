"""What runs the CUDA kernels on small problems and raises if their results are wrong: see ``mutants.py``."""

import importlib

import near_ties as near
import numpy as np
import pytest
from contract.backends import decoding, screening
from contract.checks import DECODED, assert_accurate, assert_decoded, assert_decomposed
from contract.problems import factors, packed_rows, problem
from draws import check_directions, check_start
from emulator import H100
from helpers import assert_labels, scale, tolerance
from planted import random_bases

from ksubspaces.kernels import Flats, Moments, cuda, group_rows, layout_of, reference
from ksubspaces.kernels.cuda import eigen, grouped, groups, loader, moments, power, screen

cuda_assign = importlib.import_module("ksubspaces.kernels.cuda.assign")  # the package has a function of that name
DTYPES = (np.float32, np.float64)
SMALL = loader.Limits(shared_memory=65536, multiprocessors=132)  # rows do not stay in shared memory
RAGGED = [3, 0, 50, 9, 150, 1, 0, 41, 80, 2, 35, 0, 30, 83, 38, 0]


def check_assign(X, flats, penalty=None, weights=None, tol=None):
    """Compare labels, residuals and distances with the reference's."""
    tol = (tol or tolerance(X.dtype)) * (scale(X) + (penalty is not None))
    labels, residuals = cuda_assign.assign(X, flats, penalty, weights)
    distances = reference.sqdistances(X, flats)
    cost = distances if weights is None else weights[:, None] * distances
    assert_labels(labels, cost if penalty is None else cost + penalty, tol)
    assert residuals.dtype == X.dtype
    assert np.all(residuals >= 0)
    chosen = distances[np.arange(len(X)), labels]
    np.testing.assert_allclose(residuals, chosen, rtol=0, atol=tol)
    np.testing.assert_allclose(cuda_assign.sqdistances(X, flats), distances, rtol=0, atol=tol)


def exercise_assign():
    """Small problems that between them use every line of the kernels."""
    for limits, dtype in ((SMALL, np.float32), (SMALL, np.float64), (H100, np.float32)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loader, "limits", lambda limits=limits: limits)
            X, flats, rng = problem(150, 83, RAGGED, dtype, True)
            penalty, weights = rng.random(len(RAGGED)), rng.random(len(X))
            check_assign(X, flats, penalty, weights)
            X, flats, rng = problem(140, 24, [5, 14, 11], dtype, False)
            check_assign(X, flats)
            (basis,) = random_bases(rng, 24, [5], X.dtype)
            on_flat = (100 * rng.normal(size=(50, len(basis))) @ basis).astype(X.dtype)
            check_assign(on_flat, Flats.from_bases([basis]))
            labels, _ = cuda_assign.assign(on_flat, Flats.from_bases([basis] * 80))
            assert not labels.any()


def check_screened(X, flats, penalty=None, weights=None):
    """Share of the rows that were listed; labels and residuals are the reference's but for float32's rounding."""
    kept = {}
    narrow = screen.is_narrow(flats.direction_layout)
    labels, residuals = cuda_assign.assign(X, flats, penalty, weights, residuals=narrow, kept=kept)
    distances = reference.sqdistances(X, flats)
    cost = distances if weights is None else weights[:, None] * distances
    unit = (X.astype(np.float64) ** 2).sum(axis=1) * (1 if weights is None else weights) + (penalty is not None)
    assert labels.dtype == np.int32
    assert np.all((labels >= 0) & (labels < flats.k))
    least = cost if penalty is None else cost + penalty
    assert np.all((least[np.arange(len(X)), labels] - least.min(axis=1)) <= tolerance(X.dtype) * unit)
    if residuals is not None:
        chosen = distances[np.arange(len(X)), labels]
        np.testing.assert_allclose(residuals, chosen, rtol=1e-6, atol=tolerance(X.dtype) * scale(X))
    _, search = kept["work"]
    return search.plan.counters.sum() / len(X)


def exercise_screen():
    """Shapes that use every line of both ways to screen, and near-ties."""
    for narrow in (True, False):
        with screening(narrow):
            for n, d, dims, affine in (
                (300, 64, [8] * 37, False),
                (70, 30, [3, 9, 0, 17, 1, 2, 4, 29, 8], True),
                (70, 100, [3, 9, 0, 64, 1, 40], True),
                (40, 200, [8, 5, 3, 8, 2, 1, 140], False),
                (40, 150, [70, 64, 66], True),
            ):
                X, flats, rng = problem(n, d, dims, np.float32, affine)
                assert check_screened(X, flats) < 0.2
                assert check_screened(X, flats, rng.random(len(dims)), rng.random(n)) < 0.2
            for near_ties in near.ALL.values():
                check_screened(*near_ties())
    with screening(False):
        check_screened(*near.rounded_flats(before=69))


def exercise_eigenspaces():
    """What the planted faults must not pass: several warps, odd d, columns to spare and none, repeated eigenvalues."""
    rng = np.random.default_rng(0)
    for d, dtype in ((7, np.float32), (33, np.float32), (64, np.float32), (101, np.float32), (35, np.float64)):
        A = rng.normal(size=(2 * d, d))
        S = np.stack([A.T @ A, np.eye(d) + (np.arange(d) % 2)[:, None] * np.eye(d)])
        values, vectors = eigen.eigh(S, np.dtype(dtype))
        assert_decomposed(S, values, vectors, dtype)


def exercise_power():
    """What the planted faults must not pass: ragged flats, S of rank one, tiny, not finite, offsets, several panels."""
    rng = np.random.default_rng(0)
    d, dims = 37, (5, 1, 13, 0, 16, 4)
    layout = layout_of(d, dims)
    for dtype in (np.float32, np.float64):
        S = np.stack([A.T @ A for A in rng.normal(size=(6, 90, d))])
        Q = np.linalg.qr(S[4])[0]
        S[0], S[2], S[4], S[5, 3, 3] = np.outer(S[0, 0], S[0, 0]), 1e-60 * S[2], Q * 0.4 ** np.arange(d) @ Q.T, np.nan
        start = np.concatenate(random_bases(rng, d, dims, dtype))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(power, "CHEAP_STEPS", 2)  # after which a factor still costs digits
            found = power.power_steps(S, layout, np.dtype(dtype), start)
        np.testing.assert_array_equal(found.ok, [True] * 5 + [False])
        for c, (V, before) in enumerate(zip(layout.split(found.bases), layout.split(start), strict=True)):
            np.testing.assert_allclose(V @ V.T, np.eye(dims[c]), atol=10 * np.finfo(dtype).eps)
            Q = before.T if c in (3, 5) else np.linalg.qr(S[c] @ S[c] @ before.T)[0]
            if c not in (0, 4):
                np.testing.assert_allclose(V.T @ V, Q @ Q.T, atol=1e-4)  # for the shift
        found = power.power_steps(S, layout, np.dtype(dtype))
        assert found.ok[:5].all()
        np.testing.assert_array_equal(layout.split(found.bases)[5], np.eye(4, d))

        X, flats, rng = problem(90, d, list(dims), dtype, True)
        labels, weights = rng.integers(0, 5, 90), rng.random(90)
        held, more = (  # of two parts, so that means are not the origins
            reference.second_moments(X[part], group_rows(labels[part], 6), weights[part], center=True)
            for part in (slice(40), slice(40, None))
        )
        held.add(more)
        want = weights @ reference.residuals(X, group_rows(labels, 6), flats)
        for reach in (power.REACH, 0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(power, "REACH", reach)
                np.testing.assert_allclose(power.measure_objective(held, flats).sum(), want, rtol=1e-5)

    S = np.stack([A.T @ A for A in rng.normal(size=(6, 90, d))])
    S[0] += 1e7 * np.outer(start[0], start[0])
    V, work = layout.pad(start), power.Products(layout, S)
    work.V[:] = V
    work._filter(S, *work.of_steps[1:])
    found = work.V
    for c, (steep, j) in enumerate(zip((True, *[False] * 5), dims, strict=True)):
        quotients = np.diag(V[c] @ S[c] @ V[c].T)[:j]
        if j:
            a, b, g = (1 / quotients.max(), 4, 16) if steep else (4 / (0.98 * quotients.min()), -2, 2)
            turned = a * S[c] + b * np.eye(d)
            want = V[c] @ (turned @ turned - g * np.eye(d))
            np.testing.assert_allclose(found[c], want, atol=1e-9 * np.abs(want).max())

    Y, ok = rng.normal(size=(2, 70, 75)), np.ones(2, bool)
    orthonormal, V = power.Orthonormal(layout_of(75, (70, 70)), Y), Y.copy()
    orthonormal(V, ok)
    assert ok.all()
    assert not orthonormal.turns.any()
    for alike in (45, 50, 51, 55, 64):
        twice = Y.copy()
        twice[1, alike] = Y[1, 40] + 1e-6 * Y[1, alike]
        orthonormal(twice, ok)
        np.testing.assert_array_equal(ok, [True, False])
        ok[:] = True
    for v, rows in zip(V, Y, strict=True):
        np.testing.assert_allclose(v @ v.T, np.eye(70), atol=1e-9)
        np.testing.assert_allclose(rows @ v.T, np.tril(rows @ v.T), atol=1e-9)


def exercise_subspace():
    """Steps by products: ragged flats, S of rank one, with the trace in its last rows, and not finite."""
    rng = np.random.default_rng(0)
    d, dims = 300, (5, 0, 33, 7, 4)
    layout, scale = layout_of(d, dims), np.where(np.arange(300) < 200, 1e-9, 1.0)
    S = np.stack([A.T @ A for A in rng.normal(size=(5, 400, d)) * scale])
    S[0], S[3, 5, 5] = np.outer(S[0, -1], S[0, -1]), np.nan
    bases = random_bases(rng, d, dims, np.float32)
    bases[4] = np.linalg.eigh(S[4])[1].T[-4:].astype(np.float32)  # nothing to gain
    start = np.concatenate(bases)
    kept = {}
    assert power.power_steps(S, layout, np.dtype(np.float32), None, kept).ok[[0, 1, 2, 4]].all()
    found = power.power_steps(S, layout, np.dtype(np.float32), start, kept)
    np.testing.assert_array_equal(found.ok, [True, True, True, False, True])
    for c, (V, before) in enumerate(zip(layout.split(found.bases), bases, strict=True)):
        np.testing.assert_allclose(V @ V.T, np.eye(dims[c]), atol=1e-6)
        if c == 3:
            np.testing.assert_array_equal(V, before)
        else:
            assert np.einsum("ij,jk,ik", V, S[c], V) >= (1 - 1e-6) * np.einsum("ij,jk,ik", before, S[c], before)

    held = reference.second_moments(np.eye(2, d), group_rows(np.array([0, 2], np.int32), 5))
    held.raw[1] = -np.eye(d)
    want = [1 - (bases[0][:, 0] ** 2).sum(), 0, 1 - (bases[2][:, 1] ** 2).sum(), 0, 0]
    flats, others = Flats(layout, found.bases, None, None), Flats(layout, start, None, None)
    np.testing.assert_array_equal(
        power.measure_objective(held, flats, kept),
        power.measure_objective(held, flats),  # of the last step, and of any
    )
    for _ in range(2):
        np.testing.assert_allclose(power.measure_objective(held, others, kept), want, atol=1e-6)

    S[3] = S[4]  # and from the product of an objective
    of_S, flats = Moments(S, None, None, np.ones(5, int), None, False), Flats(layout, found.bases, None, None)
    plain = power.power_steps(S, layout, np.dtype(np.float32), found.bases)
    kept[Moments] = of_S
    power.measure_objective(of_S, flats, kept)
    begun = power.power_steps(S, layout, np.dtype(np.float32), found.bases, kept)
    assert begun.ok.all()
    for V, W in zip(layout.split(begun.bases), layout.split(plain.bases), strict=True):
        np.testing.assert_allclose(V.T @ V, W.T @ W, atol=1e-5)


def exercise_status():
    rng = np.random.default_rng(0)
    flags, counts = rng.random(70) < 0.5, rng.integers(1 << 40, size=300)
    for arrays in ([rng.normal(size=9), counts, flags, rng.normal(size=5).astype(np.float32)], [flags, counts]):
        for got, want in zip(cuda.fetch(arrays), arrays, strict=True):
            np.testing.assert_array_equal(got, want)


def exercise_moments():
    """What the planted faults must not pass: clusters of several slots, tails of all sizes, slots in several turns."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 700).astype(np.int32)
    before = np.where(np.arange(700) % 7, labels, 4 - labels).astype(np.int32)
    found = groups.group_rows(labels, 5, before)
    assert found.moved == (labels != before).sum()
    np.testing.assert_array_equal(found.counts, np.bincount(labels, minlength=5))
    np.testing.assert_array_equal(found.order, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(found.starts, np.searchsorted(np.sort(labels), np.arange(6)))
    assert np.all(np.diff(groups.cut(found, 16).slots) == -(-found.counts // 16))
    labels = rng.integers(0, 70, 700).astype(np.int32)
    np.testing.assert_array_equal(groups.group_rows(labels, 70).order, np.argsort(labels, kind="stable"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "CHUNK", 64)
        patch.setattr(moments, "WORKSPACE", 3 * 4 * 3 * 128 * 128)  # three slots at a time
        for n, d, dtype in ((250, 7, np.float32), (140, 132, np.float32), (200, 66, np.float64)):
            X = (rng.normal(size=(n, d)) + 3).astype(dtype)
            weights = rng.random(n)
            labels = rng.integers(0, 3, n).astype(np.int32)
            assert not moments.second_moments(X, group_rows(labels, 4), weights).raw[3].any()
            got = moments.second_moments(X, group_rows(labels, 3), weights, center=True)
            want = reference.second_moments(X, group_rows(labels, 3), weights, center=True)
            assert_accurate(got.raw, want.raw, dtype)
            np.testing.assert_allclose(got.means, want.means, rtol=1e-12)
            np.testing.assert_allclose(got.mass, want.mass, rtol=1e-14)
            rows, new = np.arange(40), rng.integers(0, 3, 40).astype(np.int32)
            moments.update_moments(got, X, rows, labels[rows], new, weights)
            want = reference.second_moments(X, group_rows(np.concatenate([new, labels[40:]]), 3), weights, center=True)
            np.testing.assert_allclose(got.scatter, want.scatter, rtol=0, atol=1e-5 * want.scatter.max())


def exercise_grouped():
    """What the planted faults must not pass: groups of several parts of a slot, flats of all sizes, both ways."""
    for d, dtype in ((70, np.float32), (33, np.float64)):
        X, flats, rng = problem(400, d, [3, 0, 17, d], dtype, True)
        found = group_rows(rng.integers(0, 4, 400).astype(np.int32), 4)
        for by_products in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(grouped, "_by_products", lambda flats, way=by_products: way)
                residuals, coefficients = grouped.residuals(X, found, flats), grouped.coefficients(X, found, flats)[0]
            want = reference.residuals(X, found, flats)
            np.testing.assert_allclose(residuals, want, rtol=1e-10, atol=1e-13 * scale(X))
            want = reference.coefficients(X, found, flats)[0]
            np.testing.assert_allclose(coefficients, want, rtol=0, atol=tolerance(dtype) * np.sqrt(scale(X)))


def exercise_seeding():
    """What the planted faults must not pass: several blocks of rows, fragments and tiles; rows of weight zero."""
    for gatherers in (1, 99):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(importlib.import_module("ksubspaces.kernels.cuda.seeding"), "GATHERERS", gatherers)
            check_start(2 * 2048 + 77, 64, [9], True, 60)
    check_start(300, 70, [3], False, 40, least=200)
    check_start(500, 20, [2] * 8, True, 20)
    check_directions(700, 40, 6, True)


def exercise_lookup():
    """What the planted faults must not pass: tails of rows, dimensions and columns; storage of every kind."""
    for dtype in (np.float32, np.float16, np.float64):
        for d in (132, 13):
            for direct in (False, True):
                made, rng = factors(230, d, [min(d, 40), 3, 0, 13], dtype, True)
                rows = rng.permutation(230)[:200]
                with decoding(direct):
                    assert_decoded(cuda.lookup(rows, made), rows, made, DECODED[dtype])


def exercise_packed():
    """What the planted faults must not pass: several tiles of a group and short ones, all that rows can have."""
    module = importlib.import_module("ksubspaces.kernels.cuda.packed")
    for n, d, dims, columns, affine, kept, batch in (
        (400, 132, [40, 3, 0, 90], 3, True, 70, 8192),
        (300, 13, [9] * 17, 0, False, 0, 290),
    ):
        packed, rng = packed_rows(n, d, dims, columns, affine, kept)
        rows = rng.permutation(n)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "BATCH", batch)
            got, want = module.decode(rows, packed), reference.decode(rows, packed)
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(np.float32) * np.abs(want).max())
