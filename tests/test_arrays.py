"""Arrays in and out: every kind, dtype and layout gives the same fit, in the caller's kind."""

import sys
import tracemalloc
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import import_or_skip
from planted import planted

from ksubspaces import arrays, fit_subspaces

torch = import_or_skip("torch")
pandas = import_or_skip("pandas")

X, _ = planted(400, 12, 3, 2)
FIT = {"k": 3, "j": 2, "seed": 0}
EXPECTED = fit_subspaces(X, **FIT)


class Dlpack:
    """An array of another library, known by its protocol alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class ArrayProtocol:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


SAME_BITS = {
    "numpy": X,
    "fortran order": np.asfortranarray(X),
    "negative strides": np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "every other": np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "read-only": read_only(X),
    "byte order": X.astype(">f4"),
    "memory map like": X.view(np.memmap),
    "unmasked": np.ma.MaskedArray(X),
    "torch": torch.from_numpy(X.copy()),
    "torch with gradient": torch.from_numpy(X.copy()).requires_grad_(),
    "torch transposed": torch.from_numpy(np.ascontiguousarray(X.T)).T,
    "torch negative view": torch._neg_view(torch.from_numpy(-X)),
    "data frame": pandas.DataFrame(X),
    "__dlpack__": Dlpack(X),
    "__array__": ArrayProtocol(X),
}


@pytest.mark.parametrize("kind", SAME_BITS)
def test_same_bits_whatever_the_kind(kind):
    given = SAME_BITS[kind]
    model = fit_subspaces(given, **FIT)
    is_torch = kind.startswith("torch")
    for ours, expected in zip(model.bases, EXPECTED.bases, strict=True):
        assert isinstance(ours, torch.Tensor if is_torch else np.ndarray)
        np.testing.assert_array_equal(np.asarray(ours), expected)
    np.testing.assert_array_equal(np.asarray(model.labels), EXPECTED.labels)
    assert model.objective == EXPECTED.objective
    assert model.predict(given[:5] if hasattr(given, "__getitem__") else X[:5]).shape == (5,)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (X.astype(np.float16), np.float32),
        (torch.from_numpy(X).half(), np.float32),
        (torch.from_numpy(X).bfloat16(), np.float32),
        (X.astype(np.float64), np.float64),
        (torch.from_numpy(X).double(), np.float64),
        (X.astype(np.longdouble), np.float64),
        ((10 * X).astype(np.int64), np.float64),
        ((10 * X).astype(np.int8), np.float64),
        (torch.from_numpy(10 * X).int(), np.float64),
        (X > 0, np.float64),
        (X.tolist(), np.float64),
    ],
    ids=lambda v: str(getattr(v, "dtype", type(v).__name__)),
)
def test_dtypes(given, computed):
    model = fit_subspaces(given, **FIT)
    basis = model.bases[0]
    assert str(basis.dtype).removeprefix("torch.") == np.dtype(computed).name
    assert isinstance(basis, torch.Tensor) == isinstance(given, torch.Tensor)
    A = model.factorize(given)
    assert A.blocks[0].dtype == basis.dtype
    assert model.converged
    assert model.relative_error < 1


def test_dtype_can_be_asked_for():
    for dtype in ("float64", np.float64, torch.float64, np.dtype("f8")):
        assert fit_subspaces(X, **FIT, dtype=dtype).bases[0].dtype == np.float64
    assert fit_subspaces(X.astype("f8"), **FIT, dtype="float32").bases[0].dtype == np.float32
    ours = fit_subspaces(X.astype("f8"), **FIT, dtype="float32")
    np.testing.assert_array_equal(ours.labels, EXPECTED.labels)


def test_half_precision_does_not_overflow_in_sums():
    big = (X * 3000).astype(np.float16)  # squares are past float16's range
    assert fit_subspaces(big, **FIT).relative_error == pytest.approx(EXPECTED.relative_error, rel=0.05)


@pytest.mark.parametrize("shape", [(), (5,), (3000, 700), (2, 3, 4), (0,), (0, 3), (3, 0)], ids=str)
def test_narrowing_that_overflows_is_refused(shape):
    given = np.full(shape, 2.0)
    given.reshape(-1)[:1] = np.inf  # was infinite before
    given = np.asfortranarray(given)
    assert arrays.enter(given, "X", dtype="float32")[0].dtype == np.float32
    if given.size:
        given[(-1,) * given.ndim] = 1e39
        with pytest.raises(ValueError, match=r"^X has entries that do not fit float32; use dtype='float64' or scale"):
            arrays.enter(given, "X", dtype="float32")


def test_narrowing_takes_little_beside_the_result():
    given = np.ones((4000, 1000))
    tracemalloc.start()
    try:
        arrays.enter(given, "X", dtype="float32")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < given.nbytes / 2 + arrays.BLOCK_BYTES


def test_no_copy_of_what_is_already_right():
    assert np.shares_memory(arrays.enter(X, "X")[0], X)
    tensor = torch.from_numpy(X.copy())
    assert np.shares_memory(arrays.enter(tensor, "X")[0], tensor.numpy())


def test_other_arguments_may_be_of_another_kind():
    weights = torch.rand(400)
    model = fit_subspaces(X, **FIT, sample_weight=weights, init=torch.arange(400) % 3)
    same = fit_subspaces(X, **FIT, sample_weight=weights.numpy().tolist(), init=np.arange(400) % 3)
    assert model.objective == pytest.approx(same.objective)
    warm = fit_subspaces(X, **FIT, init=[torch.from_numpy(V) for V in EXPECTED.bases])
    assert warm.objective <= EXPECTED.objective * 1.001


def test_results_of_a_torch_fit_share_no_gradient():
    model = fit_subspaces(torch.from_numpy(X.copy()).requires_grad_(), **FIT)
    assert not model.bases[0].requires_grad
    assert isinstance(model.transform(torch.from_numpy(X)), torch.Tensor)
    assert isinstance(model.transform(X), np.ndarray)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.from_numpy(X).to_sparse(), "sparse Torch tensor"),
        (torch.empty(4, 3, device="meta"), "Torch device 'meta'"),
        (torch.zeros(4, 3, dtype=torch.complex64), "X is complex"),
        (np.ma.MaskedArray(X, X > 1), "masked entries"),
        (__import__("scipy.sparse").sparse.eye(5, format="csr"), "sparse matrix; pass X.toarray"),
    ],
    ids=["sparse", "meta", "complex", "masked", "csr"],
)
def test_kinds_that_are_refused(given, message):
    with pytest.raises(TypeError, match=message):
        fit_subspaces(given, 2, 1)


def test_cuda_without_cupy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r'pip install "ksubspaces\[cuda12\]"'):
        fit_subspaces(X, **FIT, device="cuda")


class NoDeviceError(RuntimeError):
    pass


def fake_cupy(count):
    def device_count():
        if count is None:
            raise NoDeviceError("cudaErrorNoDevice: no CUDA-capable device is detected")
        return count

    runtime = SimpleNamespace(CUDARuntimeError=NoDeviceError, getDeviceCount=device_count, getDevice=lambda: 0)
    return SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))


@pytest.mark.parametrize(("count", "device"), [(None, "cuda"), (0, "cuda"), (1, "cuda:1")])
def test_cuda_without_a_device_is_an_error(monkeypatch, count, device):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count))
    with pytest.raises(RuntimeError, match=f"device='{device}', but CUDA finds .*use device='cpu'"):
        fit_subspaces(X, **FIT, device=device)


class OutOfMemoryError(MemoryError):
    pass


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("Out of memory allocating 8,000,000,000 bytes."),
        torch.cuda.OutOfMemoryError("Tried 8,000,000,000"),
    ],
    ids=["cupy", "torch"],
)
def test_running_out_of_memory_says_what_to_do(monkeypatch, error):
    class Device(nullcontext):
        def __init__(self, index):
            super().__init__()
            self.mem_info = (3 << 29, (8 + index) << 30)

    memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
    cupy = SimpleNamespace(cuda=SimpleNamespace(memory=memory, Device=Device))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    expected = r"^cuda:1 ran out of memory: .*8,000,000,000.* 1\.5 of its 9\.0 GiB are free\. .* or use device='cpu'$"
    for home in (arrays.NUMPY, arrays.Home("cupy", "cuda:1")):
        with pytest.raises(MemoryError, match=expected), arrays.computing(home, "cuda:1"):
            raise error


def test_memory_in_reserve_is_free(monkeypatch):
    runtime = SimpleNamespace(memGetInfo=lambda: (100, 1000))
    pool = SimpleNamespace(free_bytes=lambda: 50)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert arrays._free_bytes(arrays.NUMPY) == 150


def test_results_come_back_to_a_torch_without_cuda():
    class Elsewhere:
        """As little of a CuPy array as that takes."""

        def get(self):
            return np.arange(3)

    assert torch.equal(arrays.Home("torch", "cpu").back(Elsewhere()), torch.arange(3))


def test_device_cpu_is_where_numpy_lives():
    assert fit_subspaces(X, **FIT, device="cpu").objective == EXPECTED.objective
