"""The figures on the pages are those of the files in ``bench/results/``, rounded."""

import json
import re
from pathlib import Path

import pytest

from bench.suites import bytes as fronts

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
RATIOS = (0.4, 0.6, 0.8)
TITLES = {
    "SVD": "svd",
    "SVD, weighted by counts": "svd-weighted",
    "SVD + the 167 most frequent rows exactly": "svd-exact",
    "SVD + 167 exact rows": "svd-exact",
    "MESSI, k=3": "messi-3",
    "MESSI, k=5": "messi-5",
    "compress, unweighted": "ours",
    "compress, weighted by the Zipf prior, no texts": "ours-prior",
    "compress, weighted by the Zipf prior": "ours-prior",
    "compress, weighted by counts of the training texts": "ours-counts",
    "compress, weighted by counts": "ours-counts",
}
WEIGHTINGS = {  # counts, power, floor
    "none": ("texts", 0, 1),
    "(count + 1)^0.25": ("texts", 0.25, 1),
    "(count + 1)^0.5": ("texts", 0.5, 1),
    "(count + 1)^0.75": ("texts", 0.75, 1),
    "count + 1": ("texts", 1, 1),
    "count + 0.1": ("texts", 1, 0.1),
    "Zipf prior, no texts": ("prior", 0.5, 1),
}
CURVES = {
    "SVD": "svd",
    "MESSI k=3": "messi-3",
    "MESSI k=5": "messi-5",
    "compress": "ours",
    "with weights": "ours-weighted",
}


def recorded(name):
    return json.loads((RESULTS / name).read_text())


def tables(page, heading):
    """Rows of the tables under a heading, each table a list of lists of cells without marks, the first its head."""
    text = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE
    )
    return tables_of(text.group(1))


