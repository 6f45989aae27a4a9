"""A greedy start on a GPU: its draws one by one, and as a whole."""

from collections import Counter

import numpy as np
import pytest
from draws import check_directions, check_start
from emulator import emulated, modes, needs_compiler
from planted import planted
from sklearn.metrics import normalized_mutual_info_score

from ksubspaces.kernels.cuda import loader, seeding

pytestmark = needs_compiler


@modes
@pytest.mark.parametrize(
    ("n", "d", "dims", "weighted", "m"),
    [
        (1, 1, [1], False, 1),
        (2500, 20, [5, 3], True, 50),
        (4200, 64, [8, 8, 1], True, 33),
        (700, 130, [9, 16], False, 30),
    ],
)
def test_a_start_draw_by_draw(mode, n, d, dims, weighted, m):
    with emulated(mode):
        check_start(n, d, dims, weighted, m)


@modes
@pytest.mark.parametrize(("n", "d", "k", "weighted"), [(1, 1, 1, False), (2500, 20, 3, True), (300, 200, 4, False)])
def test_directions_draw_by_draw(mode, n, d, k, weighted):
    with emulated(mode):
        check_directions(n, d, k, weighted)


@pytest.mark.parametrize("d", [16, 100])
def test_planted_flats_are_found_in_any_order_of_warps(d):
    X, truth = planted(2500, d, 5, 4, noise=0.05)
    found = []
    for mode in ("late", "eager", "reverse"):
        with emulated(mode):
            found.append(seeding.seed(X, (4,) * 5, None, np.random.default_rng(1)))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert normalized_mutual_info_score(truth, found[0]) > 0.9


def test_a_draw_is_seven_launches_or_three(monkeypatch):
    counts = Counter()
    with emulated(), monkeypatch.context() as patch:
        compiled = loader.kernel
        patch.setattr(
            loader, "kernel", lambda source, name, *rest: counts.update([name]) or compiled(source, name, *rest)
        )
        for start, clusters in ((seeding.seed, (1,) * 6), (seeding.seed_directions, 6)):
            start(np.ones((9, 3), np.float32), clusters, None, np.random.default_rng(0))
            assert counts.pop("prepare") == counts.pop("first_costs") == 1
            assert sorted(counts.values()) == [6] * (7 if start == seeding.seed else 3)
            counts.clear()


def test_other_rows_and_flats_are_left_to_the_solver():
    rng = np.random.default_rng(0)
    for X, dims in (
        (rng.normal(size=(9, 3)), (1, 1)),
        (np.ones((9, 300), np.float32), (1, 1)),
        (np.ones((9, 256), np.float32), (200, 1)),
        (np.ones((9, 3), np.float32), (0, 0)),
    ):
        with emulated():
            assert seeding.seed(X, dims, None, rng) is None
