// What kernels on second moments share: a scale that lets float32 hold them.
#pragma once
#include "warp.cuh"

constexpr unsigned ALL = 0xffffffffu;

// 1 / sqrt(x), the card's estimate made good to the last digit.
__device__ __forceinline__ float estimate(float x) { return rsqrtf(x); }
__device__ __forceinline__ double estimate(double x) { return rsqrt(x); }
template <typename Real>
__device__ __forceinline__ Real inverse_root(Real x) {
  const Real y = estimate(x);
  return fma(fma(-x * y, y, Real(1)), y / 2, y);
}

__device__ __forceinline__ double power_of_two(int exponent) {
  return __longlong_as_double((long long)(1023 + exponent) << 52);
}

// The trace of S (d, d) times two to the negative of this is near 1. Every lane of a warp has to ask.
__device__ __forceinline__ int exponent_of_trace(const double* S, int d) {
  double trace = 0;
  for (int i = threadIdx.x % 32; i < d; i += 32) trace += S[i * d + i];
  return min((int)(__double_as_longlong(warp_sum(trace)) >> 52 & 0x7ff) - 1022, 1022);
}
