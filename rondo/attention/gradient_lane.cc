#include "rondo/attention/gradient_lane.h"

#include <fmt/format.h>

#include "rondo/kernels/kernels.h"

namespace rondo {

int GradientLane::reach(int owner) const {
  const Schedule::Reach& reach = loop_.schedule.reach[static_cast<std::size_t>(owner)];
  return direction_ == Direction::down ? reach.down : reach.up;
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
  if (outgoing_owner_ >= 0) {
    const bool home = reach(outgoing_owner_) == distance - 1;
    post_send(home ? outgoing_owner_ : (me + hop_step()) % P, home);
  }
  const int owner = block_at(distance);
  if (owner >= 0) {
    partial_memory_ = pool_.take();
    partial_ = first_tokens(partial_memory_, loop_.shard_tokens[static_cast<std::size_t>(owner)]);
    kernels::fill_zero(loop_.context.stream, partial_.k_SGD);
    kernels::fill_zero(loop_.context.stream, partial_.v_SGE);
    if (distance >= 2) post_receive(receives_, (me + P - hop_step()) % P, false, partial_);
  }
  if (reach(me) > 0 && distance == reach(me) + 1)
    post_receive(home_receives_, (me + reach(me) * hop_step()) % P, true, own_);
}

int GradientLane::finish_receives() {
  return wait_for(receives_, "receive gradients") + wait_for(home_receives_, "receive own gradients");
}

void GradientLane::finish_sends() {
  wait_for(sends_, "send gradients");
  if (outgoing_owner_ >= 0) pool_.give(outgoing_memory_);
  outgoing_owner_ = distance_ > 0 ? block_at(distance_) : -1;
  outgoing_ = partial_;
  outgoing_memory_ = partial_memory_;
  partial_ = partial_memory_ = {};
}

void GradientLane::post_send(int to, bool home) {
  sends_[0] = loop_.communicator.send(to, tag(MessageKind::key_gradients, home), outgoing_.k_SGD);
  sends_[1] = loop_.communicator.send(to, tag(MessageKind::value_gradients, home), outgoing_.v_SGE);
}

void GradientLane::post_receive(Requests& requests, int from, bool home, const KeyValues& into) {
  requests[0] = loop_.communicator.receive_add(from, tag(MessageKind::key_gradients, home), into.k_SGD);
  requests[1] = loop_.communicator.receive_add(from, tag(MessageKind::value_gradients, home), into.v_SGE);
}

int GradientLane::wait_for(Requests& requests, const char* what) {
  if (!requests[0]) return 0;
  const std::string doing = fmt::format("{}: {}, hop {}", loop_.label, what, distance_);
  for (RequestPtr& request : requests) loop_.communicator.wait(*request, doing.c_str());
  requests = {};
  return 1;
}

}  // namespace rondo
