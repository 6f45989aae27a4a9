// Power steps of small matrices, and what flats leave of second moments; a block each.
//
//     V <- orth(V (S + shift))      Cholesky-QR: Y Y^T = L L^T, V = L^-1 Y, its Gram matrix and L in double
//
// The shift keeps Y of full rank where S has fewer than j eigenvalues worth the name, and does not touch what is
// promised of a step, for V captures of the shift the same as before. Rows of V and Y stand column by column in shared
// memory, four to a load.
//
// REAL: float or double.
#include "cholesky.cuh"

constexpr int THREADS = 256;
constexpr REAL SHIFT = REAL(1) / (1 << 20);  // of a trace near 1

// `steps` power steps for S (k, d, d), k = gridDim.x, from the rows starts[c] to starts[c + 1] of `start`, or from any
// if that is null, to those of V. ok (k,): false if S was not finite; then V has what it started from.
// Shared memory: d d numbers for S, 2 d pitch for V and Y, pitch (pitch + 1) doubles; pitch: a multiple of four, j or more.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
power(const double* __restrict__ S, int d, const long long* __restrict__ starts, int pitch, int steps,
      const REAL* __restrict__ start, REAL* __restrict__ V, bool* __restrict__ ok) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ bool definite;
  const int thread = threadIdx.x, threads = blockDim.x, c = blockIdx.x, j = (int)(starts[c + 1] - starts[c]);
  double* const gram = (double*)dyn_smem;
  REAL* const v = (REAL*)(gram + pitch * (pitch + 1));
  REAL* const y = v + d * pitch;
  REAL* const s = y + d * pitch;
  S += (size_t)c * d * d;
  V += starts[c] * d;

  const double scale = power_of_two(-exponent_of_trace(S, d));
  for (int i = thread; i < d * d; i += threads) s[i] = (REAL)(scale * S[i]) + (i % (d + 1) == 0 ? SHIFT : 0);
  for (int i = thread; i < d * pitch; i += threads) {
    const int row = i / d, column = i % d;
    v[column * pitch + row] = row >= j ? 0 : start ? start[starts[c] * d + i] : scrambled(i);
  }
  if (thread == 0) definite = true;
  __syncthreads();

  // The last time for orthogonality alone: the first factor has cost digits.
  for (int step = 0; step <= steps && definite; step++) {
    for (int i = thread; i < d * ((j + 3) / 4); i += threads) {
      const int column = i % d, row = i / d * 4;
      Four<REAL> sums = {};
      if (step < steps)
        for (int inner = 0; inner < d; inner++) {
          const REAL entry = s[inner * d + column];
          const Four<REAL> four = *(const Four<REAL>*)(v + inner * pitch + row);
#pragma unroll
          for (int r = 0; r < 4; r++) sums.x[r] += four.x[r] * entry;
        }
      else
        sums = *(const Four<REAL>*)(v + column * pitch + row);
      *(Four<REAL>*)(y + column * pitch + row) = sums;
    }
    __syncthreads();
    for (int i = thread; i < j * j; i += threads) {
      const int a = i / j, b = i % j;
      if (b > a) continue;
      double product = 0;
      for (int column = 0; column < d; column++) product += (double)y[column * pitch + a] * y[column * pitch + b];
      gram[a * (pitch + 1) + b] = product;
    }
    __syncthreads();
    if (thread < 32) {
      const bool is = cholesky(gram, pitch + 1, j);
      if (thread == 0) definite = is;
    }
    __syncthreads();
    if (definite)
      for (int column = thread; column < d; column += threads)
        for (int r = 0; r < j; r++) {
          double entry = y[column * pitch + r];
          for (int p = 0; p < r; p++) entry -= gram[r * (pitch + 1) + p] * v[column * pitch + p];
          v[column * pitch + r] = entry * gram[r * (pitch + 1) + r];
        }
    __syncthreads();
  }

  if (thread == 0) ok[c] = definite;
  for (int i = thread; i < j * d; i += threads) {
    const int row = i / d, column = i % d;
    V[i] = definite || start ? v[column * pitch + row] : row == column;
  }
}

// What the flats leave of the moments of their rows: sum w |x - mu|^2 - |V (x - mu)|^2, with mu at `shift` (k, d) from
// the origins of the moments, or there if that is null. Shared memory: d pitch doubles.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
leave(const double* __restrict__ raw, const double* __restrict__ first, const double* __restrict__ mass, int d,
      const double* __restrict__ shifts, const long long* __restrict__ starts, int pitch, const REAL* __restrict__ V,
      double* __restrict__ left) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ double sums[THREADS / 32];
  const int thread = threadIdx.x, c = blockIdx.x, j = (int)(starts[c + 1] - starts[c]);
  double* const v = (double*)dyn_smem;
  raw += (size_t)c * d * d, first += (size_t)c * d, V += starts[c] * d;
  if (shifts) shifts += (size_t)c * d;
  for (int i = thread; i < d * pitch; i += THREADS) v[i % d * pitch + i / d] = i / d < j ? V[i] : 0;
  __syncthreads();

  auto entry = [&](int row, int column) {
    const double x = raw[row * d + column];
    if (!shifts) return x;
    const double down = shifts[row], right = shifts[column];
    return x - first[row] * right - down * first[column] + mass[c] * down * right;
  };
  double sum = 0;
  for (int i = thread; i < d; i += THREADS) sum += entry(i, i);
  for (int i = thread; i < d * ((j + 3) / 4); i += THREADS) {
    const int column = i % d, row = i / d * 4;
    Four<double> products = {};
    for (int inner = 0; inner < d; inner++) {
      const double x = entry(inner, column);
      const Four<double> four = *(const Four<double>*)(v + inner * pitch + row);
#pragma unroll
      for (int r = 0; r < 4; r++) products.x[r] += four.x[r] * x;
    }
#pragma unroll
    for (int r = 0; r < 4; r++) sum -= products.x[r] * v[column * pitch + row + r];
  }
  sum = block_sum<THREADS / 32>(sum, sums);
  if (thread == 0) left[c] = sum < 0 ? 0 : sum;  // not a number stays none
}
