"""The front of bytes: points are within their budgets and fall, are saved, drawn, and shown by the command."""

import itertools

import numpy as np
import pytest
from helpers import import_or_skip

from ksubspaces import compress
from ksubspaces.front import Front, compression_front

RNG = np.random.default_rng(3)
A = (RNG.normal(size=(1500, 12)) * np.geomspace(1, 0.05, 12)).astype("float32")
WEIGHTS = np.exp(2 * RNG.normal(size=1500))


@pytest.fixture(scope="module")
def front():
    return compression_front(A, (4, 2, 3), sample_weight=WEIGHTS, coder="scalar", seed=0)


def test_points_are_within_their_budgets_and_fall(front):
    assert front.methods == ("bits", "bits-weighted") and front.shape == A.shape
    for method in front.methods:
        points = front.of(method)
        assert [point.bits for point in points] == [2, 3, 4]
        assert all(0.9 * point.bits * A.size / 8 < point.nbytes <= point.bits * A.size / 8 for point in points)
        assert all(more.relative_error > less.relative_error for more, less in itertools.pairwise(points))
    for plain, weighted in zip(front.of("bits"), front.of("bits-weighted"), strict=True):
        assert weighted.weighted_error < 0.9 * plain.weighted_error


def test_a_point_is_about_what_compress_gives(front):
    code = compress(A, bits=3, coder="scalar", seed=0)
    assert front.of("bits")[1].relative_error == pytest.approx(code.measure_error(A), rel=0.1)


def test_it_is_saved_and_drawn(front, tmp_path):
    import_or_skip("matplotlib", install="'ksubspaces[cli]'")
    front.save(tmp_path / "front.json", {"more": 1})
    assert Front.load(tmp_path / "front.json") == front
    front.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000
    (tmp_path / "front.json").write_text('{"shape": [3, 4]}')
    with pytest.raises(ValueError, match="this is no front of bytes"):
        Front.load(tmp_path / "front.json")


def test_the_command(tmp_path, capsys):
    import_or_skip("rich", install="'ksubspaces[cli]'")
    from ksubspaces.cli import main

    np.save(tmp_path / "a.npy", A)
    arguments = ["curve", str(tmp_path / "a.npy"), "--bits", "3", "--no-plot", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    (point,) = Front.load(tmp_path / "out" / "curve.json").points
    assert f"{point.nbytes:,}" in capsys.readouterr().out
    assert main([*arguments, "--methods", "svd"]) == 2
    assert "leave them out with --bits" in capsys.readouterr().err


@pytest.mark.parametrize("bits", [(), (0,), (-1, 2), ("two",), 3, (float("nan"),)])
def test_sizes_that_are_none_say_so(bits):
    with pytest.raises(ValueError, match="bits must be numbers"):
        compression_front(A, bits)
