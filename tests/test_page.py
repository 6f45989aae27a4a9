"""The page of a compressed model: its numbers, its safety, and how a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
from helpers import import_or_skip

from ksubspaces import compress
from ksubspaces.charts import Line, line_chart
from ksubspaces.curve import compression_curve
from ksubspaces.integrations._model_report import Baseline, ModelReport, ModuleReport
from ksubspaces.page import render_page, write_page

N, D = 400, 24
RNG = np.random.default_rng(0)
TABLE = np.concatenate([RNG.normal(size=(N // 4, 4)) @ RNG.normal(size=(4, D)) for _ in range(4)])
TABLE = (TABLE + 0.3 * RNG.normal(size=TABLE.shape)).astype(np.float32)
WEIGHTS = 1 / np.arange(1.0, N + 1)
TOKENS = [f"token{i}" for i in range(N)]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def module(weights: np.ndarray | None = WEIGHTS) -> ModuleReport:
    factors = compress(TABLE, 0.5, k=3, sample_weight=weights, exact_rows=[0, 1], seed=0)
    return ModuleReport(
        name="embeddings.word_embeddings",
        kind="embedding",
        tied=("head.decoder",),
        shape=TABLE.shape,
        n_parameters_before=TABLE.size,
        n_parameters=factors.n_parameters,
        nbytes_before=TABLE.nbytes,
        nbytes=factors.nbytes,
        weights="given",
        n_exact=2,
        dims=factors.dims,
        counts=factors.counts,
        storage="float32",
        seconds=1.5,
        **Baseline(TABLE, weights).compare(lambda start, stop: factors[start:stop], factors.n_parameters),
    )


@pytest.fixture(scope="module")
def report() -> ModelReport:
    return ModelReport("BertModel", (module(),), 30000, 24000, 120000, 96000, 2.5, {"ratio": 0.5, "seed": 0})


@pytest.fixture(scope="module")
def page(report: ModelReport) -> str:
    methods = ("svd", "messi-3", "ours", "svd-weighted", "ours-weighted")
    curve = compression_curve(TABLE, (0.3, 0.5, 0.7), methods=methods, sample_weight=WEIGHTS, seed=0)
    made = {"command": "ksubspaces compress bert --ratio 0.5", "torch": "2.13"}
    return render_page(report, token=TOKENS.__getitem__, curves={report.modules[0].name: curve}, made=made)


def test_headline_and_making(page, report):
    first = report.modules[0]
    for told in (
        f"{first.weighted_error:.4f}",
        f"{first.svd_weighted_error:.4f}",
        f"{first.relative_error:.4f}",
        f"{first.n_parameters:,}",
        "20.0% smaller",
        "head.decoder",
        "ksubspaces compress bert --ratio 0.5",
        "<dt>seed</dt><dd>0</dd>",
    ):
        assert told in page


def test_clusters_and_rows(page, report):
    first = report.modules[0]
    for count, dim in zip(first.counts, first.dims, strict=True):
        assert re.search(rf"</span>{count:,}</td><td><span [^>]*></span>{dim}</td>", page)
    assert '<th scope="row">exact</th>' in page
    for loss in (*first.most_lost, *first.most_distorted):
        assert f"<code>token{loss.row}</code>" in page
    assert not {0, 1} & {loss.row for loss in (*first.most_lost, *first.most_distorted)}  # they lost nothing


def test_rows_are_ordered_by_what_they_lost(report):
    first = report.modules[0]
    assert [loss.share for loss in first.most_lost] == sorted((loss.share for loss in first.most_lost), reverse=True)
    distorted = [loss.relative_error for loss in first.most_distorted]
    assert distorted == sorted(distorted, reverse=True)


def test_nothing_is_fetched_and_nothing_runs(page):
    assert not re.findall(r"https?:|<script|@import|url\(|\ssrc=", page)
    assert re.findall(r'href="([^"]*)"', page) == ["data:,"]


def test_tokens_and_names_are_text_not_markup(report):
    hostile = '<script>alert("x")</script>&'
    dangerous = replace(report, model=hostile, modules=(replace(report.modules[0], name=hostile, weights=hostile),))
    page = render_page(dangerous, token=lambda row: hostile, made={hostile: hostile})
    assert "<script" not in page
    assert page.count(escape(hostile)) > 20


def test_without_weights_tokens_or_curve(report):
    plain = replace(report, modules=(module(None),))
    page = render_page(plain)
    assert "frequent tokens" not in page.lower()
    assert "<svg" not in page
    assert "The rows that lost most<" in page


def test_several_tables_each_with_its_errors(report):
    """And rows of a table without weights, a linear layer's say, are not told as tokens."""
    first, second = report.modules[0], replace(module(None), name="encoder.dense", kind="linear")
    page = render_page(replace(report, modules=(first, second)), token=TOKENS.__getitem__)
    tiles, sections = page.split("</header>")[1].split("<section>", 1)
    assert "Error" not in tiles
    of_first, of_second = sections.split("<h2><code>encoder.dense")
    assert f"{first.weighted_error:.4f} (SVD of the same size: {first.svd_weighted_error:.4f})" in of_first
    assert f"{second.relative_error:.4f} (SVD of the same size: {second.svd_relative_error:.4f})" in of_second
    assert "<code>token" in of_first
    assert "<code>token" not in of_second
    assert "The rows that lost most<" in of_second


