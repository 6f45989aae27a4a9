// Products of rows and probes on tensor cores, at several precisions.
//
// A warp multiplies 32 rows by 8 probes (a fragment) at a time, over the columns of one step. A step of a row is four
// chunks of 16 bytes. With g = lane / 4 and t = lane % 4, a lane takes chunk t of rows g, g + 8, g + 16, g + 24 and
// of probe g. Tensor cores name other columns for a lane, but a product is a sum over columns, and any order will do
// that is the same for rows and probes.
//
//   load      turns chunks of rows and of probes into operands
//   multiply  adds the products to sums: sums[2 i + e] of a lane belongs to row 8 i + g and probe 2 t + e
#pragma once
#include "half.cuh"
#include "ptx.cuh"

// TF32 keeps 11 bits of a float32. Split, x = high + low with 11 bits each, and x y = low high + high low + high high
// to float32's accuracy. Tensor cores round sums toward zero, so such a product is not summed there over all
// columns: the few of one step go to fresh sums, which are added in float32.
struct SplitTF32 {
  typedef float Real;
  typedef float Stored;
  struct __align__(16) Chunk { Real x[4]; };
  enum { FRAGMENTS = 16, SCALED = false };

  // Of a chunk, columns 0 and 1 go to the first product of a step, 2 and 3 to the second.
  struct Rows { unsigned high[2][2][4], low[2][2][4]; };
  struct Probes { unsigned high[2][2], low[2][2]; };

  static __device__ __forceinline__ void split(float x, unsigned& high, unsigned& low) {
    high = to_tf32(x);
    low = __float_as_uint(x - __uint_as_float(high));  // used without its last 13 bits
  }

  static __device__ __forceinline__ void load(Rows& rows, const Chunk* chunks) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++)
        split(chunks[i].x[j], rows.high[j / 2][i / 2][i % 2 + j % 2 * 2], rows.low[j / 2][i / 2][i % 2 + j % 2 * 2]);
    }
  }

  static __device__ __forceinline__ void load(Probes& probes, const Chunk& chunk) {
#pragma unroll
    for (int j = 0; j < 4; j++) split(chunk.x[j], probes.high[j / 2][j % 2], probes.low[j / 2][j % 2]);
  }

  static __device__ __forceinline__ void multiply(float* sums, const Rows& rows, const Probes& probes) {
    float fresh[8] = {};
#pragma unroll
    for (int i = 0; i < 4; i++) mma_m16n8k8_tf32(fresh + i % 2 * 4, rows.low[i / 2][i % 2], probes.high[i / 2]);
#pragma unroll
    for (int i = 0; i < 4; i++) mma_m16n8k8_tf32(fresh + i % 2 * 4, rows.high[i / 2][i % 2], probes.low[i / 2]);
#pragma unroll
    for (int i = 0; i < 4; i++) mma_m16n8k8_tf32(fresh + i % 2 * 4, rows.high[i / 2][i % 2], probes.high[i / 2]);
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] += fresh[i];
  }
};

// Rows and probes that are float16 already, the rows scaled: one product, whose errors are bounded; see screen.py. A chunk
// has eight columns, the first four for the first product of a step.
struct Half {
  typedef float Real;
  typedef unsigned short Stored;
  struct __align__(16) Chunk { Real x[4]; };
  enum { FRAGMENTS = 16, SCALED = true };

  struct Rows { unsigned x[2][2][4]; };
  struct Probes { unsigned x[2][2]; };

  static __device__ __forceinline__ void load(Rows& rows, const Chunk* chunks) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
      for (int j = 0; j < 4; j++) rows.x[j / 2][i / 2][i % 2 + j % 2 * 2] = __float_as_uint(chunks[i].x[j]);
    }
  }

  static __device__ __forceinline__ void load(Probes& probes, const Chunk& chunk) {
#pragma unroll
    for (int j = 0; j < 4; j++) probes.x[j / 2][j % 2] = __float_as_uint(chunk.x[j]);
  }

  static __device__ __forceinline__ void multiply(float* sums, const Rows& rows, const Probes& probes) {
#pragma unroll
    for (int s = 0; s < 2; s++) {
#pragma unroll
      for (int m = 0; m < 2; m++) mma_m16n8k16_f16(sums + 4 * m, rows.x[s][m], probes.x[s]);
    }
  }
};

// float64, which tensor cores multiply and add without loss.
struct Double {
  typedef double Real, Stored;
  struct __align__(16) Chunk { Real x[2]; };
  enum { FRAGMENTS = 8, SCALED = false };

  struct Rows { double x[2][4]; };
  struct Probes { double x[2]; };

  static __device__ __forceinline__ void load(Rows& rows, const Chunk* chunks) {
#pragma unroll
    for (int i = 0; i < 8; i++) rows.x[i / 4][i % 4] = chunks[i % 4].x[i / 4];
  }

  static __device__ __forceinline__ void load(Probes& probes, const Chunk& chunk) {
    probes.x[0] = chunk.x[0];
    probes.x[1] = chunk.x[1];
  }

  static __device__ __forceinline__ void multiply(double* sums, const Rows& rows, const Probes& probes) {
#pragma unroll
    for (int i = 0; i < 8; i++) mma_m8n8k4_f64(sums + i % 4 * 2, &rows.x[i / 4][i % 4], &probes.x[i / 4]);
  }
};
