// Nearest flat of each row of X, in one pass that keeps every distance on the chip.
//
//   r_c(x) = |W_c (x - mu_c)|^2                             of the flats with a complement W_c, called exact here
//   r_c(x) = |x - mu_c|^2 - |V_c (x - mu_c)|^2              of the others
//
// The rows of W_c or V_c are the probes of flat c: columns [begin_c, end_c) of a list that goes from flat to flat. All
// is about one centre: x and mu_c stand for their differences from it. The shift of a probe is its product with mu_c.
// With offsets, an inexact flat has as its last probe the direction u_c of mu_c, whose product counts by itself:
//   |x - mu_c|^2 = |x|^2 + |mu_c|^2 - slope_c u_c x,        slope_c = 2 |mu_c|
//
// A block takes 128 rows through the columns, tile by tile. Each of its four warps has 32 rows to itself and sees all
// columns, so that sums of squares grow in registers and leave them only when a flat ends, inside a tile or many tiles
// on. Where rows alone cannot fill the GPU, several blocks share them and divide the flats: the splits.
//
// LISTED: of the rows of a list alone. Distances may be asked for in parts: what stands here for a flat is then the
// columns that a flat has in one split; see screen.py.
#include "products.cuh"

#ifndef LISTED
#define LISTED 0
#endif

#ifndef STAGES
#define STAGES 3  // tiles on their way or in use
#endif

typedef PRODUCT Product;
typedef Product::Real Real;
typedef Product::Stored Stored;
typedef Product::Chunk Chunk;

enum {
  WARPS = 4,
  ROWS = 32 * WARPS,
  THREADS = 32 * WARPS,
  FRAGMENTS = Product::FRAGMENTS,
  COLUMNS = 8 * FRAGMENTS,
  CHUNKS = 4,                            // of a row, in each step
  WIDTH = sizeof(Chunk) / sizeof(Stored),  // columns of X in a chunk
  REALS = sizeof(Chunk) / sizeof(Real),
  STEP = CHUNKS * WIDTH,
  ROW_TILE = ROWS * CHUNKS,
  PROBE_TILE = COLUMNS * CHUNKS,
  PARKED = 4 * THREADS / REALS,          // chunks of parked sums
};

struct Flat {
  int end;  // of its columns; they begin where those of the flat before it end
  struct __align__(16) Terms { Real constant, slope, penalty, exact; } terms;
};

__device__ __forceinline__ Flat read_flat(const int* ends, const Flat::Terms* terms, int c) {
  return {__ldg(ends + c), terms[c]};
}

// What a lane takes of X: chunk t of rows 8 i + g of its warp, which no other lane needs.
struct Source {
  const Stored* first;  // row g; if LISTED, row 0
  const int* list;      // number of row g, if LISTED
  int rows;             // of X from there on
  int d;
  bool aligned;         // chunks are, in X
};

// Begins to copy the lane's chunks of a step, with zeros where X ends.
__device__ __forceinline__ void fetch_rows(Chunk* slots, const Source& source, int step) {
  const int column = step * STEP + threadIdx.x % CHUNKS * WIDTH;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const bool there = 8 * i < source.rows;
    const Stored* row = source.first + (LISTED ? (long long)__ldg(source.list + (there ? 8 * i : 0)) * source.d
                                               : there ? 8 * i * source.d : 0);
    if (sizeof(Stored) == 2 || source.aligned) {
      cp_async16(slots + 32 * i, row + min(column, source.d - WIDTH), there && column < source.d);
    } else {
#pragma unroll 1
      for (int j = 0; j < WIDTH; j++) {
        const Stored* from = row + min(column + j, source.d - 1);
        if (sizeof(Real) == 4) cp_async4(slots[32 * i].x + j, from, there && column + j < source.d);
        else cp_async8(slots[32 * i].x + j, from, there && column + j < source.d);
      }
    }
  }
}

__device__ __forceinline__ void read_slots(Chunk* chunks, const Chunk* slots) {
#pragma unroll
  for (int i = 0; i < 4; i++) chunks[i] = slots[32 * i];
}

__device__ __forceinline__ void write_slots(Chunk* slots, const Chunk* chunks) {
#pragma unroll
  for (int i = 0; i < 4; i++) slots[32 * i] = chunks[i];
}

__device__ __forceinline__ void subtract(Chunk* chunks, const Chunk& centre) {
#pragma unroll
  for (int i = 0; i < 4 * REALS; i++) chunks[i / REALS].x[i % REALS] -= centre.x[i % REALS];
}

// 1 / x of a power of two.
__device__ __forceinline__ float inverse(float x) { return __uint_as_float((254u << 23) - __float_as_uint(x)); }

// Probes lie in memory in the order in which tiles of them are needed.
__device__ __forceinline__ void fetch_probes(Chunk* tile, const Chunk* probes) {
#pragma unroll
  for (int i = 0; i < PROBE_TILE; i += THREADS) cp_async16(tile + i, probes + i, true);
}

