"""A budget in bits: what it may take, how near rows come, and that what is read is what was coded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksubspaces import QuantizedFactorization, compress
from ksubspaces.bits.allocation import Energies, Layout, allocate, expect
from ksubspaces.bits.compression import Quantizer
from ksubspaces.bits.levels import code, lloyd_max
from ksubspaces.bits.stored import join_nibbles, pack_numbers, split_nibbles, unpack_numbers
from ksubspaces.bits.transforms import rotation
from ksubspaces.kernels.cpu_trellis import search


def clustered(n=1200, d=24, seed=0):
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(n // 3, j)) @ rng.normal(size=(j, d)) for j in (2, 4, 8)]
    return (np.concatenate(parts) + 0.02 * rng.normal(size=(n // 3 * 3, d))).astype("float32")


def matrix(kind, n, d, rng):
    if kind == "random":
        return rng.normal(size=(n, d))
    if kind == "low rank":
        return rng.normal(size=(n, max(1, d // 4))) @ rng.normal(size=(max(1, d // 4), d))
    if kind == "clustered":
        return rng.normal(size=(n, d)) * np.exp(rng.normal(size=(3, d)))[rng.integers(3, size=n)]
    return rng.standard_t(2, size=(n, d))


def error_of(A, decoded):
    return float(np.square(A - decoded, dtype=np.float64).sum())


def integers_with_searched_scales(A, bits, groups=32):
    """The error of int-n, a scale of 16 bits for each group of columns, and its bytes."""
    n, d = A.shape
    width = min(groups, d)
    padded = np.pad(A, ((0, 0), (0, -d % width))).reshape(n, -1, width)
    most = 2 ** (bits - 1) - 0.5  # levels half way between whole numbers: as many on either side
    largest, best = np.abs(padded).max(axis=2, keepdims=True), np.full(padded.shape[:2], np.inf)
    for share in np.linspace(0.3, 1, 30):
        scale = (share * largest / most).astype(np.float16).astype(np.float64)
        safe = np.where(scale > 0, scale, 1)
        decoded = (np.clip(np.floor(padded / safe), -most - 0.5, most - 0.5) + 0.5) * scale
        best = np.minimum(best, np.square(padded - decoded).sum(axis=2))
    return best.sum(), -(-n * d * bits // 8) + 2 * best.size


def rotated_lloyd_max(A, bits):
    """The error of columns mixed by a rotation, a scale of 16 bits a row, Lloyd and Max's levels; its bytes."""
    turned = A @ rotation(A.shape[1]).T
    scales = np.sqrt(np.square(turned).mean(axis=1, keepdims=True))
    levels = lloyd_max(bits)[0]
    units = turned / np.where(scales > 0, scales, 1)
    decoded = levels[np.abs(units[:, :, None] - levels).argmin(axis=2)] * scales
    return error_of(turned, decoded), -(-A.size * bits // 8) + 2 * len(A)


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(["random", "low rank", "clustered", "heavy tails"]),
    n=st.integers(300, 900),
    d=st.integers(5, 40),
    bits=st.floats(1.2, 6),
    seed=st.integers(0, 99),
)
def test_it_stays_within_the_budget_and_uses_it(kind, n, d, bits, seed):
    A = matrix(kind, n, d, np.random.default_rng(seed)).astype("float32")
    coded = compress(A, bits=bits, seed=0)
    assert coded.nbytes <= bits * A.size / 8
    assert coded.nbytes == sum(array.nbytes for array in coded.stored.arrays.values())
    assert error_of(A, coded.reconstruct()) == pytest.approx(coded.objective, rel=1e-3)


@pytest.mark.parametrize("kind", ["random", "low rank", "clustered", "heavy tails"])
@pytest.mark.parametrize("bits", [2, 3])
def test_it_is_never_worse_than_plain_codes(kind, bits):
    A = matrix(kind, 2000, 48, np.random.default_rng(bits)).astype("float32")
    for error, nbytes in (integers_with_searched_scales(A, bits), rotated_lloyd_max(A, bits)):
        coded = compress(A, nbytes=nbytes, seed=0)
        assert coded.nbytes <= nbytes
        assert coded.objective <= error * 1.001


def test_a_budget_is_used():
    A = clustered(6000, 48)
    coded = compress(A, bits=2.0, seed=0)
    assert 0.98 * 2 * A.size / 8 <= coded.nbytes <= 2 * A.size / 8


