"""The data that the benchmarks run on: planted subspaces, digits and a real embedding table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK = 8192
"""Rows made at a time, so that making a large X leaves no large temporary behind for the allocator to reuse."""


@dataclass(frozen=True)
class Planted:
    """Rows near `k` planted subspaces.

    Attributes
    ----------
    X : ndarray of shape (n, d), float32
        The rows, in random order.
    labels : ndarray of shape (n,), int32
        The subspace each row was drawn from.
    bases : ndarray of shape (k, j, d), float64
        Orthonormal rows that span the subspaces.
    """

    X: np.ndarray
    labels: np.ndarray
    bases: np.ndarray


def planted(
    n: int,
    d: int,
    k: int,
    j: int,
    *,
    noise: float = 0.1,
    imbalance: float = 1.0,
    angle: float | None = None,
    seed: int = 0,
) -> Planted:
    """Draw standard normal coefficients in `k` subspaces of dimension `j` and add isotropic noise.

    Parameters
    ----------
    n, d, k, j : int
        Rows, columns, subspaces, and the dimension of each.
    noise : float
        Standard deviation of the noise in each of the `d` coordinates.
    imbalance : float
        Size of the largest cluster over that of the smallest; the sizes between fall geometrically.
    angle : float, optional
        Principal angle in radians, the same in all `j` directions and between every two subspaces. Needs
        (k + 1) j <= d. By default the subspaces are drawn uniformly, each by itself.
    seed : int
        Same seed, same data.

    Returns
    -------
    Planted
    """
    rng = np.random.default_rng(seed)
    bases = _uniform_bases(rng, d, k, j) if angle is None else _equiangular_bases(rng, d, k, j, angle)
    shares = np.geomspace(imbalance, 1.0, k) if k > 1 else np.ones(1)
    bounds = np.rint(np.cumsum(shares) / shares.sum() * n).astype(np.int64)
    labels = np.repeat(np.arange(k, dtype=np.int32), np.diff(bounds, prepend=0))
    rng.shuffle(labels)
    X = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, CHUNK):
        block, own = X[start : start + CHUNK], labels[start : start + CHUNK]
        rng.standard_normal(out=block, dtype=np.float32)
        block *= noise
        coefficients = rng.standard_normal((len(block), j))
        for c in range(k):
            block[own == c] += (coefficients[own == c] @ bases[c]).astype(np.float32)
    return Planted(X, labels, bases)


def _uniform_bases(rng: np.random.Generator, d: int, k: int, j: int) -> np.ndarray:
    return np.stack([np.linalg.qr(rng.standard_normal((d, j)))[0].T for _ in range(k)])


def _equiangular_bases(rng: np.random.Generator, d: int, k: int, j: int, angle: float) -> np.ndarray:
    if (k + 1) * j > d:
        raise ValueError(f"angle needs (k + 1) * j <= d, but ({k} + 1) * {j} > {d}; raise d or leave angle out")
    # Each basis tilts away from one shared basis by t, in directions of its own. Two such bases meet at the
    # cosine cos(t)^2 in every direction, so cos(t) = sqrt(cos(angle)).
    frame = np.linalg.qr(rng.standard_normal((d, (k + 1) * j)))[0].T.reshape(k + 1, j, d)
    cosine = np.sqrt(np.cos(angle))
    return cosine * frame[:1] + np.sqrt(1.0 - cosine**2) * frame[1:]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits.

    Returns
    -------
    X : ndarray of shape (1797, 64), float32
    labels : ndarray of shape (1797,), int32
        The digit that each row shows.
    """
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X.astype(np.float32), y.astype(np.int32)


def patches() -> np.ndarray:
    """40,000 patches of 8 x 8 grey values of a photograph, every second of them each way, their means taken off."""
    grey = photograph().astype(np.float32).mean(axis=2) / 255
    windows = np.lib.stride_tricks.sliding_window_view(grey, (8, 8))[::2, ::2].reshape(-1, 64)
    windows = windows - windows.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(windows[np.random.default_rng(0).permutation(len(windows))[:40_000]])


def colours() -> np.ndarray:
    """Colours of 20,000 pixels of the same photograph, as in scikit-learn's example of colour quantisation."""
    pixels = photograph().reshape(-1, 3) / 255.0
    return pixels[np.random.default_rng(0).permutation(len(pixels))[:20_000]]


def blobs() -> np.ndarray:
    """5,000 points around 50 centres in 8 dimensions, as scikit-learn makes them."""
    from sklearn.datasets import make_blobs

    return make_blobs(5000, centers=50, n_features=8, cluster_std=1.5, random_state=0)[0]


def photograph() -> np.ndarray:
    """scikit-learn's china.jpg, (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_image

    return load_sample_image("china.jpg")


def minilm() -> np.ndarray:
    """The word embeddings of a real sentence encoder, (30522, 384) float32.

    Raises
    ------
    RuntimeError
        When the table is absent and cannot be fetched.
    """
    from ksubspaces.demo import minilm_table

    return np.ascontiguousarray(minilm_table())


def random_partition(n: int, k: int, seed: int = 0) -> np.ndarray:
    """Labels of a random partition into parts that differ by at most one row, the start of the authors' algorithm."""
    return (np.random.default_rng(seed).permutation(n) % k).astype(np.int32)


def large_table(times: int) -> tuple[np.ndarray, np.ndarray]:
    """MiniLM's rows several times over with noise of .15 of their spread, and weights that fall with the rank."""
    X, rng = minilm(), np.random.default_rng(0)
    table = np.tile(X, (times, 1))
    for start in range(0, len(table), len(X)):
        table[start : start + len(X)] += 0.15 * X.std(axis=0) * rng.standard_normal(X.shape, dtype=np.float32)
    return table, (1 / (10 + np.arange(len(table)))) ** 0.5
