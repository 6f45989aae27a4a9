// Eigenvalues and eigenvectors of symmetric positive semidefinite matrices, one block each, by one-sided Jacobi.
//
//     S + shift = L L^T          Cholesky; the shift keeps every pivot positive, even where S has rank 0
//     L V = U diag(sigma)        V: turns of two columns of L at a time, until all columns are orthogonal
//     S = U diag(sigma^2 - shift) U^T
//
// The turned columns are the eigenvectors up to their lengths, so there is no second matrix of vectors to turn as in
// the two-sided method, and what convergence is tested on, the cosines between columns, is the orthogonality of the
// result. The matrix stays in registers: lane l of warp w holds the rows l, l + 32, ... of COLUMNS columns. Inner
// products of columns are then sums over a warp, and only one column of each warp goes through shared memory.
//
// Order of the turns: the columns at places (0, 1), (2, 3), ... turn and change places, then those at (1, 2), (3, 4),
// ..., so that within d such rounds each column meets every other, be d odd or even.
//
// REAL: float or double. ROWS: rows of each lane, d <= 32 ROWS. COLUMNS: columns of each warp, a power of two.
#include "spectrum.cuh"

constexpr int HEIGHT = 32 * ROWS;
constexpr int WARPS = HEIGHT / COLUMNS;
constexpr int PAIRS = COLUMNS / 2;
constexpr int LANES = 32 / PAIRS;  // of each pair
constexpr int LOADS = 8 / ROWS;    // columns read at a time: more would take more registers than the turns do
constexpr int MAX_SWEEPS = 60;     // 8 to 18 are usual
// Of a trace near 1. Covers negative eigenvalues from rounding in S; an eigenvalue loses no more than eps times this.
constexpr REAL SHIFT = REAL(1) / 65536;

// Sine of an angle and tangent of its half: x - sine (y + half x) is x cos - y sin without rounding the cosine, whose
// errors would add up over some thousand turns.
struct Turn { REAL sine, half; };
struct alignas(16) Turns { Turn turn[16 / sizeof(Turn)]; };
constexpr int PER_LOAD = sizeof(Turns) / sizeof(Turn);

// Sums each of N numbers over the lanes of the warp; lane l gets the sum of number l / (32 / N). Lanes halve the
// numbers among themselves as they add, so that this takes about as many shuffles as there are numbers.
template <int N, int BIT = 16>
__device__ __forceinline__ REAL sum_over_lanes(REAL* v) {
  if constexpr (BIT == 0) {
    return v[0];
  } else if constexpr (N == 1) {
    v[0] += __shfl_xor_sync(ALL, v[0], BIT);
    return sum_over_lanes<1, BIT / 2>(v);
  } else {
    const bool upper = threadIdx.x & BIT;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
      const REAL given = upper ? v[i] : v[i + N / 2];
      v[i] = (upper ? v[i + N / 2] : v[i]) + __shfl_xor_sync(ALL, given, BIT);
    }
    return sum_over_lanes<N / 2, BIT / 2>(v);
  }
}

// Squared lengths of the warp's columns.
__device__ __forceinline__ void measure(const REAL (&x)[ROWS][COLUMNS], REAL* energy) {
#pragma unroll
  for (int side = 0; side < 2; side++) {
    REAL square[PAIRS] = {};
#pragma unroll
    for (int p = 0; p < PAIRS; p++)
#pragma unroll
      for (int r = 0; r < ROWS; r++) square[p] += x[r][2 * p + side] * x[r][2 * p + side];
    const REAL sum = sum_over_lanes<PAIRS>(square);
    const int lane = threadIdx.x % 32;
    if (lane % LANES == 0) energy[2 * (lane / LANES) + side] = sum;
  }
}

