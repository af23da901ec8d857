#pragma once
// What forward and backward share: which part of a key block a query tile sees, packing, the mask and the
// dropout generator.

#include "rondo/kernels/cpu/element.tier.h"

namespace rondo::kernels::RONDO_TIER {

inline constexpr i64 kTile = kQueryTile;
inline constexpr float kLog2E = 1.4426950408889634f;

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }
inline i64 most(i64 a, i64 b) { return a > b ? a : b; }
inline i64 round_up(i64 count, i64 multiple) { return (count + multiple - 1) / multiple * multiple; }

/// Some queries of a head against some keys of a tile.
struct Extent {
  i64 q_begin = 0, q_end = 0;  ///< tokens
  i64 k_begin = 0, k_end = 0;  ///< counted from the tile's corner
  bool empty() const { return q_begin >= q_end || k_begin >= k_end; }
};

/// The smallest rectangle around what the queries and keys of `within` may see of each other in `box`.
inline Extent visible_extent(const TileBox& box, const Extent& within) {
  Extent e = within;
  e.q_begin = most(e.q_begin, box.q_begin);
  e.q_end = least(e.q_end, box.q_end);
  e.k_end = least(e.k_end, box.k_end - box.k_begin);
  if (e.empty()) return e;
  e.k_begin = most(e.k_begin, e.q_begin - box.q_begin + box.lo);
  e.k_end = least(e.k_end, e.q_end - box.q_begin + box.hi);
  if (e.empty()) return e;
  e.q_begin = most(e.q_begin, box.q_begin + e.k_begin - box.hi);
  e.q_end = least(e.q_end, box.q_begin + e.k_end - box.lo);
  return e;
}

/// A visible extent inside one query tile, in lanes and rows of scores.
struct Part {
  i64 lane_begin, lane_end;       ///< whole vectors
  i64 k_begin, keys;              ///< counted from the tile's corner
  bool masked;                    ///< whether some of these lanes do not see some of these keys
  i32 first[kTile], last[kTile];  ///< the rows each lane sees, when masked
};

/// `extent` must not be empty and must lie within the query tile that begins at token `origin`.
inline void make_part(const TileBox& box, const Extent& extent, i64 origin, Part& part) {
  part.lane_begin = (extent.q_begin - origin) / kLanes * kLanes;
  part.lane_end = round_up(extent.q_end - origin, kLanes);
  part.k_begin = extent.k_begin;
  part.keys = extent.k_end - extent.k_begin;
  const i64 i_first = extent.q_begin - box.q_begin, i_last = extent.q_end - 1 - box.q_begin;
  part.masked = part.lane_begin != extent.q_begin - origin || part.lane_end != extent.q_end - origin ||
                extent.k_end - 1 - i_first > box.hi || extent.k_begin - i_last < box.lo;
  if (!part.masked) return;
  for (i64 lane = part.lane_begin; lane < part.lane_end; ++lane) {
    const i64 token = origin + lane, i = token - box.q_begin;
    const bool inside = token >= extent.q_begin && token < extent.q_end;
    part.first[lane] = inside ? static_cast<i32>(most(0, least(part.keys, i + box.lo - part.k_begin))) : 1;
    part.last[lane] = inside ? static_cast<i32>(most(-1, least(part.keys, i + box.hi - part.k_begin))) : 0;
  }
}

/// Whether each of the lanes sees row j of the part; all bits of a lane that does.
inline ivec sees(const Part& part, i64 lane, i64 j) {
  const ivec row = splat(static_cast<i32>(j));
  return (row >= load(part.first + lane)) & (row <= load(part.last + lane));
}

/// out[c][r] = in[r][c]; words of either kind.
template <class word>
struct Transpose {
  const word* in;
  i64 in_stride, rows, columns;
  word* out;
  i64 out_stride;
};
template <class word>
inline void transpose(const Transpose<word>& t) {
  const i64 whole_rows = t.rows / kLanes * kLanes, whole_columns = t.columns / kLanes * kLanes;
  for (i64 c = 0; c < whole_columns; c += kLanes)
    for (i64 r = 0; r < whole_rows; r += kLanes)
      transpose_square(t.in + r * t.in_stride + c, t.in_stride, t.out + c * t.out_stride + r, t.out_stride);
  for (i64 c = 0; c < t.columns; ++c)
    for (i64 r = c < whole_columns ? whole_rows : 0; r < t.rows; ++r)
      t.out[c * t.out_stride + r] = t.in[r * t.in_stride + c];
}

/// What products of queries and keys are multiplied by to become scores in units of log 2, or tanh's
/// argument. Never negative: the sign goes with the queries (query_sign), so that the largest product is the
/// largest score.
inline float score_factor(const ScoreRule& rule) {
  const float scale = rule.scale < 0 ? -rule.scale : rule.scale;
  if (rule.softcap > 0) return scale / rule.softcap;
  return scale == 0 ? 1.0f
                    : scale * kLog2E;  // 0: the queries are 0 instead, since 0 * -infinity is no number
}

/// Transposes a packed query tile and gives it the sign of the scale.
template <class Element>
inline void transpose_queries(const ScoreRule& rule, const typename Element::word* in, i64 stride, i64 words,
                              typename Element::word* out) {
  transpose(Transpose<typename Element::word>{in, stride, kTile, words, out, kTile});
  if (rule.scale > 0) return;
  for (i64 n = 0; n < words * kTile; ++n) out[n] = rule.scale < 0 ? Element::negated(out[n]) : 0;
}

/// Where the generator's words for a part come from (core/random.h, dropout_bits).
struct DropoutLanes {
  u32 q_position[kTile];
  u32 head, sequence;
};
inline void make_dropout_lanes(const TileBox& box, u32 head, i64 origin, DropoutLanes& lanes) {
  lanes.head = head;
  lanes.sequence = box.sequence;
  for (i64 lane = 0; lane < kTile; ++lane)
    lanes.q_position[lane] = static_cast<u32>(box.q_position + (origin + lane - box.q_begin) * box.stride);
}
inline u32 k_position(const TileBox& box, i64 j) { return static_cast<u32>(box.k_position + j * box.stride); }

/// The first word of Philox4x32-10 with the counter (q_position, k_position, head, sequence), lane by lane.
inline uvec dropout_word(const DropoutRule& rule, const DropoutLanes& lanes, i64 lane, u32 key_position) {
  uvec c0 = load(lanes.q_position + lane), c1 = splat(key_position);
  uvec c2 = splat(lanes.head), c3 = splat(lanes.sequence);
  u32 key0 = rule.key0, key1 = rule.key1;
  for (int round = 0; round < 10; ++round) {
    const Product a = multiply_wide(c0, 0xD2511F53u), b = multiply_wide(c2, 0xCD9E8D57u);
    c0 = b.high ^ c1 ^ key0;
    c1 = b.low;
    c2 = a.high ^ c3 ^ key1;
    c3 = a.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c0;
}
/// All bits of the lanes whose probabilities dropout keeps.
inline uvec dropout_keeps(const DropoutRule& rule, const DropoutLanes& lanes, i64 lane, u32 key_position) {
  return reinterpret_cast<uvec>(dropout_word(rule, lanes, lane, key_position) >= rule.threshold);
}

/// Hands out the scratch of a task piece by piece, each on a cache line of its own.
struct Scratch {
  float* next;
  float* take(i64 count) {
    float* p = next;
    next += round_up(count, 16);
    return p;
  }
  template <class Element>
  typename Element::word* take_words(i64 count) {
    return reinterpret_cast<typename Element::word*>(take(count));
  }
};

}  // namespace rondo::kernels::RONDO_TIER
