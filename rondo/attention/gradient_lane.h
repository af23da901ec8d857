#pragma once
// How the sums of dK and dV travel in one direction of the ring (docs/maths.md, "Backward").

#include <array>
#include <vector>

#include "rondo/attention/ring_loop.h"

namespace rondo {

/// Moves the sum of a block's gradients after the block: the device at distance n adds its share to what the
/// devices before it have summed, and passes the sum on while distance n + 1 is computed. Nothing would be
/// computed any more while the last one's sum is on its way home, so that one is computed in parts, a range
/// of keys after the other, and each part goes home while the next is computed.
class GradientLane {
 public:
  /// `own` are this device's own gradients, to which the sum that comes home is added: they must be complete
  /// but for that after distance 0.
  GradientLane(const RingLoop& loop, BlockPool& pool, Direction direction, const KeyValues& own)
      : loop_(loop), pool_(pool), direction_(direction), own_(own) {}

  /// Pairs of the pool that a full ring needs at a time: one is summed into while another is under way, and
  /// where the memory of the device before is out of reach a third one arrives. A ring of two passes no sum
  /// on and counts the same, so that memory per device does not depend on the ring's length.
  static int pairs(const Communicator& communicator);

  /// Posts what moves while `distance` is computed and makes room for this distance's gradients.
  void begin(int distance);
  /// Zeroed gradients of the block that is here at this distance.
  const KeyValues& partial() const { return partial_; }
  /// The ranges of its keys that are to be computed one after the other.
  const std::vector<Range>& parts() const { return parts_; }
  /// The next part of the gradients has this device's share.
  void part_done();
  /// The whole has; finishes what was to arrive at this distance. Returns how many exchanges that were.
  int finish_receives();
  void finish_sends();

 private:
  using Requests = std::array<RequestPtr, 2>;
  /// A sum that is to be added to `into`.
  struct Arrival {
    KeyValues into, memory;  ///< memory: where it arrives, unless it is added on arrival
    std::vector<Requests> requests;
  };
  /// A sum on its way to another device.
  struct Departure {
    KeyValues memory;
    std::vector<Requests> requests;
  };

  int hop_step() const { return direction_ == Direction::down ? 1 : loop_.communicator.devices() - 1; }
  int reach(int owner) const;
  std::int64_t tokens(int owner) const { return loop_.shard_tokens[static_cast<std::size_t>(owner)]; }
  /// Whether the sum that comes home may be added whenever it comes.
  bool may_add_at_any_time() const;
  /// Owner of the block that is here at `distance`, or -1.
  int block_at(int distance) const;
  Tag tag(MessageKind kind, bool home, std::size_t part) const;
  Requests post_send(int to, bool home, std::size_t part, const KeyValues& sum) const;
  Requests post_receive(int from, bool home, std::size_t part, const KeyValues& into, bool adds) const;
  /// Where a sum can be added while it arrives, or a place of its own for it.
  KeyValues place_for(Arrival& arrival, bool adds);
  int finish(Arrival& arrival, const char* what);
  void finish(Departure& departure);

  const RingLoop& loop_;
  BlockPool& pool_;
  Direction direction_;
  KeyValues own_, partial_, partial_memory_;
  int owner_ = -1, distance_ = 0;
  std::vector<Range> parts_;
  std::size_t parts_done_ = 0;
  int received_ = 0;
  Arrival passing_, home_;
  Departure leaving_;              ///< to the next device, which adds to it
  Departure complete_, homeward_;  ///< parts of this distance's sum, and of the one before
};

/// How the keys of a block are cut for its way home: the same on both ends.
std::vector<Range> gradient_parts(std::int64_t tokens);

}  // namespace rondo
