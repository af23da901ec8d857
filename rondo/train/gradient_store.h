#pragma once
// The gradients of a model in training: where backward passes add to them, and where the optimizer finds
// their sums over all devices.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/model/weights.h"
#include "rondo/train/gradient_sum.h"
#include "rondo/train/sharding.h"

namespace rondo {

class GradientStore {
 public:
  /// All three outlive it. The communicator is that of all devices that train one model.
  GradientStore(Context& context, Communicator& communicator, const ParameterTable& table, Shard shard);

  /// Before the first backward pass of a step: all are zero.
  void clear();
  /// For a backward pass. The last one of a step starts the sums; where gradients are divided each pass does.
  /// Every device makes the same passes.
  GradientWriter writer(bool last);
  /// After the last pass: the sums are there, also of what no pass has added to.
  void finish();

  /// This device's part of a bucket, OwnedElements::flat(bucket) of a WeightStore with the same Shard, or,
  /// where all are everywhere, the part that this device would own.
  std::span<float> own(std::size_t bucket);
  /// All of them in one flat buffer; empty where they are divided.
  std::span<float> flat();
  /// Memory for the whole of a bucket that nobody needs between steps.
  float* idle(std::size_t bucket);

 private:
  bool divided() const { return shard_ == Shard::parameters; }
  float* open(std::size_t bucket);
  void done(std::size_t bucket);

  Context* context_;
  Communicator* communicator_;
  Shard shard_;
  std::vector<Range> buckets_;
  OwnedElements owned_;
  Buffer memory_;  ///< flat, or what is owned
  BucketSlots slots_;
  std::array<std::optional<std::size_t>, BucketSlots::kMost> open_{};  ///< the bucket in each slot
  std::vector<bool> summed_;        ///< buckets that hold sums of this step already
  std::optional<GradientSum> sum_;  ///< absent where devices read each other's memory: one sum at the end
};

}  // namespace rondo
