// The nearest flat of each row among many narrow ones, from one product in float16, where that is proven; rows for which
// it is not are listed. See screen.py.
//
// A warp keeps 16 MTILES rows in registers as operands; flats stream through shared memory, eight directions (a fragment)
// at a time. Of a flat, what is maximised is
//   key = w (sign S + slope s l x) - s^2 (w m^2 + penalty)     narrow flats, S = |V s x|^2, sign = 1
//   key = ... + w |s x|^2,                                     flats measured along complements, S = |W s x|^2, sign = -1
// with the row's scale s and weight w: s^2 w |x|^2 less s^2 the cost. PLAIN: flats of one fragment each and nothing but S.
#include "rows.cuh"

#ifndef MTILES
#define MTILES (STEPS <= 2 ? 4 : STEPS <= 4 ? 2 : 1)
#endif
#ifndef PER_SM
#define PER_SM (PLAIN && MTILES == 4 ? 3 : 2)
#endif
#ifndef STAGES
#define STAGE_BYTES 16384
#define STAGES 3
#endif

enum {
  WARPS = 4,
  THREADS = 32 * WARPS,
  ROWS = 16 * MTILES * WARPS,
  FRAGMENT = 32 * STEPS,     // chunks
  FRAGMENTS = STAGE_BYTES / 512 / STEPS > 4 ? STAGE_BYTES / 512 / STEPS : 4,  // of a tile
  TILE = FRAGMENT * FRAGMENTS,
};

// Floats as integers in the same order, and back; without negative ones they are that already.
__device__ __forceinline__ unsigned ordered(float x) {
  const unsigned u = __float_as_uint(x);
  return PLAIN ? u : u ^ ((unsigned)((int)u >> 31) | 0x80000000u);
}
__device__ __forceinline__ float from_ordered(unsigned u) {
  return __uint_as_float(PLAIN ? u : u ^ ((unsigned)((int)~u >> 31) | 0x80000000u));
}

// a >= b >= c stay the largest three.
__device__ __forceinline__ void keep_three(unsigned& a, unsigned& b, unsigned& c, unsigned v) {
  const unsigned u = min(a, v);
  a = max(a, v);
  const unsigned w = min(b, u);
  b = max(b, u);
  c = max(c, w);
}

__device__ __forceinline__ float block_max(float x, float* parts) {
#pragma unroll
  for (int o = 16; o; o /= 2) x = max(x, __shfl_xor_sync(~0u, x, o));
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < WARPS; w++) x = max(x, parts[w]);
  return x;
}

// flats: tiles of fragments, in which four flats follow one another and then, with offsets, what they add along x.
// sizes (quads): fragments of each of four flats, a byte each. number: a power of two less 1, at least k - 1.
// energy, lost, scales as `prepare` of halves.cu gives them; terms (k, 4), losses (k) as `place_flats` does.
extern "C" __global__ void __launch_bounds__(THREADS, PER_SM)
screen(const Chunk* __restrict__ rows, long long n, const Chunk* __restrict__ flats, int k, int tiles, unsigned number,
       const unsigned* __restrict__ sizes, int affine, const float4* __restrict__ terms, const float* __restrict__ losses,
       const float* __restrict__ energy, const float* __restrict__ lost, const float* __restrict__ scales,
       const float* __restrict__ weights, int* __restrict__ labels, int* __restrict__ pairs, int* __restrict__ seconds,
       int* __restrict__ several, int* counters) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  __shared__ float parts[WARPS];
  Chunk* const stages = (Chunk*)dyn_smem;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const long long first = (long long)blockIdx.x * ROWS + threadIdx.x / 32 * (16 * MTILES);

  auto fetch = [&](int tile) {
    if (tile < tiles) {
#pragma unroll
      for (int i = threadIdx.x; i < TILE; i += THREADS)
        cp_async16(stages + tile % STAGES * TILE + i, flats + (long long)tile * TILE + i, true);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) fetch(s);
  unsigned a[MTILES][2 * STEPS][4];
#pragma unroll
  for (int m = 0; m < MTILES; m++) load_rows(a[m], rows, first + 16 * m, n);

  float scale[MTILES][2], weight[MTILES][2], square[MTILES][2];
  if (!PLAIN) {
#pragma unroll
    for (int m = 0; m < MTILES; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const long long row = min(first + 16 * m + 8 * h + g, n - 1);
        scale[m][h] = scales[row], weight[m][h] = weights ? weights[row] : 1;
        square[m][h] = energy[row] * scale[m][h] * scale[m][h];
      }
    }
  }

  unsigned best[MTILES][2][3] = {};
  int at = 0;
  // Where the next fragment lies. With `whole`, a tile may begin here.
  auto next = [&](bool begins) {
    const int tile = at / FRAGMENTS;
    if (begins && at % FRAGMENTS == 0) {
      cp_async_wait<STAGES - 2>();
      __syncthreads();
      fetch(tile + STAGES - 1);
    }
    return stages + tile % STAGES * TILE + at++ % FRAGMENTS * FRAGMENT + lane;
  };
  // Products with a fragment; those that depend on one another stand apart.
  auto multiply = [&](float (&c)[MTILES][4], const Chunk* fragment) {
    Chunk b[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) b[s] = fragment[32 * s];
#pragma unroll
    for (int s = 0; s < 2 * STEPS; s++) {
#pragma unroll
      for (int m = 0; m < MTILES; m++) mma_m16n8k16_f16(c[m], a[m][s], b[s / 2].x + s % 2 * 2);
    }
  };
