// Tiles of a matrix product in shared memory: fetched with asynchronous copies, multiplied by all threads of a block.
//
// A tile of the result, ROWS x COLUMNS, is spread over the threads. `add` multiplies TERMS more of them into it:
//   result[m][n] += sum over t of A[m][t] B[t][n],   A[m][t] at a[m * AM + t * AT],  B[t][n] at b[t * BT + n].
// where rows of the result from number `rows` on are not wanted and may be left out.
// `each` hands every element of the result to a function, with its row and column.
#pragma once
#include "ptx.cuh"

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

// ---- fetching

template <class T, int N>
struct __align__(N * sizeof(T)) Piece {
  T at[N];
};

// Calls visit(row, column) for the pieces of N elements that belong to this thread: one column of them.
template <int ROWS, int COLUMNS, int N, int THREADS, class Visit>
__device__ __forceinline__ void own_pieces(Visit visit) {
  constexpr int PER_ROW = COLUMNS / N, STEP = THREADS / PER_ROW;
  static_assert(THREADS % PER_ROW == 0, "every thread keeps to its column");
#pragma unroll
  for (int first = 0; first < ROWS; first += STEP) {
    const int row = first + threadIdx.x / PER_ROW;
    if (ROWS % STEP == 0 || row < ROWS) visit(row, threadIdx.x % PER_ROW * N);
  }
}

template <int N, class T>
__device__ __forceinline__ void copy_async(T* to, const T* from, bool inside) {
  constexpr int BYTES = N * sizeof(T);
  if constexpr (BYTES == 16) cp_async16(to, from, inside);
  else if constexpr (BYTES == 8) cp_async8(to, from, inside);
  else if constexpr (BYTES == 4) cp_async4(to, from, inside);
  else *to = inside ? *from : T{};  // a lone 16-bit number is too small to be copied asynchronously
}

// Begins to copy numbers first.. of rows source(r), which hold `length` of them, to a tile with rows LD apart. Zeros
// stand for what is past a row's end, and for rows that are null.
template <int HEIGHT, int BREADTH, int LD, int THREADS, int N, class T, class Source>
__device__ __forceinline__ void fetch_pieces(T* tile, Source source, int first, int length) {
  own_pieces<HEIGHT, BREADTH, N, THREADS>([&](int r, int i) {
    const T* from = source(r);
    copy_async<N>(tile + r * LD + i, from + first + i, from && first + i < length);
  });
}

// The same in the widest pieces there are, if the rows lie so that these are aligned; they are part of `memory`.
template <int HEIGHT, int BREADTH, int LD, int THREADS, class T, class Source>
__device__ __forceinline__ void fetch(T* tile, Source source, int first, int length, const T* memory) {
  constexpr int LARGE = 16 / sizeof(T);
  const bool aligned = (unsigned long long)memory % 16 == 0 && length % LARGE == 0;
  if (aligned) fetch_pieces<HEIGHT, BREADTH, LD, THREADS, LARGE>(tile, source, first, length);
  else fetch_pieces<HEIGHT, BREADTH, LD, THREADS, 1>(tile, source, first, length);
}

// ---- a pipeline

// Operands of `steps` products go through a ring of stages, of which one is multiplied while the others are under way.
// begin(step, stage) begins to copy, own(step, stage) may change what this very thread copied, add(stage) multiplies.
template <int RING, class Begin, class Own, class Add>
__device__ __forceinline__ void pipeline(int steps, Begin begin, Own own, Add add) {
  auto start = [&](int step) {
    if (step < steps) begin(step, step % RING);
    cp_async_commit();
  };
  for (int step = 0; step < RING - 1; step++) start(step);
  for (int step = 0; step < steps; step++) {
    cp_async_wait<RING - 2>();
    own(step, step % RING);
    __syncthreads();  // this stage is complete, and everyone has left the one before it, which is filled next
    start(step + RING - 1);
    add(step % RING);
  }
}

// ---- multiplying on tensor cores

// x = high + low up to 2^-22 |x|, as tensor cores read them: without their last 13 bits. With one product instead of
// three, x must be such a number already.
template <int PRODUCTS>
__device__ __forceinline__ void split(float x, unsigned& high, unsigned& low) {
  high = PRODUCTS == 1 ? __float_as_uint(x) : to_tf32(x);
  low = __float_as_uint(x - __uint_as_float(high));
}

