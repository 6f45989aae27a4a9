// Rows and flats made ready for one product in float16. See screen.py.
#include "half.cuh"
#include "warp.cuh"

__device__ __forceinline__ float power_of_two(int exponent) { return __uint_as_float((unsigned)(127 + exponent) << 23); }
__device__ __forceinline__ int exponent_of(float x) { return (int)(__float_as_uint(x) >> 23) - 127; }

// Each row less the centre, times the power of two that brings its length into [1, 2), as float16, `width` of them with
// zeros at the end. Its squared length as it was, how much float16 lost of its scaled length, and the scale, which is at
// most 2^40. A warp a row.
extern "C" __global__ void __launch_bounds__(256, 2)
prepare(const float* __restrict__ X, long long n, int d, int width, const float* __restrict__ centre,
        unsigned* __restrict__ halves, float* __restrict__ energy, float* __restrict__ lost, float* __restrict__ scales) {
  const long long row = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (row >= n) return;
  auto at = [&](int i) -> float { return i < d ? X[row * d + i] - (centre ? centre[i] : 0.f) : 0.f; };
  float square = 0;
  for (int i = lane; i < d; i += 32) square += at(i) * at(i);
  square = warp_sum(square);
  const float scale = power_of_two(max(-100, min(40, -exponent_of(sqrtf(square)))));
  float error = 0;
  for (int i = lane; i < width / 2; i += 32) {
    const float x = scale * at(2 * i), y = scale * at(2 * i + 1);
    const unsigned pair = floats_to_half2(x, y);
    const float ex = x - half_to_float(pair & 0xffff), ey = y - half_to_float(pair >> 16);
    error += ex * ex + ey * ey;
    halves[row * (width / 2) + i] = pair;
  }
  error = warp_sum(error);
  if (lane == 0) energy[row] = square, lost[row] = 1.001f * sqrtf(error), scales[row] = scale;
}

// Up to 64 directions of a flat, and where they go: `first` among all, columns in the two orders. lengths: columns of
// what stands for the offset, or -1. kind: 1 the first piece of its flat, 2 the flat is exact.
struct Piece { int flat, first, rows, column, column32, length, length32, kind; };

// What assign.cu needs of a flat, or of a part of one: see there.
struct __align__(16) Terms { float constant, slope, penalty, exact; };

// Chunks of 16 bytes in tiles: [tile][step][column][4 chunks].
__device__ __forceinline__ long long place(int column, int i, int tile, int steps, int step) {
  return (((long long)(column / tile) * steps + i / step) * tile + column % tile) * step + i % step;
}

enum { PIECE = 64, SLAB = 64, TILE32 = 128, WARPS = 8 };

// Directions (sum, d) as float16, in tiles of `tile` columns and steps of 32, and as float32 as assign.cu reads them;
// with offsets also shifts. flats (k): terms of assign.cu; parts, parts32: those of the parts of flats, of which flat c has
// starts[c] to starts[c + 1]: a flat's last part carries its terms, the others are to be subtracted or added as sums.
// screens (k, 4): sign, slope, square of the offset, penalty, as screen.cu reads them.
// losses: of each piece, a bound of the squared norm of what float16 lost, |E|_2^2 = |E E^T|, the lesser of the norm
// of Frobenius and the largest sum of a row. Two columns stand for an offset if `linear`: its part m across the flat, as
// r = |x|^2 - |V x|^2 - 2 m x + |m|^2, over a power of two, in two halves; else its direction as in assign.cu.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 1)
place_flats(const float* __restrict__ directions, int d, const Piece* __restrict__ pieces, const double* __restrict__ offsets,
            const float* __restrict__ centre, const double* __restrict__ penalty, int linear, int tile, int steps,
            int steps32, unsigned short* __restrict__ halves, float* __restrict__ floats, float* __restrict__ shifts,
            float* __restrict__ shifts32, Terms* __restrict__ flats, float* __restrict__ screens,
            const int* __restrict__ starts, Terms* __restrict__ parts, const int* __restrict__ starts32,
            Terms* __restrict__ parts32, float* __restrict__ losses, int* __restrict__ counters) {
  __shared__ __align__(16) float error[SLAB][PIECE + 4];
  __shared__ double sums[PIECE], warps[2][WARPS];
  const Piece piece = pieces[blockIdx.x];
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, y = thread / 16 * 4, x = thread % 16 * 4;
  const float* const rows = directions + (long long)piece.first * d;
  auto offset = [&](int i) -> double { return offsets[(long long)piece.flat * d + i] - centre[i]; };
  if (blockIdx.x == 0 && thread < 2) counters[thread] = 0;
  if (thread < PIECE) sums[thread] = 0;
  float gram[4][4] = {};
  for (int first = 0; first < d; first += SLAB) {
    __syncthreads();
    float v[PIECE / WARPS][2];
#pragma unroll
    for (int q = 0; q < PIECE / WARPS; q++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int r = warp + WARPS * q, i = first + 32 * h + lane;
        v[q][h] = r < piece.rows && i < d ? rows[(long long)r * d + i] : 0.f;
      }
    }
#pragma unroll
    for (int q = 0; q < PIECE / WARPS; q++) {
      const int r = warp + WARPS * q;
      double shift = 0;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int i = first + 32 * h + lane;
        const unsigned short rounded = float_to_half(v[q][h]);
        if (r < piece.rows && i < d) {
          halves[place(piece.column + r, i, tile, steps, 32)] = rounded;
          floats[place(piece.column32 + r, i, TILE32, steps32, 16)] = v[q][h];
          if (offsets) shift += v[q][h] * offset(i);
        }
        error[32 * h + lane][r] = v[q][h] - half_to_float(rounded);
      }
      if (offsets) {
        shift = warp_sum(shift);
        if (lane == 0) sums[r] += shift;
      }
    }
    __syncthreads();
