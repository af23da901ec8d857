#include "rondo/attention/ring_loop.h"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <utility>

namespace rondo {

const char* name_of(Exchange exchange) { return exchange == Exchange::copy ? "copy" : "share"; }

Exchange parse_exchange(std::string_view name) {
  if (name == "copy") return Exchange::copy;
  if (name == "share") return Exchange::share;
  argument_error("exchange", "expected copy or share, got '{}'", name);
}

bool hands_views(const Communicator& communicator, Exchange exchange, int from) {
  return exchange == Exchange::share && communicator.can_share(from);
}

int readers_after(const Communicator& communicator, Exchange exchange, Direction direction) {
  const int P = communicator.devices(), step = direction == Direction::down ? 1 : P - 1;
  int readers = 0;
  while (readers + 1 < P &&
         hands_views(communicator, exchange, (communicator.device() + (readers + 1) * step) % P))
    ++readers;
  return readers;
}

Tag CallId::tag(MessageKind kind, Direction direction, int distance, bool home, int part) const {
  return (number << 32) + (static_cast<Tag>(distance) << 7) + (part << 4) + (home ? 8 : 0) +
         (direction == Direction::up ? 4 : 0) + static_cast<Tag>(kind);
}

namespace {

/// Where a block that this device holds lives, for one direction of travel.
struct Held {
  int owner = -1;
  ConstKeyValues block;
  KeyValues memory;                        // the pool's, where the block was copied
  std::array<RequestPtr, 2> view_request;  // otherwise: to release when nobody reads it any more
};

/// The device's own keys' and values' memory, where it may be overwritten, once both lanes have sent them.
struct SparePlace {
  KeyValues memory;
  int lanes = 2;
};

/// The transfers of one direction; keeps what is held between one distance and the next.
class Lane {
 public:
  /// `spare`: see RingLoop::run; given to the pool by the last of the lanes that have sent it.
  Lane(const RingLoop& loop, Direction direction, SparePlace& spare)
      : loop_(loop), direction_(direction), spare_(spare) {
    const int P = loop.communicator.devices();
    hop_step_ = direction == Direction::down ? 1 : P - 1;
    views_ = hands_views(loop.communicator, loop.exchange, (loop.schedule.device + P - hop_step_) % P);
    readers_ = readers_after(loop.communicator, loop.exchange, direction);
  }

  const Held& held() const { return held_; }
  void hold_own(const ConstKeyValues& own) {
    held_.owner = loop_.schedule.device;
    held_.block = own;
  }

  /// Posts the hop that takes blocks from distance - 1 to distance.
  void post(const Hop& hop) {
    const int P = loop_.communicator.devices(), me = loop_.schedule.device;
    if (hop.send_block >= 0) {
      RONDO_ASSERT(held_.owner == hop.send_block);
      const int to = (me + hop_step_) % P;
      sends_[0] = loop_.communicator.send(to, tag(MessageKind::keys, hop), held_.block.k_SGD);
      sends_[1] = loop_.communicator.send(to, tag(MessageKind::values, hop), held_.block.v_SGE);
    }
    if (hop.receive_block >= 0) post_receive(hop, (me + P - hop_step_) % P);
    distance_ = hop.distance;
  }

  bool receiving() const { return incoming_.owner >= 0; }
  void finish_receive() {
    if (!receiving()) return;
    const std::string doing = describe("receive");
    for (RequestPtr& request : receives_) loop_.communicator.wait(*request, doing.c_str());
    if (views_) incoming_.view_request = std::move(receives_);
    receives_ = {};
  }

  /// Ends the hop that was posted at `distance`. A block that was copied to the next device may be
  /// overwritten now. One that was handed over as a view is read for as many distances more as there are
  /// readers; where all devices are of one process the views form a circle, and are ended by unwind() only.
  void finish_send(int distance) {
    if (held_.owner >= 0) {
      const bool circles = readers_ + 1 == loop_.communicator.devices();
      const int read_until = !sends_[0] ? distance : circles ? kToTheEnd : distance + readers_;
      passed_.push_back({read_until, std::move(held_), std::move(sends_)});
      sends_ = {};
    }
    for (Passed& passed : passed_)
      if (passed.read_until <= distance) end(passed);
    std::erase_if(passed_, [=](const Passed& passed) { return passed.read_until <= distance; });
    held_ = std::move(incoming_);
    incoming_ = {};
  }

