// Rows in float16 as operands of tensor cores. STEPS: of 32 columns of a row.
#pragma once
#include "half.cuh"
#include "ptx.cuh"

struct __align__(16) Chunk { unsigned x[4]; };

enum {
  WIDTH = 32 * STEPS,  // columns, with zeros at the end
  CHUNKS = 4 * STEPS,  // of a row, of eight float16 each
};

// A warp's operand of 16 rows: lane (g, t) takes chunks t, t + 4, ... of rows g and g + 8. Which column a register stands
// for does not matter, as long as it is the same for rows and flats.
__device__ __forceinline__ void load_rows(unsigned (&a)[2 * STEPS][4], const Chunk* rows, long long first, long long n) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const long long row = min(first + g + 8 * h, n - 1);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const Chunk chunk = rows[row * CHUNKS + t + 4 * s];
#pragma unroll
      for (int r = 0; r < 4; r++) a[2 * s + r / 2][h + 2 * (r % 2)] = chunk.x[r];
    }
  }
}

// Over the four lanes of a row: each gives its parts of four sums and gets the sum that has its number.
__device__ __forceinline__ float own_sum(const float* p, int t) {
  const bool upper = t & 2, odd = t & 1;
  const float even = (upper ? p[2] : p[0]) + __shfl_xor_sync(~0u, upper ? p[0] : p[2], 2);
  const float uneven = (upper ? p[3] : p[1]) + __shfl_xor_sync(~0u, upper ? p[1] : p[3], 2);
  return (odd ? uneven : even) + __shfl_xor_sync(~0u, odd ? even : uneven, 1);
}
