#pragma once
// The two products of decoding, over one block of keys and one key/value head: scores of queries and keys,
// and probabilities times values. Both read the block once and ask for memory ahead at the same pace.

#include "rondo/kernels/cpu/decode_formats.tier.h"

namespace rondo::kernels::RONDO_TIER {

inline constexpr i64 kBlock = 16;  ///< keys of a block, whole vectors
static_assert(kBlock % kLanes == 0 && kDecodePiece % kBlock == 0);

/// Distances between rows of queries and of sums, and of scores, in float32: constant, so that they cost no
/// registers, and no powers of two, which would share a few sets of the first-level cache.
inline constexpr i64 kRowStride = 256 + 16, kScoreStride = kDecodePiece + 16;

/// Rows from which on turning the keys pays.
inline constexpr i64 kTurnedRows = 3;
/// Rows of turned keys, and of values, that are worked on together.
inline constexpr int kScoreRows = kRegisters / 8, kValueRows = kRegisters / 4;

/// A number that is known when compiling.
template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

/// Calls take(row, Count) for tiles of kMost rows and, for those left, of fewer.
template <int kMost, class Take>
inline void for_row_tiles(i64 rows, const Take& take) {
  i64 row = 0;
  for (; row + kMost <= rows; row += kMost) take(row, Count<kMost>{});
  if constexpr (kMost > 1) {
    for_row_tiles<kMost / 2>(rows - row, [&](i64 more, auto count) { take(row + more, count); });
  }
}
template <int kMost>
i64 row_tiles(i64 rows) {
  i64 tiles = 0;
  for_row_tiles<kMost>(rows, [&](i64, auto) { ++tiles; });
  return tiles;
}

// Memory that will be needed next is asked for a line at a time, with every line that is read here: many at
// once would bring the work to a halt while the processor waits for them.

/// Line by line in the order of memory; for work that meets its lines in some other order.
struct InOrder {
  const char* next;
  i64 step;
  void ask(const char*) {
    __builtin_prefetch(next, 0, 3);
    next += step;
  }
};
/// At a fixed distance from what is being read; for work that reads each line once.
struct AtDistance {
  i64 bytes;
  void ask(const char* p) const { __builtin_prefetch(p + bytes, 0, 3); }
};

/// Rows of a block of keys or values, whole registers each.
struct Block {
  const char* data;
  i64 stride;  ///< in bytes
  i64 units;   ///< registers of a row
};

/// Scores of one row: products along the keys, then the sums over the lanes of as many keys as there are
/// lanes.
template <class Format>
inline void score_row(const float* q, const Block& keys, float* scores, AtDistance ahead) {
  for (i64 j = 0; j < kBlock; j += kLanes) {
    vec sums[kLanes];
#pragma GCC unroll 4
    for (int first = 0; first < kLanes; first += 4) {
      const char* row = keys.data + (j + first) * keys.stride;
      vec sum[4] = {};
      for (i64 n = 0; n < keys.units; ++n) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const char* p = row + i * keys.stride + n * kRegisterBytes;
          ahead.ask(p);
          sum[i] = Format::dot(sum[i], q + n * Format::kQuery * kLanes, Format::load_unit(p));
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[first + i] = sum[i];
    }
    store(scores + j, sums_of<kLanes / 2>(sums));
  }
}

/// kLanes keys so that a register holds the same 16 bytes of several keys, and products need only be summed
/// over the four lanes of a quad: register [n][group] is quad n of the keys group, group + 4, group + 8, ...
inline void turn_keys(const Block& keys, i64 first, float* turned) {
  for (i64 n = 0; n < keys.units; ++n) {
    for (int group = 0; group < 4; ++group) {
      const char* row = keys.data + (first + group) * keys.stride + n * kRegisterBytes;
      vec x[kQuads];
#pragma GCC unroll 4
      for (int i = 0; i < kQuads; ++i) x[i] = load_register(row + 4 * i * keys.stride);
      turn_quads(x);
#pragma GCC unroll 4
      for (int i = 0; i < kQuads; ++i) store(turned + ((n * kQuads + i) * 4 + group) * kLanes, x[i]);
    }
  }
}

/// Scores of kRows rows against kLanes turned keys.
template <class Format, int kRows>
inline void score_rows(const float* q, const float* turned, i64 quads, float* scores, InOrder& ahead_of) {
  InOrder ahead = ahead_of;
  vec sum[kRows][4] = {};
  for (i64 n = 0; n < quads; ++n) {
    typename Format::Unit unit[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const auto* p = reinterpret_cast<const char*>(turned + (n * 4 + i) * kLanes);
      ahead.ask(p);
      unit[i] = Format::load_unit(p);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i)
        sum[r][i] = Format::dot_quads(sum[r][i], q + r * kRowStride + n * Format::kQuery * 4, unit[i]);
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) store(scores + r * kScoreStride, sums_of<2>(sum[r]));
  ahead_of = ahead;
}

/// scores[row][kBlock] = q[row] · keys.
template <class Format>
void score_single(const float* q, i64 rows, const Block& keys, float* scores, const AtDistance& ahead) {
  for (i64 row = 0; row < rows; ++row)
    score_row<Format>(q + row * kRowStride, keys, scores + row * kScoreStride, ahead);
}
/// The same for many rows; `turned` is memory for kLanes keys.
template <class Format>
void score_turned(const float* q, i64 rows, const Block& keys, float* turned, float* scores, InOrder ahead) {
  for (i64 j = 0; j < kBlock; j += kLanes) {
    turn_keys(keys, j, turned);
    for_row_tiles<kScoreRows>(rows, [&](i64 row, auto count) {
      score_rows<Format, count.value>(q + row * kRowStride, turned, keys.units * kQuads,
                                      scores + row * kScoreStride + j, ahead);
    });
  }
}

/// out += p · values for kRows rows and kUnits registers of each value, from `first` on.
template <class Format, int kRows, int kUnits, class Ahead>
inline void add_values(const float* p, const Block& values, i64 first, float* out, Ahead& ahead_of) {
  constexpr int kVectors = Format::kVectors;
  Ahead ahead = ahead_of;
  const char* row = values.data + first * kRegisterBytes;
  float* to = out + first * kVectors * kLanes;
  vec sum[kRows][kUnits * kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < kUnits * kVectors; ++n) sum[r][n] = load(to + r * kRowStride + n * kLanes);
#pragma GCC unroll 2
  for (i64 j = 0; j < kBlock; j += Format::kKeys, row += Format::kKeys * values.stride, ++p) {
#pragma GCC unroll 4
    for (int n = 0; n < kUnits; ++n) {
#pragma GCC unroll 2
      for (int key = 0; key < Format::kKeys; ++key) ahead.ask(row + key * values.stride + n * kRegisterBytes);
      const typename Format::Values value = Format::load_values(row + n * kRegisterBytes, values.stride);
#pragma GCC unroll 2
      for (int part = 0; part < kVectors; ++part) {
        const int at = n * kVectors + part;
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r)
          sum[r][at] = Format::add(sum[r][at], p + r * kScoreStride, value, part);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 8
    for (int n = 0; n < kUnits * kVectors; ++n) store(to + r * kRowStride + n * kLanes, sum[r][n]);
  ahead_of = ahead;
}

/// out[row] += p[row][kBlock] · values, p as the format reads probabilities.
template <class Format, class Ahead>
void value_block(const float* p, i64 rows, const Block& values, float* out, Ahead ahead) {
  for_row_tiles<kValueRows>(rows, [&](i64 row, auto count) {
    constexpr int kRows = count.value, kMost = kRegisters / 2 / (kRows * Format::kVectors);
    constexpr int kUnits = kMost > 4 ? 4 : kMost;
    const float* from = p + row * kScoreStride;
    float* to = out + row * kRowStride;
    i64 unit = 0;
    for (; unit + kUnits <= values.units; unit += kUnits)
      add_values<Format, kRows, kUnits>(from, values, unit, to, ahead);
    for (; unit < values.units; ++unit) add_values<Format, kRows, 1>(from, values, unit, to, ahead);
  });
}

}  // namespace rondo::kernels::RONDO_TIER