  /// Ends the views that are left, farthest block first: each waits for the next device's release of a block
  /// one hop farther, so that this order cannot wait in a circle.
  void unwind() {
    for (auto passed = passed_.rbegin(); passed != passed_.rend(); ++passed) end(*passed);
    passed_.clear();
  }

 private:
  static constexpr int kToTheEnd = std::numeric_limits<int>::max();
  /// A block that the next device may still read.
  struct Passed {
    int read_until = 0;  ///< the end of this distance
    Held held;
    std::array<RequestPtr, 2> sends;
  };

  void end(Passed& passed) {
    const std::string doing = describe(readers_ > 0 ? "hand over" : "send");
    for (RequestPtr& send : passed.sends)
      if (send) loop_.communicator.wait(*send, doing.c_str());
    for (RequestPtr& view : passed.held.view_request)
      if (view) loop_.communicator.release(*view);
    if (passed.held.memory.k_SGD.data != nullptr) loop_.pool.give(passed.held.memory);
    if (passed.held.owner == loop_.schedule.device && --spare_.lanes == 0 &&
        spare_.memory.k_SGD.data != nullptr)
      loop_.pool.give(spare_.memory);
  }

  Tag tag(MessageKind kind, const Hop& hop) const { return loop_.call.tag(kind, direction_, hop.distance); }
  std::string describe(const char* what) const {
    return fmt::format("{}: {} keys and values, hop {}", loop_.label, what, distance_);
  }

  void post_receive(const Hop& hop, int from) {
    incoming_ = {};
    incoming_.owner = hop.receive_block;
    if (views_) {
      // The requests fill the views in when waited for; incoming_ must stay where it is until then.
      receives_[0] =
          loop_.communicator.receive_view(from, tag(MessageKind::keys, hop), &incoming_.block.k_SGD);
      receives_[1] =
          loop_.communicator.receive_view(from, tag(MessageKind::values, hop), &incoming_.block.v_SGE);
      return;
    }
    incoming_.memory = loop_.pool.take();
    const std::int64_t tokens = loop_.shard_tokens[static_cast<std::size_t>(hop.receive_block)];
    const KeyValues into = first_tokens(incoming_.memory, tokens);
    incoming_.block = {into.k_SGD, into.v_SGE};
    receives_[0] = loop_.communicator.receive(from, tag(MessageKind::keys, hop), into.k_SGD);
    receives_[1] = loop_.communicator.receive(from, tag(MessageKind::values, hop), into.v_SGE);
  }

  const RingLoop& loop_;
  Direction direction_;
  SparePlace& spare_;
  int hop_step_ = 1;    // to the next device
  bool views_ = false;  // whether blocks arrive as views
  int readers_ = 0;     // of what is sent, one after the other, in the memory where it is
  int distance_ = 0;
  Held held_, incoming_;
  std::array<RequestPtr, 2> sends_, receives_;
  std::vector<Passed> passed_;
};

}  // namespace

int RingLoop::run(const ConstKeyValues& own, const KeyValues& spare, int last_distance,
                  RingVisitor& visitor) const {
  SparePlace place{spare};
  Lane down(*this, Direction::down, place), up(*this, Direction::up, place);
  down.hold_own(own);
  up.hold_own(own);
  std::size_t step = 0, hop = 0;
  int received = 0;
  for (int distance = 0; distance <= last_distance; ++distance) {
    visitor.begin(distance);
    for (; hop < schedule.hops.size() && schedule.hops[hop].distance == distance + 1; ++hop) {
      Lane& lane = schedule.hops[hop].direction == Direction::down ? down : up;
      lane.post(schedule.hops[hop]);
      received += lane.receiving() ? 1 : 0;
    }
    for (; step < schedule.steps.size() && schedule.steps[step].distance == distance; ++step) {
      const Step& now = schedule.steps[step];
      if (now.tiles.empty() || now.kv.is_global()) continue;
      const ConstKeyValues& block =
          distance == 0 ? own : (now.arrives == Direction::down ? down : up).held().block;
      visitor.compute(now, block);
    }
    down.finish_receive();
    up.finish_receive();
    down.finish_send(distance);
    up.finish_send(distance);
    visitor.end(distance);
  }
  down.unwind();
  up.unwind();
  return received;
}

}  // namespace rondo
