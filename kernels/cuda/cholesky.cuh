// What power steps of small and of large matrices share: a first basis, and the factor that makes one orthonormal.
#pragma once
#include "spectrum.cuh"

template <typename Real>
struct alignas(16) Four { Real x[4]; };

// Entries of a basis that no one gave: about uniform in [-1, 1], the same for all matrices.
__device__ __forceinline__ double scrambled(unsigned i) {
  i = (i ^ i >> 16) * 0x7feb352du;
  i = (i ^ i >> 15) * 0x846ca68bu;
  return (double)(int)(i ^ i >> 16) / (1u << 31);
}

// L in place of the lower triangle of a symmetric matrix, one over its diagonal in place of that; by one warp. False if
// the matrix is not positive definite, or not finite.
__device__ __forceinline__ bool cholesky(double* gram, int pitch, int j) {
  const int lane = threadIdx.x % 32;
  bool definite = true;
  for (int i = 0; i < j; i++) {
    const double pivot = gram[i * pitch + i], inverse = inverse_root(pivot);
    definite &= pivot > 0 && inverse > 0;  // of infinity it is zero
    __syncwarp();
    for (int r = i + lane; r < j; r += 32) gram[r * pitch + i] = r == i ? inverse : gram[r * pitch + i] * inverse;
    __syncwarp();
    for (int r = i + 1 + lane; r < j; r += 32)
      for (int c = i + 1; c <= r; c++) gram[r * pitch + c] -= gram[r * pitch + i] * gram[c * pitch + i];
    __syncwarp();
  }
  return definite;
}
