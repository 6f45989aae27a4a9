// Rows of a factorization: coefficients times the basis of the row's cluster, plus its offset.
//
// `blocks` and `bases` hold the addresses of each cluster's coefficients (n_c, j_c) and basis (j_c, d).
//
// Compiled for  STORED: float, double, Half or BFloat16, the type of everything stored;
//               CHUNK: rows of a tile, all of one cluster;  WIDTH: columns of a tile;
//               DEPTH: dimensions of a stage of the pipeline;  STAGES: of which so many are under way.
#include "half.cuh"
#include "slots.cuh"
#include "tile.cuh"

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

__device__ __forceinline__ float widen(Half x) { return half_to_float(x.bits); }
__device__ __forceinline__ float widen(BFloat16 x) { return bf16_to_float(x.bits); }
__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }
__device__ __forceinline__ void narrow(float x, Half& to) { to.bits = float_to_half(x); }
__device__ __forceinline__ void narrow(float x, BFloat16& to) { to.bits = float_to_bf16(x); }

using Stored = STORED;
using Real = decltype(widen(Stored{}));

// ---- few rows: a warp for each strip of a row

constexpr int EACH = 4, STRIP = 32 * EACH, WARPS = 4;

extern "C" __global__ void __launch_bounds__(32 * WARPS)
decode_directly(const long long* rows, long long n_rows, const int* labels, const long long* positions,
                const unsigned long long* blocks, const unsigned long long* bases, const int* dims,
                const Stored* offsets, int d, Stored* out) {
  const int strips = (d + STRIP - 1) / STRIP, lane = threadIdx.x % 32;
  const long long unit = (long long)blockIdx.x * WARPS + threadIdx.x / 32;
  if (unit >= n_rows * strips) return;
  const long long row = rows[unit / strips];
  const int first = (int)(unit % strips) * STRIP + lane;
  const int c = labels[row], j = dims[c];
  const Stored* coefficients = (const Stored*)blocks[c] + positions[row] * j;
  const Stored* basis = (const Stored*)bases[c] + first;

  Real sum[EACH] = {};
  for (int t0 = 0; t0 < j; t0 += 32) {
    const Real own = t0 + lane < j ? widen(coefficients[t0 + lane]) : 0;
    const int terms = min(32, j - t0);
#pragma unroll 4
    for (int t = 0; t < terms; t++) {
      const Real a = __shfl_sync(0xffffffffu, own, t);
#pragma unroll
      for (int i = 0; i < EACH; i++)
        if (first + 32 * i < d) sum[i] = fma(a, widen(basis[(long long)(t0 + t) * d + 32 * i]), sum[i]);
    }
  }
  for (int i = 0; i < EACH; i++) {
    const int column = first + 32 * i;
    if (column >= d) continue;
    if (offsets) sum[i] += widen(offsets[(long long)c * d + column]);
    narrow(sum[i], out[unit / strips * d + column]);
  }
}

// ---- many rows: those of a cluster together

// A 16-bit number is a TF32 number, so that one product is exact. float32 takes three.
constexpr int PRODUCTS = sizeof(Stored) == 4 ? 3 : 1;
template <class T> struct Rectangle { using Tile = TensorTile<CHUNK / 32, WIDTH / 32, 2, 4, PRODUCTS>; };
template <> struct Rectangle<double> { using Tile = DoubleTile<8, CHUNK / 8, WIDTH / 16>; };
using Tile = Rectangle<Stored>::Tile;

constexpr int THREADS = Tile::THREADS, BLOCKS = sizeof(Real) == 8 ? 3 : 512 / THREADS;  // of a multiprocessor
constexpr int LARGE = 16 / sizeof(Stored);
// Padding keeps the fragments' reads, 8 rows x 4 columns of the one and 4 x 8 of the other, in different banks.
constexpr int LDA = DEPTH + LARGE, LDB = WIDTH + 8;

// out (n_rows, d): row order[i] of it is row rows[order[i]] of the factorization.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
decode_grouped(const long long* rows, const long long* positions, const unsigned long long* blocks,
               const unsigned long long* bases, const int* dims, const Stored* offsets, const long long* order,
               const long long* starts, const long long* slots, const int* owners, int groups, int d, Stored* out) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ const Stored* sources[CHUNK];      // coefficients of each row; null past the end of the slot
  __shared__ long long places[CHUNK];           // and where the row goes
  Stored* left = (Stored*)dyn_smem;             // [STAGES][CHUNK][LDA]: coefficients
  Stored* right = left + STAGES * CHUNK * LDA;  // [STAGES][DEPTH][LDB]: basis vectors

  const int strips = (d + WIDTH - 1) / WIDTH, column = blockIdx.x % strips * WIDTH;
  const Slot slot({starts, slots, owners, groups}, blockIdx.x / strips, CHUNK);
  if (slot.size == 0) return;
  const int c = slot.group, j = dims[c];
  const Stored* block = (const Stored*)blocks[c];
  const Stored* basis = (const Stored*)bases[c];
  for (int r = threadIdx.x; r < CHUNK; r += THREADS) {
    places[r] = r < slot.size ? order[slot.begin + r] : -1;
    sources[r] = r < slot.size ? block + positions[rows[places[r]]] * j : nullptr;
  }
  __syncthreads();

  const int steps = (j + DEPTH - 1) / DEPTH;
  auto begin = [&](int step, int stage) {
    const int t0 = step * DEPTH;
    auto coefficients = [&](int r) { return sources[r]; };
    auto vector = [&](int t) { return t0 + t < j ? basis + (long long)(t0 + t) * d : nullptr; };
    fetch<CHUNK, DEPTH, LDA, THREADS>(left + stage * CHUNK * LDA, coefficients, t0, j, block);
    fetch<DEPTH, WIDTH, LDB, THREADS>(right + stage * DEPTH * LDB, vector, column, d, basis);
  };
  Tile tile;
  auto add = [&](int stage) {
    const Stored *a = left + stage * CHUNK * LDA, *b = right + stage * DEPTH * LDB;
    tile.template add<DEPTH, LDA, 1, LDB>(a, b, slot.size);
  };
  pipeline<STAGES>(steps, begin, [](int, int) {}, add);
  tile.each([&](int m, int n, Real value) {
    if (m >= slot.size || column + n >= d) return;
    if (offsets) value += widen(offsets[(long long)c * d + column + n]);
    narrow(value, out[places[m] * d + column + n]);
  });
}
