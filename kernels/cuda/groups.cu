// Stable counting sort of row numbers by label, and the groups that come of it cut into slots.
//
// Rows are sorted in segments of `length` rows, a block each. A block counts in shared memory, or, where there are too
// many labels, in its row of `counts`; then it has a single warp to place the rows.

// counts (segments, k): rows of each label in each segment; totals (k), zero at first: in all of them.
extern "C" __global__ void __launch_bounds__(256)
count_labels(const int* labels, long long n, int k, int length, int in_shared, unsigned* counts,
             long long* totals) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  counts += (long long)blockIdx.x * k;
  unsigned* counters = in_shared ? (unsigned*)dyn_smem : counts;
  unsigned long long* whole = (unsigned long long*)totals;
  for (int c = threadIdx.x; c < k; c += blockDim.x) counters[c] = 0;
  __syncthreads();
  const long long first = (long long)blockIdx.x * length, end = first + length < n ? first + length : n;
  for (long long row = first + threadIdx.x; row < end; row += blockDim.x) atomicAdd(counters + labels[row], 1u);
  __syncthreads();
  for (int c = threadIdx.x; c < k; c += blockDim.x) {
    const unsigned count = counters[c];
    if (in_shared) counts[c] = count;
    if (count) atomicAdd(whole + c, (unsigned long long)count);
  }
}

constexpr int SIDE = 32;

// counts become rows of the label in earlier segments; starts (k + 1): rows of smaller labels. A block of SIDE x SIDE
// threads for SIDE labels.
extern "C" __global__ void __launch_bounds__(SIDE * SIDE)
add_counts(const long long* totals, long long segments, int k, unsigned* counts, long long* starts) {
  __shared__ unsigned sums[SIDE][SIDE];
  __shared__ long long before[SIDE];
  const int lane = threadIdx.x, part = threadIdx.y, first = blockIdx.x * SIDE, c = first + lane;
  long long earlier = 0;
  for (int i = part * SIDE + lane; i < first; i += SIDE * SIDE) earlier += totals[i];
  for (int step = 16; step; step /= 2) earlier += __shfl_xor_sync(0xffffffffu, earlier, step);
  if (lane == 0) before[part] = earlier;

  const long long each = (segments + SIDE - 1) / SIDE, begin = part * each;
  const long long end = begin + each < segments ? begin + each : segments;
  unsigned sum = 0;
  if (c < k)
#pragma unroll 4
    for (long long s = begin; s < end; s++) sum += counts[s * k + c];
  sums[part][lane] = sum;
  __syncthreads();

  sum = 0;
  for (int i = 0; i < part; i++) sum += sums[i][lane];
  if (c < k)
    for (long long s = begin; s < end; s++) {
      const unsigned count = counts[s * k + c];
      counts[s * k + c] = sum;
      sum += count;
    }
  if (part > 0 || c >= k) return;
  long long start = 0;
  for (int i = 0; i < SIDE; i++) start += before[i];
  for (int i = first; i < c; i++) start += totals[i];
  starts[c] = start;
  if (c == k - 1) starts[k] = start + totals[c];
}

// order (n): rows of label c from starts[c] on, as they come. Each warp places a run of its block's segment.
extern "C" __global__ void __launch_bounds__(256)
place_rows(const int* labels, long long n, int k, int bits, int length, int in_shared, unsigned* counts,
           const long long* starts, long long* order) {
  extern __shared__ __align__(128) unsigned char dyn_smem[];
  const unsigned all = 0xffffffffu;
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, run = length / warps;
  counts += (long long)blockIdx.x * k;
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

constexpr int THREADS = 1024;

// Cuts group g, rows starts[g]..starts[g + 1], into slots of up to `chunk` rows. slots (k + 1) becomes the number of
// slots before each group, owners (n_slots) the group of each slot, and k for those left over. One block does it all.
extern "C" __global__ void __launch_bounds__(THREADS)
cut_groups(const long long* starts, int k, int chunk, long long n_slots, long long* slots, int* owners) {
  __shared__ long long before[THREADS];
  const int t = threadIdx.x, each = (k + THREADS - 1) / THREADS, first = t * each, last = min(k, first + each);
  auto slots_of = [=](int g) { return (starts[g + 1] - starts[g] + chunk - 1) / chunk; };
  long long own = 0;
  for (int g = first; g < last; g++) own += slots_of(g);
  before[t] = own;
  __syncthreads();
  for (int step = 1; step < THREADS; step *= 2) {  // prefix sums
    const long long more = t >= step ? before[t - step] : 0;
    __syncthreads();
    before[t] += more;
    __syncthreads();
  }
  long long slot = before[t] - own;
  for (int g = first; g < last; g++) {
    slots[g] = slot;
    slot += slots_of(g);
  }
  if (t == THREADS - 1) slots[k] = before[t];
  __syncthreads();
  for (int g = t / 32; g <= k; g += THREADS / 32) {
    const long long end = g < k ? slots[g + 1] : n_slots;
    for (long long s = slots[g] + t % 32; s < end; s += 32) owners[s] = g;
  }
}
