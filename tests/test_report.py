"""The numbers of a fit against direct computations, the terminal's table, and the picture."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from files import pixels
from helpers import import_or_skip

from ksubspaces import fit_subspaces
from ksubspaces.demo import planted_table
from ksubspaces.extras import require
from ksubspaces.figures import plot
from ksubspaces.report import FitReport, SVDCurve, dimension_sweep, make_report, svd_curve
from ksubspaces.terminal import render

TABLE = planted_table(n=400, d=16, k=3, j=4, noise=0.1)


@pytest.fixture(scope="module")
def svd() -> SVDCurve:
    return svd_curve(TABLE)


@pytest.fixture(scope="module")
def report(svd: SVDCurve) -> FitReport:
    fit = fit_subspaces(TABLE, 3, 4, seed=0)
    return make_report(fit, fit.factorize(TABLE), svd, 0.25)


@pytest.mark.parametrize("shape", [(50, 8), (8, 50), (9, 9), (1, 5), (5, 1)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int32])
def test_svd_curve_is_the_svds_error_at_every_rank(shape: tuple[int, int], dtype: type) -> None:
    table = (10 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    exact = table.astype(np.float64)
    u, s, vt = np.linalg.svd(exact, full_matrices=False)
    curve = svd_curve(table)
    assert len(curve.relative_error) == min(shape) + 1
    for r in range(min(shape) + 1):
        error = ((exact - (u[:, :r] * s[:r]) @ vt[:r]) ** 2).sum() / (exact**2).sum()
        assert curve.n_parameters[r] == r * sum(shape)
        assert curve.relative_error[r] == pytest.approx(error, abs=1e-12)
        assert curve.at(r * sum(shape)) == curve.relative_error[r]


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_svd_curve_weighs_rows(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    table, weights = rng.standard_normal(shape), rng.exponential(size=shape[0])
    weights[2] = 0
    scaled = svd_curve(np.sqrt(weights)[:, None] * table)
    np.testing.assert_allclose(svd_curve(table, weights).relative_error, scaled.relative_error, atol=1e-12)


def test_svd_curve_reads_in_blocks() -> None:
    table = np.random.default_rng(0).standard_normal((20_000, 300)).astype(np.float32)
    s = np.linalg.eigvalsh(table.T.astype(np.float64) @ table)[::-1]
    np.testing.assert_allclose(svd_curve(table).relative_error[:-1], 1 - np.append(0, s.cumsum())[:-1] / s.sum(), 1e-8)


def test_svd_at_a_fractional_rank_is_interpolated_and_ends_at_zero() -> None:
    curve = SVDCurve(np.array([0, 10, 20]), np.array([1.0, 0.5, 0.0]))
    assert curve.at(5) == 0.75
    assert curve.at(12) == 0.4
    assert curve.at(99) == 0.0


def test_svd_curve_of_zeros() -> None:
    assert not svd_curve(np.zeros((5, 3))).relative_error.any()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("j", [4, [2, 3, 6]])
def test_report_says_what_can_be_recomputed(svd: SVDCurve, j: int | list[int], affine: bool) -> None:
    fit = fit_subspaces(TABLE, 3, j, affine=affine, seed=0)
    factorization = fit.factorize(TABLE)
    report = make_report(fit, factorization, svd, 1.5)
    n, d = TABLE.shape
    dims = np.broadcast_to(j, 3)
    counts = np.bincount(fit.labels, minlength=3)
    assert report.dims == tuple(dims)
    assert report.counts == tuple(counts)
    assert report.n_parameters == counts @ dims + d * dims.sum() + n + affine * 3 * d
    assert report.ratio == pytest.approx(1 - report.n_parameters / (n * d))
    assert report.relative_error == pytest.approx(factorization.measure_error(TABLE), rel=1e-4)
    assert report.objective == pytest.approx(report.relative_error * (TABLE.astype(float) ** 2).sum(), rel=1e-5)
    assert report.svd_relative_error == svd.at(report.n_parameters)
    assert len(report.history) == len(fit.history)
    assert report.history[-1] == pytest.approx(report.relative_error, rel=1e-3)
    assert report.seconds == 1.5


@pytest.mark.parametrize("affine", [False, True])
def test_sweep_gives_points_of_other_dimensions(affine: bool) -> None:
    fit = fit_subspaces(TABLE, 3, [3, 4, 5], affine=affine, seed=0)
    points = list(dimension_sweep(TABLE, fit))
    parameters, errors = np.array(sorted([*points, (fit.factorize(TABLE).n_parameters, fit.relative_error)])).T
    assert len(points) == 4
    assert (np.diff(parameters) > 0).all()
    assert (np.diff(errors) < 0).all()
    n, d = TABLE.shape
    at_two = np.array(fit.counts) @ np.array([1, 2, 3]) + d * 6 + n + affine * 3 * d
    assert parameters[0] == pytest.approx(at_two, rel=0.2)


def test_sweep_at_the_ends_of_the_range() -> None:
    for j, expected in ((1, 2), (16, 2), (0, 2)):
        points = list(dimension_sweep(TABLE, fit_subspaces(TABLE, 2, j, affine=j == 0, seed=0)))
        assert len(points) == expected
        assert all(0 <= error <= 1 for _, error in points)


def rendered(report: FitReport, width: int = 80) -> str:
    console = import_or_skip("rich.console").Console(file=io.StringIO(), width=width)
    console.print(render(report))
    text: str = console.file.getvalue()
    return text


def test_table_for_the_terminal(report: FitReport) -> None:
    text = rendered(report)
    assert "400 x 16" in text
    assert f"{report.relative_error:.4f}" in text
    assert f"{report.svd_relative_error:.4f}" in text
    assert f"{report.n_parameters:,}" in text
    assert "fewer than 6,400" in text
    assert "0.25" in text
    assert "converged" in text
    assert "re-seeded" not in text
    for count in report.counts:
        assert f"{count:,}" in text
    assert max(map(len, text.splitlines())) <= 80
    changed = replace(report, ratio=-0.5, converged=False, n_reseeded=2)
    assert "50.0% more than 6,400" in rendered(changed)
    assert "stopped at max_iter" in rendered(changed)
    assert "re-seeded" in rendered(changed)


def test_table_of_many_clusters_is_cut_short(report: FitReport) -> None:
    text = rendered(replace(report, dims=(4,) * 1000, counts=tuple(range(1000))))
    assert len(text.splitlines()) < 40
    assert "and 984 more; sizes 0 to 999" in text


def test_picture(tmp_path: Path, report: FitReport, svd: SVDCurve) -> None:
    import_or_skip("matplotlib")
    plot(tmp_path / "r.png", report, svd, [(500, 0.5), (3000, 0.1)])
    picture = pixels(tmp_path / "r.png")
    assert picture.shape == (630, 1440, 3)
    left, right = picture[:, :720], picture[:, 720:]
    blue, orange = np.array([0, 0x72, 0xB2]) / 255, np.array([0xD5, 0x5E, 0]) / 255
    assert (np.abs(left - blue).max(-1) < 0.01).sum() > 200
    assert (np.abs(left - orange).max(-1) < 0.01).sum() > 200
    assert (np.abs(right - orange).max(-1) < 0.01).sum() > 50


@pytest.mark.parametrize(
    "changes",
    [
        {"history": ()},
        {"history": (0.1,)},
        {"n_parameters": 20_000, "ratio": -2.1},
        {"relative_error": 0.0, "svd_relative_error": 0.0, "history": (0.0, 0.0)},
    ],
)
def test_picture_of_odd_fits(
    tmp_path: Path, report: FitReport, svd: SVDCurve, changes: dict[str, float | tuple[float, ...]]
) -> None:
    import_or_skip("matplotlib")
    plot(tmp_path / "r.png", replace(report, **changes), svd)  # type: ignore[arg-type]
    assert pixels(tmp_path / "r.png").std() > 0


def test_missing_extras_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: FitReport, svd: SVDCurve
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'rich is not installed: pip install "ksubspaces\[cli\]"'):
        render(report)
    with pytest.raises(ImportError, match=r'matplotlib is not installed: pip install "ksubspaces\[cli\]"'):
        plot(tmp_path / "r.png", report, svd)
    require("json")
