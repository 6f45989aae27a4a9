"""The peers of the front in bytes: they take the bytes that they say, and decode to what their encoders meant."""

from itertools import pairwise

import numpy as np
import pytest

from bench.lib import quantisers
from bench.lib.tables import Table, bags
from bench.suites import bytes as suite
from bench.suites.bytes import METHODS, OURS, Point, best_peer
from ksubspaces import compress

N, D = 700, 48


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng()
    A = (rng.normal(size=(N, D)) * rng.uniform(0.1, 3, (N, 1))).astype(np.float32)
    A[5] = 0
    return A, rng.uniform(0.1, 2, N) ** 2


def error(A, code):
    decoded = code.reopened()
    assert not code.fault(decoded)
    assert decoded.shape == A.shape
    return np.square(decoded - A).sum() / np.square(A).sum()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [1, 7, 64, 101])
def test_packed_bits_are_those_that_went_in(bits, count):
    codes = np.random.default_rng().integers(0, 2**bits, count).astype(np.uint8)
    stream = quantisers.pack(codes, bits)
    assert stream.nbytes == -(-count * bits // 8)
    np.testing.assert_array_equal(quantisers.unpack(stream, bits, count), codes)


def test_half_precision(problem):
    A, _ = problem
    code = quantisers.float16(A)
    assert code.nbytes == 2 * A.size
    assert error(A, code) < 1e-6


@pytest.mark.parametrize("group", [16, 48, 36])  # the last does not divide 48
def test_integers_take_their_bits_and_a_scale_for_each_group(problem, group):
    A, _ = problem
    errors = []
    for bits in (2, 3, 4, 8):
        code = quantisers.integers(A, bits, group)
        assert code.nbytes == A.size * bits // 8 + 2 * N * -(-D // group)
        errors.append(error(A, code))
    assert all(more > 2 * less for more, less in pairwise(errors))
    assert errors[0] < 0.13  # Gaussian: 0.1188 with the best step for all


def test_searched_scales_are_never_worse_than_the_largest_entry(problem):
    A, _ = problem
    for bits in (2, 3, 4):
        half = (2**bits - 1) / 2
        scale = np.abs(A).max(axis=1, keepdims=True) / half
        steps = np.divide(A, scale, out=np.zeros_like(A), where=scale > 0)
        plain = (np.clip(np.rint(steps + half), 0, 2 * half) - half) * scale
        assert error(A, quantisers.integers(A, bits, D)) <= np.square(plain - A).sum() / np.square(A).sum()


@pytest.mark.parametrize(("bits", "error"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_levels_are_those_of_max(bits, error):
    assert quantisers.gaussian_error(bits) == pytest.approx(error, abs=1e-4)  # Max (1960), table I


@pytest.mark.parametrize("bits", [0.7, 1, 2.4, 4])
def test_rotated_rows_stay_within_their_budget(problem, bits):
    A, w = problem
    code = quantisers.rotated(A, bits, w, 0)
    assert 0.96 * bits * A.size / 8 < code.nbytes <= bits * A.size / 8 + 16  # the seed and the last bytes' padding


def test_rotated_rows_lose_what_the_levels_lose():
    A = np.random.default_rng().normal(size=(2000, 64)).astype(np.float32)
    even = quantisers.rotated(A, 2 + 20 / 64, np.ones(2000), 1)
    levels = quantisers.gaussian_error(2)
    assert 0.9 * levels < error(A, even) < levels  # a scale fitted to each row brings some percent of 64 numbers


@pytest.mark.parametrize(("columns", "optimised"), [(2, False), (5, False), (20, True)])  # the last two: padded
def test_product_codes_take_a_byte_for_each_part(problem, columns, optimised):
    pytest.importorskip("faiss")
    A, w = problem
    code = quantisers.product(A, columns, w, 0, optimised=optimised)
    parts = -(-D // columns)
    padded = parts * columns
    assert code.nbytes == N * parts + 2 * 256 * padded + 2 * padded**2 * optimised
    assert error(A, code) < {2: 0.02, 5: 0.3, 20: 0.7}[columns]


def test_one_subspace_in_eight_bits(problem):
    A, w = problem
    code = quantisers.svd(A, 20, w)
    assert code.nbytes == N * 20 + 2 * N + 2 * 20 * D
    left = np.linalg.eigvalsh((A * w[:, None]).T.astype(np.float64) @ A)[:-20].sum()
    lost = w @ np.square(code.reopened() - A).sum(axis=1)
    assert lost == pytest.approx(left, rel=0.02)
    assert not code.fault(code.reopened())


def test_factors_in_eight_bits(problem):
    A, w = problem
    factors = compress(A, 0.3, k=3, dims="equal", sample_weight=w, seed=0, n_init=1)
    code = quantisers.factored(factors)
    coefficients = sum(n * j for n, j in zip(factors.counts, factors.dims, strict=True))
    assert code.nbytes == coefficients + 2 * N + 2 * D * sum(factors.dims) + -(-2 * N // 8)
    assert error(A, code) == pytest.approx(factors.measure_error(A), rel=0.02)


def test_ours_is_its_file(problem, tmp_path):
    A, w = problem
    factors = compress(A, bits=3, sample_weight=w, seed=0)
    code = quantisers.saved(factors)
    factors.save(tmp_path / "rows.safetensors")
    assert code.nbytes == (tmp_path / "rows.safetensors").stat().st_size
    assert error(A, code) == pytest.approx(factors.measure_error(A), rel=1e-3)


def test_a_wrong_code_is_noticed(problem):
    A, _ = problem
    code = quantisers.integers(A, 4, D)
    broken = {**code.arrays, "codes": code.arrays["codes"].copy()}
    broken["codes"][N * D // 4] ^= 8
    assert code.fault(code.decode(broken))


def test_the_best_peer_at_the_same_bytes():
    def row(method, nbytes, cosine):
        size = float(nbytes)
        return {"table": "T", "method": method, "title": method, "size": size, "nbytes": nbytes, "cosine": cosine}

    rows = [row("pq", 100, 0.9), row("pq", 400, 0.999), row("svd", 50, 0.2), row("svd", 400, 0.5), row("ours", 200, 1)]
    value, title = best_peer(rows, "T", "cosine", 200)
    assert title == "pq"
    assert value == pytest.approx(0.99)  # the loss in the middle, in logarithms
    assert best_peer(rows, "T", "cosine", 60)[1] == "svd"
    assert {*OURS} < {*METHODS}


def test_tables_are_recorded_one_by_one_and_drawn_together(problem, tmp_path, monkeypatch):
    """What is measured once is kept: the second command measures nothing, and the plot is of both tables."""
    A, w = problem
    small, measured, drawn = Table("small", A, w, np.arange(50), bags(A)), [], []
    monkeypatch.setattr(suite, "table", lambda name, quick: small)
    monkeypatch.setattr(suite, "_at_hand", lambda *_: True)
    monkeypatch.setattr(suite, "folder", lambda quick: tmp_path)
    monkeypatch.setattr(suite, "in_parallel", lambda work, items, _: ((item, work(item)) for item in items))
    draw, measure = suite.draw, suite.measure
    monkeypatch.setattr(suite, "draw", lambda path, rows: (drawn.append(len(rows)), draw(path, rows)))
    monkeypatch.setattr(suite, "measure", lambda point: (measured.append(point), measure(point))[1])
    command = ["--methods", "float16", "int-64", "rotated", "--seeds", "1", "--out", str(tmp_path)]
    out = tmp_path / "bytes.png"
    assert suite.main(["--tables", "GloVe", *command]) == 0
    assert len(measured) == 1 + 4 + 5
    assert out.stat().st_size > 5000
    (tmp_path / Point("MiniLM", "float16", 16, 0).file).write_text((tmp_path / "GloVe-float16-16-0.json").read_text())
    assert suite.main(["--tables", "GloVe", "MiniLM", *command, "--finished"]) == 0
    assert len(measured) == 10
    assert drawn == [10, 11]
    rows = suite.recorded(tmp_path)
    assert [row["table"] for row in rows] == ["MiniLM", *["GloVe"] * 10]
    errors = {row["size"]: row["weighted_error"] for row in rows if row["method"] == "rotated"}
    assert all(errors[more] < errors[less] for more, less in pairwise(sorted(errors, reverse=True)))


def test_a_point_that_takes_too_much_fails(problem, monkeypatch):
    A, w = problem
    monkeypatch.setattr(suite, "table", lambda name, quick: Table("small", A, w, np.arange(50), bags(A)))
    code = quantisers.svd(A, 20, w)
    monkeypatch.setitem(METHODS, "svd", suite.Method("svd", "bits", (2,), lambda *_: code))
    assert "bytes more" in suite.measure(Point("GloVe", "svd", 2, 0))["failed"]
    assert not suite.measure(Point("GloVe", "svd", 8, 0))["failed"]
