#include "rondo/train/sharding.h"

#include <algorithm>

#include "rondo/core/error.h"

namespace rondo {

OwnedElements::OwnedElements(const ParameterTable& table, bool divided, int devices, int device)
    : begins_{0} {
  for (const Range& bucket : table.buckets()) {
    flat_.push_back(divided ? owned_part(bucket, devices, device) : bucket);
    begins_.push_back(begins_.back() + flat_.back().size());
  }
}

BucketSlots::BucketSlots(const ParameterTable& table)
    : last_(table.buckets().size() - 1), tied_(table.tied()) {
  const std::vector<Range> buckets = table.buckets();
  for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    std::int64_t& elements = elements_[slot_of(bucket)];
    elements = std::max(elements, buckets[bucket].size());
  }
}

std::size_t BucketSlots::slot_of(std::size_t bucket) const {
  if (bucket == 0) return 2;
  if (bucket == last_) return tied_ ? 3 : 2;
  return bucket % 2;
}

void BucketSlots::allocate(Context& context, Entry entry, DType dtype, const char* what) {
  for (std::size_t slot = 0; slot < kMost; ++slot)
    if (elements_[slot] > 0)
      memory_[slot] = context.arena.allocate(entry, elements_[slot] * size_of(dtype), what);
}

}  // namespace rondo
