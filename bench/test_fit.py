"""Whole fits against the peers; every test first checks that ours is at most 0.1% above the peer's objective.

pytest-benchmark shows the sides of a comparison as one group.
"""

from __future__ import annotations

import numpy as np
import pytest

from ksubspaces import fit_subspaces

from .lib.compare import honest, not_above
from .lib.data import digits, planted, random_partition
from .lib.peers import authors, kmeans, kspaces, projections, truncated_svd

STEPS = 3


@pytest.fixture(scope="module", params=["table", "patches"])
def problem(request: pytest.FixtureRequest, quick: bool) -> tuple[np.ndarray, int, int, np.ndarray]:
    """Rows, k, j and random labels. "table" has j > d/2, "patches" many small flats."""
    if request.param == "table":
        shape = {"n": 1200, "d": 64, "k": 3, "j": 37} if quick else {"n": 12_000, "d": 384, "k": 3, "j": 221}
        X = planted(**shape, noise=0.5).X
    else:
        shape = {"k": 10, "j": 6}
        X, _ = digits()
    k, j = shape["k"], shape["j"]
    return X, k, j, random_partition(len(X), k)


def check(X: np.ndarray, fit, peer) -> None:
    """Fail unless both sides did the same job."""
    assert not honest(X, fit)
    assert not not_above(fit.objective, peer.objective)


@pytest.mark.parametrize("side", ["ours", "authors", "projections"])
def test_steps(side: str, problem, measure) -> None:
    X, k, j, labels = problem
    sides = {
        # The peers refit once before their first step, which is a step of ours.
        "ours": lambda: fit_subspaces(X, k, j, init=labels, max_iter=STEPS + 1, tol=0.0),
        "authors": lambda: authors(X, k, j, labels=labels, steps=STEPS),
        "projections": lambda: projections(X, k, j, labels, steps=STEPS),
    }
    if side != "ours":
        check(X, sides["ours"](), sides[side]())
    measure(sides[side], rounds=3)


@pytest.mark.parametrize("side", ["ours", "authors"])
def test_defaults(side: str, problem, quick: bool, measure) -> None:
    X, k, j, _ = problem
    starts, steps = (2, 3) if quick else (10, 10)
    sides = {
        "ours": lambda: fit_subspaces(X, k, j, seed=0),
        "authors": lambda: authors(X, k, j, starts=starts, steps=steps),
    }
    if side != "ours":
        peer = sides["authors"]()
        check(X, sides["ours"](), peer)
    measure(sides[side], rounds=1 if side == "authors" else 5)


@pytest.mark.parametrize("side", ["ours", "numpy svd"])
def test_one_subspace(side: str, problem, measure) -> None:
    X, _, j, _ = problem
    sides = {"ours": lambda: fit_subspaces(X, 1, j), "numpy svd": lambda: truncated_svd(X, j)}
    fit, peer = sides["ours"](), sides["numpy svd"]()
    check(X, fit, peer)
    assert fit.objective == pytest.approx(peer.objective, rel=1e-3)
    measure(sides[side], rounds=3)


@pytest.mark.parametrize("side", ["ours", "scikit-learn"])
def test_kmeans(side: str, measure) -> None:
    X, _ = digits()
    labels = random_partition(len(X), 10)
    centres = np.stack([X[labels == c].mean(axis=0) for c in range(10)])
    sides = {
        "ours": lambda: fit_subspaces(X, 10, 0, affine=True, init=labels, tol=0.0),
        "scikit-learn": lambda: kmeans(X, centres, tol=0.0),
    }
    check(X, sides["ours"](), sides["scikit-learn"]())
    measure(sides[side])


@pytest.mark.parametrize("side", ["ours", "kspaces"])
def test_kspaces(side: str, quick: bool, measure) -> None:
    X = planted(400 if quick else 2000, 32, 4, 4, noise=0.1).X
    labels = random_partition(len(X), 4)
    sides = {
        "ours": lambda: fit_subspaces(X, 4, 4, affine=True, init=labels, tol=0.0),
        "kspaces": lambda: kspaces(X, 4, 4, labels, tol=1e-6, max_iter=100),
    }
    check(X, sides["ours"](), sides["kspaces"]())
    measure(sides[side], rounds=3)
