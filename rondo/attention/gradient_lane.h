#pragma once
// How the sums of dK and dV travel in one direction of the ring (docs/maths.md, "Backward").

#include <array>

#include "rondo/attention/ring_loop.h"

namespace rondo {

/// Moves the sum of a block's gradients after the block: the device at distance n adds its share to what the
/// devices before it have summed, and passes the sum on while distance n + 1 is computed; the last one sends
/// it home.
class GradientLane {
 public:
  /// `own` are this device's own gradients, to which the sum that comes home is added.
  GradientLane(const RingLoop& loop, BlockPool& pool, Direction direction, const KeyValues& own)
      : loop_(loop), pool_(pool), direction_(direction), own_(own) {}

  /// Posts what moves while `distance` is computed and makes room for this distance's gradients.
  void begin(int distance);
  /// Zeroed gradients of the block that is here at this distance.
  const KeyValues& partial() const { return partial_; }
  /// Finishes the receives of this distance; returns how many exchanges that were.
  int finish_receives();
  void finish_sends();

 private:
  using Requests = std::array<RequestPtr, 2>;

  int hop_step() const { return direction_ == Direction::down ? 1 : loop_.communicator.devices() - 1; }
  int reach(int owner) const;
  /// Owner of the block that is here at `distance`, or -1.
  int block_at(int distance) const;
  void post_send(int to, bool home);
  void post_receive(Requests& requests, int from, bool home, const KeyValues& into);
  int wait_for(Requests& requests, const char* what);
  Tag tag(MessageKind kind, bool home) const { return loop_.call.tag(kind, direction_, distance_, home); }

  const RingLoop& loop_;
  BlockPool& pool_;
  Direction direction_;
  KeyValues own_, partial_, partial_memory_, outgoing_, outgoing_memory_;
  int outgoing_owner_ = -1, distance_ = 0;
  Requests sends_, receives_, home_receives_;
};

}  // namespace rondo