@pytest.mark.parametrize("kind", ["random", "low rank", "clustered", "heavy tails"] * 3)
def test_what_is_left_of_a_small_budget_is_less_than_any_step(kind):
    """So 98% are used wherever a step takes no more than 2%."""
    rng = np.random.default_rng()
    n, d, bits = int(rng.integers(60, 300)), int(rng.integers(5, 9)), rng.uniform(2.5, 5)
    A = matrix(kind, n, d, rng).astype("float32")
    search, budget = Quantizer(A, coder="scalar", seed=0).search, int(bits * n * d / 8)
    found = search.within(budget)
    plan, size, errors = found.candidate.plan, search.size(found.candidate), found.candidate.code.errors
    assert found.stored.nbytes == plan.nbytes <= budget
    rows, before = [own.rows for own in plan.energies], expect(plan.energies, plan.layouts, errors)
    for c, (own, at) in enumerate(zip(plan.energies, plan.layouts, strict=True)):
        for r, t in itertools.product(np.flatnonzero(own.rows), range(d)):
            bases = range(at.basis_bits[t], 9) if own.entries else [8]
            for b, basis in itertools.product(range(at.bits[r, t], 9), bases):
                step = Layout(at.bits.copy(), at.basis_bits.copy())
                step.bits[r, t], step.basis_bits[t] = b, basis
                layouts = [*plan.layouts[:c], step, *plan.layouts[c + 1 :]]
                if expect(plan.energies, layouts, errors) < (1 - 1e-6) * before:
                    assert max(plan.nbytes, size(rows, plan.kinds, layouts)) > 0.998 * budget


def test_clusters_win_where_there_are_some():
    A = clustered(6000, 48)
    coded = compress(A, bits=1.0, seed=0)
    assert coded.k > 1 and "transforms" in coded.winner
    assert coded.relative_error < 0.05


def test_rows_by_themselves_are_those_of_the_whole():
    A = clustered()
    coded = compress(A, bits=2.0, exact_rows=[7, 900], seed=0)
    whole = coded.reconstruct()
    rows = np.random.default_rng(0).permutation(len(A))[:100]
    assert (coded[rows] == whole[rows]).all()
    assert (coded[5] == whole[5]).all() and (coded[-1] == whole[-1]).all() and (coded[3:8] == whole[3:8]).all()
    assert (whole[[7, 900]] == A[[7, 900]]).all()


