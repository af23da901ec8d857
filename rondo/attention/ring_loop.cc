#include "rondo/attention/ring_loop.h"

#include <fmt/format.h>

#include <array>

namespace rondo {

const char* name_of(Exchange exchange) { return exchange == Exchange::copy ? "copy" : "share"; }

Exchange parse_exchange(std::string_view name) {
  if (name == "copy") return Exchange::copy;
  if (name == "share") return Exchange::share;
  argument_error("exchange", "expected copy or share, got '{}'", name);
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
  std::array<RequestPtr, 2> view_request;  // Exchange::share: to release when it was passed on
};

/// The transfers of one direction; keeps what is held between one distance and the next.
class Lane {
 public:
  Lane(const RingLoop& loop, Direction direction) : loop_(loop), direction_(direction) {}

  const Held& held() const { return held_; }
  void hold_own(const ConstKeyValues& own) {
    held_.owner = loop_.schedule.device;
    held_.block = own;
  }

  /// Posts the hop that takes blocks from distance - 1 to distance.
  void post(const Hop& hop) {
    const int P = loop_.communicator.devices(), me = loop_.schedule.device;
    const int step = direction_ == Direction::down ? 1 : P - 1;
    if (hop.send_block >= 0) {
      RONDO_ASSERT(held_.owner == hop.send_block);
      const int to = (me + step) % P;
      sends_[0] = loop_.communicator.send(to, tag(MessageKind::keys, hop), held_.block.k_SGD);
      sends_[1] = loop_.communicator.send(to, tag(MessageKind::values, hop), held_.block.v_SGE);
    }
    if (hop.receive_block >= 0) post_receive(hop, (me + P - step) % P);
    distance_ = hop.distance;
  }

  bool receiving() const { return incoming_.owner >= 0; }
  void finish_receive() {
    if (!receiving()) return;
    const std::string doing = describe("receive");
    for (RequestPtr& request : receives_) loop_.communicator.wait(*request, doing.c_str());
    if (loop_.exchange == Exchange::share) incoming_.view_request = std::move(receives_);
    receives_ = {};
  }

  /// After this the block that was held may be overwritten (copy), or is remembered until the end (share: the
  /// views form a chain back to the owner, so waiting here would wait for the neighbour's next step).
  void finish_send(bool own_is_spare, const KeyValues& spare) {
    if (loop_.exchange == Exchange::copy) {
      const std::string doing = describe("send");
      for (RequestPtr& request : sends_)
        if (request) loop_.communicator.wait(*request, doing.c_str());
      sends_ = {};
      if (held_.memory.k_SGD.data != nullptr) loop_.pool.give(held_.memory);
      if (own_is_spare && held_.owner == loop_.schedule.device) loop_.pool.give(spare);
    } else if (held_.owner >= 0) {
      chain_.push_back({std::move(held_), std::move(sends_)});
      sends_ = {};
    }
    held_ = std::move(incoming_);
    incoming_ = {};
  }

  /// Exchange::share: ends the views, farthest block first: each waits for the next device's release of a
  /// block one hop farther, so that this order cannot wait in a circle.
  void unwind() {
    for (auto link = chain_.rbegin(); link != chain_.rend(); ++link) {
      const std::string doing = describe("hand over views");
      for (RequestPtr& send : link->sends)
        if (send) loop_.communicator.wait(*send, doing.c_str());
      for (RequestPtr& view : link->held.view_request)
        if (view) loop_.communicator.release(*view);
    }
    chain_.clear();
  }

 private:
  struct Link {
    Held held;
    std::array<RequestPtr, 2> sends;
  };

  Tag tag(MessageKind kind, const Hop& hop) const { return loop_.call.tag(kind, direction_, hop.distance); }
  std::string describe(const char* what) const {
    return fmt::format("{}: {} keys and values, hop {}", loop_.label, what, distance_);
  }

  void post_receive(const Hop& hop, int from) {
    incoming_ = {};
    incoming_.owner = hop.receive_block;
    if (loop_.exchange == Exchange::share) {
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
  int distance_ = 0;
  Held held_, incoming_;
  std::array<RequestPtr, 2> sends_, receives_;
  std::vector<Link> chain_;
};

}  // namespace

int RingLoop::run(const ConstKeyValues& own, const KeyValues& spare, int last_distance,
                  RingVisitor& visitor) const {
  Lane down(*this, Direction::down), up(*this, Direction::up);
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
    // Own keys and values are shared by both lanes: free once, after both have sent them.
    down.finish_send(false, spare);
    up.finish_send(distance == 0 && spare.k_SGD.data != nullptr, spare);
    visitor.end(distance);
  }
  down.unwind();
  up.unwind();
  return received;
}

}  // namespace rondo
