"""Error against size: each point what compress gives, truncated SVDs of one decomposition, tables, files, the plot."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import pixels
from helpers import import_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ksubspaces import compress
from ksubspaces import curve as curve_module
from ksubspaces.curve import CompressionCurve, CurvePoint, compression_curve, truncate_svd
from ksubspaces.demo import planted_table
from ksubspaces.terminal import render_curve

TABLE = planted_table(n=400, d=16, k=3, j=3)
WEIGHTS = np.arange(1, 401) ** -0.5
RATIOS = (0.3, 0.5, 0.7)


@pytest.fixture(scope="module")
def curve() -> CompressionCurve:
    return compression_curve(TABLE, RATIOS, sample_weight=WEIGHTS, seed=0)


def test_every_method_at_every_ratio(curve: CompressionCurve) -> None:
    assert curve.methods == ("svd", "messi-3", "messi-5", "ours", "ours-weighted")
    assert curve.ratios == RATIOS
    assert [(p.method, p.ratio) for p in curve.points] == [(m, r) for m in curve.methods for r in RATIOS]
    assert curve.shape == TABLE.shape
    assert curve.is_weighted
    assert curve.ended == {}
    assert [p.k for p in curve.of("messi-5").values()] == [5, 5, 5]
    assert all(p.n_parameters <= (1 - p.ratio) * TABLE.size and p.seconds >= 0 for p in curve.points)
    with pytest.raises(KeyError, match="no method 'messi-4' here; there are svd, messi-3"):
        curve.of("messi-4")


@pytest.mark.filterwarnings("ignore:no partition of A")
@pytest.mark.parametrize(
    "method, options",
    [
        ("svd", {"k": 1}),
        ("messi-3", {"k": 3, "dims": "equal"}),
        ("ours", {}),
        ("ours-weighted", {"sample_weight": WEIGHTS}),
    ],
)
def test_points_are_what_compress_gives(curve: CompressionCurve, method: str, options: dict[str, Any]) -> None:
    for ratio, point in curve.of(method).items():
        factors = compress(TABLE, ratio, seed=0, **options)
        assert point.n_parameters == factors.n_parameters
        assert point.k == len(factors.bases)
        assert point.relative_error == pytest.approx(factors.measure_error(TABLE), rel=1e-5)
        assert point.weighted_error == pytest.approx(factors.measure_error(TABLE, WEIGHTS), rel=1e-5)


def test_what_is_known_is_measured_and_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = compress(TABLE, 0.5, k=2, seed=5)
    measured = compression_curve(TABLE, RATIOS, methods=("svd", "ours"), known={("ours", 0.5): factors}, seed=0)
    point = measured.of("ours")[0.5]
    assert (point.k, point.n_parameters) == (2, factors.n_parameters)
    assert point.relative_error == pytest.approx(factors.relative_error, rel=1e-5)
    with pytest.raises(ValueError, match=r"known has \('ours', 0.4\), which is not among the methods"):
        compression_curve(TABLE, RATIOS, known={("ours", 0.4): factors})
    with pytest.raises(ValueError, match=r"is of a matrix of shape \(400, 16\), but A is of \(300, 16\)"):
        compression_curve(TABLE[:300], RATIOS, known={("ours", 0.5): factors})


def test_weights_need_not_be_gone_by_to_be_measured_by() -> None:
    measured = compression_curve(TABLE, (0.5,), methods=("svd", "svd-weighted"), sample_weight=WEIGHTS)
    plain, weighted = measured.points
    assert plain.relative_error < weighted.relative_error
    assert weighted.weighted_error < plain.weighted_error  # type: ignore[operator]


def test_without_weights_there_is_no_weighted_error() -> None:
    measured = compression_curve(TABLE, (0.5,), seed=0)
    assert measured.methods == ("svd", "messi-3", "messi-5", "ours")
    assert not measured.is_weighted
    assert {point.weighted_error for point in measured.points} == {None}


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(8, 40),
    d=st.integers(4, 12),
    rank=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    exact=st.integers(0, 2),
    weigh=st.booleans(),
)
def test_truncated_svds_are_those_of_compress(n: int, d: int, rank: int, seed: int, exact: int, weigh: bool) -> None:
    rng = np.random.default_rng(seed)
    rank = min(rank, n, d)
    A = rng.normal(size=(n, rank)) @ (rng.normal(size=(rank, d)) * 10.0 ** -np.arange(rank)[:, None])
    options: dict[str, Any] = {"exact_rows": np.arange(exact), "sample_weight": rng.random(n) if weigh else None}
    try:
        svd = compress(A, 0, k=1, **options)
    except ValueError:  # no room
        return
    for ratio in (0.1, 0.35, 0.6):
        budget = int((1 - ratio) * n * d + 1e-9)
        short = truncate_svd(svd, budget)
        try:
            own = compress(A, ratio, k=1, **options)
        except ValueError:
            assert short is None
            continue
        assert short is not None
        assert short.dims == own.dims
        assert short.n_parameters == own.n_parameters <= budget
        np.testing.assert_array_equal(short.bases[0], own.bases[0])
        np.testing.assert_allclose(short.reconstruct(), own.reconstruct(), atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(30, 90),
    d=st.integers(6, 12),
    k=st.integers(1, 4),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 1000),
    exact=st.integers(0, 2),
    warm=st.booleans(),
)
def test_ours_is_never_above_the_svd_nor_its_size(
    n: int, d: int, k: int, noise: float, seed: int, exact: int, warm: bool
) -> None:
    A = planted_table(n=n, d=d, k=k, j=2, noise=noise, seed=seed).astype(np.float64)
    rows = np.arange(exact)
    measured = compression_curve(A, (0.1, 0.3, 0.5), methods=("svd", "ours"), exact_rows=rows, warm=warm, seed=seed)
    svd = measured.of("svd")
    for ratio, point in measured.of("ours").items():
        assert point.n_parameters <= (1 - ratio) * A.size + 1e-6
        assert point.relative_error <= svd[ratio].relative_error * (1 + 1e-6) + 1e-12


def test_svd_is_decomposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    compression_curve(TABLE, RATIOS, methods=("svd",))
    assert len(seen) == 1


def test_warm_starts_begin_with_the_larger_size(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    cold = compression_curve(TABLE, RATIOS, methods=("messi-3", "ours"), seed=0)
    assert [options["init"] for _, options in seen] == [None] * 6
    seen.clear()
    warm = compression_curve(TABLE, RATIOS, methods=("messi-3", "ours"), warm=True, seed=0)
    for first, then in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert seen[then][1]["init"] is seen[first][0]
    assert seen[0][1]["init"] is seen[3][1]["init"] is None
    for a, b in zip(cold.points, warm.points, strict=True):
        assert b.relative_error < 1.3 * a.relative_error


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """Results and options of each call of compress, as they come."""
    seen = []

    def spy(A: Any, ratio: float, **options: Any) -> Any:
        seen.append((compress(A, ratio, **options), {"init": None, **options}))
        return seen[-1][0]

    monkeypatch.setattr(curve_module, "compress", spy)
    return seen


def test_options_reach_compress(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spied(monkeypatch)
    methods = ("svd", "messi-2-weighted")
    options = {"exact_rows": [3, 5], "device": "cpu", "seed": 7}
    compression_curve(TABLE, (0.5,), methods=methods, sample_weight=WEIGHTS, **options)  # type: ignore[arg-type]
    (_, svd), (_, messi) = seen
    assert svd == {**options, "k": 1, "init": None}
    assert {name: messi[name] for name in options} == options
    assert (messi["k"], messi["dims"]) == (2, "equal")
    assert messi["sample_weight"] is WEIGHTS


def test_exact_rows_are_a_cluster_and_count() -> None:
    measured = compression_curve(TABLE, (0.3, 0.5), methods=("svd", "messi-2"), exact_rows=[0, 9], seed=0)
    assert [point.k for point in measured.points] == [2, 2, 3, 3]
    assert all(point.n_parameters <= (1 - point.ratio) * TABLE.size for point in measured.points)


def test_order_and_repetition_of_ratios_and_methods_do_not_matter() -> None:
    measured = compression_curve(TABLE, [0.5, 0.3, 0.5], methods=["messi-2", "svd", "svd"], seed=0)
    assert measured.ratios == (0.3, 0.5)
    assert measured.methods == ("messi-2", "svd")
    one = compression_curve(TABLE, np.array([0.5]), methods="svd")
    assert one.points[0].n_parameters == measured.of("svd")[0.5].n_parameters


def test_a_method_ends_where_it_no_longer_fits() -> None:
    measured = compression_curve(TABLE, (0.3, 0.8, 0.85), methods=("svd", "messi-60"), seed=0)
    assert list(measured.of("messi-60")) == [0.3]
    assert list(measured.of("svd")) == [0.3, 0.8, 0.85]
    assert "k=60 clusters of equal dimension do not fit" in measured.ended["messi-60"]
    exact = compression_curve(TABLE, (0.3, 0.85), methods=("svd", "ours"), exact_rows=np.arange(30), seed=0)
    assert len(exact.points) == 2
    assert "the 30 exact_rows leave no room" in exact.ended["svd"]
    assert set(exact.ended) == {"svd", "ours"}


@pytest.mark.parametrize(
    "changes, error, message",
    [
        ({"methods": ("svd", "pca")}, ValueError, "unknown method 'pca'; there are 'svd', 'messi-K' with a number"),
        ({"methods": ("messi-0",)}, ValueError, "unknown method 'messi-0'"),
        ({"methods": ("messi-",)}, ValueError, "unknown method 'messi-'"),
        ({"methods": (3,)}, ValueError, "unknown method 3"),
        ({"methods": ()}, ValueError, "methods is empty"),
        ({"methods": ("svd", "ours-weighted")}, ValueError, "'ours-weighted' goes by weights; give sample_weight, or"),
        ({"methods": ("messi-401",)}, ValueError, "k=401 clusters need at least 401 rows"),
        ({"ratios": ()}, ValueError, "ratios is empty"),
        ({"ratios": 0.4}, ValueError, "ratios must be numbers, for instance"),
        ({"ratios": "0.4"}, ValueError, "ratios must be numbers, for instance"),
        ({"ratios": (0.4, 1.0)}, ValueError, "0 <= ratio < 1; got 1.0"),
        ({"ratios": (-0.1, 0.4)}, ValueError, "0 <= ratio < 1; got -0.1"),
        ({"ratios": (0.4, float("nan"))}, ValueError, "0 <= ratio < 1; got nan"),
        ({"ratios": (0.4, 0.99)}, ValueError, "ratio=0.99 leaves 64 parameters .*; choose a ratio of at most 0.935"),
        ({"sample_weight": WEIGHTS[:-1]}, ValueError, "sample_weight must have one entry for each of the 400 rows"),
        ({"sample_weight": -WEIGHTS}, ValueError, "sample_weight must be finite and nonnegative"),
        ({"exact_rows": [400]}, ValueError, "exact_rows does not name rows of A"),
        ({"A": TABLE[0]}, ValueError, r"A must be a matrix of rows \(n, d\), got shape \(16,\)"),
        ({"A": np.full((40, 9), np.nan)}, ValueError, "A must be finite"),
        ({"device": "abacus"}, ValueError, "device must be"),
        ({"seed": "a", "methods": ("ours",)}, TypeError, "seed must be"),
    ],
)
def test_bad_input_is_refused_by_name(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"A": TABLE, "ratios": RATIOS, "methods": ("svd",), **changes}
    with pytest.raises(error, match=message):
        compression_curve(**arguments)


def test_where_ours_is_the_svd_it_says_so() -> None:
    noise = np.random.default_rng(0).normal(size=(60, 8))
    with pytest.warns(UserWarning, match="no partition of A"):
        measured = compression_curve(noise, (0.85,), methods=("ours",), seed=0)
    assert len(measured.points) == 1


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    import_or_skip("rich")
    compression_curve(TABLE, (0.5,), methods=("svd", "messi-2"), seed=0, progress=True)
    assert "done" in capsys.readouterr().out


def test_torch_tensors_are_measured_alike(curve: CompressionCurve) -> None:
    torch = import_or_skip("torch")
    measured = compression_curve(
        torch.from_numpy(TABLE), RATIOS, methods=("svd", "messi-3"), sample_weight=torch.from_numpy(WEIGHTS), seed=0
    )
    for point in measured.points:
        assert point.relative_error == pytest.approx(curve.of(point.method)[point.ratio].relative_error, rel=1e-6)


def test_rows_and_json(curve: CompressionCurve, tmp_path: Path) -> None:
    rows = curve.rows()
    assert len(rows) == len(curve.points)
    assert rows[0] == vars(curve.points[0])
    curve.save(tmp_path / "c.json", {"table": "planted"})
    written = json.loads((tmp_path / "c.json").read_text())
    assert written["table"] == "planted"
    assert written["shape"] == [400, 16]
    assert CompressionCurve.load(tmp_path / "c.json") == CompressionCurve.from_dict(curve.to_dict()) == curve


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"shape": [1, 2]}', b'{"shape": 1, "points": [], "ended": {}}', b"\xff"]
)
def test_other_files_are_no_curves(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.json: "):
        CompressionCurve.load(tmp_path / "c.json")
    with pytest.raises(FileNotFoundError):
        CompressionCurve.load(tmp_path / "gone.json")


def rendered(curve: CompressionCurve, width: int = 80) -> str:
    console = import_or_skip("rich.console").Console(file=io.StringIO(), width=width)
    console.print(render_curve(curve))
    text: str = console.file.getvalue()
    return text


def test_table_for_the_terminal(curve: CompressionCurve) -> None:
    text = rendered(curve)
    assert max(map(len, text.splitlines())) <= 80
    for point in curve.points:
        assert f"{point.relative_error:.4f}" in text
        assert f"{point.weighted_error:.4f}" in text
        assert f"{point.k} / {point.seconds:.1f} s" in text
    assert [line.split()[0] for line in text.splitlines() if "%" in line] == ["30%", "50%", "70%"] * 3


def test_table_without_weights_and_with_gaps() -> None:
    points = (CurvePoint("svd", 0.3, 70, 0.2, None, 1, 0.1), CurvePoint("svd", 0.6, 40, 0.4, None, 1, 0.1))
    gaps = CompressionCurve((10, 10), (*points, CurvePoint("messi-3", 0.3, 69, 0.1, None, 3, 2.0)), {"messi-3": "why"})
    text = rendered(gaps)
    assert "weighted" not in text
    assert "messi-3 ends where it no longer fits: why" in text
    assert [line.split() for line in text.splitlines() if "60%" in line] == [
        ["60%", "0.4000"],
        ["60%", "1", "/", "0.1", "s"],
    ]


def shows(picture: NDArray[np.float32], colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(picture - wanted).max(-1) < 0.01).sum()) > 100


def test_picture(curve: CompressionCurve, tmp_path: Path) -> None:
    import_or_skip("matplotlib")
    curve.plot(tmp_path / "c.png")
    picture = pixels(tmp_path / "c.png")
    assert picture.shape == (720, 1440, 3)
    for half in (picture[:, :720], picture[:, 720:]):
        for colour in ("#0072B2", "#009E73", "#CC79A7", "#D55E00"):
            assert shows(half[:560], colour)


def test_picture_without_weights_has_one_panel(tmp_path: Path) -> None:
    import_or_skip("matplotlib")
    compression_curve(TABLE, (0.4, 0.6), methods=("svd", "messi-2"), seed=0).plot(tmp_path / "c.png")
    picture = pixels(tmp_path / "c.png")
    assert picture.shape == (720, 900, 3)
    assert shows(picture, "#0072B2")


@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5), (1e-9, 1.0)])
def test_picture_of_any_errors(tmp_path: Path, errors: tuple[float, float]) -> None:
    import_or_skip("matplotlib")
    points = [CurvePoint("svd", 0.1 + e / 2, 50, e, e, 1, 0.0) for e in errors]
    methods = [CurvePoint(f"messi-{k}", 0.5, 50, errors[0], errors[1], k, 0.0) for k in range(2, 9)]
    CompressionCurve((10, 10), (*points, *methods), {}).plot(tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").std() > 0


def test_missing_extras_are_named(curve: CompressionCurve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'rich is not installed: pip install "ksubspaces\[cli\]"'):
        render_curve(curve)
    with pytest.raises(ImportError, match=r'matplotlib is not installed: pip install "ksubspaces\[cli\]"'):
        curve.plot(tmp_path / "c.png")