@pytest.mark.parametrize("options", [{}, {"relative": True}, {"coder": "scalar"}, {"exact_rows": [3]}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_is_saved_and_loaded(tmp_path, options, dtype):
    A = clustered(600).astype(dtype)
    coded = compress(A, bits=3.0, seed=0, **options)
    coded.save(tmp_path / "a.safetensors")
    for again in (
        QuantizedFactorization.load(tmp_path / "a.safetensors"),
        QuantizedFactorization.from_bytes(coded.to_bytes()),
    ):
        assert (again.reconstruct() == coded.reconstruct()).all() and again.reconstruct().dtype == dtype
        assert again.nbytes == coded.nbytes and again.winner == coded.winner
        assert again.relative_error == coded.relative_error and again.dims == coded.dims
    assert (tmp_path / "a.safetensors").stat().st_size < coded.nbytes + 4096


@pytest.mark.parametrize("shape", [(1, 40), (1, 1), (2, 3), (300, 1), (7, 513), (33, 16)])
def test_odd_shapes(shape):
    A = np.random.default_rng(0).normal(size=shape).astype("float32")
    coded = compress(A, nbytes=100 + 4 * A.size, seed=0)
    assert coded.reconstruct().shape == shape
    assert coded.measure_error(A) == pytest.approx(coded.relative_error, rel=1e-3, abs=1e-9)


def test_zeros_stay_zero_and_constants_come_near():
    A = clustered(600)
    A[::7] = 0
    for options in ({}, {"relative": True}):
        coded = compress(A, bits=2.0, seed=0, **options)
        assert not coded.reconstruct()[::7].any()
    assert not compress(np.zeros((50, 8), "float32"), bits=4.0, seed=0).reconstruct().any()
    assert compress(np.ones((500, 8), "float32"), bits=2.0, seed=0).relative_error < 1e-3


def test_nothing_is_left_on_average():
    """Of rows by use, the square of their weights, in each cluster; rows of zeros stay zero none the less."""
    rng = np.random.default_rng()
    A, weights = (rng.normal(size=(800, 24)) + rng.normal(size=24)).astype("float32"), rng.uniform(0.1, 3, 800)
    A[:40] = 0
    factors = compress(A, bits=1.5, sample_weight=weights, seed=0)
    left = A - factors.reconstruct()
    assert not left[:40].any()
    for c in np.unique(factors.labels[40:]):
        rows = factors.labels == c
        average = weights[rows] ** 2 @ left[rows] / (weights[rows] ** 2).sum()
        assert np.abs(average).max() < 2e-3 * np.abs(left[rows]).max()


def test_rows_of_large_weight_come_nearer():
    A = np.random.default_rng(0).normal(size=(3000, 16)).astype("float32")
    weights = np.where(np.arange(3000) < 300, 100.0, 1.0)
    coded = compress(A, bits=2.0, sample_weight=weights, seed=0)
    lost = np.square(A - coded.reconstruct()).sum(axis=1)
    assert lost[:300].mean() < 0.2 * lost[300:].mean()
    assert coded.measure_error(A, weights) == pytest.approx(coded.relative_error, rel=1e-3)
    weights[1000:] = 0
    assert np.isfinite(compress(A, bits=2.0, sample_weight=weights, seed=0).reconstruct()).all()


def test_relative_errors_of_long_and_short_rows_are_alike():
    rng = np.random.default_rng(0)
    A = (rng.normal(size=(3000, 16)) * np.exp(2 * rng.normal(size=(3000, 1)))).astype("float32")
    coded = compress(A, bits=3.0, relative=True, seed=0)
    shares = np.square(A - coded.reconstruct()).sum(axis=1) / np.square(A).sum(axis=1)
    assert "gain" in coded.winner
    assert shares.mean() == pytest.approx(coded.relative_error, rel=1e-3)
    assert shares.max() < 10 * shares.mean()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_and_tiny_entries(scale):
    A = clustered(600)
    plain, scaled = compress(A, bits=3.0, seed=0), compress(A.astype("float64") * scale, bits=3.0, seed=0)
    assert 0.7 < scaled.relative_error / plain.relative_error < 1.4  # other roundings, another local optimum
    assert scaled.measure_error(A.astype("float64") * scale) == pytest.approx(scaled.relative_error, rel=1e-3)


def test_the_same_seed_gives_the_same_bytes_and_the_input_is_left_alone():
    A = clustered(900)
    before = A.copy()
    first, second = (compress(A, bits=2.0, seed=3).stored.arrays for _ in range(2))
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
    assert (before == A).all()


def test_a_trellis_comes_nearer_than_numbers_by_themselves():
    A = np.random.default_rng(0).normal(size=(4000, 64)).astype("float32")
    errors = {coder: compress(A, bits=2.0, coder=coder, seed=0).relative_error for coder in ("trellis", "scalar")}
    assert errors["trellis"] < 0.9 * errors["scalar"]


def test_torch_tensors_come_back_as_such():
    torch = pytest.importorskip("torch")
    A = clustered(600)
    coded = compress(torch.from_numpy(A), bits=2.0, seed=0)
    assert isinstance(coded[[1, 2]], torch.Tensor)
    assert (coded.to("numpy").reconstruct() == coded.reconstruct().numpy()).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bits": 0}, ValueError, "bits is how many"),
        ({"bits": float("nan")}, ValueError, "bits is how many"),
        ({"bits": "2"}, TypeError, "bits must be a number"),
        ({"nbytes": 3}, ValueError, "3 bytes are too few for A"),
        ({"nbytes": 2.5}, TypeError, "nbytes"),
        ({"bits": 2, "nbytes": 100}, ValueError, "give one budget; got bits and nbytes"),
        ({"bits": 2, "ratio": 0.5}, ValueError, "give one budget; got ratio and bits"),
        ({"bits": 2, "k": 3}, ValueError, "k is for factors of numbers"),
        ({"bits": 2, "affine": True}, ValueError, "affine is for factors"),
        ({"bits": 2, "coder": "huffman"}, ValueError, "coder must be"),
        ({"bits": 2, "relative": "yes"}, TypeError, "relative"),
        ({"bits": 2, "exact_rows": [9999]}, ValueError, "exact_rows"),
        ({"bits": 2, "sample_weight": [-1.0] * 600}, ValueError, "sample_weight"),
        ({"ratio": 0.5, "relative": True}, ValueError, "for a budget in bits"),
    ],
)
def test_bad_arguments_say_so(options, error, words):
    with pytest.raises(error, match=words):
        compress(clustered(600), seed=0, **options)


