"""What the emulator of CUDA must notice, or tests that rest on it show nothing."""

import compiling
import numpy as np
import pytest
from emulator import H100, MODES, emulated, kernel_names, modes, needs_compiler

from ksubspaces.kernels.cuda import loader

pytestmark = needs_compiler

SOURCE = """
#include "half.cuh"
#include "ptx.cuh"
#define SHARED extern __shared__ __align__(128) unsigned char dyn_smem[]

extern "C" __global__ void shift(const float* x, float* y, int n) {
  SHARED;
  float* s = (float*)dyn_smem;
  s[threadIdx.x] = x[threadIdx.x];
  SYNC;
  if (threadIdx.x < n) y[threadIdx.x] = s[(threadIdx.x + 1) % blockDim.x];
}

extern "C" __global__ void copy(const float* x, float* y) {
  SHARED;
  float* s = (float*)dyn_smem;
  cp_async4(s + threadIdx.x, x + threadIdx.x, true);
  cp_async_commit();
  cp_async_wait<NEWEST>();
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}

extern "C" __global__ void diverge(float* y) {
  if (threadIdx.x % 2) __syncthreads();
  else __syncwarp(0x55555555u);
  y[threadIdx.x] = __shfl_xor_sync(~0u, y[threadIdx.x], 1);
}

extern "C" __global__ void halves(const float* x, unsigned short* h, unsigned short* b, unsigned* pairs, float* back) {
  const int i = threadIdx.x;
  h[i] = float_to_half(x[i]);
  b[i] = float_to_bf16(x[i]);
  pairs[i] = floats_to_half2(x[i], x[i ^ 1]);
  back[i] = half_to_float(h[i]);
}

extern "C" __global__ void products(const float* A, const float* B, float* D) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  unsigned a[4], b[2];
  for (int i = 0; i < 4; i++) a[i] = to_tf32(A[(g + 8 * (i & 1)) * 8 + t + 4 * (i >> 1)]);
  for (int i = 0; i < 2; i++) b[i] = to_tf32(B[(t + 4 * i) * 8 + g]);
  float d[4] = {};
  mma_m16n8k8_tf32(d, a, b);
  for (int i = 0; i < 4; i++) D[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = d[i];
}
"""
X = np.arange(64, dtype=np.float32)


def run(name, args, mode="late", threads=64, shared_mem=256, sync="__syncthreads()", newest=0, limits=H100):
    with emulated(mode, limits, replaced={"tried.cu": SOURCE}):
        launch = loader.kernel("tried", name, {"SYNC": sync, "NEWEST": newest})
        launch((1,), (threads,), args, shared_mem=shared_mem)


@modes
def test_what_is_right_is_right_in_every_mode(mode):
    shifted, copied = np.zeros_like(X), np.zeros_like(X)
    run("shift", (X, shifted, np.int32(64)), mode)
    np.testing.assert_array_equal(shifted, np.roll(X, -1))
    run("copy", (X, copied), mode)
    np.testing.assert_array_equal(copied, X.reshape(-1, 2)[:, ::-1].ravel())


def test_a_missing_barrier_is_seen():
    def right(mode):
        y = np.zeros_like(X)
        run("shift", (X, y, np.int32(64)), mode, sync="")
        return np.array_equal(y, np.roll(X, -1))

    assert not all(right(mode) for mode in MODES)


def test_copies_land_when_they_are_waited_for():
    y = np.zeros_like(X)
    run("copy", (X, y), newest=1)
    assert np.all(np.isnan(y))
    run("copy", (X, y), "eager", newest=1)
    assert not np.any(np.isnan(y))


def test_what_a_gpu_would_hang_on_or_corrupt_is_an_error():
    y = np.zeros_like(X)
    with pytest.raises(RuntimeError, match="deadlock: block 0,0,0 thread 0,0,0 waits in warp operation"):
        run("diverge", (y,))
    with pytest.raises(RuntimeError, match=r"shift wrote outside an array of shape \(60,\)"):
        run("shift", (X, y[:60].copy(), np.int32(64)))
    with pytest.raises(RuntimeError, match="write past the dynamic shared memory"):
        run("shift", (X, y, np.int32(64)), shared_mem=252)


