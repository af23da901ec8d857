#pragma once
// The first-k tokens of every document, seen from outside the window: gathered once from their owners instead
// of riding the ring; their gradients are summed over the devices and taken back by their owners.

#include <vector>

#include "rondo/attention/ring_loop.h"

namespace rondo {

class GlobalBlock {
 public:
  GlobalBlock(Context& context, Communicator& communicator)
      : context_(&context), communicator_(&communicator) {}

  /// Collects where the global tokens of `schedule` live; no communication.
  void prepare(const SequencePlan& plan, const Schedule& schedule, const BlockPool::Shape& shape);
  bool empty() const { return tokens_ == 0; }

  /// Collective: every device's global block holds all global tokens' keys and values.
  ConstKeyValues gather(const ConstKeyValues& own);
  /// Zeroed float32 gradients of the block, to add to.
  KeyValues cleared_gradients();
  /// Collective: sums the gradients over the devices in device order and adds this device's tokens' share to
  /// `own`.
  void reduce_into(const KeyValues& own);

 private:
  Context* context_;
  Communicator* communicator_;
  BlockPool::Shape shape_;
  std::int64_t tokens_ = 0, most_owned_ = 0;
  /// Per device: its global tokens as (local token, index in the block).
  std::vector<std::vector<Schedule::Owned>> owned_;
  Buffer block_, sent_, gathered_, gradients_;
};

}  // namespace rondo
