"""A factorization decodes rows, counts its parameters, stitches into the paper's factors, and survives the disk."""

import numpy as np
import pytest
from helpers import assert_same_factors, import_or_skip
from planted import planted

from ksubspaces import Factorization, fit_subspaces
from ksubspaces.kernels import reference

CASES = {
    "equal": {"j": 4},
    "ragged": {"j": [0, 2, 12]},
    "affine": {"j": [2, 8, 0], "affine": True},
}


@pytest.fixture(params=CASES)
def factored(request):
    X, _ = planted(300, 12, 3, 3, offset=1.0)
    model = fit_subspaces(X, 3, seed=0, **CASES[request.param])
    return X, model, model.factorize(X)


def test_rows_are_coefficients_times_basis(factored):
    X, model, A = factored
    assert A.shape == X.shape
    assert len(A) == len(A.coefficients) == 300
    for i in (0, 17, 299, -1):
        c = A.labels[i]
        expected = A.coefficients[i] @ A.bases[c] + (0 if A.offsets is None else A.offsets[c])
        np.testing.assert_allclose(A[i], expected, atol=1e-5)
    np.testing.assert_array_equal(A.labels, model.labels)
    np.testing.assert_allclose(reference.lookup(np.arange(300), A._local), A.reconstruct(), atol=1e-5)


def test_indexing_is_numpys(factored):
    _, _, A = factored
    dense = A.reconstruct()
    mask = np.arange(300) % 7 == 0
    for rows in (slice(None, None, -3), [5, 5, -1], np.array([], int), [], mask, np.array([[1, 2], [3, 4]]), range(4)):
        expected = dense[np.array(rows, int) if isinstance(rows, (list, range)) else rows]
        np.testing.assert_allclose(A[rows], expected, atol=1e-6)
    assert A[np.int64(3)].shape == (12,)
    assert len(A.coefficients[2:5]) == 3
    for bad in (300, -301, [0, 300], np.zeros(5, bool), 1.5, "a"):
        with pytest.raises(IndexError):
            A[bad]
    for bad in ((1, 2), True, None, np.zeros((300, 2), bool)):
        with pytest.raises(IndexError):
            A[bad]
    with pytest.raises(IndexError):
        A.coefficients[300]


def test_parameters_are_counted_by_hand(factored):
    X, _, A = factored
    by_hand = sum(block.size for block in A.blocks) + sum(V.size for V in A.bases) + len(X)
    by_hand += 0 if A.offsets is None else A.offsets.size
    assert A.n_parameters == by_hand
    assert A.ratio == pytest.approx(1 - by_hand / X.size)
    assert A.nbytes == 4 * by_hand  # float32 and int32
    assert f"{by_hand:,} parameters" in repr(A)


def test_relative_error(factored):
    X, model, A = factored
    assert A.measure_error(X) == pytest.approx(model.relative_error, rel=1e-4)
    assert A.measure_error(X.astype(np.float64)) == pytest.approx(model.relative_error, rel=1e-4)
    with pytest.raises(ValueError, match="X has 5 rows, but the factorization has 300"):
        A.measure_error(X[:5])
    with pytest.raises(ValueError, match="X has 3 columns"):
        A.measure_error(X[:, :3])


def test_relative_error_of_zeros():
    zeros = np.zeros((10, 3))
    A = fit_subspaces(zeros, 2, 1, seed=0).factorize(zeros)
    assert A.measure_error(zeros) == 0


def test_stitch_gives_the_papers_factors(factored):
    _, _, A = factored
    U, V = A.stitch()
    columns = sum(A.dims) + (0 if A.offsets is None else 3)
    assert U.shape == (300, columns)
    assert V.shape == (columns, 12)
    assert U.nnz == sum(m * j for m, j in zip(A.counts, A.dims, strict=True)) + (0 if A.offsets is None else 300)
    np.testing.assert_allclose(U @ V, A.reconstruct(), atol=1e-5)
    U.check_format()


def test_other_rows_can_be_factored(factored):
    _, model, _ = factored
    Y = np.random.default_rng(0).normal(size=(20, 12))
    A = model.factorize(Y)
    assert len(A) == 20
    np.testing.assert_array_equal(A.labels, model.predict(Y))


def test_save_and_load(factored, tmp_path):
    _, _, A = factored
    A.save(tmp_path / "a.safetensors")
    again = Factorization.load(tmp_path / "a.safetensors")
    assert_same_factors(again, A)
    np.testing.assert_allclose(again.reconstruct(), A.reconstruct(), atol=1e-5)


def test_torch_in_torch_out(factored, tmp_path):
    torch = import_or_skip("torch")
    X, model, A = factored
    there = model.factorize(torch.from_numpy(X))
    assert isinstance(there.blocks[1], torch.Tensor)
    assert isinstance(there[torch.tensor([1, 2])], torch.Tensor)
    assert_same_factors(there, A)
    np.testing.assert_allclose(there[[1, 2]].numpy(), A[[1, 2]], atol=1e-5)
    assert there.nbytes == A.nbytes
    assert isinstance(A.to("torch")[3], torch.Tensor)
    assert isinstance(there.to("numpy")[3], np.ndarray)
    there.save(tmp_path / "t")
    assert_same_factors(Factorization.load(tmp_path / "t"), A)
    assert there.measure_error(X) == pytest.approx(A.measure_error(X))


def test_no_rows(factored, tmp_path):
    X, model, _ = factored
    A = model.factorize(X[:0])
    assert A.ratio == 0
    assert "0 x 12" in repr(A)
    A.save(tmp_path / "none")
    assert Factorization.load(tmp_path / "none").shape == (0, 12)
