// Power steps of small matrices, and what flats leave of second moments; a block each.
//
//     V <- orth(V (S + shift))      Cholesky-QR: Y Y^T = L L^T, V = L^-1 Y, its Gram matrix and L in double
//
// The shift keeps Y of full rank where S has fewer than j eigenvalues worth the name, and does not touch what is
// promised of a step, for V captures of the shift the same as before. Rows of V and Y stand column by column in shared
// memory, four to a load.
//
// REAL: float or double.
#include "spectrum.cuh"

constexpr int THREADS = 256;
constexpr REAL SHIFT = REAL(1) / (1 << 20);  // of a trace near 1

template <typename Real>
struct alignas(16) Four { Real x[4]; };

// Entries of a basis that no one gave: about uniform in [-1, 1], the same for all matrices.
__device__ __forceinline__ REAL scrambled(unsigned i) {
  i = (i ^ i >> 16) * 0x7feb352du;
  i = (i ^ i >> 15) * 0x846ca68bu;
  return (REAL)(int)(i ^ i >> 16) / (1u << 31);
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

// `steps` power steps for S (k, d, d), k = gridDim.x, from the rows starts[c] to starts[c + 1] of `start`, or from any
// if that is null, to those of V. ok (k,): false if S was not finite; then V has what it started from.
// Shared memory: d d numbers for S, 2 d pitch for V and Y, pitch (pitch + 1) doubles; pitch: a multiple of four, j or more.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
power(const double* __restrict__ S, int d, const long long* __restrict__ starts, int pitch, int steps,
      const REAL* __restrict__ start, REAL* __restrict__ V, bool* __restrict__ ok) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ bool definite;
  const int thread = threadIdx.x, c = blockIdx.x, j = (int)(starts[c + 1] - starts[c]);
  double* const gram = (double*)dyn_smem;
  REAL* const v = (REAL*)(gram + pitch * (pitch + 1));
  REAL* const y = v + d * pitch;
  REAL* const s = y + d * pitch;
  S += (size_t)c * d * d;
  V += starts[c] * d;

  const double scale = power_of_two(-exponent_of_trace(S, d));
  for (int i = thread; i < d * d; i += THREADS) s[i] = (REAL)(scale * S[i]) + (i % (d + 1) == 0 ? SHIFT : 0);
  for (int i = thread; i < d * pitch; i += THREADS) {
    const int row = i / d, column = i % d;
    v[column * pitch + row] = row >= j ? 0 : start ? start[starts[c] * d + i] : scrambled(i);
  }
  if (thread == 0) definite = true;
  __syncthreads();

  // The last time for orthogonality alone: the first factor has cost digits.
  for (int step = 0; step <= steps && definite; step++) {
    for (int i = thread; i < d * (pitch / 4); i += THREADS) {
      const int column = i % d, row = i / d * 4;
      Four<REAL> sums = {};
      if (step < steps && row < j)
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
    for (int i = thread; i < j * j; i += THREADS) {
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
      for (int column = thread; column < d; column += THREADS)
        for (int r = 0; r < j; r++) {
          double entry = y[column * pitch + r];
          for (int p = 0; p < r; p++) entry -= gram[r * (pitch + 1) + p] * v[column * pitch + p];
          v[column * pitch + r] = entry * gram[r * (pitch + 1) + r];
        }
    __syncthreads();
  }

  if (thread == 0) ok[c] = definite;
  for (int i = thread; i < j * d; i += THREADS) {
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
  sum = warp_sum(sum);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();
  if (thread == 0) {
    for (int warp = 1; warp < THREADS / 32; warp++) sum += sums[warp];
    left[c] = sum < 0 ? 0 : sum;  // not a number stays none
  }
}

constexpr int PANEL = 32;

// V = L^-1 Y for lower triangular L (k, m, m) and Y (k, m, n): a block for each PANEL columns of a Y, from its first
// rows to its last. V may be Y.
extern "C" __global__ void __launch_bounds__(THREADS)
substitute(const REAL* __restrict__ L, int m, const REAL* Y, int n, REAL* V) {
  __shared__ __align__(16) REAL factor[PANEL][PANEL + 4], rows[PANEL][PANEL];  // factor: columns first
  const int strips = (n + PANEL - 1) / PANEL, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const long long c = blockIdx.x / strips;
  const int column = blockIdx.x % strips * PANEL + lane;
  L += c * m * m, Y += c * m * n, V += c * m * n;

  for (int first = 0; first < m; first += PANEL) {
    REAL own[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int row = first + 4 * warp + r;
      own[r] = row < m && column < n ? Y[(long long)row * n + column] : 0;
    }
    REAL l[4], v[4];
    auto read = [&](int before) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int row = first + 4 * warp + r, solved = before + 4 * warp + r;
        l[r] = row < m && before + lane < m ? L[(long long)row * m + before + lane] : row == before + lane;
        v[r] = before < first && column < n ? V[(long long)solved * n + column] : 0;
      }
    };
    read(0);
    for (int before = 0; before < first; before += PANEL) {
#pragma unroll
      for (int r = 0; r < 4; r++) factor[lane][4 * warp + r] = l[r], rows[4 * warp + r][lane] = v[r];
      __syncthreads();
      read(before + PANEL);
#pragma unroll 8
      for (int i = 0; i < PANEL; i++) {
        const Four<REAL> four = *(const Four<REAL>*)&factor[i][4 * warp];
        const REAL x = rows[i][lane];
#pragma unroll
        for (int r = 0; r < 4; r++) own[r] -= four.x[r] * x;
      }
      __syncthreads();
    }
#pragma unroll
    for (int r = 0; r < 4; r++) factor[lane][4 * warp + r] = l[r], rows[4 * warp + r][lane] = own[r];
    __syncthreads();
    if (warp == 0) {
      REAL x[PANEL];
#pragma unroll
      for (int i = 0; i < PANEL; i++) x[i] = rows[i][lane];
#pragma unroll
      for (int i = 0; i < PANEL; i++) {
        x[i] /= factor[i][i];
#pragma unroll
        for (int r = i + 1; r < PANEL; r++) x[r] -= factor[i][r] * x[i];
      }
#pragma unroll
      for (int i = 0; i < PANEL; i++)
        if (first + i < m && column < n) V[(long long)(first + i) * n + column] = x[i];
    }
    __syncthreads();
  }
}