#pragma unroll 4
    for (int i = 0; i < SLAB; i++) {
      const float4 a = *(const float4*)&error[i][y], b = *(const float4*)&error[i][x];
      const float as[4] = {a.x, a.y, a.z, a.w}, bs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int p = 0; p < 4; p++)
#pragma unroll
        for (int q = 0; q < 4; q++) gram[p][q] += as[p] * bs[q];
    }
  }
  __syncthreads();

  float frobenius = 0, largest = 0;
#pragma unroll
  for (int p = 0; p < 4; p++) {
    float sum = 0;
#pragma unroll
    for (int q = 0; q < 4; q++) sum += fabsf(gram[p][q]), frobenius += gram[p][q] * gram[p][q];
#pragma unroll
    for (int o = 1; o < 16; o *= 2) sum += __shfl_xor_sync(~0u, sum, o);
    largest = max(largest, sum);
  }
  largest = max(largest, __shfl_xor_sync(~0u, largest, 16));
  frobenius = warp_sum(frobenius);
  if (lane == 0) warps[0][warp] = frobenius, warps[1][warp] = largest;
  if (offsets && thread < piece.rows) {
    shifts[piece.column + thread] = sums[thread];
    shifts32[piece.column32 + thread] = sums[thread];
  }
  __syncthreads();
  if (thread == 0) {
    double squares = 0, row = 0;
    for (int w = 0; w < WARPS; w++) squares += warps[0][w], row = max(row, warps[1][w]);
    losses[blockIdx.x] = 1.001f * (float)min(sqrt(squares), row);
  }
  if (!(piece.kind & 1)) return;

  const bool exact = piece.kind & 2;
  double square = 0, across = 0;
  auto part = [&](int i) -> double {  // of the offset, across the flat
    double along = 0;
    for (int r = 0; r < piece.rows; r++) along += sums[r] * rows[(long long)r * d + i];
    return exact ? along : offset(i) - along;
  };
  if (offsets) {
    for (int i = thread; i < d; i += 32 * WARPS) {
      square += offset(i) * offset(i);
      if (linear) across += part(i) * part(i);
    }
    square = warp_sum(square), across = warp_sum(across);
    __syncthreads();
    if (lane == 0) warps[0][warp] = square, warps[1][warp] = across;
    __syncthreads();
    square = across = 0;
    for (int w = 0; w < WARPS; w++) square += warps[0][w], across += warps[1][w];
  }
  const double length = sqrt(square);
  const float unit = across > 0 ? power_of_two(exponent_of((float)sqrt(across)) + 1) : 0.f;
  if (offsets) {
    for (int i = thread; i < d; i += 32 * WARPS) {
      const double direction = length > 0 ? offset(i) / length : 0;
      if (linear) {
        const float u = unit > 0 ? (float)(part(i) / unit) : 0.f;
        const unsigned short high = float_to_half(u);
        halves[place(piece.length, i, tile, steps, 32)] = high;
        halves[place(piece.length + 1, i, tile, steps, 32)] = float_to_half(u - half_to_float(high));
      } else if (piece.length >= 0) {
        halves[place(piece.length, i, tile, steps, 32)] = float_to_half((float)direction);
      }
      if (piece.length32 >= 0) floats[place(piece.length32, i, TILE32, steps32, 16)] = direction;
    }
  }
  if (thread == 0) {
    const int c = piece.flat;
    const bool sloped = offsets && !exact;
    const Terms own{sloped ? (float)square : 0.f, sloped ? (float)(2 * length) : 0.f, penalty ? (float)penalty[c] : 0.f, exact ? 1.f : 0.f};
    const Terms sum{0, 0, 0, 1};
    flats[c] = own;
    for (int i = starts[c]; i < starts[c + 1]; i++) parts[i] = i + 1 < starts[c + 1] ? sum : own;
    for (int i = starts32[c]; i < starts32[c + 1]; i++) parts32[i] = i + 1 < starts32[c + 1] ? sum : own;
    screens[4 * c] = exact ? -1 : 1, screens[4 * c + 1] = 2 * unit, screens[4 * c + 2] = across, screens[4 * c + 3] = own.penalty;
  }
}

