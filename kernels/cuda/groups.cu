// Stable counting sort of row numbers by label, and the groups that come of it cut into slots.
//
// Rows are sorted in segments of `length` rows, a block each. A block counts in shared memory, or, where there are too
// many labels, in its row of `counts`; then it has a single warp to place the rows.
#include "turns.cuh"

// counts (segments, k + 1): rows of each label in each segment, and in the end those whose label `before` has another
// for, if there are such labels. After them comes a zero, for the next kernel to count its blocks.
extern "C" __global__ void __launch_bounds__(256)
count_labels(const int* labels, const int* before, long long n, int k, int length, int in_shared, unsigned* counts) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  if (blockIdx.x + threadIdx.x == 0) counts[(long long)gridDim.x * (k + 1)] = 0;
  counts += (long long)blockIdx.x * (k + 1);
  unsigned* counters = in_shared ? (unsigned*)dyn_smem : counts;
  for (int c = threadIdx.x; c <= k; c += blockDim.x) counters[c] = 0;
  __syncthreads();
  const long long first = (long long)blockIdx.x * length, end = first + length < n ? first + length : n;
  unsigned moved = 0;
  for (long long row = first + threadIdx.x; row < end; row += blockDim.x) {
    const int label = labels[row];
    atomicAdd(counters + label, 1u);
    moved += before && before[row] != label;
  }
  if (moved) atomicAdd(counters + k, moved);
  if (!in_shared) return;
  __syncthreads();
  for (int c = threadIdx.x; c <= k; c += blockDim.x) counts[c] = counters[c];
}

constexpr int SIDE = 32, THREADS = SIDE * SIDE;

// Prefix sums over a block of THREADS threads.
__device__ __forceinline__ long long sum_before(int t, long long own, long long* sums) {
  sums[t] = own;
  __syncthreads();
  for (int step = 1; step < THREADS; step *= 2) {
    const long long more = t >= step ? sums[t - step] : 0;
    __syncthreads();
    sums[t] += more;
    __syncthreads();
  }
  return sums[t] - own;
}

// Cuts group g, rows starts[g]..starts[g + 1], into slots of up to `chunk` rows. slots (k + 1) becomes the number of
// slots before each group, owners (n_slots) the group of each slot, and k for those left over. If totals (k) are given,
// the rows of each group, starts (k + 1) is found as well. One block does it all; t: the number of a thread.
__device__ __forceinline__ void cut_into_slots(int t, const long long* totals, long long* starts, int k, int chunk,
                                               long long n_slots, long long* slots, int* owners) {
  __shared__ long long rows_before[THREADS], slots_before[THREADS];
  const int each = (k + THREADS - 1) / THREADS, first = t * each, last = min(k, first + each);
  auto size_of = [=](int g) { return totals ? totals[g] : starts[g + 1] - starts[g]; };
  auto slots_of = [=](int g) { return (size_of(g) + chunk - 1) / chunk; };
  long long rows = 0, own = 0;
  for (int g = first; g < last; g++) rows += size_of(g), own += slots_of(g);
  long long row = sum_before(t, rows, rows_before), slot = sum_before(t, own, slots_before);
  for (int g = first; g < last; g++) {
    slots[g] = slot;
    slot += slots_of(g);
    if (!totals) continue;
    starts[g] = row;
    row += totals[g];
  }
  if (t == THREADS - 1) {
    slots[k] = slot;
    if (totals) starts[k] = row;
  }
  __syncthreads();
  for (int g = t / 32; g <= k; g += THREADS / 32) {
    const long long end = g < k ? slots[g + 1] : n_slots;
    for (long long s = slots[g] + t % 32; s < end; s += 32) owners[s] = g;
  }
}

// The same for groups whose starts are known.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
cut_groups(long long* starts, int k, int chunk, long long n_slots, long long* slots, int* owners) {
  cut_into_slots(threadIdx.x, nullptr, starts, k, chunk, n_slots, slots, owners);
}

// totals (width): sums of the columns of counts (segments, width), whose numbers become sums of those above them. A block
// of SIDE x SIDE threads for SIDE columns. The last block cuts groups of so many rows, unless `starts` is null.
extern "C" __global__ void __launch_bounds__(THREADS)
add_counts(long long segments, int width, unsigned* counts, long long* totals, long long* starts, int chunk,
           long long n_slots, long long* slots, int* owners) {
  __shared__ unsigned sums[SIDE][SIDE];
  const int lane = threadIdx.x, part = threadIdx.y, c = blockIdx.x * SIDE + lane;
  const long long each = (segments + SIDE - 1) / SIDE, begin = part * each;
  const long long end = begin + each < segments ? begin + each : segments;
  unsigned sum = 0;
  if (c < width)
#pragma unroll 4
    for (long long s = begin; s < end; s++) sum += counts[s * width + c];
  sums[part][lane] = sum;
  __syncthreads();

  sum = 0;
  for (int i = 0; i < part; i++) sum += sums[i][lane];
  if (c < width)
    for (long long s = begin; s < end; s++) {
      const unsigned count = counts[s * width + c];
      counts[s * width + c] = sum;
      sum += count;
    }
  if (part == SIDE - 1 && c < width) totals[c] = sum;
  if (starts && is_last(counts + segments * width, gridDim.x))
    cut_into_slots(part * SIDE + lane, totals, starts, width - 1, chunk, n_slots, slots, owners);
}

// order (n): rows of label c from starts[c] on, as they come. Each warp places a run of its block's segment.
extern "C" __global__ void __launch_bounds__(256)
place_rows(const int* labels, long long n, int k, int bits, int length, int in_shared, unsigned* counts,
           const long long* starts, long long* order) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  const unsigned all = 0xffffffffu;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, run = length / warps;
  counts += (long long)blockIdx.x * (k + 1);
  unsigned* counters = in_shared ? (unsigned*)dyn_smem + warp * k : counts;
  const long long first = (long long)blockIdx.x * length + warp * run;
  const long long end = first + run < n ? first + run : n;
  if (in_shared) {  // how many rows of the label stand before each run: those of earlier segments, and of earlier runs
    for (int c = lane; c < k; c += 32) counters[c] = 0;
    __syncwarp();
    for (long long row = first + lane; row < end; row += 32) atomicAdd(counters + labels[row], 1u);
    __syncthreads();
    for (int c = threadIdx.x; c < k; c += blockDim.x) {
      unsigned sum = counts[c];
      for (int w = 0; w < warps; w++) {
        unsigned* counter = (unsigned*)dyn_smem + w * k + c;
        const unsigned count = *counter;
        *counter = sum;
        sum += count;
      }
    }
    __syncthreads();
  }
  for (long long from = first; from < end; from += 32) {
    const long long row = from + lane;
    const bool inside = row < end;
    const int label = inside ? labels[row] : 0;
    unsigned peers = __ballot_sync(all, inside);  // lanes with the same label, bit by bit
    for (int bit = 0; bit < bits; bit++) {
      const bool one = label >> bit & 1;
      const unsigned ones = __ballot_sync(all, one);
      peers &= one ? ones : ~ones;
    }
    const int rank = __popc(peers & ((1u << lane) - 1));
    const unsigned count = counters[label];
    if (inside) order[starts[label] + count + rank] = row;
    __syncwarp();  // every peer has read the counter
    if (inside && rank == 0) counters[label] = count + __popc(peers);
    __syncwarp();  // and the next 32 rows will read the new one
  }
}