// Adds up over the four lanes of a row: lane (g, t) gives its parts of rows 8 i + g and gets the sum of row 8 t + g.
__device__ __forceinline__ Real sum_of_own_row(const Real* parts, int t) {
  const bool upper = t & 2, odd = t & 1;
  const Real even_row = (upper ? parts[2] : parts[0]) + __shfl_xor_sync(~0u, upper ? parts[0] : parts[2], 2);
  const Real odd_row = (upper ? parts[3] : parts[1]) + __shfl_xor_sync(~0u, upper ? parts[1] : parts[3], 2);
  return (odd ? odd_row : even_row) + __shfl_xor_sync(~0u, odd ? even_row : odd_row, 1);
}

// tiles, first (splits + 1): where each split begins, in tiles of columns and in flats. ends, terms (k + 2): the last
// two stand for flats that never end. shifts, centre (padded to whole steps): or none.
// energy: as measure_rows gives it, padded to whole tiles; scales: of rows in float16, likewise. weights: or none.
// Of each split, (n) of labels, residuals and costs, or, if there is room for them, all (k, n) distances instead.
// list, count: the rows, if LISTED; n is how many there may be.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
assign(const Stored* __restrict__ X, long long n, int d, const Chunk* __restrict__ probes,
       const Real* __restrict__ shifts, const int* __restrict__ ends, const Flat::Terms* __restrict__ terms,
       const int* __restrict__ tiles, const int* __restrict__ first, int splits, const Chunk* __restrict__ centre,
       const Real* __restrict__ energy, const float* __restrict__ scales, const Real* __restrict__ weights,
       int* __restrict__ labels, Real* __restrict__ residuals, Real* __restrict__ costs, Real* __restrict__ distances,
       const int* __restrict__ list, const int* __restrict__ count) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  const int split = blockIdx.x % splits, steps = (d + STEP - 1) / STEP;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const long long row_g = (long long)(blockIdx.x / splits) * ROWS + threadIdx.x / 32 * 32 + g;
  const long long rows_there = LISTED ? min(n, (long long)*count) : n;
  if (LISTED && (long long)(blockIdx.x / splits) * ROWS >= rows_there) return;
  const Source source{X + (LISTED ? 0 : min(row_g, n - 1) * d), list + (LISTED ? min(row_g, rows_there - 1) : 0),
                      (int)min(rows_there - row_g, (long long)ROWS), d,
                      d % WIDTH == 0 && (size_t)X % sizeof(Chunk) == 0};
  auto scale = [&](int i) -> float { return Product::SCALED ? __ldg(scales + row_g + 8 * i) : 1; };
  auto prepare = [&](Chunk* chunks, int step) {
    if (centre) subtract(chunks, centre[step * CHUNKS + t]);
  };

  // Shared memory: tiles of probes, which all read; slots for each lane's own chunks of X; and for its sums of squares
  // of a flat that goes on in the next tile. (To add up its lanes there would let rounding tell equal flats apart.)
  Chunk* const probe_tiles = (Chunk*)dyn_smem;
  Real* const parked = (Real*)(probe_tiles + STAGES * PROBE_TILE) + 4 * threadIdx.x;
  Chunk* const slots = probe_tiles + STAGES * PROBE_TILE + PARKED + threadIdx.x / 32 * (ROW_TILE / WARPS) + lane;
  if (RESIDENT) {
    for (int step = 0; step < steps; step++) fetch_rows(slots + step * ROW_TILE, source, step);
    cp_async_commit();
    cp_async_wait<0>();
    for (int step = 0; step < steps; step++) {
      Chunk chunks[4];
      read_slots(chunks, slots + step * ROW_TILE);
      prepare(chunks, step);
      write_slots(slots + step * ROW_TILE, chunks);
    }
  }

  const Chunk* const own_probes = probes + (long long)tiles[split] * steps * PROBE_TILE + threadIdx.x;
  const int positions = (tiles[split + 1] - tiles[split]) * steps;
  int next_step = 0;
  auto fetch = [&](int position) {
    const int stage = position % STAGES;
    if (position < positions) {
      if (!RESIDENT) fetch_rows(slots + stage * ROW_TILE, source, next_step);
      fetch_probes(probe_tiles + stage * PROBE_TILE + threadIdx.x, own_probes + (long long)position * PROBE_TILE);
    }
    cp_async_commit();
    next_step = next_step + 1 == steps ? 0 : next_step + 1;
  };
#pragma unroll 1
  for (int position = 0; position < STAGES - 1; position++) fetch(position);

  // The row that this lane decides about; not kept, for the products take all registers.
  auto decided = [&] { return (long long)(block_index_anew() / splits) * ROWS + threadIdx.x / 32 * 32 + 8 * t + g; };
  const bool mine = row_g + 8 * t < rows_there;
  const long long own_row = LISTED ? (mine ? list[row_g + 8 * t] : 0) : row_g + 8 * t;
  const Real own_energy = energy ? energy[own_row] : 0;
  const Real weight = weights && mine ? weights[own_row] : 1;
  int c = first[split], label = c, begin = tiles[split] * COLUMNS, position = 0;
  Real least = __int_as_float(0x7f800000), residual = least;  // infinity
