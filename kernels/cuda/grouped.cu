// Rows against the flats of their own groups, in float64.
//
// Compiled for  REAL: float or double, the type of X;  EACH: columns of a lane, 32 EACH being at least d;
//               CHUNK: rows of a slot.
#include "slots.cuh"

using Real = REAL;

constexpr int WARPS = 8, PART = 64;  // of a block: warps, and rows of a slot
constexpr int TOGETHER = EACH > 8 ? 1 : EACH > 4 ? 2 : 4;  // rows of a warp at a time, for which it reads a flat once

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// residuals (n): |y - V^T V y|^2, where y = x - mu. coefficients: V y of the rows of a group from places[group] on.
// Either may be null. V (dims, d) of group g are rows firsts[g]..firsts[g + 1] of `bases`.
extern "C" __global__ void __launch_bounds__(32 * WARPS)
project(const Real* X, const double* bases, const long long* firsts, const double* offsets, const long long* order,
        const long long* starts, const long long* slots, const int* owners, int groups, int d, double* residuals,
        const long long* places, Real* coefficients) {
  constexpr int PARTS = (CHUNK + PART - 1) / PART;
  const Slot slot({starts, slots, owners, groups}, blockIdx.x / PARTS, CHUNK);
  const int end = min(slot.size, (int)(blockIdx.x % PARTS + 1) * PART), lane = threadIdx.x % 32;
  int first = blockIdx.x % PARTS * PART + threadIdx.x / 32 * TOGETHER;
  if (first >= end) return;
  const double* basis = bases + firsts[slot.group] * d;
  const int dim = (int)(firsts[slot.group + 1] - firsts[slot.group]);

  for (; first < end; first += WARPS * TOGETHER) {
    double whole[TOGETHER][EACH], rest[TOGETHER][EACH];
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
      const Real* x = X + order[slot.begin + min(first + r, end - 1)] * d;
#pragma unroll
      for (int i = 0; i < EACH; i++) {
        const int column = lane + 32 * i;
        double y = column < d ? (double)x[column] : 0;
        if (offsets && column < d) y -= offsets[(long long)slot.group * d + column];
        whole[r][i] = rest[r][i] = y;
      }
    }
    for (int t = 0; t < dim; t++) {
      double v[EACH];
#pragma unroll
      for (int i = 0; i < EACH; i++) v[i] = lane + 32 * i < d ? __ldg(basis + (long long)t * d + lane + 32 * i) : 0;
#pragma unroll
      for (int r = 0; r < TOGETHER; r++) {
        double product = 0;
#pragma unroll
        for (int i = 0; i < EACH; i++) product = fma(whole[r][i], v[i], product);
        product = warp_sum(product);
#pragma unroll
        for (int i = 0; i < EACH; i++) rest[r][i] = fma(-product, v[i], rest[r][i]);
        if (coefficients && lane == 0 && first + r < end) {
          const long long place = slot.begin + first + r - starts[slot.group];
          coefficients[places[slot.group] + place * dim + t] = (Real)product;
        }
      }
    }
    if (!residuals) continue;
#pragma unroll
    for (int r = 0; r < TOGETHER; r++) {
      double square = 0;
#pragma unroll
      for (int i = 0; i < EACH; i++) square = fma(rest[r][i], rest[r][i], square);
      square = warp_sum(square);
      if (lane == 0 && first + r < end) residuals[order[slot.begin + first + r]] = square;
    }
  }
}

// out (m, d): rows X[rows] - mu.
extern "C" __global__ void __launch_bounds__(256)
gather(const Real* X, const long long* rows, const double* mu, long long m, int d, double* out) {
  const long long row = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= m) return;
  for (int i = threadIdx.x % 32; i < d; i += 32) out[row * d + i] = X[rows[row] * d + i] - (mu ? mu[i] : 0);
}

// residuals[rows]: squared lengths of `rest` (m, d).
extern "C" __global__ void __launch_bounds__(256)
squares(const double* rest, const long long* rows, long long m, int d, double* residuals) {
  const long long row = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= m) return;
  double square = 0;
  for (int i = threadIdx.x % 32; i < d; i += 32) square = fma(rest[row * d + i], rest[row * d + i], square);
  square = warp_sum(square);
  if (threadIdx.x % 32 == 0) residuals[rows[row]] = square;
}
