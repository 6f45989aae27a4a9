// CUDA's built-in functions, and the project's own for instructions that have none (ptx.cuh, half.cuh).
#pragma once

#define __syncthreads() coc::sync_block(__LINE__)
inline void __syncwarp(unsigned mask = ~0u) { coc::meet(mask, coc::SYNCWARP, [](coc::Warp&) {}); }
inline void __threadfence() {}
inline void __threadfence_block() {}

template <class T> T __shfl_sync(unsigned mask, T v, int source, int width = 32) {
  return coc::shuffle(mask, v, source, width, true);
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int source = (coc::lane() & (width - 1)) ^ bits;
  return coc::shuffle(mask, v, source, width, source < width);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int source = (coc::lane() & (width - 1)) + delta;
  return coc::shuffle(mask, v, source, width, source < width);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32) {
  const int source = (int)(coc::lane() & (width - 1)) - (int)delta;
  return coc::shuffle(mask, v, source, width, source >= 0);
}
inline unsigned __ballot_sync(unsigned mask, int v) { return coc::ballot(mask, v); }
inline int __any_sync(unsigned mask, int v) { return coc::ballot(mask, v) != 0; }
inline int __all_sync(unsigned mask, int v) { return coc::ballot(mask, !v) == 0; }

template <class T> T __ldg(const T* p) { return *p; }

// Blocks and threads take turns, so an atomic operation is an ordinary one.
#define COC_ATOMIC(name, changed)                                  \
  template <class T> T name(T* p, std::common_type_t<T> v) {       \
    const T old = *p;                                              \
    *p = T(changed);                                               \
    return old;                                                    \
  }
COC_ATOMIC(atomicAdd, old + v)
COC_ATOMIC(atomicSub, old - v)
COC_ATOMIC(atomicOr, old | v)
COC_ATOMIC(atomicMax, old < v ? v : old)
COC_ATOMIC(atomicMin, v < old ? v : old)
COC_ATOMIC(atomicExch, v)
template <class T> T atomicCAS(T* p, std::common_type_t<T> expected, std::common_type_t<T> v) {
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}

template <class To, class From> inline To coc_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return coc_bits<unsigned>(x); }
inline int __float_as_int(float x) { return coc_bits<int>(x); }
inline float __uint_as_float(unsigned u) { return coc_bits<float>(u); }
inline float __int_as_float(int i) { return coc_bits<float>(i); }
inline long long __double_as_longlong(double x) { return coc_bits<long long>(x); }
inline double __longlong_as_double(long long i) { return coc_bits<double>(i); }

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
// Rounded by themselves, never fused with what follows.
inline double __dmul_rn(double x, double y) { volatile double product = x * y; return product; }
inline double __dadd_rn(double x, double y) { volatile double sum = x + y; return sum; }
inline float __fmul_rn(float x, float y) { volatile float product = x * y; return product; }
inline float __fadd_rn(float x, float y) { volatile float sum = x + y; return sum; }

// Of a number and NaN, the number.
template <class T, class U> std::common_type_t<T, U> min(T a, U b) { return b < a || a != a ? b : a; }
template <class T, class U> std::common_type_t<T, U> max(T a, U b) { return a < b || a != a ? b : a; }

// ---- ptx.cuh

#define COC_MMA(name, Sum, Operand)                                                   \
  inline void name(Sum* d, const Operand* a, const Operand* b) {                      \
    coc::warp().mma[coc::lane()] = {d, a, b};                                         \
    coc::meet(~0u, coc::MMA, coc::name);                                              \
  }
COC_MMA(mma_m16n8k8_tf32, float, unsigned)
COC_MMA(mma_m16n8k16_f16, float, unsigned)
COC_MMA(mma_m8n8k4_f64, double, double)
inline unsigned block_index_anew() { return blockIdx.x; }

// ---- turns.cuh

inline void spin_until(const unsigned* flag) {
  if (*flag == 0) coc::fail("waits for a block that has not begun");
}

// ---- half.cuh

inline float half_to_float(unsigned short h) { return coc::half_as_float(h); }
inline unsigned short float_to_half(float x) {
  const unsigned short sign = __float_as_uint(x) >> 16 & 0x8000u;
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return sign | 0x7e00;
  if (magnitude >= 65520.f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f) return sign | (unsigned short)std::nearbyint(magnitude * 0x1p24f);  // evenly spaced
  const unsigned u = __float_as_uint(magnitude) - (112u << 23);
  return sign | (u + 0xfff + (u >> 13 & 1)) >> 13;  // ties to even
}
inline unsigned short float_to_bf16(float x) {
  const unsigned u = __float_as_uint(x);
  if (std::isnan(x)) return 0x7fff;
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;  // ties to even
}
inline unsigned floats_to_half2(float low, float high) {
  return float_to_half(low) | (unsigned)float_to_half(high) << 16;
}
