// Flats through the rows near to a few candidates, from their second moments. See seeding.py.
#include "rows.cuh"
#include "warp.cuh"

__device__ __forceinline__ float scrambled(unsigned i) {  // in [-1, 1), from a number
  i ^= i >> 16, i *= 0x7feb352du, i ^= i >> 15, i *= 0x846ca68bu, i ^= i >> 16;
  return (int)i * (1.f / 2147483648.f);
}

enum { THREADS = 256, WARPS = THREADS / 32, SQUARED = STEPS <= 2, PITCH = WIDTH + 1 };

// v = orthonormal rows that span those of y (j), which are changed; rows of zeros where nothing is left.
__device__ void orthonormalise(float* y, float* v, int j) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = 0; i + 1 < j; i++) {  // Gram and Schmidt, modified: from the rows after it, a row is taken away at once
    for (int r = i + 1 + warp; r < j; r += WARPS) {
      float square = 0, product = 0;
      for (int t = lane; t < WIDTH; t += 32) square += y[i * PITCH + t] * y[i * PITCH + t], product += y[i * PITCH + t] * y[r * PITCH + t];
      square = warp_sum(square), product = warp_sum(product);
      const float factor = square > 0 ? product / square : 0.f;
      for (int t = lane; t < WIDTH; t += 32) y[r * PITCH + t] -= factor * y[i * PITCH + t];
    }
    __syncthreads();
  }
  for (int r = warp; r < j; r += WARPS) {
    float square = 0;
    for (int t = lane; t < WIDTH; t += 32) square += y[r * PITCH + t] * y[r * PITCH + t];
    square = warp_sum(square);
    const float inverse = square > 0 ? 1 / sqrtf(square) : 0.f;
    for (int t = lane; t < WIDTH; t += 32) v[r * PITCH + t] = y[r * PITCH + t] * inverse;
  }
  __syncthreads();
}

// out = left S for `rows` rows, two at a time; S symmetric.
__device__ __forceinline__ void multiply(const float* left, int pitch, const float* S, float factor, float* out, int out_pitch, int rows) {
  constexpr int GROUPS = THREADS / WIDTH;
  const int column = threadIdx.x % WIDTH;
  for (int r = threadIdx.x / WIDTH * 2; r < rows; r += 2 * GROUPS) {
    float sums[2] = {};
#pragma unroll 8
    for (int i = 0; i < WIDTH; i++) {
      const float entry = S[i * WIDTH + column];
      sums[0] += left[r * pitch + i] * entry, sums[1] += left[(r + 1) * pitch + i] * entry;
    }
    out[r * out_pitch + column] = factor * sums[0], out[(r + 1) * out_pitch + column] = factor * sums[1];
  }
  __syncthreads();
}

// Close to the leading eigenspaces of S, of dimension j, as float16 (CANDIDATES, rows, WIDTH) with `rows` a multiple of 8:
// `fast` block power steps by S^4 where that fits into shared memory, else by S, and `slow` by S. A block a candidate.
extern "C" __global__ void __launch_bounds__(THREADS)
power(const float* __restrict__ S, int j, int rows, int fast, int slow, unsigned* __restrict__ flats) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ double parts[WARPS];
  float *const v = (float*)dyn_smem, *const y = v + rows * PITCH, *const s = y + rows * PITCH;
  float *const square = s + (SQUARED ? WIDTH * WIDTH : 0), *const fourth = square + (SQUARED ? WIDTH * WIDTH : 0);
  const float* plain = S + (long long)blockIdx.x * WIDTH * WIDTH;
  double trace = 0;
  for (int i = threadIdx.x; i < WIDTH; i += THREADS) trace += plain[i * WIDTH + i];
  trace = block_sum<WARPS>(trace, parts);
  const float factor = trace > 0 ? 1 / trace : 0;
  const float* quick = plain;
  if (SQUARED) {
    for (int i = threadIdx.x; i < WIDTH * WIDTH; i += THREADS) s[i] = factor * plain[i];
    __syncthreads();
    multiply(s, WIDTH, s, 1, square, WIDTH, WIDTH);
    multiply(square, WIDTH, square, 1, fourth, WIDTH, WIDTH);
    plain = s, quick = fourth;
  }
  for (int i = threadIdx.x; i < rows * WIDTH; i += THREADS) v[i / WIDTH * PITCH + i % WIDTH] = i / WIDTH < j ? scrambled(i) : 0.f;
  __syncthreads();
  for (int step = 0; step < fast + slow; step++) {
    multiply(v, PITCH, step < fast ? quick : plain, SQUARED ? 1 : factor, y, PITCH, rows);
    orthonormalise(y, v, j);
  }
  orthonormalise(v, y, j);
  for (int i = threadIdx.x; i < rows * (WIDTH / 2); i += THREADS) {
    const int r = i / (WIDTH / 2), t = i % (WIDTH / 2) * 2;
    flats[(long long)blockIdx.x * rows * (WIDTH / 2) + i] = floats_to_half2(y[r * PITCH + t], y[r * PITCH + t + 1]);
  }
}
