"""Inputs of operations: shapes that break kernels, and what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from planted import random_bases

from ksubspaces.kernels import Flats
from ksubspaces.kernels.factors import Factors
from ksubspaces.kernels.packed import PADDING, WIDEST, PackedRows

# (n, d, dims): d tiny, odd, no power of two, over 512; j = 0, over d/2, d; ragged; one row; more flats than rows
SHAPES = [
    (1, 1, [0]),
    (1, 1, [1]),
    (5, 3, [1, 2, 3, 0]),
    (3, 4, [1, 1, 1, 1, 1]),
    (64, 7, [0, 0, 0]),
    (100, 7, [7, 7]),
    (513, 33, [5, 20, 0, 33, 16, 17]),
    (1025, 130, [65, 66, 64]),
    (300, 521, [8, 500]),
    (2000, 16, [4] * 37),
]


def problem(n: int, d: int, dims: list[int], dtype: Any, affine: bool, seed: int = 0) -> tuple[Any, Flats, Any]:
    """Rows and flats; if affine, all of it about a common offset ten times as large as the spread."""
    rng = np.random.default_rng([seed, n, d])
    X = rng.normal(size=(n, d)) + 10 * affine
    offsets = (10 + rng.normal(size=(len(dims), d))).astype(dtype) if affine else None
    return X.astype(dtype), Flats.from_bases(random_bases(rng, d, dims, dtype), offsets), rng


def far_flat(dtype: Any, distance: float) -> tuple[Any, Flats, Any]:
    """Rows about eight offsets, one of which is far away, flats through them, and which rows are near."""
    rng = np.random.default_rng(int(distance))
    offsets, owners = rng.normal(size=(8, 16)), rng.integers(0, 8, 256)
    offsets[5] += distance / 4
    X = (offsets[owners] + rng.normal(size=(256, 16))).astype(dtype)
    return X, Flats.from_bases(random_bases(rng, 16, [3] * 8, dtype), offsets.astype(dtype)), owners != 5


def near_flat(rng: Any, n: int, dims: list[int], dtype: Any) -> tuple[Any, Flats]:
    """Rows of R^64 within 1e-4 of the first of the flats."""
    bases = random_bases(rng, 64, dims, dtype)
    X = rng.normal(size=(n, dims[0])) @ bases[0].astype(np.float64) + 1e-4 * rng.normal(size=(n, 64))
    return X.astype(dtype), Flats.from_bases(bases)


def unordered(rng: Any, n: int, dtype: Any) -> Any:
    """Numbers many of which are equal, none positive or too close to zero to tell."""
    return rng.integers(-2, 6, n).astype(dtype) / 4


def labels_and_moved(rng: Any, n: int, k: int, moved: int) -> tuple[Any, Any, Any]:
    """Labels, later ones, and the rows that may differ, ascending."""
    old = rng.integers(0, k, n).astype(np.int32)
    new, rows = old.copy(), np.sort(rng.choice(n, moved, replace=False))
    new[rows] = rng.integers(0, k, moved)
    return old, new, rows


def matrices(d: int) -> tuple[Any, list[int]]:
    """Second moments (4, d, d) of full rank, of no rows, of half rank, and with one eigenvalue; and dims to ask for."""
    rng = np.random.default_rng(d)
    rows = [rng.normal(size=(2 * d, d)), np.zeros((3, d)), rng.normal(size=(max(1, d // 2), d)), np.eye(d)]
    return np.stack([A.T @ A for A in rows]), [d // 2, d // 3, d, 0]


def spectra(d: int, rng: Any) -> dict[str, Any]:
    """Matrices (d, d) with names: usual ones, and those that break eigensolvers."""
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = rng.normal(size=(3 * d, -(-d // 4))) @ Q[: -(-d // 4)] + 0.1 * rng.normal(size=(3 * d, d))

    def gram(*shape: int) -> Any:
        A = rng.normal(size=shape)
        return A.T @ A

    def turned(eigenvalues: Any) -> Any:
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


def factors(n: int, d: int, dims: list[int], dtype: Any, affine: bool) -> tuple[Factors, Any]:
    """A factorization of random numbers, and the generator they came from."""
    rng = np.random.default_rng([n, d])
    labels = rng.integers(0, len(dims), n).astype(np.int32)
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels, minlength=len(dims))
    positions = np.empty(n, dtype=np.int64)
    positions[order] = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    made = Factors(
        labels=labels,
        positions=positions,
        blocks=[rng.normal(size=(m, j)).astype(dtype) for m, j in zip(counts, dims, strict=True)],
        bases=random_bases(rng, d, dims, dtype),
        offsets=rng.normal(size=(len(dims), d)).astype(dtype) if affine else None,
    )
    return made, rng


def packed_rows(n: int, d: int, dims: list[int], columns: int, affine: bool, kept: int = 0) -> tuple[PackedRows, Any]:
    """Rows of random bits, two groups a cluster and some rows kept, and the generator they came from.

    Windows are as wide as a term's bits, or wider and then shared; ``columns`` of gains, or none.
    """
    rng = np.random.default_rng([n, d, columns])
    tables = np.r_[0, np.cumsum(2 ** np.arange(1, WIDEST + 1))]  # of windows of 1, 2, ... bits
    first = np.r_[0, np.cumsum(dims)]
    terms: dict[str, list[int]] = {name: [] for name in ("skips", "shifts", "masks", "tables", "directions", "blocks")}
    bounds, sizes, clusters = [0], [], []
    for c, j in enumerate(dims):
        for _ in range(2):
            end = 0
            for t in np.sort(rng.choice(j, rng.integers(0, j + 1), replace=False)):
                own = int(rng.integers(1, 9))
                width = own if rng.random() < 0.5 else int(rng.integers(own, WIDEST + 1))
                end += own
                terms["skips"].append(max(end - width, 0))
                terms["shifts"].append(max(width - end, 0))
                terms["masks"].append(2**width - 1)
                terms["tables"].append(int(tables[width - 1]))
                terms["directions"].append(int(first[c] + t))
                terms["blocks"].append(int(t) * columns // max(j, 1))
            bounds.append(len(terms["skips"]))
            sizes.append(end)
            clusters.append(c)
    groups = rng.integers(0, len(sizes), n)
    if kept:
        groups[rng.permutation(n)[:kept]] = len(sizes)
    sizes = np.array([*sizes, 0])[groups]
    starts = np.cumsum(sizes) - sizes
    starts[groups == len(clusters)] = rng.permutation(np.count_nonzero(groups == len(clusters)))
    total = int(sizes.sum())
    codes = np.zeros(-(-total // 8) + PADDING, np.uint8)
    codes[: -(-total // 8)] = rng.integers(0, 256, -(-total // 8))

    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return PackedRows(
        codes=codes,
        groups=groups.astype(np.int32),
        starts=starts.astype(np.int64),
        bounds=np.array(bounds, np.int64),
        clusters=np.array(clusters, np.int32),
        **{name: np.array(values, np.int32) for name, values in terms.items()},
        scales=floats(len(terms["skips"])),
        levels=floats(int(tables[-1])),
        bases=floats(int(first[-1]), d),
        gains=floats(n, columns) if columns else None,
        offsets=floats(len(dims), d) if affine else None,
        exact=floats(kept, d) if kept else None,
    ), rng
