"""``select``: how many subspaces, and how large, by three criteria that guide and do not decide."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from ksubspaces import kernels

from .arrays import AnyArray, Array, energy, import_array, namespace, to_numpy
from .checks import Passed, Seed, check_weights, flag, generators, whole
from .figures import plot_choices
from .fit import fit_subspaces
from .result import share
from .subspaces import Subspaces

CRITERIA = ("held_out", "bic", "eigengap")
COLUMN_GROUPS = 4  # of columns, each hidden once from the rows held out


@dataclass(frozen=True)
class Choice:
    """What the criteria say of k subspaces of dimension j.

    Attributes
    ----------
    k, j : int
    relative_error : float
        Of a fit to all rows; it falls as k or j grows, whatever the rows are.
    held_out : float
        Squared error of hidden entries of rows held out, relative to the squares of these; the mean over folds.
    held_out_spread : float
        Standard error of that mean.
    bic : float
        -2 log-likelihood + parameters log n: the less, the better.
    eigengap : float
        Geometric mean over clusters, by their weight, of the j-th eigenvalue of their second moments relative to the
        next. NaN for j = 0 and j = d.
    """

    k: int
    j: int
    relative_error: float
    held_out: float
    held_out_spread: float
    bic: float
    eigengap: float


@dataclass(frozen=True)
class Selection:
    """What the criteria say of each choice of k and j; what :func:`select` returns. Printed, it is a table.

    Attributes
    ----------
    choices : tuple of Choice
        By k, then by j.
    """

    choices: tuple[Choice, ...]

    def best(self, criterion: str = "held_out") -> tuple[int, int]:
        """(k, j) that a criterion prefers: least "held_out" or "bic", largest "eigengap".

        Raises
        ------
        ValueError
            When there is no such criterion, or no choice has a number for it.
        """
        if criterion not in CRITERIA:
            raise ValueError(f"criterion must be one of {', '.join(map(repr, CRITERIA))}, got {criterion!r}")
        sign = -1 if criterion == "eigengap" else 1
        known = [choice for choice in self.choices if math.isfinite(getattr(choice, criterion))]
        if not known:
            raise ValueError(f"no choice has a number for {criterion!r}: it takes a j between 0 and the columns of X")
        found = min(known, key=lambda choice: sign * getattr(choice, criterion))
        return found.k, found.j

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw each criterion against k into an image file, with a line for each j and a ring at its best choice.

        Raises
        ------
        ImportError
            matplotlib (extra ``cli``) is not installed.
        """
        titles = ("Error of held-out entries", "BIC", "Eigengap")
        lines: dict[int, list[Choice]] = {}
        for choice in self.choices:
            lines.setdefault(choice.j, []).append(choice)
        panels = {}
        for title, criterion in zip(titles, CRITERIA, strict=True):
            series = {j: ([c.k for c in own], [getattr(c, criterion) for c in own]) for j, own in lines.items()}
            panels[title] = series, self.best(criterion) if self._knows(criterion) else None
        plot_choices(path, panels)

    def __repr__(self) -> str:
        rows = [f"{'k':>4} {'j':>4}  error   held out (+-)     {'BIC':>12}  eigengap"]
        marks = {criterion: self.best(criterion) for criterion in CRITERIA if self._knows(criterion)}
        for c in self.choices:
            held, bic, gap = ("*" if marks.get(name) == (c.k, c.j) else " " for name in CRITERIA)
            rows.append(
                f"{c.k:4} {c.j:4}  {c.relative_error:.4f}  {c.held_out:.4f} ({c.held_out_spread:.4f}){held} "
                f"{c.bic:12.1f}{bic} {c.eigengap:8.2f}{gap}"
            )
        return "\n".join(rows)

    def _knows(self, criterion: str) -> bool:
        return any(math.isfinite(getattr(choice, criterion)) for choice in self.choices)