#pragma unroll 1
  for (int quad = 0; 4 * quad < k; quad++) {
    float sums[MTILES][2][4] = {};
    const unsigned counts = PLAIN ? 0x01010101u : sizes[quad];
#pragma unroll
    for (int f = 0; f < 4; f++) {
#pragma unroll 1
      for (unsigned i = counts >> 8 * f & 0xff; i; i--) {
        float c[MTILES][4] = {};
        multiply(c, next(!PLAIN || f == 0));
#pragma unroll
        for (int m = 0; m < MTILES; m++) {
          sums[m][0][f] += c[m][0] * c[m][0] + c[m][1] * c[m][1];
          sums[m][1][f] += c[m][2] * c[m][2] + c[m][3] * c[m][3];
        }
        if (PLAIN) break;
      }
    }
    float along[MTILES][2] = {};
    if (!PLAIN && affine) {
      float c[MTILES][4] = {};
      multiply(c, next(true));
#pragma unroll
      for (int m = 0; m < MTILES; m++) along[m][0] = c[m][0] + c[m][1], along[m][1] = c[m][2] + c[m][3];
    }
    const int flat = 4 * quad + t;
    const unsigned name = number - flat;
    const float4 own = PLAIN ? float4{} : terms[min(flat, k - 1)];
#pragma unroll
    for (int m = 0; m < MTILES; m++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float key = own_sum(sums[m][h], t);
        if (!PLAIN) {
          const float s = scale[m][h], w = weight[m][h];
          key = own.x * key + (own.x < 0 ? square[m][h] : 0.f) + s * own.y * along[m][h];
          key = w * key - s * s * (w * own.z + own.w);
        }
        const unsigned named = (ordered(key) & ~number) | name;
        keep_three(best[m][h][0], best[m][h][1], best[m][h][2], flat < k ? named : 0);
      }
    }
  }

  float loss = 0, slope = 0, penalty = 0;
  for (int c = threadIdx.x; c < k; c += THREADS) {
    loss = max(loss, losses[c]);
    if (!PLAIN) slope = max(slope, terms[c].y), penalty = max(penalty, fabsf(terms[c].w));
  }
  loss = sqrtf(block_max(loss, parts));
  auto lost_bits = [&](float key) { return (number + 1) * 1.2e-7f * key; };
  if (!PLAIN) slope = block_max(slope, parts), penalty = block_max(penalty, parts);
