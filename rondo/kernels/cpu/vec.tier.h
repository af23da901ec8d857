#pragma once
// Vectors of the tier that is being compiled (RONDO_TIER): as many float32 lanes as its registers hold.
// Included only by *.tier.cc files. Everything here lives in the tier's own namespace and nothing from the
// standard library is instantiated, so that no function compiled for one tier can be linked into another.

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "rondo/kernels/cpu/tier_types.h"

namespace rondo::kernels::RONDO_TIER {

using i32 = std::int32_t;
using u32 = std::uint32_t;
using i64 = std::int64_t;

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
inline constexpr int kRegisters = 32;
// Masked forms with every lane on: g++ 12 warns of an uninitialised operand inside the unmasked intrinsics.
inline constexpr unsigned short kAll = 0xffff;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
inline constexpr int kRegisters = 16;
#else
inline constexpr int kLanes = 4;
inline constexpr int kRegisters = 16;
#endif
inline constexpr float kInfinity = __builtin_inff();

typedef float vec __attribute__((vector_size(kLanes * 4)));
typedef i32 ivec __attribute__((vector_size(kLanes * 4)));
typedef u32 uvec __attribute__((vector_size(kLanes * 4)));
// The same in memory: of any alignment, and over whatever type was stored there.
typedef float vec_memory __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef i32 ivec_memory __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const vec_memory*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<vec_memory*>(p) = x; }
inline ivec load(const i32* p) { return *reinterpret_cast<const ivec_memory*>(p); }
inline uvec load(const u32* p) { return reinterpret_cast<uvec>(load(reinterpret_cast<const i32*>(p))); }
inline void store(u32* p, uvec x) { *reinterpret_cast<ivec_memory*>(p) = reinterpret_cast<ivec>(x); }
/// A register of anything at any place: rows of bfloat16 may begin at odd multiples of two bytes.
inline vec load_register(const char* p) {
  typedef float any_memory __attribute__((vector_size(kLanes * 4), aligned(1), may_alias));
  return *reinterpret_cast<const any_memory*>(p);
}
inline vec splat(float x) { return x - vec{}; }
inline ivec splat(i32 x) { return x - ivec{}; }
inline uvec splat(u32 x) { return x - uvec{}; }

/// a where it is the larger, else b: b wherever either is NaN.
inline vec max(vec a, vec b) {
#if defined(__AVX512F__)
  return _mm512_maskz_max_ps(kAll, a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

/// What becomes of a power of two: kept as float32, or rounded to bfloat16, where half the polynomial is
/// enough (relative error below 8e-5, a fiftieth of the rounding).
enum class Precision { single, half };

/// 2^x for x <= 127, relative error below 2e-7, +0 far below 2^-126. A NaN stays a NaN.
/// 2^x = 2^n * 2^f with n the nearest integer; 2^f on [-1/2, 1/2] is a minimax polynomial that is exact at 0,
/// or (half) the minimax cubic. kFinite: x is not -infinity, which saves a bound.
template <Precision kPrecision = Precision::single, bool kFinite = false>
inline vec exp2(vec x) {
#if defined(__AVX512F__)
  const vec bounded = kFinite ? x : max(splat(-200.0f), x);
  const vec n = _mm512_maskz_roundscale_ps(kAll, bounded, 0);
  const vec f = bounded - n;
#else
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const vec bounded = max(splat(-126.0f), x);
  const vec shifted = bounded + kRound;
  const vec f = bounded - (shifted - kRound);
#endif
  vec y;
  if constexpr (kPrecision == Precision::half) {
    y = f * 0.05517167232574868f + 0.24261112235098292f;
    y = y * f + 0.6932609846920404f;
    y = y * f + 0.9999280735724707f;
  } else {
    y = f * 0.0013264734941780716f + 0.009671515343416422f;
    y = y * f + 0.055507337496110094f;
    y = y * f + 0.24022242044231848f;
    y = y * f + 0.6931469775789201f;
    y = y * f + 1.0f;
  }
#if defined(__AVX512F__)
  return _mm512_maskz_scalef_ps(kAll, y, n);
#else
  const ivec exponent = reinterpret_cast<ivec>(shifted) << 23;
  const vec scaled = reinterpret_cast<vec>(reinterpret_cast<ivec>(y) + exponent);
  return x >= -126.0f ? scaled : (x < -126.0f ? vec{} : x);
#endif
}

/// tanh x, relative error below 3e-7: an odd polynomial near 0, elsewhere 1 - 2 / (e^2|x| + 1).
inline vec tanh(vec x) {
  const vec magnitude = x < 0.0f ? -x : x;
  const vec bounded = magnitude > 20.0f ? splat(20.0f) : magnitude;
  const vec z = x * x;
  vec p = z * -0.006269119679927826f + 0.021110959351062775f;
  p = p * z + -0.053873948752880096f;
  p = p * z + 0.13332915306091309f;
  p = p * z + -0.3333333134651184f;
  const vec near = x + x * z * p;
  const vec positive = 1.0f - 2.0f / (exp2(bounded * 2.8853900817779268f) + 1.0f);
  const vec far = x < 0.0f ? -positive : positive;
  return magnitude < 0.6f ? near : far;
}

/// The upper and lower halves of the 64-bit products of unsigned lanes.
struct Product {
  uvec high, low;
};
inline Product multiply_wide(uvec a, u32 b) {
  typedef std::uint64_t wide __attribute__((vector_size(kLanes * 4)));
  const wide x = reinterpret_cast<wide>(a);
#if defined(__AVX512F__)
  const auto factor = _mm512_set1_epi64(b);
  const wide even =
      reinterpret_cast<wide>(_mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(x), factor));
  const wide odd =
      reinterpret_cast<wide>(_mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(x >> 32), factor));
#elif defined(__AVX2__)
  const auto factor = _mm256_set1_epi64x(b);
  const wide even = reinterpret_cast<wide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(x), factor));
  const wide odd = reinterpret_cast<wide>(_mm256_mul_epu32(reinterpret_cast<__m256i>(x >> 32), factor));
