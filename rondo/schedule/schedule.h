#pragma once
// Layouts -> steps -> tiles: pure integer functions, no tensors. The engine runs a schedule, the planner
// prices it, the tests count its pairs by brute force. docs/schedule.md has the derivations.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "rondo/core/tile.h"

namespace rondo {

/// Which token lives on which device.
enum class Layout { contiguous, striped, zigzag };
const char* name_of(Layout layout);
Layout parse_layout(std::string_view name);  ///< throws ArgumentError naming the layouts

/// A run of a shard's tokens: local indices [local, local + count) stand at global positions base + stride *
/// n.
struct Piece {
  std::int64_t base = 0, stride = 1, count = 0, local = 0;
  friend bool operator==(const Piece&, const Piece&) = default;
};

/// Visible = same document, and causal (if asked), and (in the window, or among the document's first k).
struct Mask {
  bool causal = true;
  std::int64_t window = 0;   ///< causal: 0 <= q - k < window; not causal: |q - k| < window; 0: no window
  std::int64_t first_k = 0;  ///< these first tokens of each document are seen from outside the window too
  friend bool operator==(const Mask&, const Mask&) = default;
};

/// How a sequence of tokens (a pack of documents) is cut over devices. Lengths need not divide; shards may be
/// empty.
struct SequencePlan {
  std::int64_t tokens = 0;
  int devices = 1;
  Layout layout = Layout::contiguous;
  /// Global token index at which each document begins; empty means one document. First is 0, strictly
  /// ascending.
  std::vector<std::int64_t> document_starts = {};
  /// Share of each device, contiguous and zigzag only; empty means equal shares. Zero shares are allowed.
  std::vector<double> weights = {};
};

/// Pieces of a device's shard in local order, none empty; zigzag halves that touch (the last device's) are
/// one piece. Equal shares differ by at most one token.
std::vector<Piece> make_pieces(const SequencePlan& plan, int device);
std::int64_t shard_tokens(const SequencePlan& plan, int device);
/// Global index of each local token, and its position within its document.
struct TokenPlace {
  std::int64_t global = 0, position = 0, document = 0;
};
std::vector<TokenPlace> shard_places(const SequencePlan& plan, int device);
/// The same into memory of the caller, for shard_tokens(plan, device) places.
void shard_places(const SequencePlan& plan, int device, std::span<TokenPlace> places);

/// The block of keys and values that a step attends to: a device's shard, or the gathered first-k tokens of
/// all documents that are longer than the window.
struct BlockId {
  static constexpr int global_tokens = -1;
  int owner = 0;
  bool is_global() const { return owner == global_tokens; }
  friend bool operator==(const BlockId&, const BlockId&) = default;
};

/// How a block came to the device: not at all (its own, or the global one), down the ring (from r-1) or up
/// (from r+1).
enum class Direction { none, down, up };

struct Step {
  BlockId kv;
  Direction arrives = Direction::none;
  int distance = 0;              ///< hops that the block made to get here
  std::vector<Tile> tiles = {};  ///< may be empty: the block only passes through
};

/// One hop of one device in one direction: what it passes on and what it gets. Hop n carries block distance
/// n-1 -> n.
struct Hop {
  Direction direction = Direction::down;
  int distance = 0;        ///< n: the receiver holds the block at this distance from its owner
  int send_block = -1;     ///< owner of the block sent on to the next device in this direction; -1: nothing
  int receive_block = -1;  ///< owner of the block received; -1: nothing
};

/// What one device does for one attention, in order. Forward: step 0 is its own block, step 1 the global
/// block if there is one (on all devices or none), then for each distance the arrivals down and up. The hop
/// that brings step n+1's block runs while step n computes.
struct Schedule {
  int device = 0, devices = 1;
  std::vector<Piece> pieces = {};
  std::vector<Step> steps = {};
  std::vector<Hop> hops = {};  ///< by distance, down before up
  /// Global token indices that make up the global block, ascending; empty when no step uses it (no window or
  /// no first_k).
  std::vector<std::int64_t> global_tokens = {};
  /// Where this device's own tokens stand in the global block: (local token, index in the block).
  struct Owned {
    std::int64_t local = 0, index = 0;
  };
  std::vector<Owned> own_global_tokens = {};
  /// For block `owner`: how far it travels down and up the ring (0: never leaves). Same on every device.
  struct Reach {
    int down = 0, up = 0;
  };
  std::vector<Reach> reach = {};

  /// The step of the global block, or null when there is none.
  const Step* global_step() const;
};

/// Throws ArgumentError for contradictory plans and masks, naming what is wrong.
Schedule make_schedule(const SequencePlan& plan, const Mask& mask, int device);

/// The schedules of all devices of a plan, one at a time: what they have in common is worked out once.
class ScheduleMaker {
 public:
  /// As make_schedule.
  ScheduleMaker(const SequencePlan& plan, const Mask& mask);
  ~ScheduleMaker();
  /// make_schedule(plan, mask, device).
  Schedule make(int device) const;

 private:
  struct Common;
  std::unique_ptr<const Common> common_;
};

/// What the tiles allow of a range of the block's keys, with keys counted from the range's begin. Tiles that
/// allow nothing of it are left out.
std::vector<Tile> tiles_on_keys(const std::vector<Tile>& tiles, Range keys);
/// The same for a range of the queries.
std::vector<Tile> tiles_on_queries(const std::vector<Tile>& tiles, Range queries);

/// Query-key pairs that the schedule's tiles allow: what FLOP counts and balance are made of.
std::int64_t count_pairs(const std::vector<Tile>& tiles);
std::int64_t count_pairs(const Schedule& schedule);

}  // namespace rondo