#pragma unroll
  for (int i = 0; i < 4; i++) parked[i] = 0;

  for (int tile = tiles[split]; position < positions; tile++) {
    Real sums[FRAGMENTS][8];  // products less shifts
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++)
#pragma unroll
      for (int i = 0; i < 8; i++)
        sums[f][i] =
            shifts ? -__ldg(shifts + tile * COLUMNS + 8 * f + 2 * t + i % 2) * scale(i / 2) : 0;

    for (int step = 0; step < steps; step++, position++) {
      const int stage = position % STAGES;
      cp_async_wait<STAGES - 2>();
      __syncthreads();  // everyone's copies are there, and the tile to be overwritten next is no longer in use
      Chunk chunks[4];
      read_slots(chunks, slots + (RESIDENT ? step : stage) * ROW_TILE);
      fetch(position + STAGES - 1);
      if (!RESIDENT) prepare(chunks, step);
      Product::Rows rows;
      Product::load(rows, chunks);
#pragma unroll
      for (int f = 0; f < FRAGMENTS; f++) {
        Product::Probes operand;
        Product::load(operand, probe_tiles[stage * PROBE_TILE + (8 * f + g) * CHUNKS + t]);
        Product::multiply(sums[f], rows, operand);
      }
    }

    Flat flat = read_flat(ends, terms, c), next = read_flat(ends, terms, c + 1);
    Real squares[4] = {parked[0], parked[1], parked[2], parked[3]};
#pragma unroll
    for (int f = 0; f < FRAGMENTS; f++) {
      const int column = tile * COLUMNS + 8 * f, own_column = column + 2 * t;  // a flat's columns come in pairs
      for (;;) {
        const bool ends_here = flat.end <= column + 8, own = begin <= own_column && own_column < flat.end;
        const bool along_offset = own_column + 2 == flat.end;  // the second of these columns, if the flat has that
        if (ends_here && flat.terms.slope != 0) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const Real x = sums[f][2 * i], y = sums[f][2 * i + 1];
            if (own) squares[i] += x * x;
            if (own) squares[i] += y * (along_offset ? flat.terms.slope * scale(i) : y);
          }
        } else if (own) {
#pragma unroll
          for (int i = 0; i < 8; i++) squares[i / 2] += sums[f][i] * sums[f][i];
        }
        if (!ends_here) break;

        const Real unscale = inverse(scale(t));
        const Real sum = sum_of_own_row(squares, t) * unscale * unscale;
        const Real distance = max(flat.terms.exact ? sum : own_energy + flat.terms.constant - sum, (Real)0);
        const Real cost = weight * distance + flat.terms.penalty;
        if (cost < least) least = cost, residual = distance, label = c;
        if (distances && decided() < rows_there) distances[c * n + decided()] = distance;
#pragma unroll
        for (int i = 0; i < 4; i++) squares[i] = 0;
        begin = flat.end;
        flat = next;
        next = read_flat(ends, terms, ++c + 1);
        if (begin >= column + 8) break;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) parked[i] = squares[i];
  }
  if (distances || decided() >= rows_there) return;
  const long long place = block_index_anew() % splits * n + decided();
  labels[place] = label;
  if (residuals) residuals[place] = residual;
  if (costs) costs[place] = least;
}

// The nearest of what each split has found; labels and residuals of the rows of a list, if LISTED.
extern "C" __global__ void nearest(const int* __restrict__ split_labels, const Real* __restrict__ split_residuals,
                                   const Real* __restrict__ costs, long long n, int splits, int* __restrict__ labels,
                                   Real* __restrict__ residuals, const int* __restrict__ list,
                                   const int* __restrict__ count) {
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= (LISTED ? min(n, (long long)*count) : n)) return;
  int best = 0;
  for (int split = 1; split < splits; split++)
    if (costs[split * n + row] < costs[best * n + row]) best = split;
  labels[LISTED ? list[row] : row] = split_labels[best * n + row];
  if (!LISTED) residuals[row] = split_residuals[best * n + row];
}

// |x|^2 of each row about the centre, if there is one; zero for those past the end. A warp takes one row.
extern "C" __global__ void measure_rows(const Real* __restrict__ X, long long n, int d, const Real* __restrict__ centre,
                                        Real* __restrict__ energy) {
  const long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  Real sum = 0;
  for (int j = threadIdx.x % 32; j < d && row < n; j += 32) {
    const Real x = __ldg(X + row * d + j) - (centre ? __ldg(centre + j) : 0);
    sum += x * x;
  }
  for (int lanes = 16; lanes; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
  if (threadIdx.x % 32 == 0) energy[row] = sum;
}
