// Power steps of large matrices, around the library's products: what they begin with and end with, rows made orthonormal,
// a filter, and what flats leave of second moments. All of it in float64.
#include "cholesky.cuh"
#include "turns.cuh"

constexpr int THREADS = 256, PIECES = 32;
constexpr double TINY = 1e-300;  // in place of a trace of zero
constexpr double SHIFT = 1.0 / (1 << 20);  // of the trace, added to S: bases stay of full rank where S is not

// Bases `stack` of flats whose rows are starts[c] to starts[c + 1], in float32 if `single`.
__device__ __forceinline__ double number(const void* stack, int single, long long i) {
  return single ? ((const float*)stack)[i] : ((const double*)stack)[i];
}

// M (k, d, d): S over its trace, and the shift; unless S is null. V (k, width, d): `start` filled up with zeros, or rows
// that span anything if that is null; or M times those, if `product`, S times those, is at hand. ok (k,): true. PIECES blocks for
// each flat.
extern "C" __global__ void __launch_bounds__(THREADS)
begin(const double* __restrict__ S, int d, const long long* __restrict__ starts, int width, const void* __restrict__ start,
      int single, const double* __restrict__ product, double* __restrict__ M, double* __restrict__ V,
      bool* __restrict__ ok) {
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
  if (product)
    for (int i = first; i < width * d; i += PIECES * THREADS)
      V[i] = product[(size_t)c * width * d + i] / trace + SHIFT * V[i];
  if (first == 0) ok[c] = true;
}

// out: the bases V (k, width, d), stacked, in float32 if `single`; where they are not ok, `start`, or any if that is null.
// V becomes what out has.
extern "C" __global__ void __launch_bounds__(THREADS)
end(double* __restrict__ V, int d, const long long* __restrict__ starts, int width, const void* __restrict__ start,
    int single, const bool* __restrict__ ok, void* __restrict__ out) {
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x;
  const long long size = (starts[c + 1] - starts[c]) * d, before = starts[c] * d;
  V += (size_t)c * width * d;
  for (int i = first; i < width * d; i += PIECES * THREADS) {
    const double x = ok[c] ? V[i] : i >= size ? 0 : start ? number(start, single, before + i) : i % d == i / d;
    if (i >= size) V[i] = x;
    else if (single) V[i] = ((float*)out)[before + i] = (float)x;
    else V[i] = ((double*)out)[before + i] = x;
  }
}

constexpr int PANEL = 32;
constexpr double ALIKE = 1e10;  // then rounding leaves a row orthogonal to others up to 1e-6

// Cholesky-QR in place, panel by panel: rows of G (k, m, m), from the diagonal block of their panel on, and of Y (k, m, n)
// become L^-1 times themselves, L being the factor of G. Y then has orthonormal rows, if G was Y Y^T. A block takes PANEL
// columns, of a G right of its first panel, or of a Y; the factors of the diagonal blocks each finds for itself, from
// columns of G whose block has told that it is done. ok (k,), if it is not null, becomes false where a row is all but
// spanned by those above it. turns (2 + k panels): zeros, before and after.
extern "C" __global__ void __launch_bounds__(THREADS)
eliminate(double* G, int m, double* Y, int n, bool* ok, unsigned* turns) {
  constexpr int PITCH = PANEL + 1;
  __shared__ __align__(16) double across[PANEL][PANEL];  // of rows above, the columns of the diagonal block
  __shared__ double rows[PANEL][PANEL], factor[PANEL * PITCH], squares[PANEL];
  const int panels = (m + PANEL - 1) / PANEL, strips = panels - 1 + (n + PANEL - 1) / PANEL, k = gridDim.x / strips;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, turn = take_turn(turns);
  const int c = turn % k, strip = turn / k + 1;  // columns of G come first, for others wait for them
  const bool of_G = strip < panels;
  unsigned* const done = turns + 2 + c * panels;
  G += (size_t)c * m * m, Y += (size_t)c * m * n;
  double* const into = of_G ? G : Y;
  const int width = of_G ? m : n, column = (of_G ? strip : strip - panels) * PANEL + lane;

  for (int panel = 0; panel < min(strip, panels); panel++) {
    const int first = panel * PANEL;
    double own[4], block[4], above[4], theirs[4];
    auto read = [&](int start, double* numbers, double* corners) {
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int row = start + 4 * warp + r;
        numbers[r] = row < m && column < width ? into[(size_t)row * width + column] : 0;
        corners[r] = row < m && first + lane < m ? G[(size_t)row * m + first + lane] : 0;
      }
    };
    if (panel > 0) wait_for(done + panel);
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
    if (warp > 0) continue;
    cholesky(factor, PITCH, PANEL);
    const double inverse = factor[lane * (PITCH + 1)];  // of what of the row is its own
    if (ok && strip == panels && first + lane < m && !(squares[lane] * inverse * inverse <= ALIKE)) ok[c] = false;
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
  if (of_G) tell(done + strip);
  if (is_last(turns + 1, gridDim.x))
    for (int i = threadIdx.x; i < 2 + k * panels; i += THREADS) turns[i] = 0;
}