#pragma unroll
  for (int m = 0; m < MTILES; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      unsigned* b = best[m][h];
#pragma unroll
      for (int o = 1; o <= 2; o *= 2) {
        const unsigned other[3] = {__shfl_xor_sync(~0u, b[0], o), __shfl_xor_sync(~0u, b[1], o), __shfl_xor_sync(~0u, b[2], o)};
#pragma unroll
        for (int i = 0; i < 3; i++) keep_three(b[0], b[1], b[2], other[i]);
      }
      const long long row = first + 16 * m + 8 * h + g;
      if (m != t || row >= n) continue;  // four lanes know; each writes one tile
      const float s = scales[row], length = sqrtf(energy[row]) * s, rounded = lost[row];
      const float one = from_ordered(b[0] & ~number), two = from_ordered(b[1] & ~number), three = from_ordered(b[2] & ~number);
      const float off = rounded + (loss + STEPS * 1e-6f) * length;  // of the products with a flat's directions, all told
      const float most = PLAIN ? min(length, sqrtf(one + lost_bits(one))) : length;  // |V' x'|
      float bound = off * (2.02f * most + off) + 4e-6f * length * length;
      if (!PLAIN) {
        const float w = weights ? weights[row] : 1, shift = s * slope;
        bound += shift * (rounded + 4e-6f * length) + 5e-7f * shift * shift;
        bound = w * bound + 5e-7f * s * s * penalty;
      }
      auto far = [&](float other) { return one - other > 2 * bound + lost_bits(max(fabsf(one), fabsf(other))); };
      labels[row] = number - (b[0] & number);
      if (PLAIN && length == 0 && rounded == 0) continue;  // as far from all
      if (!far(three)) {
        several[atomicAdd(counters + 1, 1)] = row;
      } else if (!far(two)) {
        const int i = atomicAdd(counters, 1);
        pairs[i] = row, seconds[i] = number - (b[1] & number);
      }
    }
  }
}

// Flats as they are: directions (sum, d), where each flat's begin (k + 1), offsets (k, d) or none, terms of assign.cu.
struct Flats {
  const float* directions;
  const int* starts;
  const double* offsets;
  const float* terms;
  int d;

  // Squared distance of a row to flat c in float32, by a warp, in every lane.
  __device__ __forceinline__ float distance(const float* x, int c) const {
    const int lane = threadIdx.x % 32, end = starts[c + 1];
    float own[STEPS], energy = 0, sum = 0;
#pragma unroll
    for (int q = 0; q < STEPS; q++) {
      const int i = lane + 32 * q;
      own[q] = i >= d ? 0.f : offsets ? (float)(x[i] - offsets[(long long)c * d + i]) : x[i];
      energy += own[q] * own[q];
    }
#pragma unroll 1
    for (int first = starts[c]; first < end; first += 4) {
      float z[4] = {};
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float* v = directions + (long long)min(first + r, end - 1) * d;
#pragma unroll
        for (int q = 0; q < STEPS; q++) z[r] += own[q] * v[min(lane + 32 * q, d - 1)];
        if (first + r >= end) z[r] = 0;
      }
      float part = own_sum(z, lane % 4);
#pragma unroll
      for (int o = 4; o < 32; o *= 2) part += __shfl_xor_sync(~0u, part, o);
      sum += part * part;
    }
#pragma unroll
    for (int o = 1; o < 32; o *= 2) energy += __shfl_xor_sync(~0u, energy, o);
#pragma unroll
    for (int o = 1; o < 4; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
    return max(terms[4 * c + 3] != 0 ? sum : energy - sum, 0.f);
  }
};

// Decides between two flats, a warp a row.
extern "C" __global__ void __launch_bounds__(256, 2)
decide_pairs(const float* __restrict__ X, int d, const float* __restrict__ directions, const int* __restrict__ starts,
             const double* __restrict__ offsets, const float* __restrict__ terms, const float* __restrict__ weights,
             const int* __restrict__ pairs, const int* __restrict__ seconds, const int* __restrict__ counters,
             int* __restrict__ labels) {
  const Flats flats{directions, starts, offsets, terms, d};
  const int warps = gridDim.x * blockDim.x / 32, count = counters[0];
  for (int i = (blockIdx.x * blockDim.x + threadIdx.x) / 32; i < count; i += warps) {
    const long long row = pairs[i];
    const int one = labels[row], two = seconds[i], low = min(one, two), high = max(one, two);
    const float weight = weights ? weights[row] : 1;
    const float first = weight * flats.distance(X + row * d, low) + terms[4 * low + 2];
    const float second = weight * flats.distance(X + row * d, high) + terms[4 * high + 2];
    if (threadIdx.x % 32 == 0) labels[row] = second < first ? high : low;
  }
}

// Squared distance of each row to the flat of its label, a warp a row.
extern "C" __global__ void __launch_bounds__(256, 2)
residuals_of(const float* __restrict__ X, long long n, int d, const float* __restrict__ directions,
             const int* __restrict__ starts, const double* __restrict__ offsets, const float* __restrict__ terms,
             const int* __restrict__ labels, float* __restrict__ residuals) {
  const long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  if (row >= n) return;
  const Flats flats{directions, starts, offsets, terms, d};
  const float distance = flats.distance(X + row * d, labels[row]);
  if (threadIdx.x % 32 == 0) residuals[row] = distance;
}
