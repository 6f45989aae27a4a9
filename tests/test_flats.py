"""Stacked flats: which rows are whose, whatever their dimensions."""

import numpy as np
import pytest
from planted import random_bases

from ksubspaces.kernels import Flats, cpu, layout_of, reference

D = 9
SHAPES = [(3, 3, 3), (0, 5, 9, 2, 4, 0, 6), (7, 7), (0, 0), (9, 9, 9), (4,), (8,)]
shapes = pytest.mark.parametrize("dims", SHAPES, ids=str)
affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])


def made(dims, affine=False):
    rng = np.random.default_rng(len(dims))
    bases = random_bases(rng, D, dims)
    return Flats.from_bases(bases, rng.normal(size=(len(dims), D)) if affine else None), bases, rng


@shapes
def test_a_layout_says_whose_rows_are_whose(dims):
    layout = layout_of(D, dims)
    assert layout is layout_of(D, dims)  # and keeps what it worked out
    assert (layout.k, layout.total, layout.width) == (len(dims), sum(dims), max(dims))
    assert layout.uniform == (len(set(dims)) == 1)
    np.testing.assert_array_equal(layout.wide, [2 * j > D for j in dims])
    assert layout.has_wide == any(2 * j > D for j in dims)
    pairs = [(c, i) for c, j in enumerate(dims) for i in range(j)]
    assert list(zip(layout.owners, layout.ranks, strict=True)) == pairs
    for c, j in enumerate(dims):
        assert all(pairs[row][0] == c for row in range(*layout.rows(c).indices(layout.total)))
        assert layout.starts[c + 1] - layout.starts[c] == j


@shapes
@affine
def test_lists_go_in_and_come_out(dims, affine):
    flats, bases, _ = made(dims, affine)
    for c, (got, want) in enumerate(zip(flats.layout.split(flats.bases), bases, strict=True)):
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(flats.basis(c), want)
        assert np.shares_memory(got, flats.bases) == (len(want) > 0)
    if flats.complements is None:
        assert max(dims) * 2 <= D
        return
    for V, W in zip(bases, flats.layout.complements.split(flats.complements), strict=True):
        whole = np.concatenate([V, W])
        np.testing.assert_allclose(whole @ whole.T, np.eye(len(whole)), atol=1e-12)
        assert len(whole) == D or 2 * len(V) <= D


@shapes
def test_directions_are_the_shorter_of_basis_and_complement(dims):
    flats, bases, _ = made(dims)
    complements = flats.layout.complements.split(flats.complements) if flats.complements is not None else bases
    for c, part in enumerate(flats.direction_layout.split(flats.directions)):
        np.testing.assert_array_equal(part, complements[c] if 2 * dims[c] > D else bases[c])
        assert flats.exact[c] == (2 * dims[c] > D)
    along_bases = Flats(flats.layout, flats.bases, None, None)
    assert along_bases.directions is flats.bases
    assert not along_bases.exact.any()


def test_flats_alike_are_multiplied_where_they_stand():
    flats = made((3, 3, 3))[0]
    (group,) = cpu._groups(flats.layout, False, 100)
    assert np.shares_memory(cpu._Directions(flats, group, None, np.dtype(np.float64)).matrix, flats.bases)
    assert cpu._groups(flats.layout, False, 100)[0] is group


@shapes
@affine
def test_chosen_flats(dims, affine):
    flats, _, rng = made(dims, affine)
    X = rng.normal(size=(20, D))
    distances = reference.sqdistances(X, flats)
    chosen = [len(dims) - 1, 0, *range(len(dims))]
    np.testing.assert_allclose(reference.sqdistances(X, flats.take(chosen)), distances[:, chosen], atol=1e-12)
    np.testing.assert_allclose(cpu.sqdistances(X, flats.take(chosen)), distances[:, chosen], atol=1e-12)
    for other in SHAPES:
        more = made(other, affine)[0]
        both = np.concatenate([distances, reference.sqdistances(X, more)], axis=1)
        np.testing.assert_allclose(cpu.sqdistances(X, flats.followed_by(more)), both, atol=1e-12)


@shapes
def test_bases_and_complements_from_all_vectors(dims):
    rng = np.random.default_rng(1)
    vectors = np.stack([np.linalg.qr(rng.normal(size=(D, D)))[0] for _ in dims])
    layout = layout_of(D, dims)
    bases, complements = layout.leading(vectors[:, ::-1])
    for c, (V, j) in enumerate(zip(layout.split(bases), dims, strict=True)):
        np.testing.assert_array_equal(V, vectors[c, ::-1][:j])
        if 2 * j > D:
            np.testing.assert_array_equal(complements[layout.complements.rows(c)], vectors[c, ::-1][j:])
    assert (complements is None) == (not layout.has_wide)


def test_points():
    centres = np.random.default_rng(2).normal(size=(4, D))
    got = cpu.sqdistances(centres, Flats.points(centres, centres.dtype))
    np.testing.assert_allclose(got, np.square(centres[:, None] - centres).sum(axis=2), atol=1e-12)
