// Greedy k-means++ for flats: what is done to all rows at each draw. See seeding.py.
#include "rows.cuh"
#include "warp.cuh"

enum {
  THREADS = 256,
  WARPS = THREADS / 32,
  CANDIDATES = 4,
  SUMMED = 2048,       // rows whose costs are added up together
  LISTED = 2048,       // rows of which those near to a candidate are listed together
  BINS = 2048,         // of |cos|; 0 is for rows that do not count
  TILE = WIDTH < 64 ? WIDTH : 64,
  TILES = WIDTH / TILE,
};

__device__ __forceinline__ float weight_of(const float* weights, long long row) { return weights ? weights[row] : 1.f; }

// Costs before there is a flat, or a direction, and their weighted sums.
extern "C" __global__ void __launch_bounds__(THREADS)
first_costs(const float* __restrict__ energy, const float* __restrict__ weights, long long n, int of_directions,
            float* __restrict__ costs, int* __restrict__ labels, double* __restrict__ sums) {
  __shared__ double parts[WARPS];
  double sum = 0;
  for (int i = threadIdx.x; i < SUMMED; i += THREADS) {
    const long long row = (long long)blockIdx.x * SUMMED + i;
    if (row >= n) break;
    const float cost = !of_directions ? energy[row] : energy[row] > 0 ? 2.f : 0.f;
    costs[row] = cost, labels[row] = 0;
    sum += (double)weight_of(weights, row) * cost;
  }
  sum = block_sum<WARPS>(sum, parts);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Draws four rows with probability in proportion to their weighted costs, and clears the histograms. One block of 1024,
// of which 256 threads look for each row. uniforms: four numbers in [0, 1).
extern "C" __global__ void __launch_bounds__(1024)
draw(const double* __restrict__ sums, long long blocks, const float* __restrict__ costs, const float* __restrict__ weights,
     long long n, const float* __restrict__ uniforms, long long* __restrict__ candidates, int* __restrict__ histogram) {
  __shared__ double ends[1024], warps[32], targets[CANDIDATES];
  __shared__ long long chosen[CANDIDATES];
  const int thread = threadIdx.x, lane = thread % 32, c = thread / THREADS;
  for (int i = thread; i < CANDIDATES * BINS; i += 1024) histogram[i] = 0;
  auto scan = [&](double own) {  // running sums over a warp
#pragma unroll
    for (int o = 1; o < 32; o *= 2) {
      const double other = __shfl_up_sync(~0u, own, o);
      if (lane >= o) own += other;
    }
    return own;
  };
  const long long each = (blocks + 1023) / 1024, begin = min(thread * each, blocks), stop = min(begin + each, blocks);
  double own = 0;
  for (long long b = begin; b < stop; b++) own += sums[b];
  double end = scan(own);
  if (lane == 31) warps[thread / 32] = end;
  if (thread < CANDIDATES) chosen[thread] = 0, targets[thread] = 0;
  __syncthreads();
  for (int w = 0; w < thread / 32; w++) end += warps[w];
  ends[thread] = end;
  __syncthreads();
  const double total = ends[1023], start = thread ? ends[thread - 1] : 0;
  for (int i = 0; i < CANDIDATES; i++) {
    const double target = uniforms[i] * total;
    if (target < start || target >= end) continue;
    double before = start;
    long long b = begin;
    for (; b + 1 < stop && before + sums[b] <= target; b++) before += sums[b];
    chosen[i] = b, targets[i] = target - before;
  }
  __syncthreads();
  constexpr int ROWS = SUMMED / THREADS;
  const double target = targets[c];
  const long long first = chosen[c] * SUMMED + thread % THREADS * ROWS;
  double cost[ROWS], upto = 0;
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const long long row = first + i;
    cost[i] = row < n ? (double)weight_of(weights, row) * costs[row] : 0;
    upto += cost[i];
  }
  own = upto;
  upto = scan(own);
  if (lane == 31) warps[thread / 32] = upto;
  if (thread % THREADS == 0) candidates[c] = min(first, n - 1);
  __syncthreads();
  for (int w = c * WARPS; w < thread / 32; w++) upto += warps[w];
  double before = upto - own;
  if (target < before || target >= upto) return;
  int i = 0;
#pragma unroll
  for (int r = 0; r < ROWS - 1; r++)
    if (i == r && before + cost[r] <= target) before += cost[r], i++;
  candidates[c] = min(first + i, n - 1);
}

