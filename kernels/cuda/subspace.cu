// Power steps of large matrices, around the library's products: what they begin with and end with, rows made orthonormal,
// a filter, and what flats leave of second moments. All of it in float64.
#include "cholesky.cuh"

constexpr int THREADS = 256, PIECES = 32;
constexpr double TINY = 1e-300;  // in place of a trace of zero
constexpr double SHIFT = 1.0 / (1 << 20);  // of the trace, added to S: bases stay of full rank where S is not

// Bases `stack` of flats whose rows are starts[c] to starts[c + 1], in float32 if `single`.
__device__ __forceinline__ double number(const void* stack, int single, long long i) {
  return single ? ((const float*)stack)[i] : ((const double*)stack)[i];
}

// M (k, d, d): S over its trace, and the shift; unless S is null. V (k, width, d): `start` filled up with zeros, or rows
// that span anything if that is null. ok (k,): true. PIECES blocks for each flat.
extern "C" __global__ void __launch_bounds__(THREADS)
begin(const double* __restrict__ S, int d, const long long* __restrict__ starts, int width, const void* __restrict__ start,
      int single, double* __restrict__ M, double* __restrict__ V, bool* __restrict__ ok) {
  __shared__ double sums[THREADS / 32];
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x;
  const long long size = (starts[c + 1] - starts[c]) * d;
  V += (size_t)c * width * d;
  for (int i = first; i < width * d; i += PIECES * THREADS)
    V[i] = i >= size ? 0 : start ? number(start, single, starts[c] * d + i) : scrambled(i);
  if (!S) return;
  S += (size_t)c * d * d, M += (size_t)c * d * d;
  double trace = 0;
  for (int i = threadIdx.x; i < d; i += THREADS) trace += S[(size_t)i * (d + 1)];
  trace = block_sum<THREADS / 32>(trace, sums);
  if (trace < TINY) trace = TINY;
  for (int i = first; i < d * d; i += PIECES * THREADS) M[i] = S[i] / trace + (i % (d + 1) == 0 ? SHIFT : 0);
  if (first == 0) ok[c] = true;
}

// out: the bases V (k, width, d), stacked, in float32 if `single`; where they are not ok, `start`, or any if that is null.
extern "C" __global__ void __launch_bounds__(THREADS)
end(const double* __restrict__ V, int d, const long long* __restrict__ starts, int width, const void* __restrict__ start,
    int single, const bool* __restrict__ ok, void* __restrict__ out) {
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x;
  const long long size = (starts[c + 1] - starts[c]) * d, before = starts[c] * d;
  for (int i = first; i < size; i += PIECES * THREADS) {
    const double x = ok[c]   ? V[(size_t)c * width * d + i]
                     : start ? number(start, single, before + i)
                             : i % d == i / d;
    if (single) ((float*)out)[before + i] = (float)x;
    else ((double*)out)[before + i] = x;
  }
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

// What flats leave of S (k, d, d), piece by piece: left (k, PIECES) sums up to traces of S less those of V Y^T, where V
// and Y = V S are (k, width, d).
extern "C" __global__ void __launch_bounds__(THREADS)
weigh(const double* __restrict__ S, int d, int width, const double* __restrict__ V, const double* __restrict__ Y,
      double* __restrict__ left) {
  __shared__ double sums[THREADS / 32];
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x, size = width * d;
  S += (size_t)c * d * d, V += (size_t)c * size, Y += (size_t)c * size;
  double sum = 0;
  for (int i = first; i < d; i += PIECES * THREADS) sum += S[(size_t)i * d + i];
  for (int i = first; i < size; i += PIECES * THREADS) sum -= V[i] * Y[i];
  sum = block_sum<THREADS / 32>(sum, sums);
  if (threadIdx.x == 0) left[blockIdx.x] = sum;
}

// The sums of all pieces, not below zero; a warp each.
extern "C" __global__ void __launch_bounds__(PIECES)
add_pieces(const double* __restrict__ pieces, double* __restrict__ left) {
  const double sum = warp_sum(pieces[blockIdx.x * PIECES + threadIdx.x]);
  if (threadIdx.x == 0) left[blockIdx.x] = sum < 0 ? 0 : sum;  // not a number stays none
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
