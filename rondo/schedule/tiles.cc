#include "rondo/schedule/tiles.h"

#include <algorithm>

namespace rondo {

using namespace schedule;

namespace {

/// Pairs of a rows x columns rectangle with column - row <= difference.
std::int64_t pairs_up_to(std::int64_t rows, std::int64_t columns, std::int64_t difference) {
  if (difference >= columns - 1) return rows * columns;
  if (difference <= -rows) return 0;
  // Row i has min(i + difference + 1, columns) such columns, if that is positive: an arithmetic series, then
  // full rows.
  const std::int64_t first = std::max<std::int64_t>(0, -difference);
  const std::int64_t full =
      std::clamp(columns - difference - 1, first, rows);  // first row that has all columns
  const std::int64_t low = first + difference + 1,
                     high = full + difference;  // columns of rows first and full - 1
  return (full - first) * (low + high) / 2 + (rows - full) * columns;
}

}  // namespace

std::int64_t count_pairs(const std::vector<Tile>& tiles) {
  std::int64_t pairs = 0;
  for (const Tile& tile : tiles) {
    if (tile.q.empty() || tile.k.empty() || tile.band.lo > tile.band.hi) continue;
    pairs += pairs_up_to(tile.q.size(), tile.k.size(), tile.band.hi) -
             pairs_up_to(tile.q.size(), tile.k.size(), tile.band.lo - 1);
  }
  return pairs;
}

std::int64_t count_pairs(const Schedule& schedule) {
  std::int64_t pairs = 0;
  for (const Step& step : schedule.steps) pairs += count_pairs(step.tiles);
  return pairs;
}

namespace schedule {
namespace {

/// Column - row = j - i of a tile whose corner has q - k = d: q - k there is d - stride * (j - i).
Band band_of(std::int64_t d, std::int64_t stride, const Differences& allowed) {
  Band band;
  if (allowed.high < Band::unbounded) band.lo = ceil_div(d - allowed.high, stride);
  if (allowed.low > -Band::unbounded) band.hi = floor_div(d - allowed.low, stride);
  return band;
}

/// Calls visit(q segment, k segment) for segments of one document of two lists that are sorted by document.
template <class Visit>
void join(const std::vector<Segment>& q, const std::vector<Segment>& k, const Visit& visit) {
  for (auto a = q.begin(), b = k.begin(); a != q.end() && b != k.end();) {
    if (a->document == b->document) visit(*a, *b);
    const bool move_q = a->document <= b->document, move_k = b->document <= a->document;
    a += move_q;
    b += move_k;
  }
}

}  // namespace

Mask effective_mask(const Mask& mask, std::int64_t longest) {
  Mask effective = mask;
  // Hidden pairs of a document of n tokens: keys first_k <= p < n - window from its last token; if not causal
  // also keys max(first_k, window) <= p < n from its first.
  const bool hides = mask.window > 0 && mask.window < longest &&
                     mask.first_k < (mask.causal ? longest - mask.window : longest);
  if (!hides) effective.window = 0;
  if (effective.window == 0) effective.first_k = 0;
  return effective;
}

Differences near_differences(const Mask& mask) {
  Differences allowed;
  if (mask.window > 0) allowed = {-(mask.window - 1), mask.window - 1};
  if (mask.causal) allowed.low = 0;
  return allowed;
}

bool any_pair(const Segment& q, const Segment& k, const Differences& allowed) {
  const Band band = band_of(q.global - k.global, q.stride, allowed);
  return std::max(band.lo, 1 - q.local.size()) <= std::min(band.hi, k.local.size() - 1);
}

std::optional<Tile> make_tile(const Segment& q, const Segment& k, const Differences& allowed,
                              std::int64_t start) {
  if (!any_pair(q, k, allowed)) return std::nullopt;
  const Band band = band_of(q.global - k.global, q.stride, allowed);
  const std::int64_t rows = q.local.size(), columns = k.local.size();
  // Rows that see a key and keys that are seen by a row.
  const Range i{std::max<std::int64_t>(0, -band.hi), std::min(rows, columns - band.lo)};
  const Range j{std::max<std::int64_t>(0, band.lo), std::min(columns, rows + band.hi)};
  Tile tile{.q = {q.local.begin + i.begin, q.local.begin + i.end},
            .k = {k.local.begin + j.begin, k.local.begin + j.end},
            .band = {},
            .q_position = q.global + i.begin * q.stride - start,
            .k_position = k.global + j.begin * k.stride - start,
            .stride = q.stride,
            .sequence = q.document};
  const std::int64_t moved = j.begin - i.begin;
  // A bound that cuts nothing off is left away: kernels then know that there is no mask.
  if (band.lo - moved > 1 - tile.q.size()) tile.band.lo = band.lo - moved;
  if (band.hi - moved < tile.k.size() - 1) tile.band.hi = band.hi - moved;
  return tile;
}

ShardSegments shard_segments(const std::vector<Piece>& pieces, const Documents& documents) {
  ShardSegments segments;
  for (const Piece& piece : pieces) segments.push_back(segments_of(piece, documents));
  return segments;
}

std::vector<Tile> block_tiles(const ShardSegments& q, const ShardSegments& k, const Documents& documents,
                              const Differences& allowed) {
  std::vector<Tile> tiles;
  for (const auto& q_segments : q)
    for (const auto& k_segments : k)
      join(q_segments, k_segments, [&](const Segment& a, const Segment& b) {
        if (const auto tile = make_tile(a, b, allowed, documents[a.document].begin)) tiles.push_back(*tile);
      });
  return tiles;
}

std::vector<Segment> global_segments(const Documents& documents, const Mask& mask) {
  std::vector<Segment> segments;
  if (mask.first_k == 0) return segments;
  std::int64_t at = 0;
  for (std::int64_t n = 0; n < documents.count(); ++n) {
    const Range tokens = documents[n];
    if (tokens.size() <= mask.window) continue;
    const std::int64_t count = std::min(mask.first_k, tokens.size());
    segments.push_back({.document = n, .local = {at, at + count}, .global = tokens.begin, .stride = 1});
    at += count;
  }
  return segments;
}

std::vector<Tile> global_tiles(const ShardSegments& q, const std::vector<Segment>& global,
                               const Documents& documents, const Mask& mask) {
  std::vector<Tile> tiles;
  const Differences later{mask.window, Band::unbounded}, earlier{-Band::unbounded, -mask.window};
  const auto add = [&](const Segment& a, const Segment& b) {
    const std::int64_t start = documents[a.document].begin;
    if (const auto tile = make_tile(a, b, later, start)) tiles.push_back(*tile);
    if (mask.causal) return;
    if (const auto tile = make_tile(a, b, earlier, start)) tiles.push_back(*tile);
  };
  for (const auto& q_segments : q)
    join(q_segments, global, [&](const Segment& a, const Segment& b) {
      if (a.stride == b.stride) return add(a, b);
      // Strides differ: no band fits, but the queries that see one key are a run of a's tokens.
      for (std::int64_t n = 0; n < b.local.size(); ++n) {
        const std::int64_t at = b.local.begin + n;
        add(a, {.document = b.document, .local = {at, at + 1}, .global = b.global + n, .stride = a.stride});
      }
    });
  return tiles;
}

}  // namespace schedule
}  // namespace rondo
