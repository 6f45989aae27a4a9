// What the lanes of a warp, or the warps of a block, add up together; the same for all of them.
#pragma once

template <class Real>
__device__ __forceinline__ Real warp_sum(Real x) {
#pragma unroll
  for (int o = 16; o; o /= 2) x += __shfl_xor_sync(~0u, x, o);
  return x;
}

// parts: a number for each of the warps.
template <int WARPS>
__device__ __forceinline__ double block_sum(double x, double* parts) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  x = parts[0];
#pragma unroll
  for (int w = 1; w < WARPS; w++) x += parts[w];
  return x;
}
