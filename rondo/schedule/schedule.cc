#include "rondo/schedule/schedule.h"

#include <algorithm>
#include <span>

#include "rondo/core/error.h"
#include "rondo/schedule/tiles.h"

namespace rondo {

using namespace schedule;

namespace {

/// Which devices need which blocks: at [owner * devices + distance], distance = (device - owner) mod devices.
class Needs {
 public:
  explicit Needs(int devices)
      : devices_(devices), bits_(static_cast<std::size_t>(devices) * static_cast<std::size_t>(devices)) {}

  bool at(int owner, int distance) const { return bits_[index(owner, distance)] != 0; }
  bool has(int device, int owner) const { return at(owner, distance_of(device, owner)); }
  void set(int device, int owner) {
    char& bit = bits_[index(owner, distance_of(device, owner))];
    open_ -= bit == 0;
    bit = 1;
  }
  bool all_set() const { return open_ == 0; }

 private:
  int distance_of(int device, int owner) const { return (device - owner + devices_) % devices_; }
  std::size_t index(int owner, int distance) const {
    return static_cast<std::size_t>(owner) * static_cast<std::size_t>(devices_) +
           static_cast<std::size_t>(distance);
  }
  int devices_;
  std::vector<char> bits_;
  std::size_t open_ = bits_.size();
};

struct DeviceSegment {
  int device = 0;
  Segment segment;
};

/// All devices' pieces, to be asked what they have of a document in time proportional to the answer.
class PieceIndex {
 public:
  explicit PieceIndex(const std::vector<std::vector<Piece>>& pieces) {
    for (std::size_t r = 0; r < pieces.size(); ++r)
      for (const Piece& piece : pieces[r]) placed_.push_back({static_cast<int>(r), piece});
    std::sort(placed_.begin(), placed_.end(),
              [](const Placed& a, const Placed& b) { return a.piece.base < b.piece.base; });
  }

  void segments(std::int64_t document, Range tokens, std::vector<DeviceSegment>& found) const {
    found.clear();
    if (tokens.empty()) return;
    if (placed_.front().piece.stride == 1) {
      // Pieces follow each other: the first that ends behind the document's begin, and on to its end.
      auto at = std::partition_point(placed_.begin(), placed_.end(), [&](const Placed& placed) {
        return placed.piece.base + placed.piece.count <= tokens.begin;
      });
      for (; at != placed_.end() && at->piece.base < tokens.end; ++at)
        found.push_back({at->device, segment_of(at->piece, document, tokens)});
      return;
    }
    // Striped: the document's first tokens go round the devices, and bases are 0, 1, 2...
    const std::int64_t stride = placed_.front().piece.stride;
    for (std::int64_t n = 0; n < std::min(tokens.size(), stride); ++n) {
      const Placed& placed = placed_[static_cast<std::size_t>((tokens.begin + n) % stride)];
      found.push_back({placed.device, segment_of(placed.piece, document, tokens)});
    }
  }

 private:
  struct Placed {
    int device = 0;
    Piece piece;
  };
  std::vector<Placed> placed_;
};

/// On striped shards documents alike in begin (mod P) and length need the same blocks, and of a long one the
/// first 2P tokens tell all: a visible pair moves to the first k of its residue and the nearest q of its own.
/// Skips what was seen.
class StripedDocuments {
 public:
  explicit StripedDocuments(std::int64_t stride)
      : stride_(stride), seen_(static_cast<std::size_t>(stride * (2 * stride + 1))) {}

  /// The part of the document that has to be looked at.
  Range next(Range tokens) {
    const std::int64_t size = std::min(tokens.size(), 2 * stride_);
    const auto kind = static_cast<std::size_t>(tokens.begin % stride_ * (2 * stride_ + 1) + size);
    if (seen_[kind]) return {};
    seen_[kind] = true;
    return {tokens.begin, tokens.begin + size};
  }

