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

constexpr int PANEL = 32;
constexpr double ALIKE = 1e10;  // then rounding leaves a row orthogonal to others up to 1e-6

// One panel of Cholesky-QR in place: rows `first` to `first` + PANEL of G (k, m, m), from its diagonal block on, and of
// Y (k, m, n) become L^-1 times themselves, L being the factor of G. When all panels have had their turn Y has
// orthonormal rows, if G was Y Y^T. A block takes PANEL columns of a G right of the panel, or of a Y; the factor of
// the diagonal block each finds for itself. ok (k,), if it is not null, becomes false where a row is all but
// spanned by those above it.
extern "C" __global__ void __launch_bounds__(THREADS)
eliminate(double* G, int m, double* Y, int n, int first, bool* ok) {
  constexpr int PITCH = PANEL + 1;
  __shared__ __align__(16) double across[PANEL][PANEL];  // of rows above, the columns of the diagonal block
  __shared__ double rows[PANEL][PANEL], factor[PANEL * PITCH], squares[PANEL];
  const int right = max(0, (m - first - 1) / PANEL), strips = right + (n + PANEL - 1) / PANEL;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, strip = blockIdx.x % strips;
  const size_t c = blockIdx.x / strips;
  G += c * m * m, Y += c * m * n;
  double* const into = strip < right ? G : Y;
  const int width = strip < right ? m : n;
  const int column = (strip < right ? first + PANEL + strip * PANEL : (strip - right) * PANEL) + lane;

  double own[4], block[4], above[4], theirs[4];
  auto read = [&](int start, double* numbers, double* corners) {
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int row = start + 4 * warp + r;
      numbers[r] = row < m && column < width ? into[(size_t)row * width + column] : 0;
      corners[r] = row < m && first + lane < m ? G[(size_t)row * m + first + lane] : 0;
    }
  };
  read(first, own, block);
#pragma unroll
  for (int r = 0; r < 4; r++)
    if (4 * warp + r == lane) squares[lane] = block[r];
  read(0, theirs, above);
  for (int before = 0; before < first; before += PANEL) {
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 4; r++) rows[4 * warp + r][lane] = theirs[r], across[4 * warp + r][lane] = above[r];
    __syncthreads();
    read(before + PANEL, theirs, above);
#pragma unroll 8
    for (int i = 0; i < PANEL; i++) {
      const Four<double> four = *(const Four<double>*)&across[i][4 * warp];
      const double x = rows[i][lane], corner = across[i][lane];
#pragma unroll
      for (int r = 0; r < 4; r++) own[r] -= four.x[r] * x, block[r] -= four.x[r] * corner;
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 4; r++) rows[4 * warp + r][lane] = own[r], factor[(4 * warp + r) * PITCH + lane] = block[r];
  __syncthreads();
  if (warp > 0) return;
  cholesky(factor, PITCH, PANEL);
  const double inverse = factor[lane * (PITCH + 1)];  // of what of the row is its own
  if (ok && strip == 0 && first + lane < m && !(squares[lane] * inverse * inverse <= ALIKE)) ok[c] = false;
  double x[PANEL];
#pragma unroll
  for (int i = 0; i < PANEL; i++) x[i] = rows[i][lane];
#pragma unroll
  for (int i = 0; i < PANEL; i++) {
    x[i] *= factor[i * PITCH + i];
#pragma unroll
    for (int r = i + 1; r < PANEL; r++) x[r] -= factor[r * PITCH + i] * x[i];
    if (first + i < m && column < width) into[(size_t)(first + i) * width + column] = x[i];
  }
}

constexpr int PIECES = 32;

// What flats leave of S (k, d, d), piece by piece: left (k, PIECES) sums up to traces of S less those of V Y^T, where Y
// (k, width, d) is V S for each flat, filled up.
extern "C" __global__ void __launch_bounds__(THREADS)
weigh(const double* __restrict__ S, int d, const long long* __restrict__ starts, int width,
      const REAL* __restrict__ V, const double* __restrict__ Y, double* __restrict__ left) {
  __shared__ double sums[THREADS / 32];
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x;
  const long long size = (starts[c + 1] - starts[c]) * d;
  S += (size_t)c * d * d, V += starts[c] * d, Y += (size_t)c * width * d;
  double sum = 0;
  for (int i = first; i < d; i += PIECES * THREADS) sum += S[(size_t)i * d + i];
  for (long long i = first; i < size; i += PIECES * THREADS) sum -= V[i] * Y[i];
  sum = block_sum<THREADS / 32>(sum, sums);
  if (threadIdx.x == 0) left[blockIdx.x] = sum;
}

// Rayleigh quotients (k, width) of the rows of V (k, width, d), from V and H = V S; a warp each.
extern "C" __global__ void __launch_bounds__(THREADS)
rayleigh(const double* __restrict__ V, const double* __restrict__ H, long long rows, int d, double* __restrict__ along) {
  const long long row = (long long)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  double sum = 0;
  for (int i = threadIdx.x % 32; i < d; i += 32) sum += V[row * d + i] * H[row * d + i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) along[row] = sum;
}

constexpr double STEEP = 1000;  // eigenvalues further apart than that would leave rows too much alike

// A turn of the recurrence of a filter, for matrices X and Y (k, rows, d): a X + c Y, or X - g Y at the `last` turn; Y is
// the identity if null. With these turns rows x V become (a S + c) ((a S + c) V) - g V. That is twice the Chebyshev
// polynomial of degree two on [0, b], which grows as fast as any beyond b, for b just below the least of the Rayleigh
// quotients; where these are STEEP, it is nearly linear, as in a power step. A block takes THREADS numbers.
extern "C" __global__ void __launch_bounds__(THREADS)
filter(const double* __restrict__ along, const long long* __restrict__ starts, int width, const double* X,
       const double* Y, int rows, int d, bool last, double* out) {
  __shared__ double least[THREADS / 32], most[THREADS / 32];
  const int blocks = (int)(((long long)rows * d + THREADS - 1) / THREADS), lane = threadIdx.x % 32;
  const int c = blockIdx.x / blocks, j = (int)(starts[c + 1] - starts[c]);
  double low = 1e300, high = 0;
  for (int i = threadIdx.x; i < j; i += THREADS) {
    const double quotient = along[(size_t)c * width + i];
    low = min(low, quotient), high = max(high, quotient);
  }
#pragma unroll
  for (int bit = 16; bit > 0; bit /= 2) {
    low = min(low, __shfl_xor_sync(ALL, low, bit));
    high = max(high, __shfl_xor_sync(ALL, high, bit));
  }
  if (lane == 0) least[threadIdx.x / 32] = low, most[threadIdx.x / 32] = high;
  __syncthreads();
  for (int warp = 0; warp < THREADS / 32; warp++) low = min(low, least[warp]), high = max(high, most[warp]);
  const long long i = (long long)(blockIdx.x % blocks) * THREADS + threadIdx.x;
  if (i >= (long long)rows * d) return;
  const bool steep = !(high <= STEEP * low);
  const size_t at = (size_t)c * rows * d + i;
  const double y = Y ? Y[at] : i % d == i / d;
  if (last)
    out[at] = X[at] - (steep ? 16 : 2) * y;
  else
    out[at] = (steep ? 1 / high : 4 / (0.98 * low)) * X[at] + (steep ? 4 : -2) * y;
}
