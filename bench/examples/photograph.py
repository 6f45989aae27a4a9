"""Noise taken off a photograph: each patch goes to its nearest subspace of 16, beside one subspace for all (PCA).

Patches of a photograph lie near a union of subspaces, such as those of edges of one direction: a dictionary of local
bases (Yu, Sapiro and Mallat, "Solving Inverse Problems with Piecewise Linear Estimators", 2012). PCA gets the best
dimension of seven, judged by the clean picture; k and j are the best of some that were tried on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ksubspaces import fit_subspaces

from ..lib.data import photograph
from . import canvas, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 8  # of a patch
NOISE = 0.1  # of the range of grey
K, J = 16, 6
PCA_DIMS = (8, 10, 12, 14, 16, 18, 20)
FITTED = 20_000  # patches


def example(quick: bool) -> tuple[dict[str, Any], Figure]:
    """Take noise off a part of scikit-learn's china.jpg by subspaces of 8 x 8 patches, and by PCA of these."""
    clean = photograph().mean(axis=2)[60:316, 120:504] / 255
    clean = clean[64:192, 100:292] if quick else clean
    rng = np.random.default_rng(0)
    noisy = clean + NOISE * rng.normal(size=clean.shape)
    patches, means = take_patches(noisy)
    some = patches[rng.permutation(len(patches))[: FITTED // 4 if quick else FITTED]]

    def denoised(k: int, j: int) -> np.ndarray:
        model = fit_subspaces(some, k, j, seed=0)
        labels = model.predict(patches)
        return put_together(model.reconstruct(model.transform(patches, labels), labels) + means, clean.shape)

    by_pca = max((denoised(1, j) for j in PCA_DIMS[:: 3 if quick else 1]), key=lambda image: psnr(image, clean))
    ours = denoised(K, J)
    images = {"noisy": noisy, "PCA": by_pca, "k subspaces": ours, "clean": clean}
    figures = {
        "patches": f"{len(patches)} of {SIDE} x {SIDE}",
        "subspaces": f"{K} subspaces of dimension {J}",
        **{f"PSNR, {name}": round(psnr(image, clean), 2) for name, image in images.items() if name != "clean"},
    }
    return figures, _draw(images, clean)


def take_patches(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All patches of an image, (m, SIDE^2) float32 without their means, and these, (m, 1)."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE)).reshape(-1, SIDE**2).astype(np.float32)
    means = windows.mean(axis=1, keepdims=True)
    return windows - means, means


def put_together(patches: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The image whose patches these are, each pixel the mean of all that cover it."""
    rows, columns = (size - SIDE + 1 for size in shape)
    total, covered = np.zeros(shape), np.zeros(shape)
    for place, values in enumerate(patches.T.reshape(-1, rows, columns)):
        top, left = divmod(place, SIDE)
        total[top : top + rows, left : left + columns] += values
        covered[top : top + rows, left : left + columns] += 1
    return total / covered


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio of an image with values in [0, 1], in dB."""
    return float(-10 * np.log10(((image - clean) ** 2).mean()))


def _draw(images: dict[str, np.ndarray], clean: np.ndarray) -> Figure:
    figure = canvas(9.6, 6.8)
    for axes, (name, image) in zip(figure.subplots(2, 2).flat, images.items(), strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        axes.axis("off")
        title = name if image is clean else f"{name}: {psnr(image, clean):.2f} dB"
        axes.set_title(title, loc="left", fontsize="medium", fontweight="bold")
    return figure


def main(arguments: Sequence[str]) -> None:
    """As `run` has it."""
    run("photograph", example, arguments)