// The turn that makes two columns orthogonal, from their squared lengths a and b and their inner product; brings the
// lengths up to date, in exchange. True if the turn, or the cosine before it, was large enough to spoil other pairs.
__device__ __forceinline__ bool find_turn(REAL& a, REAL& b, REAL product, REAL tolerance, REAL settled, Turn& turn) {
  const REAL square = product * product, scale = a * b;
  turn = {0, 0};
  REAL change = 0;
  bool large = false;
  if (!(square <= tolerance * tolerance * scale)) {  // true for NaN, so that it is not taken for convergence
    // tan(2 angle) = 2 product / (b - a), the angle within 45 degrees
    const REAL gap = b - a, inverse = inverse_root(gap * gap + 4 * square);
    const REAL cosine2 = (1 + fabs(gap) * inverse) / 2, secant = inverse_root(cosine2);
    const REAL sine = (gap < 0 ? -product : product) * inverse * secant;
    const REAL denominator = 1 + cosine2 * secant, root = estimate(denominator), half = sine * root * root;
    turn = {sine, fma(fma(-half, denominator, sine), root * root, half)};  // sine / denominator, at half the price
    change = sine * secant * product;
    large = !(square <= settled * settled * scale && sine * sine <= settled * settled);
  }
  const REAL left = a;
  a = b + change;
  b = left > change ? left - change : 0;
  return large;
}

// Turns the pairs of columns in slots (FIRST, FIRST + 1), (FIRST + 2, FIRST + 3), ..., the last with slot 0 if FIRST
// is 1. Places of pairs are counted from `energy`; there are `places` columns from there on.
template <int FIRST>
__device__ __forceinline__ bool turn_pairs(REAL (&x)[ROWS][COLUMNS], REAL* energy, int places, Turns* turns,
                                           REAL tolerance, REAL settled) {
  REAL products[PAIRS] = {};
#pragma unroll
  for (int p = 0; p < PAIRS; p++)
#pragma unroll
    for (int r = 0; r < ROWS; r++) products[p] += x[r][2 * p + FIRST] * x[r][(2 * p + FIRST + 1) % COLUMNS];
  const REAL product = sum_over_lanes<PAIRS>(products);

  const int lane = threadIdx.x % 32, pair = lane / LANES;
  bool large = false;
  if (lane % LANES == 0) {
    Turn turn = {1, 1};  // a quarter: with a column of zeros to its right, a column comes back to its place
    REAL* lengths = energy + 2 * pair;
    if (2 * pair + 1 < places) large = find_turn(lengths[0], lengths[1], product, tolerance, settled, turn);
    turns[pair / PER_LOAD].turn[pair % PER_LOAD] = turn;
  }
  __syncwarp();
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    const int left = 2 * p + FIRST, right = (left + 1) % COLUMNS;
    const Turns both = turns[p / PER_LOAD];
    const Turn turn = both.turn[p % PER_LOAD];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const REAL a = x[r][left], b = x[r][right];
      x[r][left] = b + turn.sine * (a - turn.half * b);
      x[r][right] = a - turn.sine * (b + turn.half * a);
    }
  }
  return large;
}

// The column in a slot that is known only when the kernel runs: registers have no address, so all slots are looked at.
__device__ __forceinline__ void get(const REAL (&x)[ROWS][COLUMNS], int slot, REAL (&column)[ROWS]) {
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    column[r] = x[r][0];
#pragma unroll
    for (int c = 1; c < COLUMNS; c++) column[r] = c == slot ? x[r][c] : column[r];
  }
}
__device__ __forceinline__ void put(REAL (&x)[ROWS][COLUMNS], int slot, const REAL (&column)[ROWS]) {
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) x[r][c] = c == slot ? column[r] : x[r][c];
}

// L in place of S: column after column leaves its warp, and all later columns take their multiple of it away.
__device__ __forceinline__ void cholesky(REAL (&x)[ROWS][COLUMNS], int d, REAL (*buffers)[HEIGHT]) {
  const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * COLUMNS;
  for (int k = 0; k < d; k++) {
    REAL v[ROWS];
    REAL* buffer = buffers[k % 2];
    if (first <= k && k < first + COLUMNS) {
      get(x, k - first, v);
      REAL pivot = 0;
#pragma unroll
      for (int r = 0; r < ROWS; r++) pivot = lane + 32 * r == k ? v[r] : pivot;
      const REAL inverse = inverse_root(__shfl_sync(ALL, pivot, k % 32));
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = lane + 32 * r;
        v[r] = row < k ? 0 : v[r] * inverse;
        buffer[row] = row > k ? v[r] : 0;  // zero for the columns that are done
      }
      put(x, k - first, v);
    }
    __syncthreads();
    if (k + 1 < d && k + 1 < first + COLUMNS) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) v[r] = buffer[lane + 32 * r];
#pragma unroll
      for (int c = 0; c < COLUMNS; c++) {
        const REAL across = buffer[first + c];
#pragma unroll
        for (int r = 0; r < ROWS; r++) x[r][c] -= v[r] * across;
      }
    }
  }
}

