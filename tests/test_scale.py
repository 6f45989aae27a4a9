"""Rows whose squares overflow or vanish in their dtype: the results of tame rows, in the caller's scale."""

import numpy as np
import pytest
from planted import planted

from ksubspaces import arrays, compress, compression_curve, fit_subspaces
from ksubspaces.kernels import Streamed

affine = pytest.mark.parametrize("affine", [False, True], ids=["linear", "affine"])
exponents = pytest.mark.parametrize("exponent", [60, 110, -66, -100])  # float32 reaches from 2^-126 to 2^128


def times(array, exponent):
    return np.ldexp(array, np.int32(exponent))


def rows(offset=0.0):
    return planted(400, 12, 3, 3, noise=0.3, offset=offset)[0]


def assert_scaled(model, base, exponent):
    """A power of two rounds nothing, so equal bits are what is expected."""
    assert model.objective == base.objective * 4.0**exponent
    assert model.energy == base.energy * 4.0**exponent
    assert model.history == [objective * 4.0**exponent for objective in base.history]
    np.testing.assert_array_equal(model.labels, base.labels)
    for V, W in zip(model.bases, base.bases, strict=True):
        np.testing.assert_array_equal(V, W)
    if base.offsets is not None:
        np.testing.assert_array_equal(model.offsets, times(base.offsets, exponent))


@affine
@exponents
def test_fits(exponent, affine):
    X = rows(1.0 * affine)
    before, huge = times(X, 0), times(X, exponent)
    weights = np.random.default_rng(0).random(len(X))
    options = {"affine": affine, "seed": 0, "sample_weight": weights}
    base, model = fit_subspaces(times(X, 0), 3, [2, 3, 9], **options), fit_subspaces(huge, 3, [2, 3, 9], **options)
    assert_scaled(model, base, exponent)
    np.testing.assert_array_equal(huge, times(before, exponent))
    again = fit_subspaces(huge, 3, [2, 3, 9], init=model, affine=affine, sample_weight=weights)
    assert again.objective <= model.objective * (1 + 1e-6)


@pytest.mark.parametrize("factor", [1e18, 1e-20])
def test_fits_at_any_other_scale(factor):
    X = rows()
    base, model = fit_subspaces(X, 3, 3, seed=0), fit_subspaces(X * np.float32(factor), 3, 3, seed=0)
    np.testing.assert_array_equal(model.labels, base.labels)
    assert model.objective == pytest.approx(base.objective * factor**2, rel=1e-5)
    assert model.relative_error == pytest.approx(base.relative_error, rel=1e-5)


@affine
@exponents
def test_what_a_fit_is_asked_afterwards(exponent, affine):
    X = rows(1.0 * affine)
    base, model = (fit_subspaces(times(X, e), 3, 3, affine=affine, seed=0) for e in (0, exponent))
    Y = rows()[:50]
    far = times(Y, exponent)
    np.testing.assert_array_equal(model.predict(far), base.predict(Y))
    np.testing.assert_array_equal(model.transform(far), times(base.transform(Y), exponent))
    np.testing.assert_array_equal(
        model.reconstruct(model.transform(far), model.predict(far)),
        times(base.reconstruct(base.transform(Y), base.predict(Y)), exponent),
    )
    factors, plain = model.factorize(far), base.factorize(Y)
    np.testing.assert_array_equal(factors.reconstruct(), times(plain.reconstruct(), exponent))
    assert factors.measure_error(far) == pytest.approx(plain.measure_error(Y), rel=1e-12)
    if exponent == 110:
        with pytest.raises(ValueError, match="squared distances of Y overflow float32; scale Y"):
            model.sqdistances(far)
    else:  # the tiniest are subnormal, or zero
        np.testing.assert_array_equal(model.sqdistances(far), times(base.sqdistances(Y), 2 * exponent))


def test_tiny_rows_beside_flats_far_away():
    flats = fit_subspaces(times(rows(1.0), 70), 3, 1, affine=True, seed=0)
    tiny = times(rows(), -70)
    nearest = np.square(np.float64(flats.offsets)).sum(1) - [
        np.square(np.float64(V) @ np.float64(mu)).sum() for V, mu in zip(flats.bases, flats.offsets, strict=True)
    ]
    np.testing.assert_array_equal(flats.predict(tiny), np.full(len(tiny), nearest.argmin()))


@affine
@exponents
@pytest.mark.parametrize(
    "options", [{}, {"k": 3, "dims": "equal"}, {"exact_rows": [3, 5]}], ids=["budget", "equal", "exact"]
)
def test_compression(exponent, affine, options):
    X = rows(1.0 * affine)
    base, factors = (compress(times(X, e), 0.4, affine=affine, seed=0, **options) for e in (0, exponent))
    assert factors.dims == base.dims
    np.testing.assert_array_equal(factors.labels, base.labels)
    np.testing.assert_array_equal(factors.reconstruct(), times(base.reconstruct(), exponent))
    assert factors.measure_error(times(X, exponent)) == pytest.approx(base.measure_error(X), rel=1e-12)


def test_double_precision_where_squares_leave_it():
    X = rows().astype(np.float64)
    base = compress(X, 0.4, seed=0)
    for exponent in (600, -600):
        far = times(X, exponent)
        factors = compress(far, 0.4, seed=0)
        np.testing.assert_array_equal(factors.reconstruct(), times(base.reconstruct(), exponent))
        assert factors.measure_error(far) == pytest.approx(base.measure_error(X), rel=1e-12)
        word = "overflows" if exponent > 0 else "underflows"
        with pytest.raises(ValueError, match=f"sum of squares of X {word} float64; scale X or sample_weight"):
            fit_subspaces(far, 3, 3)
    assert_scaled(fit_subspaces(times(X, 500), 3, 3, seed=0), fit_subspaces(X, 3, 3, seed=0), 500)


def test_curves():
    X = rows()
    base, curve = (compression_curve(times(X, e), [0.3, 0.5], methods=["svd", "ours"], seed=0) for e in (0, 100))
    for ours, other in zip(curve.points, base.points, strict=True):
        assert ours.relative_error == pytest.approx(other.relative_error, rel=1e-9)


@pytest.mark.parametrize("exponent", [100, -100])
def test_layers(exponent):
    torch = pytest.importorskip("torch")
    from ksubspaces.integrations.torch import SubspaceEmbedding

    X, rows_asked = rows(), torch.tensor([[3, 5], [0, 399]])
    for storage in (None, "int8"):
        layers = [
            SubspaceEmbedding.from_embedding(
                torch.nn.Embedding.from_pretrained(torch.from_numpy(times(X, e))), ratio=0.4, storage=storage, seed=0
            )
            for e in (0, exponent)
        ]
        base, layer = (layer(rows_asked).detach().numpy() for layer in layers)
        np.testing.assert_allclose(layer, times(base, exponent), rtol=1e-6)


@pytest.mark.parametrize("exponent", [70, -70])
def test_rows_that_are_streamed(exponent):
    X = rows(1.0)
    streamed = arrays.scaled(Streamed(times(X, exponent), np, 50 * X.shape[1] * X.itemsize), -exponent)
    np.testing.assert_array_equal(np.concatenate([block for _, block in streamed.blocks()]), X)
    np.testing.assert_array_equal(streamed[np.array([7, 3])], X[[7, 3]])


def test_rows_too_long_for_their_dtype_are_refused():
    X = np.full((20, 4), 2e38, np.float32)
    with pytest.raises(ValueError, match=r"X has entries of size 2.0e\+38: lengths .* overflow float32; scale it down"):
        fit_subspaces(X, 1, 1)