def test_not_finite_entries_say_so():
    A = clustered(600)
    A[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"A\[3, 4\] is nan"):
        compress(A, bits=2.0)


def test_stitching_is_refused_with_the_reason():
    with pytest.raises(TypeError, match="no product of two factors"):
        compress(clustered(600), bits=2.0, seed=0).stitch()


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_damaged_files_are_refused(tmp_path, place):
    path, content = tmp_path / "a.safetensors", bytearray(compress(clustered(600), bits=2.0, seed=0).to_bytes())
    at = place * (len(content) - 1) // 100
    content[at] ^= 0x41
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged|not a whole|later version|not a saved|holds"):
        QuantizedFactorization.load(path)
    path.write_bytes(content[:at])
    with pytest.raises(ValueError, match=r"not a whole|damaged"):
        QuantizedFactorization.load(path)


# --- the parts ---


@pytest.mark.parametrize("bits", range(1, 9))
def test_levels_of_lloyd_and_max(bits):
    levels, error = lloyd_max(bits)
    Z = np.random.default_rng(0).standard_normal(200_000)
    found = np.square(Z - levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, Z)]).mean()
    assert len(levels) == 2**bits and found == pytest.approx(error, rel=0.05)
    assert error < {1: 0.364, 2: 0.118, 3: 0.0346, 4: 0.0096}.get(bits, 0.003)


@pytest.mark.parametrize("bits", [[1] * 40, [2] * 31, [4, 3, 2, 1], [6, 5, 4, 3, 3, 2, 1, 1], [8]])
def test_a_trellis_finds_the_best_windows(bits):
    """By brute force over all streams of the last few terms, given those before."""
    bits, levels = np.array(bits), code(8).levels
    Z = np.random.default_rng(1).standard_normal((5, len(bits))).astype("float32")
    windows = search(Z, bits, levels)
    decoded = np.stack([levels[b][windows[:, t]] for t, b in enumerate(bits)], axis=1)
    error = np.square(Z - decoded).sum(axis=1)
    widths = code(8).widths[bits].astype(int)
    rng = np.random.default_rng(2)
    for _ in range(300):  # no other stream is better
        state, other = np.zeros(5, np.int64), np.zeros(5)
        for t, b in enumerate(bits):
            new = rng.integers(1 << b, size=5)
            state = (state >> b) | (new << (8 - b))
            window = state >> (8 - widths[t])
            other += np.square(Z[:, t] - levels[b][window])
        if widths[0] == 8:
            assert (error <= other * (1 + 1e-5)).all()
    state = np.zeros(5, np.int64)
    for t, b in enumerate(bits):  # and the windows are those of one stream of bits
        state = (state >> b) | ((windows[:, t].astype(np.int64) >> (widths[t] - b)) << (8 - b))
        assert (windows[:, t] == state >> (8 - widths[t])).all()


def test_bits_are_packed_and_read():
    rng = np.random.default_rng(0)
    for bits in (1, 3, 7, 8, 11):
        numbers = rng.integers(1 << bits, size=37)
        assert (unpack_numbers(pack_numbers(numbers[:, None], np.array([bits])), np.full(37, bits)) == numbers).all()
    nibbles = rng.integers(16, size=9)
    assert (split_nibbles(join_nibbles(nibbles), 9) == nibbles).all()


def test_a_rotation_is_orthonormal():
    for d in (1, 2, 17, 64):
        R = rotation(d)
        assert np.allclose(R @ R.T, np.eye(d), atol=1e-5)


def test_bits_go_where_energy_is():
    energies = [Energies(np.array([100]), np.array([[1e3, 1e2, 1e1, 1e-6]]), 4)]
    layouts, theta = allocate(
        energies,
        800,
        code(0).errors,
        lambda found: sum(100 * own.bits.sum() + 4 * own.basis_bits.sum() for own in found),
    )
    bits = layouts[0].bits[0]
    assert theta > 0 and 0 < 100 * bits.sum() <= 800
    assert (np.diff(bits) <= 0).all() and bits[0] > bits[2] and bits[3] == 0