#elif defined(__SSE2__)
  const auto factor = _mm_set1_epi64x(b);
  const wide even = reinterpret_cast<wide>(_mm_mul_epu32(reinterpret_cast<__m128i>(x), factor));
  const wide odd = reinterpret_cast<wide>(_mm_mul_epu32(reinterpret_cast<__m128i>(x >> 32), factor));
#else
  const wide even = (x & 0xffffffffu) * b;
  const wide odd = (x >> 32) * b;
#endif
  const wide high = (even >> 32) | (odd & 0xffffffff00000000u);
  const wide low = (even & 0xffffffffu) | (odd << 32);
  return {reinterpret_cast<uvec>(high), reinterpret_cast<uvec>(low)};
}

template <int... kIndex>
struct Indices {};
template <int kCount, int... kIndex>
struct CountTo : CountTo<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct CountTo<0, kIndex...> {
  using type = Indices<kIndex...>;
};
/// A number that is known while compiling.
template <int kValue>
struct Constant {
  constexpr operator int() const { return kValue; }
};
template <class Body, int... kIndex>
[[gnu::always_inline]] inline void unrolled(const Body& body, Indices<kIndex...>) {
  (body(Constant<kIndex>{}), ...);
}
/// body(Constant 0), body(Constant 1) ...: a loop that is no loop even to the first passes of the compiler,
/// which keep an array in registers only where every index is a number to them.
template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(const Body& body) {
  unrolled(body, typename CountTo<kCount>::type{});
}
#define RONDO_UNROLLED __attribute__((always_inline))

/// a0 b0 a1 b1 ... of the lower (kHalf = 0) or upper (1) halves of two vectors.
template <int kHalf, int... kIndex>
inline vec zip(vec a, vec b, Indices<kIndex...>) {
  return __builtin_shufflevector(a, b, (kIndex / 2 + kIndex % 2 * kLanes + kHalf * (kLanes / 2))...);
}

/// out[d][n] = in[n][d] for kLanes x kLanes words, each zipped with the one half the block away until every
/// word is home.
inline void transpose_square(const float* in, i64 in_stride, float* out, i64 out_stride) {
  using All = CountTo<kLanes>::type;
  vec row[kLanes], next[kLanes];
  for (int n = 0; n < kLanes; ++n) row[n] = load(in + n * in_stride);
  for (int width = 1; width < kLanes; width *= 2) {
    for (int n = 0; n < kLanes / 2; ++n) {
      next[2 * n] = zip<0>(row[n], row[n + kLanes / 2], All{});
      next[2 * n + 1] = zip<1>(row[n], row[n + kLanes / 2], All{});
    }
    for (int n = 0; n < kLanes; ++n) row[n] = next[n];
  }
  for (int n = 0; n < kLanes; ++n) store(out + n * out_stride, row[n]);
}
inline void transpose_square(const u32* in, i64 in_stride, u32* out, i64 out_stride) {
  transpose_square(reinterpret_cast<const float*>(in), in_stride, reinterpret_cast<float*>(out), out_stride);
}

/// `count` elements stored as float32 or bfloat16, widened to float32.
inline void widen(const void* source, bool is_bf16, i64 count, float* out) {
  if (!is_bf16) {
    const float* x = static_cast<const float*>(source);
    i64 n = 0;
    for (; n + kLanes <= count; n += kLanes) store(out + n, load(x + n));
    for (; n < count; ++n) out[n] = x[n];
    return;
  }
  const std::uint16_t* x = static_cast<const std::uint16_t*>(source);
  for (i64 n = 0; n < count; ++n) {
    const u32 bits = static_cast<u32>(x[n]) << 16;
    out[n] = __builtin_bit_cast(float, bits);
  }
}

}  // namespace rondo::kernels::RONDO_TIER