def test_tokens_that_show_nothing(report):
    texts = ["\x1b", "\n", " ", "\u200b", "\x85"]
    page = render_page(report, token=lambda row: texts[row % len(texts)])
    assert not set(page) & (set(texts) - {"\n", " "})
    for shown in (r"\x1b", r"\n", "&#x27; &#x27;", r"\u200b", r"\x85"):
        assert f"<code>{shown}</code>" in page


def test_every_picture_and_table_is_told_in_words(page):
    assert page.count('role="img" aria-label="') == 2
    assert page.count("<svg") == page.count('role="img"') + page.count('aria-hidden="true"')
    assert page.count("<th ") == page.count('scope="')
    assert '<html lang="en">' in page


def test_it_is_written_whole_or_not_at_all(tmp_path, report):
    write_page(tmp_path / "page.html", report)
    assert (tmp_path / "page.html").read_text() == render_page(report)
    with pytest.raises(OSError, match="nowhere"):
        write_page(tmp_path / "nowhere" / "page.html", report)


@pytest.mark.parametrize("errors", [(0.5, 0.1), (0.5, 0.0), (0.3, 0.3), (1e-9, 1e-3)])
def test_charts_stay_within_their_frame(errors):
    points = list(zip((0.2, 0.5999), errors, strict=True))
    chart = line_chart([Line("SVD", "svd", points)], points[1], "alt")
    places = [tuple(map(float, pair)) for pair in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", chart)]
    assert len(places) == 2
    assert all(0 <= x <= 420 and 0 <= y <= 300 for x, y in places)
    assert places[0][0] < places[1][0]
    assert places[0][1] <= places[1][1] or errors[0] < errors[1]
    assert "60%" in chart


@pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is missing: apt-get install chromium (or put any Chromium on PATH)"
)
class TestInABrowser:
    def run(self, tmp_path: Path, page: str, *options: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "page.html").write_text(page)
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
        command = [str(CHROMIUM), *flags, *options, (tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_screenshot(self, tmp_path, page, scheme):
        image = import_or_skip("matplotlib.image")
        shot = tmp_path / "page.png"
        preferred = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
        done = self.run(tmp_path, page, f"--screenshot={shot}", "--window-size=1000,2400", preferred)
        assert "CONSOLE" not in done.stderr
        pixels = image.imread(shot)[:, :, :3]
        assert pixels.shape[:2] == (2400, 1000)
        assert (pixels[0, 0].mean() < 0.3) == (scheme == "dark")
        rows_drawn = (np.abs(pixels - pixels[0, 0]).max(axis=2) > 0.1).any(axis=1)
        assert rows_drawn[:1200].mean() > 0.4
        assert len(np.unique((pixels * 15).astype(int).reshape(-1, 3), axis=0)) > 30

    def test_errors_would_be_seen(self, tmp_path, page):
        broken = page.replace("</body>", "<script>undefined_function()</script></body>")
        assert "CONSOLE" in self.run(tmp_path, broken, f"--screenshot={tmp_path / 'page.png'}").stderr

    @pytest.mark.parametrize("width", [360, 400])
    def test_a_phone_need_not_scroll_sideways(self, tmp_path, page, width):
        frame = (
            f'<iframe width="{width}" height="800" style="border:0" srcdoc="{escape(page)}"></iframe><p>?</p><script>'
            "onload = () => { document.querySelector('p').textContent = 'width ' + "
            "document.querySelector('iframe').contentDocument.documentElement.scrollWidth }</script>"
        )
        found = re.search(r"<p>width (\d+)</p>", self.run(tmp_path, frame, "--dump-dom").stdout)
        assert found
        assert int(found[1]) <= width
