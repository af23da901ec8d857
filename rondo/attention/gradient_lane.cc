#include "rondo/attention/gradient_lane.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "rondo/kernels/kernels.h"

namespace rondo {

std::vector<Range> gradient_parts(std::int64_t tokens) {
  // Half of what is left each time: a part is on its way while the next, half as long, is computed, and what
  // nothing hides, the last, is short. Each part packs the queries anew, which takes enough keys to be worth
  // it.
  constexpr std::size_t kMostParts = 8;
  constexpr std::int64_t kLeastKeys = 512, kStep = 64;
  std::vector<Range> parts;
  std::int64_t begin = 0;
  while (tokens - begin >= 2 * kLeastKeys && parts.size() + 1 < kMostParts) {
    const std::int64_t half = (tokens - begin) / 2 / kStep * kStep;
    parts.push_back({begin, begin + half});
    begin += half;
  }
  parts.push_back({begin, tokens});
  return parts;
}

namespace {

KeyValues tokens_of(const KeyValues& pair, Range range) {
  return {pair.k_SGD.slice(range), pair.v_SGE.slice(range)};
}

}  // namespace

int GradientLane::pairs(const Communicator& communicator) {
  const int P = communicator.devices();
  if (P == 1) return 0;
  return communicator.can_share((communicator.device() + P - 1) % P) ? 2 : 3;
}

int GradientLane::reach(int owner) const {
  const Schedule::Reach& reach = loop_.schedule.reach[static_cast<std::size_t>(owner)];
  return direction_ == Direction::down ? reach.down : reach.up;
}

bool GradientLane::may_add_at_any_time() const {
  // Both directions add to the device's own gradients, up at the end of the distance after its reach. What
  // comes down from another process, at any time from the distance of its reach to the end of the next, must
  // not come between, nor now before and now after it.
  const Schedule::Reach& own = loop_.schedule.reach[static_cast<std::size_t>(loop_.schedule.device)];
  return direction_ == Direction::down && (own.up == 0 || own.up + 1 != own.down);
}

int GradientLane::block_at(int distance) const {
  const int P = loop_.communicator.devices();
  if (distance >= P) return -1;
  const int back = direction_ == Direction::down ? P - distance : distance;
  const int owner = (loop_.schedule.device + back) % P;
  return reach(owner) >= distance ? owner : -1;
}

void GradientLane::begin(int distance) {
  distance_ = distance;
  if (distance == 0) return;
  const int P = loop_.communicator.devices(), me = loop_.schedule.device;
  if (owner_ >= 0 && reach(owner_) >= distance) {  // the block of the distance before moves on
    leaving_.memory = partial_memory_;
    leaving_.requests.push_back(post_send((me + hop_step()) % P, false, 0, partial_));
  }
  partial_ = partial_memory_ = {};
  parts_.clear();
  parts_done_ = 0;
  owner_ = block_at(distance);
  if (owner_ >= 0) {
    partial_memory_ = pool_.take();
    partial_ = first_tokens(partial_memory_, tokens(owner_));
    kernels::fill_zero(loop_.context.stream, partial_.k_SGD);
    kernels::fill_zero(loop_.context.stream, partial_.v_SGE);
    parts_ =
        reach(owner_) == distance ? gradient_parts(tokens(owner_)) : std::vector{Range{0, tokens(owner_)}};
    if (distance >= 2) {
      passing_.into = partial_;
      const int from = (me + P - hop_step()) % P;
      const bool adds = loop_.communicator.can_share(from);
      const KeyValues place = place_for(passing_, adds);
      passing_.requests.push_back(post_receive(from, false, 0, place, adds));
    }
  }
  if (reach(me) > 0 && distance == reach(me)) {
    const int from = (me + reach(me) * hop_step()) % P;
    const bool adds = loop_.communicator.can_share(from) || may_add_at_any_time();
    home_.into = own_;
    const KeyValues place = place_for(home_, adds);
    const std::vector<Range> parts = gradient_parts(tokens(me));
    for (std::size_t n = 0; n < parts.size(); ++n)
      home_.requests.push_back(post_receive(from, true, n, tokens_of(place, parts[n]), adds));
  }
}

void GradientLane::part_done() {
  if (parts_done_ == 0) received_ += finish(passing_, "receive gradients");
  const std::size_t part = parts_done_++;
  if (reach(owner_) == distance_)
    complete_.requests.push_back(post_send(owner_, true, part, tokens_of(partial_, parts_[part])));
}

int GradientLane::finish_receives() {
  while (parts_done_ < parts_.size()) part_done();  // those without tiles here
  if (distance_ == reach(loop_.schedule.device) + 1) received_ += finish(home_, "receive own gradients");
  return std::exchange(received_, 0);
}

void GradientLane::finish_sends() {
  finish(leaving_);
  finish(homeward_);
  complete_.memory = partial_memory_;
  homeward_ = std::exchange(complete_, {});
}

Tag GradientLane::tag(MessageKind kind, bool home, std::size_t part) const {
  // Of a sum on its way home the owner knows the distance it began at.
  return loop_.call.tag(kind, direction_, distance_, home, static_cast<int>(part));
}

GradientLane::Requests GradientLane::post_send(int to, bool home, std::size_t part,
                                               const KeyValues& sum) const {
  return {loop_.communicator.send(to, tag(MessageKind::key_gradients, home, part), sum.k_SGD),
          loop_.communicator.send(to, tag(MessageKind::value_gradients, home, part), sum.v_SGE)};
}

GradientLane::Requests GradientLane::post_receive(int from, bool home, std::size_t part,
                                                  const KeyValues& into, bool adds) const {
  Communicator& own = loop_.communicator;
  const Tag keys = tag(MessageKind::key_gradients, home, part);
  const Tag values = tag(MessageKind::value_gradients, home, part);
  if (adds) return {own.receive_add(from, keys, into.k_SGD), own.receive_add(from, values, into.v_SGE)};
  return {own.receive(from, keys, into.k_SGD), own.receive(from, values, into.v_SGE)};
}

KeyValues GradientLane::place_for(Arrival& arrival, bool adds) {
  if (adds) return arrival.into;
  arrival.memory = pool_.take();
  return first_tokens(arrival.memory, arrival.into.k_SGD.tokens);
}

int GradientLane::finish(Arrival& arrival, const char* what) {
  if (arrival.requests.empty()) return 0;
  const std::string doing = fmt::format("{}: {}, hop {}", loop_.label, what, distance_);
  for (Requests& requests : arrival.requests)
    for (RequestPtr& request : requests) loop_.communicator.wait(*request, doing.c_str());
  if (arrival.memory.k_SGD.data != nullptr) {
    const KeyValues sum = first_tokens(arrival.memory, arrival.into.k_SGD.tokens);
    kernels::add(loop_.context.stream, sum.k_SGD, arrival.into.k_SGD);
    kernels::add(loop_.context.stream, sum.v_SGE, arrival.into.v_SGE);
    pool_.give(arrival.memory);
  }
  arrival = {};
  return 1;
}

void GradientLane::finish(Departure& departure) {
  if (departure.requests.empty()) return;
  const std::string doing = fmt::format("{}: send gradients, hop {}", loop_.label, distance_);
  for (Requests& requests : departure.requests)
    for (RequestPtr& request : requests) loop_.communicator.wait(*request, doing.c_str());
  pool_.give(departure.memory);
  departure = {};
}

}  // namespace rondo