def test_launches_that_a_gpu_would_refuse_are_refused():
    y = np.zeros_like(X)
    with pytest.raises(RuntimeError, match="a block has 1 to 1024 threads"):
        run("shift", (X, y, np.int32(64)), threads=2048)
    with pytest.raises(RuntimeError, match="a block can have 100 bytes of shared memory, not 256"):
        run("shift", (X, y, np.int32(64)), limits=loader.Limits(100, 1))


def test_arguments_must_be_what_the_kernel_takes():
    y = np.zeros_like(X)
    for args, message in (
        ((X, y, 64), "argument 2: the kernel takes i4, not i8"),
        ((X.astype(np.float64), y, np.int32(64)), r"argument 0: the kernel takes \*f4, not an array of f8"),
        ((X, y[::2], np.int32(64)), "contiguous"),
        ((X[:40], X[30:], np.int32(64)), "overlap"),
        ((X, None, np.int32(64)), "arrays and numbers"),
    ):
        with pytest.raises(TypeError, match=message):
            run("shift", args)


def test_inputs_stay_as_they_are():
    constant = X.copy()
    constant.flags.writeable = False
    run("copy", (constant, np.zeros_like(X)))
    np.testing.assert_array_equal(constant, X)


@modes
def test_new_memory_holds_no_earlier_results(mode):
    with emulated(mode):
        xp = loader.namespace(np.zeros(1))
        for _ in range(2):
            made = [xp.empty((3, 4)), xp.empty(5, np.float16), xp.empty((2, 0)), xp.empty(7, dtype=np.int32)]
            assert np.isnan(made[0]).all() and np.isnan(made[1]).all()
            assert (made[3] == -1).all()
            made[0][:], made[1][:], made[3][:] = 1, 1, 1


def test_conversions():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=64) * 10.0 ** rng.integers(-9, 6, 64)).astype(np.float32)
    x[:6] = [0, -0.0, 65519, 65520, 6e-8, 2**-14]
    h, b, pairs, back = (
        np.zeros(64, np.uint16),
        np.zeros(64, np.uint16),
        np.zeros(64, np.uint32),
        np.zeros(64, np.float32),
    )
    run("halves", (x, h, b, pairs, back))
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    np.testing.assert_array_equal(h, want.view(np.uint16))
    np.testing.assert_array_equal(back, want.astype(np.float32))
    np.testing.assert_array_equal(pairs, h + (h.reshape(-1, 2)[:, ::-1].ravel().astype(np.uint32) << 16))
    bits = x.view(np.uint32).astype(np.uint64)
    np.testing.assert_array_equal(b, (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)


def test_tensor_cores_multiply_eleven_bits():
    rng = np.random.default_rng(1)
    A, B = rng.normal(size=(16, 8)).astype(np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    D = np.zeros((16, 8), np.float32)
    run("products", (A, B, D), threads=32)
    error = np.abs(D - A.astype(np.float64) @ B)
    assert 1e-5 < error.max() < 1e-2
    A, B = np.round(A * 256) / 256, np.round(B * 256) / 256  # 11 bits or less: exact but for the rounding of sums
    run("products", (A, B, D), threads=32)
    np.testing.assert_allclose(D, A.astype(np.float64) @ B, rtol=0, atol=1e-6)


def test_names_of_kernels():
    assert kernel_names(SOURCE) == ["shift", "copy", "diverge", "halves", "products"]


def test_the_same_content_is_compiled_once(tmp_path, monkeypatch):
    """Also by another process; a compilation that fails leaves nothing behind."""
    monkeypatch.setattr(compiling, "cache", lambda: tmp_path)
    made = []

    def make(folder):
        (folder / "made").write_text("here")
        made.append(folder)

    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("g++ could not")

    first = compiling.made_once("text", make)
    assert compiling.made_once("text", fail) == first
    assert (first / "made").read_text() == "here"
    with pytest.raises(RuntimeError, match="could not"):
        compiling.made_once("another text", fail)
    assert list(tmp_path.iterdir()) == [first]
    monkeypatch.setattr(compiling, "machine", lambda: "another compiler")
    assert compiling.made_once("text", make) != first
    assert len(made) == 2
