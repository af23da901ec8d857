#pragma once
// How the model's state is divided over the devices (ZeRO; Rajbhandari et al. 2020, arXiv 1910.02054): each
// bucket of the flat buffers (ParameterTable::buckets()) into near-equal parts, one for each device.

#include <array>
#include <cstdint>
#include <vector>

#include "rondo/core/context.h"
#include "rondo/model/parameters.h"
#include "rondo/model/shard.h"

namespace rondo {

/// The elements of which one device keeps the state, and where they lie in a buffer that holds these alone.
class OwnedElements {
 public:
  /// `divided`: this device's owned_part() of each bucket; else all of each.
  OwnedElements(const ParameterTable& table, bool divided, int devices, int device);

  std::size_t buckets() const { return flat_.size(); }
  /// In the flat buffer.
  const Range& flat(std::size_t bucket) const { return flat_[bucket]; }
  /// In the device's own buffer: 64-byte aligned, like the flat ones.
  Range own(std::size_t bucket) const { return {begins_[bucket], begins_[bucket] + flat_[bucket].size()}; }
  std::int64_t total() const { return begins_.back(); }

 private:
  std::vector<Range> flat_;
  std::vector<std::int64_t> begins_;
};

/// Memory for the buckets that a pass works on: two layers', and the embedding's and the head's, which share
/// a place unless the head reads the embedding.
class BucketSlots {
 public:
  static constexpr std::size_t kMost = 4;

  explicit BucketSlots(const ParameterTable& table);
  void allocate(Context& context, Entry entry, DType dtype, const char* what);
  std::size_t slot_of(std::size_t bucket) const;
  void* of(std::size_t bucket) const { return memory_[slot_of(bucket)].data(); }

 private:
  std::size_t last_;  // bucket
  bool tied_;
  std::array<std::int64_t, kMost> elements_{};
  std::array<Buffer, kMost> memory_;
};

}  // namespace rondo