// Calls visit(row, pair, cosines) for each row and two of the four, 2 pair and 2 pair + 1, with lane % 4 = pair.
template <class Visit>
__device__ __forceinline__ void each_cosine(const Chunk* __restrict__ rows, const float* __restrict__ energy,
                                            const float* __restrict__ scales, long long n, const long long* __restrict__ candidates,
                                            Visit visit) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  auto inverse_length = [&](long long row) { return rsqrtf(max(energy[row] * scales[row] * scales[row], 1e-30f)); };
  unsigned b[2 * STEPS][2] = {};
  if (g < CANDIDATES) {
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const Chunk chunk = rows[candidates[g] * CHUNKS + t + 4 * s];
#pragma unroll
      for (int r = 0; r < 4; r++) b[2 * s + r / 2][r % 2] = chunk.x[r];
    }
  }
  float inverse[2] = {};
#pragma unroll
  for (int e = 0; e < 2; e++)
    if (t < 2) inverse[e] = inverse_length(candidates[2 * t + e]);
  const long long stride = (long long)gridDim.x * 16 * WARPS;
  for (long long first = ((long long)blockIdx.x * WARPS + threadIdx.x / 32) * 16; first < n; first += stride) {
    unsigned a[2 * STEPS][4];
    load_rows(a, rows, first, n);
    float product[4] = {};
#pragma unroll
    for (int s = 0; s < 2 * STEPS; s++) mma_m16n8k16_f16(product, a[s], b[s]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const long long row = first + g + 8 * h;
      if (row >= n || t >= 2) continue;
      const float length = inverse_length(row), both[2] = {product[2 * h] * length * inverse[0], product[2 * h + 1] * length * inverse[1]};
      visit(row, t, both);
    }
  }
}

// |cos| of each row to the four, in bins, and how many rows each bin from `least` up has.
extern "C" __global__ void __launch_bounds__(THREADS)
cosines(const Chunk* __restrict__ rows, const float* __restrict__ energy, const float* __restrict__ scales,
        const float* __restrict__ weights, long long n, const long long* __restrict__ candidates, int least,
        unsigned* __restrict__ bins, int* __restrict__ histogram) {
  __shared__ int counts[CANDIDATES * BINS];
  for (int i = threadIdx.x; i < CANDIDATES * BINS; i += THREADS) counts[i] = 0;
  __syncthreads();
  each_cosine(rows, energy, scales, n, candidates, [&](long long row, int t, const float* both) {
    const bool counted = weight_of(weights, row) > 0;
    unsigned pair = 0;
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int bin = counted ? 1 + min((int)(fabsf(both[e]) * (BINS - 1)), BINS - 2) : 0;
      if (bin >= least) atomicAdd(counts + (2 * t + e) * BINS + bin, 1);
      pair |= (unsigned)bin << 16 * e;
    }
    bins[row * 2 + t] = pair;
  });
  __syncthreads();
  for (int i = threadIdx.x; i < CANDIDATES * BINS; i += THREADS)
    if (counts[i]) atomicAdd(histogram + i, counts[i]);
}

// The block's part of what the sum of costs would be with each of the four; of each lane, `sum` is of candidate lane % 4.
__device__ __forceinline__ void add_potentials(double sum, double* potentials) {
  __shared__ double parts[WARPS][CANDIDATES];
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int o = 4; o < 32; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
  if (lane < CANDIDATES) parts[threadIdx.x / 32][lane] = sum;
  __syncthreads();
  if (threadIdx.x >= CANDIDATES) return;
  for (int w = 1; w < WARPS; w++) parts[0][threadIdx.x] += parts[w][threadIdx.x];
  potentials[blockIdx.x * CANDIDATES + threadIdx.x] = parts[0][threadIdx.x];
}

// Of directions, a row's cost is 1 - cos to the nearest; what float16 cannot tell from none is none.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
directions(const Chunk* __restrict__ rows, const float* __restrict__ energy, const float* __restrict__ scales,
           const float* __restrict__ weights, long long n, const long long* __restrict__ candidates,
           const float* __restrict__ costs, float2* __restrict__ residuals, double* __restrict__ potentials) {
  double sums[2] = {};
  each_cosine(rows, energy, scales, n, candidates, [&](long long row, int t, const float* both) {
    float found[2];
#pragma unroll
    for (int e = 0; e < 2; e++) {
      found[e] = energy[row] > 0 && both[e] < 1 - 0x1p-9f ? 1 - both[e] : 0;
      sums[e] += (double)weight_of(weights, row) * min(costs[row], found[e]);
    }
    residuals[row * 2 + t] = make_float2(found[0], found[1]);
  });
  const int lane = threadIdx.x % 32;  // lanes 0 and 1 of four have two sums each
  const double first = __shfl_sync(~0u, sums[0], lane / 4 * 4 + lane % 4 / 2), second = __shfl_sync(~0u, sums[1], lane / 4 * 4 + lane % 4 / 2);
  add_potentials(lane % 2 ? second : first, potentials);
}

