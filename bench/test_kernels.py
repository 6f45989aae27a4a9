"""Each kernel against the plain NumPy that says the same thing; every test first checks that it does.

pytest-benchmark shows the two or three sides of a comparison as one group.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg

from ksubspaces import fit_subspaces, kernels

from .lib.data import planted, random_partition

SHAPES = {
    "table": {"n": 30_000, "d": 384, "k": 3, "j": 221},
    "wide": {"n": 20_000, "d": 768, "k": 5, "j": 128},
    "patches": {"n": 100_000, "d": 64, "k": 64, "j": 8},
}
QUICK_SHAPES = {
    "table": {"n": 1200, "d": 64, "k": 3, "j": 37},
    "wide": {"n": 800, "d": 96, "k": 5, "j": 16},
    "patches": {"n": 4000, "d": 16, "k": 16, "j": 2},
}


@dataclass(frozen=True)
class Case:
    """Rows, a labelling of them, and orthonormal bases that are near it but not fitted to it."""

    X: np.ndarray
    k: int
    j: int
    labels: np.ndarray
    bases: list[np.ndarray]


@pytest.fixture(scope="module", params=list(SHAPES))
def case(request: pytest.FixtureRequest, quick: bool) -> Case:
    shape = (QUICK_SHAPES if quick else SHAPES)[request.param]
    data = planted(**shape, noise=0.2)
    blend = data.bases + np.random.default_rng(1).normal(scale=0.05, size=data.bases.shape)
    bases = [np.linalg.qr(V.T)[0].T.astype(np.float32) for V in blend]
    return Case(data.X, shape["k"], shape["j"], data.labels, bases)


# --- assign ---


def projection_loop(X: np.ndarray, bases: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Nearest flat as one writes it in NumPy: one product per flat."""
    energy = np.einsum("ij,ij->i", X, X)
    distances = np.stack([energy - np.square(X @ V.T).sum(axis=1) for V in bases], axis=1)
    labels = distances.argmin(axis=1)
    return labels, np.maximum(distances[np.arange(len(X)), labels], 0)


@pytest.mark.parametrize("side", ["ours", "numpy"])
def test_assign(side: str, case: Case, measure) -> None:
    flats = kernels.Flats.from_bases(case.bases)
    labels, nearest = kernels.assign(case.X, flats)
    plain_labels, plain_nearest = projection_loop(case.X, case.bases)
    # Near a tie either label is right: what must agree is the cost of the label, to the digits float32 leaves.
    allowed = 1e-4 * np.einsum("ij,ij->i", case.X, case.X)
    assert np.all(np.abs(nearest - plain_nearest) <= allowed)
    exact = kernels.sqdistances(case.X.astype(np.float64), flats)
    rows = np.arange(len(labels))
    assert np.all(np.abs(exact[rows, labels] - exact[rows, plain_labels]) <= allowed)
    measure({"ours": lambda: kernels.assign(case.X, flats), "numpy": lambda: projection_loop(case.X, case.bases)}[side])


# --- moments ---


