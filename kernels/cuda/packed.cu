// Rows of packed bits, decoded: a row's terms are read from its bits, and multiply the bases. See packed.py.
//
// A block decodes WIDTH columns of up to CHUNK rows of one group. It finds them by itself among all that are asked for:
// their groups are counted, the count tells which rows are this block's, and nobody waits for another launch. Then, as
// in lookup.cu, DEPTH terms after another are multiplied: their basis vectors are copied, their coefficients decoded.
//
// Compiled for  CHUNK: rows of a tile;  WIDTH: columns of a tile;  DEPTH: terms of a stage of the pipeline;
//               STAGES: of which so many are under way.
#include "tile.cuh"

using Tile = TensorTile<CHUNK / 32, WIDTH / 32, 2, 4, 3>;
constexpr int THREADS = Tile::THREADS, WARPS = THREADS / 32, BLOCKS = 512 / THREADS;
constexpr int LDA = DEPTH + 4, LDB = WIDTH + 8;  // padded, so that fragments are read from different banks

// Rows of one group: which of those asked for, and which of all.
struct Slot {
  int group, first, size;
  int places[CHUNK];
  long long numbers[CHUNK];
};

// The rows of group `slot.group` from the first-th on; warps look through a run of the rows each.
__device__ __forceinline__ void find_rows(const unsigned short* labels, int n_rows, Slot& slot) {
  __shared__ int counts[WARPS];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, run = (n_rows + 32 * WARPS - 1) / (32 * WARPS) * 32;
  const int begin = warp * run, end = min(begin + run, n_rows);
  auto mine = [&](int i) { return __ballot_sync(~0u, i < end && labels[i] == slot.group); };
  int rank = 0;
  for (int i = begin; i < end; i += 32) rank += __popc(mine(i + lane));
  if (lane == 0) counts[warp] = rank;
  __syncthreads();
  rank = -slot.first;
  for (int w = 0; w < warp; w++) rank += counts[w];
  for (int i = begin; i < end && rank < slot.size; i += 32) {
    const unsigned found = mine(i + lane);
    const int own = rank + __popc(found & ((1u << lane) - 1));
    if (found >> lane & 1 && own >= 0 && own < slot.size) slot.places[own] = i + lane;
    rank += __popc(found);
  }
}

// Rows of each group are cut into slots of up to CHUNK, the groups one after another; this is one of them. Its size is 0
// if there are not so many. `memory` has room for the group of each row and for a number for each kind of group.
__device__ __forceinline__ void find_slot(const long long* rows, int n_rows, const int* groups, int kinds, int number,
                                          unsigned char* memory, Slot& slot) {
  int* counts = (int*)memory;
  unsigned short* labels = (unsigned short*)(counts + kinds);
  for (int g = threadIdx.x; g < kinds; g += THREADS) counts[g] = 0;
  if (threadIdx.x == 0) slot.size = 0;
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < n_rows; i += THREADS) {
    const int g = groups[rows[i]];
    labels[i] = g;
    atomicAdd(counts + g, 1);
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  int before = 0;
  for (int g = lane; threadIdx.x < 32 && g - lane < kinds; g += 32) {
    const int count = g < kinds ? counts[g] : 0, own = (count + CHUNK - 1) / CHUNK;
    int end = own;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int more = __shfl_up_sync(~0u, end, step);
      if (lane >= step) end += more;
    }
    const int local = number - before - (end - own);
    if (local >= 0 && local < own) {
      slot.group = g;
      slot.first = local * CHUNK;
      slot.size = min(count - slot.first, CHUNK);
    }
    before += __shfl_sync(~0u, end, 31);
  }
  __syncthreads();
  if (slot.size == 0) return;
  find_rows(labels, n_rows, slot);
  __syncthreads();
  for (int r = threadIdx.x; r < slot.size; r += THREADS) slot.numbers[r] = rows[slot.places[r]];
  __syncthreads();  // everyone knows the rows, and memory is free
}

