#pragma once
// How the decode kernel reads rows of keys and values: register by register, straight from the cache.

#include "rondo/kernels/cpu/vec.tier.h"

namespace rondo::kernels::RONDO_TIER {

/// Bytes that a register takes from memory, whatever they mean.
inline constexpr i64 kRegisterBytes = kLanes * 4;

/// Rows of float32. A unit is what one register reads.
struct FloatRows {
  using Unit = vec;
  static constexpr int kVectors = 1;  ///< vectors of sums that a unit of values adds to
  static constexpr int kQuery = 1;    ///< registers of a packed query that meet a unit of keys

  static Unit load_unit(const char* p) { return load(reinterpret_cast<const float*>(p)); }
  static vec dot(vec sum, const float* q, Unit k) { return sum + load(q) * k; }
  static vec part(Unit v, int) { return v; }
};

/// Rows of bfloat16, widened in registers: its even elements, then its odd ones. Queries are packed and sums
/// are kept in that order.
struct HalfRows {
  using Unit = uvec;
  static constexpr int kVectors = 2;
  static constexpr int kQuery = 2;

  static Unit load_unit(const char* p) { return load(reinterpret_cast<const u32*>(p)); }
  static vec part(Unit v, int odd) { return reinterpret_cast<vec>(odd != 0 ? v & 0xffff0000u : v << 16); }
  static vec dot(vec sum, const float* q, Unit k) {
    return sum + load(q) * part(k, 0) + load(q + kLanes) * part(k, 1);
  }
};

#if defined(__AVX512BF16__)
/// Rows of bfloat16 whose keys meet queries of bfloat16 in dot products of pairs.
struct PairRows : HalfRows {
  static constexpr int kQuery = 1;
  static vec dot(vec sum, const float* q, Unit k) {
    return _mm512_dpbf16_ps(sum, (__m512bh)load(q), (__m512bh)k);
  }
};
#endif

template <int... kLane>
struct LaneList {};
template <int kCount, int... kLane>
struct LanesUpTo : LanesUpTo<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct LanesUpTo<0, kLane...> {
  using List = LaneList<kLane...>;
};

/// Where a lane of the result comes from: even blocks of kHalf lanes from a, odd ones from b, each the lower
/// or upper half of the source's next 2 * kHalf lanes.
template <int kHalf, int kUpper>
constexpr int half_lane(int lane) {
  const int block = lane / kHalf;
  return block % 2 * kLanes + block / 2 * 2 * kHalf + kUpper * kHalf + lane % kHalf;
}
template <int kHalf, int kUpper, int... kLane>
inline vec halves_of(vec a, vec b, LaneList<kLane...>) {
  return __builtin_shufflevector(a, b, half_lane<kHalf, kUpper>(kLane)...);
}

/// Lane n of the result is the sum over the lanes of x[n]; call it with kHalf = kLanes / 2.
template <int kHalf>
inline vec sums_of(const vec (&x)[2 * kHalf]) {
  using Lanes = typename LanesUpTo<kLanes>::List;
  vec y[kHalf];
  for (int n = 0; n < kHalf; ++n)
    y[n] =
        halves_of<kHalf, 0>(x[n], x[n + kHalf], Lanes{}) + halves_of<kHalf, 1>(x[n], x[n + kHalf], Lanes{});
  if constexpr (kHalf == 1) {
    return y[0];
  } else {
    return sums_of<kHalf / 2>(y);
  }
}

inline float largest_lane(vec x) {
  float lanes[kLanes], most = -kInfinity;
  store(lanes, x);
  for (int n = 0; n < kLanes; ++n) most = lanes[n] > most ? lanes[n] : most;
  return most;
}
inline float sum_of_lanes(vec x) {
  float lanes[kLanes], sum = 0;
  store(lanes, x);
  for (int n = 0; n < kLanes; ++n) sum += lanes[n];
  return sum;
}

}  // namespace rondo::kernels::RONDO_TIER