 private:
  std::int64_t stride_;
  std::vector<bool> seen_;
};

Needs find_needs(const SequencePlan& plan, const std::vector<std::vector<Piece>>& pieces,
                 const Documents& documents, const Differences& allowed) {
  Needs needs(plan.devices);
  const PieceIndex index(pieces);
  const bool striped = plan.layout == Layout::striped;
  StripedDocuments kinds(striped ? plan.devices : 0);
  std::vector<DeviceSegment> found;
  for (std::int64_t n = 0; n < documents.count() && !needs.all_set(); ++n) {
    index.segments(n, striped ? kinds.next(documents[n]) : documents[n], found);
    for (const DeviceSegment& q : found)
      for (const DeviceSegment& k : found)
        if (!needs.has(q.device, k.device) && any_pair(q.segment, k.segment, allowed))
          needs.set(q.device, k.device);
  }
  return needs;
}

/// The fewest hops that bring a block to all who need it: everything but the ring's largest gap. Of equals
/// the one that goes least up. A block never passes a device twice, as down + up < devices.
Schedule::Reach find_reach(const Needs& needs, int devices, int owner) {
  std::vector<int> distances{0};
  for (int distance = 1; distance < devices; ++distance)
    if (needs.at(owner, distance)) distances.push_back(distance);
  Schedule::Reach best{distances.back(), 0};
  for (std::size_t n = distances.size() - 1; n-- > 0;) {
    const Schedule::Reach reach{distances[n], devices - distances[n + 1]};
    if (reach.down + reach.up < best.down + best.up) best = reach;
  }
  return best;
}

/// Device `hops` steps from `device` against the direction: whose block is there after so many hops.
int source(const Schedule& schedule, Direction direction, int hops) {
  const int back = direction == Direction::down ? schedule.devices - hops : hops;
  return (schedule.device + back) % schedule.devices;
}

/// The block that makes hop `hop` from (sent) or to (received) this device, or -1.
int block_on_hop(const Schedule& schedule, Direction direction, int hop, int travelled) {
  const int owner = source(schedule, direction, travelled);
  const Schedule::Reach& reach = schedule.reach[static_cast<std::size_t>(owner)];
  return (direction == Direction::down ? reach.down : reach.up) >= hop ? owner : -1;
}

void add_hops(Schedule& schedule) {
  for (int n = 1; n < schedule.devices; ++n)
    for (const Direction direction : {Direction::down, Direction::up}) {
      const Hop hop{.direction = direction,
                    .distance = n,
                    .send_block = block_on_hop(schedule, direction, n, n - 1),
                    .receive_block = block_on_hop(schedule, direction, n, n)};
      if (hop.send_block >= 0 || hop.receive_block >= 0) schedule.hops.push_back(hop);
    }
}

/// A step for each block that arrives, needed or only passing through.
void add_arrivals(Schedule& schedule) {
  for (const Hop& hop : schedule.hops)
    if (hop.receive_block >= 0)
      schedule.steps.push_back(
          {.kv = {hop.receive_block}, .arrives = hop.direction, .distance = hop.distance});
}

void add_global_block(Schedule& schedule, const ShardSegments& own, const Documents& documents,
                      const Mask& mask) {
  const std::vector<Segment> global = global_segments(documents, mask);
  if (global.empty()) return;
  schedule.steps.push_back({.kv = {BlockId::global_tokens},
                            .arrives = Direction::none,
                            .distance = 0,
                            .tiles = global_tiles(own, global, documents, mask)});
  for (const Segment& segment : global)
    for (std::int64_t n = 0; n < segment.local.size(); ++n)
      schedule.global_tokens.push_back(segment.global + n);
  for (const Piece& piece : schedule.pieces)
    for (const Segment& segment : global) {
      const Range tokens{segment.global, segment.global + segment.local.size()};
      const Segment mine = segment_of(piece, segment.document, tokens);
      for (std::int64_t n = 0; n < mine.local.size(); ++n)
        schedule.own_global_tokens.push_back(
            {mine.local.begin + n, segment.local.begin + mine.global + n * mine.stride - segment.global});
    }
}

void check_mask(const Mask& mask) {
  check_argument(mask.window >= 0, "make_schedule", "expected window >= 0 (0: none), got {}", mask.window);
  check_argument(mask.first_k >= 0, "make_schedule", "expected first_k >= 0, got {}", mask.first_k);
}

}  // namespace

struct ScheduleMaker::Common {
  Common(const SequencePlan& sequence, const Mask& mask)
      : plan(sequence),
        pieces(all_pieces(plan)),
        documents(plan),
        effective(effective_mask(mask, documents.longest())),
        allowed(near_differences(effective)),
        needs(find_needs(plan, pieces, documents, allowed)) {
    for (int owner = 0; owner < plan.devices; ++owner)
      reach.push_back(find_reach(needs, plan.devices, owner));
  }
  ShardSegments segments(int device) const {
    return shard_segments(pieces[static_cast<std::size_t>(device)], documents);
  }