def scatter_loop(X: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Second moments as one writes them in NumPy."""
    groups = (X[labels == c] for c in range(k))
    return np.stack([A.T @ A for A in groups])


@pytest.mark.parametrize("moved", [0.01, 0.2])
@pytest.mark.parametrize("side", ["full", "update", "numpy"])
def test_moments(side: str, moved: float, case: Case, measure) -> None:
    rng = np.random.default_rng(0)
    rows = np.sort(rng.choice(len(case.X), int(moved * len(case.X)), replace=False))
    old = case.labels[rows]
    labels = case.labels.copy()
    labels[rows] = new = ((old + 1) % case.k).astype(np.int32)
    before = kernels.second_moments(case.X, kernels.group_rows(case.labels, case.k))

    def update(moments: kernels.Moments) -> kernels.Moments:
        kernels.update_moments(moments, case.X, rows, old, new)
        return moments

    full = kernels.second_moments(case.X, kernels.group_rows(labels, case.k)).scatter
    scale = float(np.abs(full).max())
    assert np.allclose(update(copy.deepcopy(before)).scatter, full, rtol=0, atol=1e-5 * scale)
    assert np.allclose(scatter_loop(case.X, labels, case.k), full, rtol=0, atol=1e-5 * scale)
    if side == "update":
        measure(update, setup=lambda: ((copy.deepcopy(before),), {}))
    elif side == "full":
        measure(lambda: kernels.second_moments(case.X, kernels.group_rows(labels, case.k)))
    else:
        measure(lambda: scatter_loop(case.X, labels, case.k))


# --- eigenspaces ---


def captured(S: np.ndarray, bases: list[np.ndarray]) -> float:
    """Energy inside the bases: what a refit maximises."""
    return float(sum(np.einsum("ij,jk,ik->", V, A, V, optimize=True) for A, V in zip(S, bases, strict=True)))


def block_power_step(S: np.ndarray, bases: list[np.ndarray]) -> list[np.ndarray]:
    """One power step from the last bases, made orthonormal by two rounds of Cholesky-QR: products and solves only."""
    result = []
    for A, V in zip(S, bases, strict=True):
        Y = V @ A
        for _ in range(2):  # one round leaves the rows orthonormal to eps * cond^2 only; the second repairs that
            Y = scipy.linalg.solve_triangular(np.linalg.cholesky(Y @ Y.T), Y, lower=True, check_finite=False)
        result.append(Y)
    return result


def block_power_with_complement(S: np.ndarray, bases: list[np.ndarray]) -> list[np.ndarray]:
    """The same, and the complements that assign wants when j > d/2, which an eigensolver gives along the way."""
    result = block_power_step(S, bases)
    for V in result:
        kernels.complement(V)
    return result


@pytest.mark.parametrize("side", ["ours", "numpy eigh", "block power", "block power + complement"])
def test_eigenspaces(side: str, case: Case, measure) -> None:
    S = kernels.second_moments(case.X, kernels.group_rows(case.labels, case.k)).scatter
    single = S.astype(np.float32)
    dims = [case.j] * case.k
    best = captured(S, [np.linalg.eigh(A)[1][:, ::-1][:, : case.j].T for A in S])
    found = kernels.top_eigenspaces(S, dims, np.float32)
    assert captured(S, found.layout.split(found.bases)) == pytest.approx(best, rel=1e-4)
    stepped = block_power_step(single, case.bases)
    assert max(np.abs(V @ V.T - np.eye(case.j)).max() for V in stepped) < 1e-3
    # Not the exact refit, but never a worse one than the bases it began with.
    assert captured(S, case.bases) <= captured(S, stepped) * (1 + 1e-5) <= best * (1 + 1e-4)
    sides = {
        "ours": lambda: kernels.top_eigenspaces(S, dims, np.float32),
        "numpy eigh": lambda: [np.linalg.eigh(A) for A in single],
        "block power": lambda: block_power_step(single, case.bases),
        "block power + complement": lambda: block_power_with_complement(single, case.bases),
    }
    measure(sides[side])


@pytest.mark.parametrize("side", ["ours", "numpy"])
def test_batched_svd(side: str, case: Case, measure) -> None:
    height = case.X.shape[1] // 2  # short clusters are what it is for
    blocks = [np.ascontiguousarray(case.X[c * height : (c + 1) * height]) for c in range(case.k)]
    rank = min(case.j, height)
    found = kernels.batched_svd(blocks, rank)
    plain = [np.linalg.svd(A, full_matrices=False) for A in blocks]
    grams = np.stack([A.T @ A for A in blocks]).astype(np.float64)
    assert captured(grams, found.layout.split(found.bases)) == pytest.approx(
        captured(grams, [Vt[:rank] for _, _, Vt in plain]), rel=1e-4
    )
    for values, (_, s, _) in zip(found.eigenvalues, plain, strict=True):
        assert np.allclose(values[:rank], np.square(s[:rank]), rtol=1e-3)
    sides = {
        "ours": lambda: kernels.batched_svd(blocks, rank),
        "numpy": lambda: [np.linalg.svd(A, full_matrices=False) for A in blocks],
    }
    measure(sides[side])


# --- sampling and lookup ---


@pytest.mark.parametrize("side", ["ours", "numpy"])
def test_sample_rows(side: str, quick: bool, measure) -> None:
    n, m = (2000, 20) if quick else (1_000_000, 200)
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=n)
    share = weights / weights.sum()

    def ours(w: np.ndarray, m: int) -> np.ndarray:
        return kernels.sample_rows(w, m, rng)

    def choice(w: np.ndarray, m: int) -> np.ndarray:
        return rng.choice(len(w), size=m, replace=False, p=w / w.sum())

    assert len(np.unique(ours(weights, m))) == len(np.unique(choice(weights, m))) == m
    few, draws = np.arange(1.0, 9.0), 3000
    seen = [np.bincount(np.concatenate([draw(few, 3) for _ in range(draws)]), minlength=8) for draw in (ours, choice)]
    # Each count is binomial with a deviation under sqrt(draws / 4): five of them, for the difference of two.
    assert np.all(np.abs(seen[0] - seen[1]) < 5 * np.sqrt(draws / 2))
    measure({"ours": lambda: ours(weights, m), "numpy": lambda: rng.choice(n, size=m, replace=False, p=share)}[side])


@pytest.mark.parametrize("side", ["ours", "dense table"])
def test_lookup(side: str, case: Case, quick: bool, measure) -> None:
    labels = random_partition(len(case.X), case.k)
    factorization = fit_subspaces(case.X, case.k, case.j, init=labels, max_iter=1).factorize(case.X)
    dense = factorization.reconstruct()
    rows = np.random.default_rng(0).integers(len(case.X), size=64 if quick else 4096)
    scale = float(np.abs(dense).max())
    assert np.allclose(factorization[rows], dense[rows], rtol=0, atol=1e-5 * scale)
    # The dense table is what the factorization replaces; its row fetch is the floor, not a rival.
    measure({"ours": lambda: factorization[rows], "dense table": lambda: dense[rows]}[side])
