"""Ten subspaces through pictures of digits: clusters closer to the digits than those of k-means, and their bases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ksubspaces import fit_subspaces

from ..lib.data import digits
from . import canvas, run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

K, J = 10, 4
SHOWN = 6  # digits of each cluster, nearest to its subspace relative to their length


def example(quick: bool) -> tuple[dict[str, Any], Figure]:
    """Cluster scikit-learn's digits by ten subspaces of dimension 4, and by k-means."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    X, truth = digits()
    X, truth = (X[:600], truth[:600]) if quick else (X, truth)
    model = fit_subspaces(X, K, J, seed=0)
    means = KMeans(K, n_init=10, random_state=0).fit(X)
    figures = {
        "rows": len(X),
        "subspaces": f"{K} subspaces of dimension {J}",
        "NMI with the digits": round(normalized_mutual_info_score(truth, model.labels), 3),
        "NMI with the digits, k-means": round(normalized_mutual_info_score(truth, means.labels_), 3),
        "relative error": round(model.relative_error, 4),
    }
    return figures, _draw(X, truth, model)


def _draw(X: np.ndarray, truth: np.ndarray, model: Any) -> Figure:
    """A line for each subspace: its basis, then the digits nearest to it."""
    names = [np.bincount(truth[model.labels == c], minlength=10).argmax() for c in range(K)]
    share = model.residuals(X) / (X**2).sum(axis=1)
    figure = canvas(7.2, 6.8)
    grid = figure.subplots(K, J + 1 + SHOWN, gridspec_kw={"width_ratios": [1] * J + [0.4] + [1] * SHOWN})
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.97))  # room for the titles
    for axes in grid.flat:
        axes.axis("off")
    for line, c in enumerate(np.argsort(names, kind="stable")):
        own = np.flatnonzero(model.labels == c)
        for place, direction in enumerate(model.bases[c]):
            sign = np.sign(direction.sum()) or 1.0
            most = abs(direction).max()
            grid[line, place].imshow(sign * direction.reshape(8, 8), cmap="RdBu_r", vmin=-most, vmax=most)
        for place, row in enumerate(own[np.argsort(share[own])][:SHOWN]):
            grid[line, J + 1 + place].imshow(X[row].reshape(8, 8), cmap="gray_r")
    for place, title in ((0, "basis of each subspace"), ((J + 0.4) / (J + 0.4 + SHOWN), "digits nearest to it")):
        figure.text(place + 0.008, 0.98, title, fontweight="bold")
    return figure


def main(arguments: Sequence[str]) -> None:
    """As `run` has it."""
    run("digits", example, arguments)