// Second moments of the rows nearest to a candidate: m of them, those of the last bin all or none, none below `least`.
// A block has every gridDim.x-th run of LISTED rows, one candidate and one tile. partials (gridDim.x, CANDIDATES, WIDTH, WIDTH).
extern "C" __global__ void __launch_bounds__(THREADS, 4)
neighbours(const unsigned short* __restrict__ rows, const float* __restrict__ scales, const float* __restrict__ weights,
           long long n, const long long* __restrict__ candidates, const unsigned short* __restrict__ bins,
           const int* __restrict__ histogram, long long m, int least, float* __restrict__ partials) {
  constexpr int OWN = LISTED / WARPS;
  __shared__ int sums[64], lowest, counts[WARPS];
  __shared__ unsigned short lists[WARPS][OWN];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int c = blockIdx.y / (TILES * TILES), tile = blockIdx.y % (TILES * TILES);
  {  // the bin from which up there are m rows
    const int part = thread / 4;
    int sum = 0;
    for (int i = 0; i < BINS / THREADS; i++) sum += histogram[c * BINS + thread * (BINS / THREADS) + i];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (thread % 4 == 0) sums[part] = sum;
    __syncthreads();
    if (thread == 0) {
      long long above = 0;
      int p = 63;
      for (; p > 0 && above + sums[p] < m; p--) above += sums[p];
      int bin = (p + 1) * (BINS / 64) - 1;
      for (; bin > least; bin--) {
        above += histogram[c * BINS + bin];
        if (above >= m) break;
      }
      lowest = max(bin, least);
    }
    __syncthreads();
  }
  const int from = lowest, y = tile / TILES * TILE + thread / 16 * 4, x = tile % TILES * TILE + thread % 16 * 4;
  const bool working = thread / 16 * 4 < TILE && thread % 16 * 4 < TILE;
  const float unit = scales[candidates[c]];  // moments are in multiples of the candidate's square
  float total[4][4] = {};
  for (long long first = (long long)blockIdx.x * LISTED; first < n; first += (long long)gridDim.x * LISTED) {
    int count = 0;
    for (int i = lane; i < OWN; i += 32) {
      const long long row = first + warp * OWN + i;
      const bool near = row < n && bins[row * CANDIDATES + c] >= from;
      const unsigned taken = __ballot_sync(~0u, near);
      if (near) lists[warp][count + __popc(taken & ((1u << lane) - 1))] = warp * OWN + i;
      count += __popc(taken);
    }
    if (lane == 0) counts[warp] = count;
    __syncthreads();
    for (int w = 0; w < (working ? WARPS : 0); w++) {
      const int size = counts[w];
#pragma unroll 2
      for (int i = 0; i < size; i++) {
        const long long row = first + lists[w][i];
        const uint2 left = *(const uint2*)(rows + row * WIDTH + y), right = *(const uint2*)(rows + row * WIDTH + x);
        const float ratio = unit / scales[row], factor = ratio * ratio * weight_of(weights, row);
        const float as[4] = {half_to_float(left.x & 0xffff), half_to_float(left.x >> 16), half_to_float(left.y & 0xffff), half_to_float(left.y >> 16)};
        const float bs[4] = {half_to_float(right.x & 0xffff), half_to_float(right.x >> 16), half_to_float(right.y & 0xffff), half_to_float(right.y >> 16)};
#pragma unroll
        for (int p = 0; p < 4; p++)
#pragma unroll
          for (int q = 0; q < 4; q++) total[p][q] += factor * as[p] * bs[q];
      }
    }
    __syncthreads();
  }
  if (!working) return;
  float* const out = partials + (((long long)blockIdx.x * CANDIDATES + c) * WIDTH + y) * WIDTH + x;
#pragma unroll
  for (int p = 0; p < 4; p++) *(float4*)(out + p * WIDTH) = make_float4(total[p][0], total[p][1], total[p][2], total[p][3]);
}

