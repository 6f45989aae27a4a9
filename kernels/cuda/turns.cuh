// What blocks of one launch tell each other. Flags and counters are zero at first, and again when the launch ends.
#pragma once

#ifndef CUDA_ON_CPU  // a test that runs kernels on the CPU brings its own
__device__ __forceinline__ void spin_until(const unsigned* flag) {
  while (*(const volatile unsigned*)flag == 0) {}
}
#endif

// How many blocks took a turn before this one. Unlike blockIdx it follows the order in which blocks begin, so that a block
// may wait for one with a lower number: that one has begun and goes on.
__device__ __forceinline__ int take_turn(unsigned* begun) {
  __shared__ int turn;
  if (threadIdx.x == 0) turn = atomicAdd(begun, 1u);
  __syncthreads();
  return turn;
}

// All that this block has written is there for blocks that wait for the flag.
__device__ __forceinline__ void tell(unsigned* flag) {
  __syncthreads();
  if (threadIdx.x > 0) return;
  __threadfence();
  atomicExch(flag, 1u);
}

__device__ __forceinline__ void wait_for(const unsigned* flag) {
  if (threadIdx.x == 0) {
    spin_until(flag);
    __threadfence();
  }
  __syncthreads();
}

// Whether `blocks` blocks have come here and this is the last of them. All that they have written is then there for it.
__device__ __forceinline__ bool is_last(unsigned* ended, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x + threadIdx.y == 0) last = atomicAdd(ended, 1u) == blocks - 1;
  __syncthreads();
  __threadfence();
  return last;
}
