"""How many subspaces, and how large: what was planted is found, and the criteria are what they are said to be."""

import numpy as np
import pytest
from helpers import import_or_skip
from planted import planted, random_bases
from scipy.stats import multivariate_normal

from ksubspaces import Subspaces, fit_subspaces, select
from ksubspaces.selection import _bic_and_gap, measure_hidden


@pytest.mark.parametrize(("affine", "weighted"), [(False, False), (True, True)])
def test_planted_numbers_are_found(affine, weighted):
    X, _ = planted(240, 10, 3, 2, noise=0.15, offset=2.0 * affine, seed=3)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=240) if weighted else None
    found = select(X, [4, 2, 3], [1, 2, 3], affine=affine, sample_weight=weights, seed=0)
    assert [(c.k, c.j) for c in found.choices] == [(k, j) for k in (2, 3, 4) for j in (1, 2, 3)]
    assert found.best() == found.best("held_out") == found.best("bic") == (3, 2)
    assert max((c.eigengap, c.j) for c in found.choices if c.k == 3)[1] == 2
    again = select(X, [4, 2, 3], [1, 2, 3], affine=affine, sample_weight=weights, seed=0)
    assert again == found
    lines = repr(found).splitlines()
    assert len(lines) == 10
    assert sum(line.count("*") for line in lines) == 3


def test_hidden_entries_by_hand():
    """Row by row with numpy.linalg.lstsq."""
    rng = np.random.default_rng(0)
    bases, offsets = random_bases(rng, 7, [1, 3]), rng.normal(size=(2, 7))
    model = Subspaces(bases, offsets, np.zeros(1, np.int32))
    Y, weights = rng.normal(size=(30, 7)), rng.uniform(size=30)
    hidden = [np.array([0, 4]), np.array([1, 2, 3]), np.array([5, 6])]
    error = 0.0
    for y, w in zip(Y, weights, strict=True):
        for columns in hidden:
            seen = np.delete(np.arange(7), columns)
            trials = []
            for V, mu in zip(bases, offsets, strict=True):
                z = np.linalg.lstsq(V[:, seen].T, (y - mu)[seen], rcond=None)[0]
                rest = (y - mu - z @ V) ** 2
                trials.append((rest[seen].sum(), rest[columns].sum()))
            error += w * min(trials)[1]
    assert measure_hidden(model, Y, hidden, weights) == pytest.approx(error / (weights @ (Y**2).sum(axis=1)))


@pytest.mark.parametrize("affine", [False, True])
def test_bic_and_gap_by_hand(affine):
    """Densities of SciPy under the covariances of the model, cluster by cluster."""
    X, _ = planted(90, 6, 2, 2, noise=0.3, offset=2.0 * affine, dtype=np.float64)
    model = fit_subspaces(X, 2, 2, affine=affine, seed=0)
    likelihood, logs = 0.0, []
    for c in range(2):
        rows = X[model.labels == c]
        mean = rows.mean(axis=0) if affine else np.zeros(6)
        values, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
        logs.append(len(rows) * np.log(values[-2] / values[-3]))
        values[:-2] = values[:-2].mean()
        normal = multivariate_normal(mean, vectors * values @ vectors.T)
        likelihood += normal.logpdf(rows).sum() + len(rows) * np.log(len(rows) / 90)
    free = 2 * (6 * 2 - 3 + 3 + 6 * affine) + 1
    bic, gap = _bic_and_gap(model, X, None)
    assert bic == pytest.approx(free * np.log(90) - 2 * likelihood, rel=1e-9)
    assert gap == pytest.approx(np.exp(sum(logs) / 90), rel=1e-6)
    assert _bic_and_gap(model, X, np.full(90, 7.0))[0] == pytest.approx(bic, rel=1e-9)


def test_points_and_the_whole_space():
    X = np.random.default_rng(0).normal(size=(40, 3))
    found = select(X, [1, 2], [0, 3], affine=True, seed=0, search="starts")
    assert all(np.isfinite([c.bic, c.held_out]).all() and np.isnan(c.eigengap) for c in found.choices)
    with pytest.raises(ValueError, match="no choice has a number for 'eigengap'"):
        found.best("eigengap")
    assert "nan" in repr(found)


def test_torch_rows_give_the_same():
    torch = import_or_skip("torch")
    X, _ = planted(90, 6, 2, 2)
    assert select(torch.from_numpy(X), [2], [1, 2], seed=0) == select(X, [2], [1, 2], seed=0)


def test_plot(tmp_path):
    import_or_skip("matplotlib")
    X, _ = planted(90, 6, 2, 2)
    found = select(X, [1, 2], [1, 2], folds=2, seed=0)
    found.plot(tmp_path / "choices.png")
    assert (tmp_path / "choices.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("ks", "js", "given", "message"),
    [
        ([0], [1], {}, "ks must be at least 1"),
        ([1], [9], {}, "js must be at most the 4 columns of X, got 9"),
        ([], [1], {}, "ks and js must name at least one each"),
        ([1], [1], {"folds": 1}, "folds must be at least 2"),
        ([7], [1], {}, "k=7 subspaces and 3 folds need more rows than the 9 of X"),
    ],
)
def test_bad_arguments(ks, js, given, message):
    with pytest.raises(ValueError, match=message):
        select(np.random.default_rng(0).normal(size=(9, 4)), ks, js, **given)
    found = select(np.random.default_rng(0).normal(size=(9, 4)), [1], [1])
    with pytest.raises(ValueError, match="criterion must be one of 'held_out', 'bic', 'eigengap', got 'aic'"):
        found.best("aic")
