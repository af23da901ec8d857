#pragma once
// Inner header of the room: tiles of queries x keys from segments. docs/schedule.md, "Bands".

#include <cstdint>
#include <optional>
#include <vector>

#include "rondo/schedule/layout.h"

namespace rondo::schedule {

/// Global differences q - k that are allowed: low <= q - k <= high.
struct Differences {
  std::int64_t low = -Band::unbounded, high = Band::unbounded;
};

/// A mask on documents of which the longest has `longest` tokens, without what cuts nothing there: a window
/// is kept only if some pair is hidden by it, first_k only beside a window. So the global block is in use
/// when first_k > 0.
Mask effective_mask(const Mask& mask, std::int64_t longest);

/// What the mask allows, less what is seen through the global block.
Differences near_differences(const Mask& mask);

/// Whether any pair of the two segments, of one document, is allowed.
bool any_pair(const Segment& q, const Segment& k, const Differences& allowed);

/// The allowed pairs of two segments of one document that begins at global token `start`, or nothing if there
/// are none. Strides must be equal unless the key segment is a single token.
std::optional<Tile> make_tile(const Segment& q, const Segment& k, const Differences& allowed,
                              std::int64_t start);

/// Segments of each piece of a device.
using ShardSegments = std::vector<std::vector<Segment>>;
ShardSegments shard_segments(const std::vector<Piece>& pieces, const Documents& documents);

/// Tiles of a shard's queries on a block that is another (or the same) shard.
std::vector<Tile> block_tiles(const ShardSegments& q, const ShardSegments& k, const Documents& documents,
                              const Differences& allowed);

/// The first tokens of each document longer than the window, in the order in which they stand in the global
/// block. A segment's `local` indexes the block.
std::vector<Segment> global_segments(const Documents& documents, const Mask& mask);

/// Tiles of a shard's queries on the global block: exactly the pairs that lie outside the window.
std::vector<Tile> global_tiles(const ShardSegments& q, const std::vector<Segment>& global,
                               const Documents& documents, const Mask& mask);

}  // namespace rondo::schedule