def tables_of(text):
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [line for line in block.splitlines() if not line.startswith("|---")]
        found.append([[re.sub(r"[*`]", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines])
    return found


def table(heading, first):
    """The table of bench/RESULTS.md under a heading that begins with this cell."""
    (found,) = (rows for rows in tables("bench/RESULTS.md", heading) if rows[0][0] == first)
    return found[1:]


def signed(value):
    return "0.000" if round(abs(value), 3) == 0 else f"{value:+.3f}".replace("-", "−")


@pytest.mark.parametrize(
    ("way", "first"), [("swapped", "swapped in, no retraining"), ("tuned", "fine-tuned in factored form")]
)
def test_correlations_of_the_real_task(way, first):
    rows = recorded("downstream.json")["rows"]
    kept = {(row["method"], row["ratio"]): row[way]["correlation"] for row in rows if row[way]}
    for title, *cells in table("A real task", first):
        want = [kept[TITLES[title], ratio] for ratio in RATIOS]
        assert cells == [f"{signed(value['gain'])} ± {value['error']:.3f}" for value in want], title


def test_sentence_vectors_of_the_real_task():
    rows = {(row["method"], row["ratio"]): row for row in recorded("downstream.json")["rows"]}
    for title, *cells in table("A real task", "no labels, no training"):
        want = [rows[TITLES[title], ratio] for ratio in RATIOS]
        assert cells == [f"{row['cosine']:.3f} / {row['spearman']:.3f}" for row in want], title


def test_study_of_token_weights():
    cosines = {}
    for row in recorded("token-weights.json")["rows"]:
        way = row["weighting"]
        if (way["exponent"], way["total"], row["seed"]) == (1, 1e6, 0):
            cosines[way["counts"], way["power"], way["floor"], row["ratio"]] = row["cosine"]
    for title, *cells in table("Token weights", "weights"):
        want = [cosines[(*WEIGHTINGS[title], ratio)] for ratio in RATIOS]
        # one cosine, 0.99645, was rounded twice
        assert all(abs(float(cell) - value) <= 5.5e-4 for cell, value in zip(cells, want, strict=True)), title


@pytest.mark.parametrize("error", ["relative_error", "weighted_error"])
def test_error_against_size(error):
    points = {(point["method"], point["ratio"]): point for point in recorded("minilm-curve.json")["points"]}
    plain, weighted = tables("bench/RESULTS.md", "Error against size")
    head, *rows = plain if error == "relative_error" else weighted
    assert len(rows) >= 8
    for title, *cells in rows:
        if title.startswith("seconds"):
            seconds = [sum(p["seconds"] for (m, _), p in points.items() if m == CURVES[name]) for name in head[1:]]
            assert cells == [f"{s:.0f}" for s in seconds]
        else:
            ratio = int(title.rstrip("%")) / 100
            assert cells == [f"{points[CURVES[name], ratio][error]:.3f}" for name in head[1:]], title


def numbers(text):
    return re.findall(r"(?<![\w.])[−-]?\d[\d,]*(?:\.\d+)?(?![\d,]*\d)", text)


def figures(file):
    """All numbers of a recorded file but the raw timings of repeats."""

    def walk(part):
        if isinstance(part, dict):
            for name, value in part.items():
                yield from walk(value) if name != "raw" else ()
        elif isinstance(part, list):
            for value in part:
                yield from walk(value)
        elif isinstance(part, str):
            yield from (float(number.replace(",", "").lstrip("-")) for number in numbers(part))
        elif isinstance(part, (int, float)):
            yield abs(float(part))

    return list(walk(recorded(file)["rows"]))


def assert_recorded(cell, known):
    """Each number of a cell is one of those known, rounded to as many digits or with its unit a thousandth."""
    for number in numbers(cell):
        plain = number.replace(",", "").lstrip("−-")
        digits = len(plain.partition(".")[2])
        near = 0.5001 * 10.0**-digits
        assert any(abs(value - float(plain)) <= near for value in known), f"{number} in '{cell}' is not recorded"


@pytest.mark.parametrize(
    ("heading", "file"),
    [
        ("The solver", "amd-epyc-2-cores.json"),
        ("Other data", "amd-epyc-2-cores.json"),
        ("Better optima", "amd-epyc-2-cores-optima.json"),
        ("compress and the layers", "amd-epyc-2-cores-compress-layers.json"),
        ("More rows than memory", "amd-epyc-2-cores-scale.json"),
        ("Whole models", "amd-epyc-2-cores-models.json"),
        ("Static models", "amd-epyc-2-cores-models.json"),
        ("Layers in the metric of their inputs", "amd-epyc-2-cores-metric.json"),
    ],
)
def test_benchmarks(heading, file):
    known = figures(file)
    for _, *rows in tables("bench/RESULTS.md", heading):
        for _, *cells in rows:
            for cell in cells:
                assert_recorded(cell, known)


def test_the_front_page():
    file = ""
    ((_, *rows),) = tables("README.md", "Figures")
    for _, ours, peer, where in rows:
        file = file if where == "the same file" else where
        assert_recorded(ours, figures(file))
        assert_recorded(re.sub(r"\([^)]*\)", "", peer), figures(file))  # names of peers have numbers in them


def test_the_fronts_in_bytes():
    """All on the benchmarks' page, MiniLM's best on the front page."""
    rows = fronts.recorded()
    known = {name: [fronts.cells(group) for group in fronts.by_size(rows, name).values()] for name in fronts.TABLES}
    assert {head[0]: lines for head, *lines in tables("bench/RESULTS.md", "Bytes") if head[0] in known} == known
    ((head, *lines),) = tables_of((ROOT / "README.md").read_text().partition("\n## ")[0])
    assert head[0].startswith("MiniLM")
    assert lines and all(line in known["MiniLM"] for line in lines)
    assert not [row for row in rows if row["failed"]]


def test_goals_of_the_fronts_in_bytes():
    goals = [goal for name in fronts.TABLES for goal in recorded(fronts.file(name))["goals"]]
    reached = ["yes" if goal["reached"] else "no" for goal in goals]
    shown = [[g["case"], g["what"].partition(";")[0], g["target"], g["ours"], g["peer"]] for g in goals]
    assert table("Bytes", "goal") == [[*line, held] for line, held in zip(shown, reached, strict=True)]


def test_examples():
    digits, photograph = (recorded(f"{name}.json")["figures"] for name in ("digits", "photograph"))
    by_subspace, by_pixel = tables("bench/RESULTS.md", "Examples")
    ours, means = "NMI with the digits", "NMI with the digits, k-means"
    assert by_subspace[1:] == [[digits["subspaces"], f"{digits[ours]:.3f}"], ["k-means", f"{digits[means]:.3f}"]]
    shown = {"noisy": "noisy", "PCA": "PCA", photograph["subspaces"]: "k subspaces"}
    for name, cell in by_pixel[1:]:
        assert cell == f"{photograph['PSNR, ' + shown.pop(name)]:.2f}"
    assert not shown