  SequencePlan plan;
  std::vector<std::vector<Piece>> pieces;
  Documents documents;
  Mask effective;
  Differences allowed;
  Needs needs;
  std::vector<Schedule::Reach> reach;
};

ScheduleMaker::ScheduleMaker(const SequencePlan& plan, const Mask& mask) {
  check_plan("make_schedule", plan);
  check_mask(mask);
  common_ = std::make_unique<const Common>(plan, mask);
}

ScheduleMaker::~ScheduleMaker() = default;

Schedule ScheduleMaker::make(int device) const {
  const Common& all = *common_;
  check_device("make_schedule", all.plan, device);
  const ShardSegments own = all.segments(device);
  Schedule schedule{.device = device,
                    .devices = all.plan.devices,
                    .pieces = all.pieces[static_cast<std::size_t>(device)],
                    .reach = all.reach};
  add_hops(schedule);
  schedule.steps.push_back({.kv = {device}, .arrives = Direction::none, .distance = 0});
  add_global_block(schedule, own, all.documents, all.effective);
  add_arrivals(schedule);
  for (Step& step : schedule.steps)
    if (!step.kv.is_global() && all.needs.has(device, step.kv.owner))
      step.tiles = block_tiles(own, all.segments(step.kv.owner), all.documents, all.allowed);
  return schedule;
}

Schedule make_schedule(const SequencePlan& plan, const Mask& mask, int device) {
  check_plan("make_schedule", plan);
  check_mask(mask);
  check_device("make_schedule", plan, device);
  return ScheduleMaker(plan, mask).make(device);
}

const Step* Schedule::global_step() const {
  for (const Step& step : steps)
    if (step.kv.is_global()) return &step;
  return nullptr;
}

namespace {

/// Whether no pair of the tile is in its band.
bool is_empty(const Tile& tile) {
  return tile.band.hi < 1 - tile.q.size() || tile.band.lo > tile.k.size() - 1;
}

}  // namespace

std::vector<Tile> tiles_on_keys(const std::vector<Tile>& tiles, Range keys) {
  std::vector<Tile> on_keys;
  for (Tile tile : tiles) {
    const Range seen{std::max(tile.k.begin, keys.begin), std::min(tile.k.end, keys.end)};
    if (seen.begin >= seen.end) continue;
    const std::int64_t skipped = seen.begin - tile.k.begin;
    if (tile.band.lo != -Band::unbounded) tile.band.lo -= skipped;
    if (tile.band.hi != Band::unbounded) tile.band.hi -= skipped;
    tile.k_position += skipped * tile.stride;
    tile.k = {seen.begin - keys.begin, seen.end - keys.begin};
    if (!is_empty(tile)) on_keys.push_back(tile);
  }
  return on_keys;
}

std::vector<Tile> tiles_on_queries(const std::vector<Tile>& tiles, Range queries) {
  std::vector<Tile> on_queries;
  for (Tile tile : tiles) {
    const Range seeing{std::max(tile.q.begin, queries.begin), std::min(tile.q.end, queries.end)};
    if (seeing.begin >= seeing.end) continue;
    const std::int64_t skipped = seeing.begin - tile.q.begin;
    if (tile.band.lo != -Band::unbounded) tile.band.lo += skipped;
    if (tile.band.hi != Band::unbounded) tile.band.hi += skipped;
    tile.q_position += skipped * tile.stride;
    tile.q = {seeing.begin - queries.begin, seeing.end - queries.begin};
    if (!is_empty(tile)) on_queries.push_back(tile);
  }
  return on_queries;
}

}  // namespace rondo
