#pragma once
// The one mask form of every kernel: a rectangle of queries × keys and a band of allowed differences.

#include <cstdint>
#include <limits>

#include "rondo/core/tensor.h"

namespace rondo {

/// Query i sees key j when lo <= j - i <= hi, with i and j counted from the tile's own corner.
struct Band {
  static constexpr std::int64_t unbounded = std::numeric_limits<std::int64_t>::max() / 4;
  std::int64_t lo = -unbounded, hi = unbounded;

  constexpr bool allows(std::int64_t i, std::int64_t j) const { return lo <= j - i && j - i <= hi; }
  friend constexpr bool operator==(const Band&, const Band&) = default;
};

/// A rectangle of the local queries `q` and the keys `k` of one block. Positions are those of index 0 of each
/// range within its sequence (document); index n stands at position + n * stride. Only dropout reads them.
struct Tile {
  Range q, k;
  Band band{};
  std::int64_t q_position = 0, k_position = 0;
  std::int64_t stride = 1;
  std::int64_t sequence = 0;
  friend constexpr bool operator==(const Tile&, const Tile&) = default;
};

}  // namespace rondo