// out (n_rows, d): row i of it is row rows[i]. codes are read in twos of bytes: the 15 bits that may precede a window
// and its own 16 fit two of those.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
decode_packed(const long long* rows, int n_rows, const unsigned char* codes, const int* groups,
              const long long* starts, const long long* bounds, const int* clusters, const int* skips, const int* shifts, const int* masks,
              const int* tables, const float* scales, const int* directions, const int* blocks, const float* levels,
              const float* bases, const float* gains, const float* offsets, const float* exact, int n_groups,
              int columns, int d, float* out) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ Slot slot;
  __shared__ long long firsts[CHUNK];          // first bit of each row
  float* left = (float*)dyn_smem;              // [STAGES][CHUNK][LDA]: coefficients
  float* right = left + STAGES * CHUNK * LDA;  // [STAGES][DEPTH][LDB]: basis vectors
  const int strips = (d + WIDTH - 1) / WIDTH, column = blockIdx.x % strips * WIDTH;
  find_slot(rows, n_rows, groups, n_groups + 1, blockIdx.x / strips, dyn_smem, slot);  // one more: of rows kept
  if (slot.size == 0) return;
  const int g = slot.group;

  if (g == n_groups) {
    for (int i = threadIdx.x; i < slot.size * WIDTH; i += THREADS) {
      const int r = i / WIDTH, c = column + i % WIDTH;
      if (c < d) out[(long long)slot.places[r] * d + c] = exact[starts[slot.numbers[r]] * d + c];
    }
    return;
  }

  for (int r = threadIdx.x; r < slot.size; r += THREADS) firsts[r] = starts[slot.numbers[r]];
  __syncthreads();
  const long long first = bounds[g];
  const int terms = (int)(bounds[g + 1] - first), steps = (terms + DEPTH - 1) / DEPTH;
  auto begin = [&](int step, int stage) {
    const int t0 = step * DEPTH;
    auto vector = [&](int t) {
      return t0 + t < terms ? bases + (long long)directions[first + t0 + t] * d : nullptr;
    };
    fetch<DEPTH, WIDTH, LDB, THREADS>(right + stage * DEPTH * LDB, vector, column, d, bases);
    float* coefficients = left + stage * CHUNK * LDA;
    const int own = t0 + threadIdx.x % DEPTH;
    const long long e = first + own;
    const bool inside = own < terms;
    const int skip = inside ? skips[e] : 0, shift = inside ? shifts[e] : 0, mask = inside ? masks[e] : 0;
    const float* table = levels + (inside ? tables[e] : 0);
    const float scale = inside ? scales[e] : 0;
    const float* gain = gains && inside ? gains + blocks[e] : nullptr;
    own_pieces<CHUNK, DEPTH, 1, THREADS>([&](int r, int t) {
      float z = 0;
      if (inside && r < slot.size) {
        const long long bit = firsts[r] + skip;
        const unsigned short* word = (const unsigned short*)codes + (bit >> 4);
        const unsigned bits = (unsigned)word[0] | (unsigned)word[1] << 16;
        z = scale * table[(bits >> (int)(bit & 15)) << shift & mask];
        if (gain) z *= gain[slot.numbers[r] * columns];
      }
      coefficients[r * LDA + t] = z;
    });
  };
  Tile tile;
  auto add = [&](int stage) {
    const float *a = left + stage * CHUNK * LDA, *b = right + stage * DEPTH * LDB;
    tile.add<DEPTH, LDA, 1, LDB>(a, b, slot.size);
  };
  pipeline<STAGES>(steps, begin, [](int, int) {}, add);
  const float* offset = offsets ? offsets + (long long)clusters[g] * d + column : nullptr;
  tile.each([&](int m, int n, float value) {
    if (m >= slot.size || column + n >= d) return;
    out[(long long)slot.places[m] * d + column + n] = offset ? value + offset[n] : value;
  });
}