def select(
    X: AnyArray,
    ks: Iterable[int],
    js: Iterable[int],
    *,
    folds: int = 3,
    affine: bool = False,
    sample_weight: AnyArray | None = None,
    seed: Seed = None,
    **options: Passed,
) -> Selection:
    """Fit every choice of k subspaces of dimension j, and say what three criteria hold of each.

    They guide. Where they agree, the rows have such subspaces; where they do not, look at the plot and at what the
    subspaces are for. Of a table that is to be compressed ask :func:`compression_curve` instead.

    Parameters
    ----------
    X : (n, d) array
        As in :func:`fit_subspaces`; not a Dask array.
    ks, js : ints
        Numbers of subspaces, at least 1, and dimensions from 0 to d.
    folds : int, default 3
        Parts of the rows, each held out once. At least 2.
    affine : bool, default False
    sample_weight : (n,) array, optional
    seed : int, numpy.random.Generator or None
        Also of the folds.
    **options
        Of each fit, as :func:`fit_subspaces` takes them: ``effort``, ``device``, ``dtype`` ...

    Returns
    -------
    Selection

    Raises
    ------
    ValueError, TypeError
        When an argument cannot be used; the message names it and says what to do.

    Notes
    -----
    **Held out.** The distance of a new row to its nearest flat falls with every dimension more, so it tells nothing of
    j. So a quarter of the columns of a row held out is hidden, its flat and coefficients are found from the others, and
    the error is that of what they say of the hidden entries; then the next quarter. Too large a j or k follows noise,
    and errs more (Wold 1978; Gabriel 2002; Owen and Perry, "Bi-cross-validation of the SVD and the nonnegative matrix
    factorization", 2009). It takes hidden columns that the others tell something of.

    **BIC** is that of the probabilistic model whose clusters are normal, with j free variances along the flat and one
    across it (Tipping and Bishop, "Mixtures of probabilistic principal component analyzers", 1999), rows in one cluster
    each. With weights a row counts by its share of them, as n rows in all.

    **Eigengap.** Where a cluster's spectrum falls, its dimension ends. It tells j for a k, hardly k.

    It takes ``folds + 1`` fits for each choice.

    Examples
    --------
    >>> import numpy as np
    >>> from ksubspaces import select
    >>> rng = np.random.default_rng(0)
    >>> bases = np.linalg.qr(rng.normal(size=(3, 12, 2)))[0]
    >>> X = np.concatenate([rng.normal(size=(100, 2)) @ basis.T for basis in bases])
    >>> found = select(X + 0.1 * rng.normal(size=X.shape), ks=[2, 3, 4], js=[1, 2, 3], seed=0)
    >>> found.best("held_out"), found.best("bic")
    ((3, 2), (3, 2))
    """
    counts = sorted({whole("ks", k, 1) for k in ks})
    dims = sorted({whole("js", j, 0) for j in js})
    folds, affine = whole("folds", folds, 2), flag("affine", affine)
    if not counts or not dims:
        raise ValueError(f"ks and js must name at least one each, got ks={counts} and js={dims}")
    array = import_array(X, "X")
    if array.ndim != 2:
        raise ValueError(f"X must be a matrix of rows (n, d), got shape {tuple(array.shape)}")
    n, d = array.shape
    if n - -(-n // folds) < counts[-1]:
        raise ValueError(f"k={counts[-1]} subspaces and {folds} folds need more rows than the {n} of X")
    if dims[-1] > d:
        raise ValueError(f"js must be at most the {d} columns of X, got {dims[-1]}")
    weights = None if sample_weight is None else to_numpy(check_weights(sample_weight, n, "cpu")[0])
    seeds = generators(seed)
    shuffled = next(seeds)
    parts = np.array_split(shuffled.permutation(n), folds)
    hidden = np.array_split(shuffled.permutation(d), min(COLUMN_GROUPS, d))
    fixed = int(next(seeds).integers(2**63))  # of each fit: choices differ by k and j alone

    def fit(rows: np.ndarray, k: int, j: int) -> Subspaces:
        own = None if weights is None else weights[rows]
        return fit_subspaces(array[rows], k, j, affine=affine, sample_weight=own, seed=fixed, **options)

    choices = []
    for k, j in product(counts, dims):
        errors = []
        for part in parts:
            model = fit(np.setdiff1d(np.arange(n), part), k, j)
            errors.append(measure_hidden(model, array[part], hidden, None if weights is None else weights[part]))
        model = fit(np.arange(n), k, j)
        bic, gap = _bic_and_gap(model, array, weights)
        spread = float(np.std(errors, ddof=1) / math.sqrt(folds))
        choices.append(Choice(k, j, model.relative_error, float(np.mean(errors)), spread, bic, gap))
    return Selection(tuple(choices))


def measure_hidden(model: Subspaces, Y: Array, hidden: list[np.ndarray], weights: np.ndarray | None = None) -> float:
    """Weighted squared error of entries of Y (m, d) that were hidden, a group of columns at a time, relative to Y's.

    The columns left say which flat a row belongs to, and its coefficients by least squares.
    """
    xp, own = namespace(Y), model.to("numpy")
    Y = Y.astype(np.float64)
    w = xp.ones(len(Y)) if weights is None else xp.asarray(weights)
    error = 0.0
    for columns in hidden:
        seen = np.setdiff1d(np.arange(model.d), columns)
        nearest, missed = xp.full(len(Y), np.inf), xp.zeros(len(Y))
        for c, basis in enumerate(own.bases):
            V = xp.asarray(basis, dtype=np.float64)
            centred = Y if own.offsets is None else Y - xp.asarray(own.offsets[c], dtype=np.float64)
            coefficients = centred[:, seen] @ xp.linalg.pinv(V[:, seen])
            squares = (centred - coefficients @ V) ** 2
            left = squares[:, seen].sum(axis=1)
            missed = xp.where(left < nearest, squares[:, columns].sum(axis=1), missed)
            nearest = xp.minimum(nearest, left)
        error += float(w @ missed)
    return share(error, energy(Y, w))


def _bic_and_gap(model: Subspaces, X: Array, weights: np.ndarray | None) -> tuple[float, float]:
    """BIC of normal clusters about the flats of a fit, and the mean eigengap of these."""
    xp, (n, d), j = namespace(X), X.shape, model.dims[0]
    affine = model.offsets is not None
    labels = xp.asarray(to_numpy(import_array(model.labels, "labels")))
    w = xp.ones(n) if weights is None else xp.asarray(weights * (n / weights.sum()))
    rows = X.astype(np.float64 if X.dtype.kind != "f" or X.dtype.itemsize > 4 else np.float32, copy=False)
    moments = kernels.second_moments(rows, kernels.group_rows(labels, model.k), w, affine, True, np.float64)
    masses = np.bincount(to_numpy(labels), to_numpy(w), minlength=model.k)
    noise = max(np.finfo(rows.dtype).eps * float((rows.astype(np.float64) ** 2).mean()), np.finfo(np.float64).tiny)
    likelihood, gaps, known = 0.0, 0.0, 0.0
    for S, mass in zip(to_numpy(moments.scatter), masses, strict=True):
        if mass <= 0:
            continue
        values = np.maximum(np.linalg.eigvalsh(S)[::-1] / mass, noise)
        across = values[j:].mean() if j < d else 1.0
        logs = np.log(values[:j]).sum() + (d - j) * np.log(across)
        likelihood += mass * (np.log(mass / n) - 0.5 * (d * np.log(2 * np.pi) + logs + d))
        if 0 < j < d:
            gaps, known = gaps + mass * np.log(values[j - 1] / values[j]), known + mass
    free = model.k * (d * j - j * (j + 1) / 2 + j + (j < d) + d * affine) + model.k - 1
    return float(free * np.log(n) - 2 * likelihood), float(np.exp(gaps / known)) if known else math.nan