// By WARPS_M x WARPS_N warps, each with M16 x N8 fragments of 16 x 8. PRODUCTS is 3 for the accuracy of float32.
template <int WARPS_M, int WARPS_N, int M16, int N8, int PRODUCTS>
struct TensorTile {
  static constexpr int THREADS = 32 * WARPS_M * WARPS_N, ROWS = 16 * M16 * WARPS_M, COLUMNS = 8 * N8 * WARPS_N;
  float sum[M16][N8][4] = {};

  __device__ static int row() { return threadIdx.x / 32 / WARPS_N * 16 * M16; }
  __device__ static int column() { return threadIdx.x / 32 % WARPS_N * 8 * N8; }
  // Whether all elements of this warp are above the diagonal.
  __device__ static bool above_diagonal() { return row() + 16 * M16 <= column(); }

  template <int TERMS, int AM, int AT, int BT, class T>
  __device__ __forceinline__ void add(const T* a, const T* b, int rows) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    a += (row() + g) * AM + t * AT;
    b += t * BT + column() + g;
#pragma unroll
    for (int t0 = 0; t0 < TERMS; t0 += 8) {
      unsigned b_high[N8][2], b_low[N8][2];
#pragma unroll
      for (int n = 0; n < N8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) split<PRODUCTS>(widen(b[(t0 + 4 * i) * BT + 8 * n]), b_high[n][i], b_low[n][i]);
#pragma unroll
      for (int m = 0; m < M16; m++) {
        // Besides, this keeps the compiler from mixing two m and running out of registers.
        if (row() + 16 * m >= rows) break;
        unsigned a_high[4], a_low[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          split<PRODUCTS>(widen(a[(16 * m + 8 * (i % 2)) * AM + (t0 + 4 * (i / 2)) * AT]), a_high[i], a_low[i]);
        // Tensor cores round their sums toward zero: a fresh fragment for each step keeps that out of the long sum.
        float fresh[N8][4] = {};
        if constexpr (PRODUCTS == 3) {
#pragma unroll
          for (int n = 0; n < N8; n++) mma_m16n8k8_tf32(fresh[n], a_low, b_high[n]);
#pragma unroll
          for (int n = 0; n < N8; n++) mma_m16n8k8_tf32(fresh[n], a_high, b_low[n]);
        }
#pragma unroll
        for (int n = 0; n < N8; n++) mma_m16n8k8_tf32(fresh[n], a_high, b_high[n]);
#pragma unroll
        for (int n = 0; n < N8; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) sum[m][n][i] += fresh[n][i];
      }
    }
  }

  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int m = 0; m < M16; m++)
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int n = 0; n < N8; n++)
          visit(row() + 16 * m + 8 * (i / 2) + g, column() + 8 * n + 2 * t + i % 2, sum[m][n][i]);
  }
};

// ---- multiplying in float64

// By THREADS_M x 16 threads, each with M x N elements.
template <int THREADS_M, int M, int N>
struct DoubleTile {
  static constexpr int THREADS = THREADS_M * 16, ROWS = THREADS_M * M, COLUMNS = 16 * N;
  double sum[M][N] = {};

  __device__ static int row() { return threadIdx.x / 16; }
  __device__ static int column() { return threadIdx.x % 16; }
  __device__ static bool above_diagonal() { return false; }

  template <int TERMS, int AM, int AT, int BT>
  __device__ __forceinline__ void add(const double* a, const double* b, int) {
    a += row() * AM;
    b += column();
#pragma unroll 4
    for (int t = 0; t < TERMS; t++) {
      double a_t[M], b_t[N];
#pragma unroll
      for (int m = 0; m < M; m++) a_t[m] = a[m * THREADS_M * AM + t * AT];
#pragma unroll
      for (int n = 0; n < N; n++) b_t[n] = b[t * BT + n * 16];
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) sum[m][n] = fma(a_t[m], b_t[n], sum[m][n]);
    }
  }

  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++) visit(row() + m * THREADS_M, column() + n * 16, sum[m][n]);
  }
};