// S (k, d, d), k = gridDim.x, to eigenvalues (k, d), descending and not negative, and eigenvectors (k, d, d), as rows.
// Columns count as orthogonal when their cosine is below `tolerance`; a sweep over all pairs is the last when neither
// a cosine nor a sine in it was above `settled`, for what it then leaves is below the tolerance. sweeps (k,): how many
// it took, 0 if that never came to pass, as with numbers that are not finite or eigenvalues well below zero.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS)
eigen(const double* __restrict__ S, int d, REAL tolerance, REAL settled, double* __restrict__ values,
      REAL* __restrict__ vectors, int* __restrict__ sweeps) {
  __shared__ REAL border[WARPS < 2 ? 2 : WARPS][HEIGHT];
  __shared__ REAL energy[HEIGHT];
  __shared__ REAL inverse[HEIGHT];
  __shared__ int rank[HEIGHT];
  __shared__ Turns turns[WARPS][PAIRS / PER_LOAD];
  __shared__ bool large[WARPS];
  __shared__ int unit;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, first = COLUMNS * warp;
  S += (size_t)blockIdx.x * d * d;

  // Scaled by a power of two, so that the trace is near 1 and float32 can hold the eigenvalues.
  const int exponent = exponent_of_trace(S, d);
  if (threadIdx.x == 0) unit = exponent;
  const double scale = power_of_two(-exponent);

  REAL x[ROWS][COLUMNS] = {};
#pragma unroll LOADS
  for (int slot = 0; slot < COLUMNS; slot++) {
    const int column = first + slot;
    REAL v[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int row = lane + 32 * r;
      const double entry = row < d && column < d ? S[column * d + row] : 0;
      v[r] = (REAL)(scale * entry) + (row == column ? SHIFT : 0);
    }
    put(x, slot, v);
  }
  cholesky(x, d, border);

  int sweep = 0;
  for (bool again = true; again && sweep < MAX_SWEEPS;) {
    bool large_here = false;
    sweep++;
    measure(x, energy + first);
    for (int i = 0; i < d; i += 2) {
      large_here |= turn_pairs<0>(x, energy + first, d - first, turns[warp], tolerance, settled);
      // Each warp lends its slot 0 to the warp on its left, which then holds the places first + 1 to first + COLUMNS.
#pragma unroll
      for (int r = 0; r < ROWS; r++) border[warp][lane + 32 * r] = x[r][0];
      __syncthreads();
#pragma unroll
      for (int r = 0; r < ROWS; r++) x[r][0] = warp + 1 < warps ? border[warp + 1][lane + 32 * r] : 0;
      large_here |= turn_pairs<1>(x, energy + first + 1, d - first - 1, turns[warp], tolerance, settled);
#pragma unroll
      for (int r = 0; r < ROWS; r++)
        if (warp + 1 < warps) border[warp + 1][lane + 32 * r] = x[r][0];
      __syncthreads();
#pragma unroll
      for (int r = 0; r < ROWS; r++) x[r][0] = border[warp][lane + 32 * r];
    }
    large_here = __any_sync(ALL, large_here);
    if (lane == 0) large[warp] = large_here;
    __syncthreads();
    again = false;
    for (int w = 0; w < warps; w++) again |= large[w];
    if (threadIdx.x == 0) sweeps[blockIdx.x] = again ? 0 : sweep;
  }

  measure(x, energy + first);
  __syncthreads();
  if (threadIdx.x < d) {
    int place = 0;
    const REAL mine = energy[threadIdx.x];
    for (int i = 0; i < d; i++) place += energy[i] > mine || (energy[i] == mine && i < threadIdx.x);
    rank[threadIdx.x] = place;
    inverse[threadIdx.x] = inverse_root(mine);
    const double value = mine > SHIFT ? (double)mine - SHIFT : 0;
    values[(size_t)blockIdx.x * d + place] = value * power_of_two(unit);
  }
  __syncthreads();
#pragma unroll 1
  for (int slot = 0; slot < COLUMNS && first + slot < d; slot++) {
    REAL v[ROWS];
    get(x, slot, v);
    REAL* vector = vectors + ((size_t)blockIdx.x * d + rank[first + slot]) * d;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      if (lane + 32 * r < d) vector[lane + 32 * r] = v[r] * inverse[first + slot];
  }
}