// Squared distance of row i of n to flat c, from its parts (parts, n).
__device__ __forceinline__ float whole(const float* parts, const int* starts, const Terms& flat, int c, long long n, long long i) {
  float sum = 0;
  for (int p = starts[c]; p + 1 < starts[c + 1]; p++) sum += parts[p * n + i];
  const float last = parts[(starts[c + 1] - 1) * n + i];
  return max(flat.exact != 0 ? last + sum : last - sum, 0.f);
}

// Labels of n rows from float16's distances in parts; rows for which another flat may be nearer are listed.
// losses: of the pieces of flats, of which flat c has pieces[c] to pieces[c + 1].
extern "C" __global__ void __launch_bounds__(256, 2)
list_rows(const float* __restrict__ parts, const int* __restrict__ starts, const Terms* __restrict__ flats, int k,
          const float* __restrict__ losses, const int* __restrict__ pieces, int d, const float* __restrict__ energy,
          const float* __restrict__ lost, const float* __restrict__ scales, const float* __restrict__ weights,
          long long n, int* __restrict__ labels, int* __restrict__ list, int* count) {
  const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (row >= n) return;
  const float square = energy[row], length = sqrtf(square), rounded = lost[row] / scales[row];
  const float weight = weights ? weights[row] : 1, infinity = __int_as_float(0x7f800000);
  float least = infinity, upper = infinity, lowest = infinity, second = infinity;  // the last two: that costs may be
  int label = 0, low = 0;
  for (int c = 0; c < k; c++) {
    const Terms flat = flats[c];
    const float distance = whole(parts, starts, flat, c, n, row);
    float loss = 0;
    for (int i = pieces[c]; i < pieces[c + 1]; i++) loss += losses[i];
    const float off = rounded + (sqrtf(loss) + d * 3e-8f) * length;
    const float along = flat.exact != 0 ? sqrtf(distance)  // |V (x - m)|
                        : flat.slope != 0 ? length + flat.slope / 2
                                          : sqrtf(max(square - distance, 0.f));
    const float cost = weight * distance + flat.penalty;
    const float bound = weight * (off * (2.02f * along + 2 * off) + flat.slope * (rounded + 3e-4f * length) +
                                  8e-6f * (square + flat.constant)) + 2e-7f * fabsf(cost);
    if (cost < least) least = cost, upper = cost + bound, label = c;
    if (cost - bound < lowest) second = lowest, lowest = cost - bound, low = c;
    else second = min(second, cost - bound);
  }
  labels[row] = label;
  if (!(upper < (low == label ? second : lowest))) list[atomicAdd(count, 1)] = row;
}

// Labels of the listed rows from float32's distances in parts.
extern "C" __global__ void __launch_bounds__(256, 2)
decide_listed(const float* __restrict__ parts, const int* __restrict__ starts, const Terms* __restrict__ flats, int k,
              const float* __restrict__ weights, long long n, const int* __restrict__ list, const int* __restrict__ count,
              int* __restrict__ labels) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= *count) return;
  const int row = list[i];
  float least = __int_as_float(0x7f800000);
  int label = 0;
  for (int c = 0; c < k; c++) {
    const Terms flat = flats[c];
    const float cost = (weights ? weights[row] : 1) * whole(parts, starts, flat, c, n, i) + flat.penalty;
    if (cost < least) least = cost, label = c;
  }
  labels[row] = label;
}
