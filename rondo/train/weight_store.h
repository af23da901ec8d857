#pragma once
// A model's weights in training: master weights in float32, of which the optimizer changes this device's own
// part, and what passes read of all of them, in the storage type of the activations.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/model/weights.h"
#include "rondo/train/bucket_gather.h"
#include "rondo/train/sharding.h"

namespace rondo {

class WeightStore {
 public:
  /// All three outlive it. The communicator is that of all devices that train one model.
  WeightStore(Context& context, Communicator& communicator, const ParameterTable& table, DType storage,
              Shard shard);

  const OwnedElements& owned() const { return owned_; }
  /// This device's part of a bucket's master weights, owned().flat(bucket).
  std::span<float> master(std::size_t bucket);
  /// All master weights in one flat buffer; empty where they are divided.
  std::span<float> flat();

  /// To be called before master() is written: nobody reads any more what passes read of them.
  void begin_change();
  /// This device's part of a bucket was written. Called by all devices for every bucket, in the same order.
  void changed(std::size_t bucket);
  /// Passes may read what was written.
  void end_change();

  /// For passes, which all devices make in the same order where parameters are divided.
  WeightReader reader();
  /// After the last pass: no message is under way any more. A change does the same.
  void end_passes();
  /// The whole of a bucket's master weights: in flat(), or in `memory`, float32. Collective.
  std::span<const float> gather_master(std::size_t bucket, float* memory);

 private:
  /// Where passes find the whole of a bucket, unless it is gathered for each.
  void* compute(std::size_t bucket) const;
  bool rounds() const { return storage_ != DType::f32; }
  /// This device's part, in the storage type, to its place in the bucket at `data`.
  void place_own(std::size_t bucket, void* data);
  void start_gather(std::size_t bucket);
  const void* fetch(std::size_t bucket, std::size_t next);

  Context* context_;
  Communicator* communicator_;
  DType storage_;
  Shard shard_;
  std::vector<Range> buckets_;
  OwnedElements owned_;
  bool whole_master_;  ///< master_ is flat, not only what is owned
  Buffer master_, compute_;
  BucketSlots slots_;
  std::array<std::optional<std::size_t>, BucketSlots::kMost> held_{};  ///< the bucket in each slot
  std::vector<BucketGather> gathers_;  ///< of each slot, or of each bucket where all are held
};

}  // namespace rondo