// What flats leave of S (k, d, d): traces of S less those of V Y^T, where V and Y = V S are (k, width, d), not below zero.
// PIECES blocks for each flat have a sum in `pieces` each, which the last of them adds up. ended (k,): zeros, before and
// after.
extern "C" __global__ void __launch_bounds__(THREADS)
weigh(const double* __restrict__ S, int d, int width, const double* __restrict__ V, const double* __restrict__ Y,
      double* pieces, unsigned* ended, double* left) {
  __shared__ double sums[THREADS / 32];
  const int c = blockIdx.x / PIECES, first = blockIdx.x % PIECES * THREADS + threadIdx.x, size = width * d;
  S += (size_t)c * d * d, V += (size_t)c * size, Y += (size_t)c * size;
  double sum = 0;
  for (int i = first; i < d; i += PIECES * THREADS) sum += S[(size_t)i * d + i];
  for (int i = first; i < size; i += PIECES * THREADS) sum -= V[i] * Y[i];
  sum = block_sum<THREADS / 32>(sum, sums);
  if (threadIdx.x == 0) pieces[blockIdx.x] = sum;
  if (!is_last(ended + c, PIECES) || threadIdx.x >= 32) return;
  sum = warp_sum(pieces[c * PIECES + threadIdx.x]);
  if (threadIdx.x == 0) left[c] = sum < 0 ? 0 : sum, ended[c] = 0;  // not a number stays none
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

// The factors of a filter, whose product is V times a polynomial of S: a V S - (g - c) V in place of H = V S, and
// a S + (g + c) in `right`. That is twice the Chebyshev polynomial of degree two on [0, b], which grows as fast as any
// beyond b, for b just below the least of the Rayleigh quotients; where these are STEEP, it is nearly linear, as in a
// power step. A block takes THREADS numbers, of V or of S.
extern "C" __global__ void __launch_bounds__(THREADS)
filter(const double* __restrict__ along, const long long* __restrict__ starts, int width, double* H,
       const double* __restrict__ V, const double* __restrict__ S, int d, double* __restrict__ right) {
  __shared__ double least[THREADS / 32], most[THREADS / 32];
  const int left_blocks = (width * d + THREADS - 1) / THREADS, blocks = left_blocks + (d * d + THREADS - 1) / THREADS;
  const int c = blockIdx.x / blocks, lane = threadIdx.x % 32, j = (int)(starts[c + 1] - starts[c]);
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
  const bool steep = !(high <= STEEP * low);
  // With t = a s + c and its square less g g: t = 2 x for the x of the polynomial, and t t - 2; or t t - 16, t from 4 on.
  const double a = steep ? 1 / high : 4 / (0.98 * low), c0 = steep ? 4 : -2, g = steep ? 4 : 1.4142135623730951;
  int i = (blockIdx.x % blocks) * THREADS + threadIdx.x;
  if (blockIdx.x % blocks < left_blocks) {
    if (i >= width * d) return;
    const size_t at = (size_t)c * width * d + i;
    H[at] = a * H[at] + (c0 - g) * V[at];
  } else {
    i -= left_blocks * THREADS;
    if (i >= d * d) return;
    const size_t at = (size_t)c * d * d + i;
    right[at] = a * S[at] + (i % d == i / d ? c0 + g : 0);
  }
}
