#pragma once
// How the decode kernel reads rows of keys and values, register by register, and what it does within
// registers.

#include "rondo/kernels/cpu/vec.tier.h"

namespace rondo::kernels::RONDO_TIER {

/// Bytes that a register takes from memory, whatever they mean.
inline constexpr i64 kRegisterBytes = kLanes * 4;

/// Rows of float32. A unit is what one register reads.
struct FloatRows {
  using Unit = vec;
  static constexpr int kQuery = 1;    ///< registers of a packed query that meet a unit of keys
  static constexpr int kVectors = 1;  ///< vectors of sums that a unit of values adds to
  static constexpr int kKeys = 1;  ///< keys whose probabilities lie in a word and meet their values together
  using Values = Unit;
  static constexpr Precision kPrecision = Precision::single;  ///< of probabilities

  static Unit load_unit(const char* p) { return load_register(p); }
  static vec dot(vec sum, const float* q, Unit k) { return sum + load(q) * k; }
  static Values load_values(const char* p, i64) { return load_unit(p); }
  static vec add(vec sum, const float* p, Values v, int) { return sum + splat(*p) * v; }
  /// Where element e of a query or a sum lies within its row.
  static i64 place(i64 e) { return e; }
};

/// Rows of bfloat16, widened in registers: the even elements of a unit, then its odd ones. Queries and sums
/// are kept in that order.
struct HalfRows {
  using Unit = uvec;
  static constexpr int kQuery = 2;
  static constexpr int kVectors = 2;
  static constexpr int kKeys = 1;
  static constexpr Precision kPrecision = Precision::single;
  struct Values {
    vec part[2];
  };

  static vec even(Unit x) { return reinterpret_cast<vec>(x << 16); }
  static vec odd(Unit x) { return reinterpret_cast<vec>(x & 0xffff0000u); }
  static Unit load_unit(const char* p) { return reinterpret_cast<uvec>(load_register(p)); }
  static vec dot(vec sum, const float* q, Unit k) {
    return sum + load(q) * even(k) + load(q + kLanes) * odd(k);
  }
  static Values load_values(const char* p, i64) {
    const Unit x = load_unit(p);
    return {{even(x), odd(x)}};
  }
  static vec add(vec sum, const float* p, const Values& v, int part) {
    return sum + splat(*p) * v.part[part];
  }
  static i64 place(i64 e) {
    const i64 within = e % (2 * kLanes);
    return e - within + within % 2 * kLanes + within / 2;
  }
};

#if defined(__AVX512BF16__)
/// Rows of bfloat16 in dot products of pairs: of neighbours in a key and a query, and of one element in the
/// values of two keys.
struct PairRows {
  using Unit = uvec;
  static constexpr int kQuery = 1;
  static constexpr int kVectors = 2;
  static constexpr int kKeys = 2;
  static constexpr Precision kPrecision = Precision::half;
  struct Values {
    __m512i part[2];
  };

  static Unit load_unit(const char* p) { return reinterpret_cast<uvec>(load_register(p)); }
  static vec dot(vec sum, const float* q, Unit k) {
    return _mm512_dpbf16_ps(sum, (__m512bh)load(q), (__m512bh)k);
  }
  static Values load_values(const char* p, i64 stride) {
    const auto a = (__m512i)load_unit(p), b = (__m512i)load_unit(p + stride);
    return {{_mm512_maskz_unpacklo_epi16(~0u, a, b), _mm512_maskz_unpackhi_epi16(~0u, a, b)}};
  }
  static vec add(vec sum, const float* p, const Values& v, int part) {
    return _mm512_dpbf16_ps(sum, (__m512bh)splat(*p), (__m512bh)v.part[part]);
  }
  /// Of sums; queries lie as they are stored. Unpacking works on eight elements at a time.
  static i64 place(i64 e) {
    const i64 within = e % (2 * kLanes);
    return e - within + within % 8 / 4 * kLanes + within / 8 * 4 + within % 4;
  }
};
#endif

/// Where a lane of the result comes from: even blocks of kHalf lanes from a, odd ones from b, each the lower
/// or upper half of the source's next 2 * kHalf lanes.
template <int kHalf, int kUpper>
constexpr int half_lane(int lane) {
  const int block = lane / kHalf;
  return block % 2 * kLanes + block / 2 * 2 * kHalf + kUpper * kHalf + lane % kHalf;
}
template <int kHalf, int kUpper, int... kLane>
inline vec halves_of(vec a, vec b, Indices<kLane...>) {
  return __builtin_shufflevector(a, b, half_lane<kHalf, kUpper>(kLane)...);
}

/// Lane n of the result is the sum over the lanes of x[n], for kHalf = kLanes / 2.
template <int kHalf>
[[gnu::always_inline]] inline vec sums_of(const vec (&x)[2 * kHalf]) {
  using Lanes = typename CountTo<kLanes>::type;
  vec y[kHalf];
  unrolled<kHalf>([&](auto n) RONDO_UNROLLED {
    y[n] =
        halves_of<kHalf, 0>(x[n], x[n + kHalf], Lanes{}) + halves_of<kHalf, 1>(x[n], x[n + kHalf], Lanes{});
  });
  if constexpr (kHalf == 1) {
    return y[0];
  } else {
    return sums_of<kHalf / 2>(y);
  }
}

/// x and its halves of 2 * kHalf lanes changed places.
template <int kHalf, int... kLane>
inline vec swapped(vec x, Indices<kLane...>) {
  return __builtin_shufflevector(x, x, (kLane ^ kHalf)...);
}

/// In every lane, the largest of all lanes; b of max(a, b) wherever one is NaN.
template <int kHalf = kLanes / 2>
inline vec largest_lane(vec x) {
  const vec y = max(x, swapped<kHalf>(x, typename CountTo<kLanes>::type{}));
  if constexpr (kHalf == 1) {
    return y;
  } else {
    return largest_lane<kHalf / 2>(y);
  }
}
/// In every lane, the sum of all lanes.
template <int kHalf = kLanes / 2>
inline vec sum_of_lanes(vec x) {
  const vec y = x + swapped<kHalf>(x, typename CountTo<kLanes>::type{});
  if constexpr (kHalf == 1) {
    return y;
  } else {
    return sum_of_lanes<kHalf / 2>(y);
  }
}

}  // namespace rondo::kernels::RONDO_TIER