// S (CANDIDATES, WIDTH, WIDTH) from `count` partials.
extern "C" __global__ void __launch_bounds__(THREADS)
sum_partials(const float* __restrict__ partials, int count, float* __restrict__ S) {
  const long long size = (long long)CANDIDATES * WIDTH * WIDTH, i = (long long)blockIdx.x * THREADS + threadIdx.x;
  double sum = 0;
#pragma unroll 4
  for (int p = 0; p < count; p++) sum += partials[p * size + i];
  S[i] = sum;
}

// Squared distances of each row to the four flats, and what the sum of weighted costs would be with each of them.
extern "C" __global__ void __launch_bounds__(THREADS, 2)
distances(const Chunk* __restrict__ rows, const float* __restrict__ energy, const float* __restrict__ scales,
          const float* __restrict__ weights, long long n, const Chunk* __restrict__ flats, int fragments,
          const float* __restrict__ costs, float* __restrict__ residuals, double* __restrict__ potentials) {
  constexpr int PADDED = CHUNKS + 4;  // chunks, so that lanes read different banks
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  Chunk* const probes = (Chunk*)dyn_smem;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  for (int i = threadIdx.x; i < CANDIDATES * fragments * 8 * CHUNKS; i += THREADS) probes[i / CHUNKS * PADDED + i % CHUNKS] = flats[i];
  __syncthreads();
  double sum = 0;
  const long long stride = (long long)gridDim.x * 16 * WARPS;
  for (long long first = ((long long)blockIdx.x * WARPS + threadIdx.x / 32) * 16; first < n; first += stride) {
    unsigned a[2 * STEPS][4];
    load_rows(a, rows, first, n);
    float inside[2][CANDIDATES] = {};
    for (int f = 0; f < fragments; f++) {
#pragma unroll
      for (int c = 0; c < CANDIDATES; c++) {
        const Chunk* const probe = probes + ((c * fragments + f) * 8 + g) * PADDED + t;
        float product[4] = {};
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
          const Chunk chunk = probe[4 * s];
          mma_m16n8k16_f16(product, a[2 * s], chunk.x);
          mma_m16n8k16_f16(product, a[2 * s + 1], chunk.x + 2);
        }
        inside[0][c] += product[0] * product[0] + product[1] * product[1];
        inside[1][c] += product[2] * product[2] + product[3] * product[3];
      }
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const float square = own_sum(inside[h], t);
      const long long row = first + g + 8 * h;
      if (row >= n) continue;
      const float length = 1 / scales[row], residual = max(energy[row] - square * length * length, 0.f);
      residuals[row * CANDIDATES + t] = residual;
      sum += (double)weight_of(weights, row) * min(costs[row], residual);
    }
  }
  add_potentials(sum, potentials);
}

// Takes the candidate with the lowest potential as flat `number`: costs, labels and sums of costs are what they are then.
extern "C" __global__ void __launch_bounds__(THREADS)
choose(const double* __restrict__ potentials, int blocks, const float* __restrict__ residuals,
       const float* __restrict__ weights, long long n, int number, float* __restrict__ costs, int* __restrict__ labels,
       double* __restrict__ sums) {
  __shared__ double parts[WARPS], totals[WARPS][CANDIDATES];
  const int lane = threadIdx.x % 32;
  double potential = 0;
  for (int i = threadIdx.x; i < blocks * CANDIDATES; i += THREADS) potential += potentials[i];
#pragma unroll
  for (int o = 4; o < 32; o *= 2) potential += __shfl_xor_sync(~0u, potential, o);
  if (lane < CANDIDATES) totals[threadIdx.x / 32][lane] = potential;
  __syncthreads();
  int best = 0;
  double lowest = 0;
  for (int c = 0; c < CANDIDATES; c++) {
    double total = 0;
    for (int w = 0; w < WARPS; w++) total += totals[w][c];
    if (c == 0 || total < lowest) best = c, lowest = total;
  }
  double sum = 0;
  for (int i = threadIdx.x; i < SUMMED; i += THREADS) {
    const long long row = (long long)blockIdx.x * SUMMED + i;
    if (row >= n) break;
    const float residual = residuals[row * CANDIDATES + best], cost = costs[row];
    if (residual < cost) costs[row] = residual, labels[row] = number;
    sum += (double)weight_of(weights, row) * min(residual, cost);
  }
  sum = block_sum<WARPS>(sum, parts);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
