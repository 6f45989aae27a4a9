// First moments of grouped rows: for each group, the sums of w (x - o) and w, slot by slot as in moments.cu.
//
// Compiled for  REAL: float or double, the type of X;  CHUNK: rows of a slot.
#include "slots.cuh"

using Real = REAL;

constexpr int STRIP = 32, STRIDES = 8;  // columns of a block, and rows that it reads at a time

// partial (slots, d + 1) = sum of w (x - o, 1) over the rows of each slot. Block: STRIP x STRIDES threads.
extern "C" __global__ void __launch_bounds__(256)
sums(const Real* X, const double* weights, const double* origins, const long long* order, const long long* starts,
     const long long* slots, const int* owners, int groups, int k, int d, double* partial) {
  __shared__ double found[STRIDES][STRIP];
  const int strips = (d + STRIP) / STRIP;  // of d + 1 columns
  const long long s = blockIdx.x / strips;
  const int column = blockIdx.x % strips * STRIP + threadIdx.x;
  const Slot slot({starts, slots, owners, groups}, s, CHUNK);
  const double origin = origins && column < d && slot.size ? origins[(long long)(slot.group % k) * d + column] : 0;
  double sum = 0;
#pragma unroll 4
  for (int r = threadIdx.y; r < slot.size; r += STRIDES) {
    const long long row = order[slot.begin + r];
    const double x = column < d ? X[row * d + column] - origin : 1;
    sum += weights ? weights[row] * x : x;
  }
  found[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y > 0 || column > d) return;
  for (int i = 1; i < STRIDES; i++) sum += found[i][threadIdx.x];
  partial[s * (d + 1) + column] = sum;
}

// first (groups, d) and mass (groups): the partial sums of each group's slots, in order. With `center` they are taken
// about `origins` (groups, d), the means in X's precision, which are then written, and as `means` besides.
extern "C" __global__ void __launch_bounds__(256)
fold_sums(const double* partial, const long long* slots, int groups, int d, int center, double* first, double* mass,
          double* origins, Real* means) {
  const long long i = (long long)blockIdx.x * 256 + threadIdx.x;
  if (i >= (long long)groups * d) return;
  const long long group = i / d, column = i % d;
  double total = 0, weight = 0;
#pragma unroll 8
  for (long long s = slots[group]; s < slots[group + 1]; s++) {
    total += partial[s * (d + 1) + column];
    weight += partial[s * (d + 1) + d];
  }
  if (column == 0) mass[group] = weight;
  const Real mean = center && weight > 0 ? (Real)(total / weight) : (Real)0;
  first[i] = total - weight * mean;
  if (origins) origins[i] = mean;
  if (means) means[i] = mean;
}
