#pragma once
// The two products of decoding, over one block of keys and one key/value head: scores of queries and keys,
// and probabilities times values. Both read the block once and ask for memory ahead at the same pace.

#include "rondo/kernels/cpu/decode_formats.tier.h"

namespace rondo::kernels::RONDO_TIER {

/// Distances between rows of queries and of sums, and of scores, in float32: constant, so that they cost no
/// registers, and no powers of two, which would share a few sets of the first-level cache.
inline constexpr i64 kRowStride = 256 + 16, kScoreStride = kDecodePiece + 16;

/// Rows whose scores of a block of kTokens keys fill one vector, and rows of values that are worked on
/// together.
template <int kTokens>
inline constexpr int kScoreRows = kLanes / kTokens;
inline constexpr int kValueRows = kRegisters / 4;

/// Calls take(row, Constant) for tiles of kMost rows and, for those left, of fewer.
template <int kMost, class Take>
inline void for_row_tiles(i64 rows, const Take& take) {
  i64 row = 0;
  for (; row + kMost <= rows; row += kMost) take(row, Constant<kMost>{});
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

/// Memory that will be needed next, asked for a line at a time, with every line that is read here: many at
/// once would bring the work to a halt while the processor waits for them.
struct InOrder {
  const char* next;
  i64 step;
  void ask() {
    __builtin_prefetch(next, 0, 3);
    next += step;
  }
};

/// Rows of a block of keys or values, whole registers each.
struct Block {
  const char* data;
  i64 stride;  ///< in bytes
  i64 units;   ///< registers of a row
};

/// scores[row][kTokens] of kRows rows for each of kHeads heads, whose keys lie `head_bytes` apart: products
/// along the keys, then the sums over the lanes of all of them at once.
template <class Format, int kTokens, int kRows, int kHeads>
[[gnu::noinline]] void score_rows(const float* q, const Block& keys, i64 head_bytes, float* scores,
                                  InOrder& ahead_of) {
  static_assert(kRows * kHeads <= kScoreRows<kTokens>);
  InOrder ahead = ahead_of;
  vec sum[kLanes];
  unrolled<kLanes>([&](auto n) RONDO_UNROLLED { sum[n] = vec{}; });
  for (i64 n = 0; n < keys.units; ++n) {
    const char* unit = keys.data + n * kRegisterBytes;
    const float* part = q + n * Format::kQuery * kLanes;
    unrolled<kHeads>([&](auto head) RONDO_UNROLLED {
      typename Format::Unit key[kTokens];
      unrolled<kTokens>([&](auto j) RONDO_UNROLLED {
        ahead.ask();
        key[j] = Format::load_unit(unit + j * keys.stride);
      });
      unrolled<kRows>([&](auto r) RONDO_UNROLLED {
        constexpr int row = head * kRows + r;
        unrolled<kTokens>([&](auto j) RONDO_UNROLLED {
          sum[row * kTokens + j] = Format::dot(sum[row * kTokens + j], part + row * kRowStride, key[j]);
        });
      });
      unit += head_bytes;
    });
  }
  float lanes[kLanes];
  store(lanes, sums_of<kLanes / 2>(sum));
  unrolled<kRows * kHeads>([&](auto row) RONDO_UNROLLED {
    __builtin_memcpy(scores + row * kScoreStride, lanes + row * kTokens, kTokens * sizeof(float));
  });
  ahead_of = ahead;
}

/// out += p · values for kRows rows and kUnits registers of each value, from `first` on.
template <class Format, int kTokens, int kRows, int kUnits>
[[gnu::noinline]] void add_values(const float* p, const Block& values, i64 first, float* out,
                                  InOrder& ahead_of) {
  constexpr int kVectors = Format::kVectors;
  InOrder ahead = ahead_of;
  const char* row = values.data + first * kRegisterBytes;
  float* to = out + first * kVectors * kLanes;
  vec sum[kRows * kUnits * kVectors];
  const auto each_sum = [&](const auto& body) RONDO_UNROLLED {
    unrolled<kRows>([&](auto r) RONDO_UNROLLED {
      unrolled<kUnits * kVectors>([&](auto n) RONDO_UNROLLED {
        body(sum[r * kUnits * kVectors + n], to + r * kRowStride + n * kLanes);
      });
    });
  };
  each_sum([](vec& x, const float* from) RONDO_UNROLLED { x = load(from); });
#pragma GCC unroll 2
  for (i64 j = 0; j < kTokens; j += Format::kKeys, row += Format::kKeys * values.stride, ++p) {
    unrolled<kUnits>([&](auto n) RONDO_UNROLLED {
      for (int key = 0; key < Format::kKeys; ++key) ahead.ask();
      const typename Format::Values value = Format::load_values(row + n * kRegisterBytes, values.stride);
      unrolled<kVectors>([&](auto part) RONDO_UNROLLED {
        unrolled<kRows>([&](auto r) RONDO_UNROLLED {
          vec& x = sum[r * kUnits * kVectors + n * kVectors + part];
          x = Format::add(x, p + r * kScoreStride, value, part);
        });
      });
    });
  }
  each_sum([](vec& x, float* at) RONDO_UNROLLED { store(at, x); });
  ahead_of = ahead;
}

/// out[row] += p[row][kTokens] · values, p as the format reads probabilities.
template <class Format, int kTokens>
void value_block(const float* p, i64 rows, const Block& values, float* out, InOrder ahead) {
  for_row_tiles<kValueRows>(rows, [&](i64 row, auto count) {
    constexpr int kRows = count, kMost = kRegisters / 2 / (kRows * Format::kVectors);
    constexpr int kUnits = kMost > 4 ? 4 : kMost;
    const float* from = p + row * kScoreStride;
    float* to = out + row * kRowStride;
    i64 unit = 0;
    for (; unit + kUnits <= values.units; unit += kUnits)
      add_values<Format, kTokens, kRows, kUnits>(from, values, unit, to, ahead);
    for (; unit < values.units; ++unit) add_values<Format, kTokens, kRows, 1>(from, values, unit, to, ahead);
  });
}

}  // namespace rondo::kernels::RONDO_TIER
