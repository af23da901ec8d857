#include "rondo/train/bucket_gather.h"

#include <limits>

namespace rondo {

namespace {

/// Above those of gradient sums, below those of attention; even ones for weights, odd ones for the master's.
constexpr Tag kFirstTag = std::numeric_limits<Tag>::min() + (Tag{1} << 40);

}  // namespace

void BucketGather::start(std::size_t bucket, const Range& range, DType dtype, void* data) {
  RONDO_ASSERT(receives_.empty() && sends_.empty());
  const int devices = communicator_->devices(), me = communicator_->device();
  const Tag tag = kFirstTag + 2 * static_cast<Tag>(bucket) + (use_ == GatherUse::master ? 1 : 0);
  const auto part = [&](int device) {
    const Range own = owned_part(range, devices, device);
    return view(static_cast<void*>(static_cast<char*>(data) + (own.begin - range.begin) * size_of(dtype)),
                dtype, own.size(), 1, 1);
  };
  for (int device = 0; device < devices; ++device) {
    if (device == me) continue;
    if (part(device).tokens > 0) receives_.push_back(communicator_->receive(device, tag, part(device)));
    if (part(me).tokens > 0) sends_.push_back(communicator_->send(device, tag, part(me)));
  }
}

void BucketGather::wait() {
  for (const RequestPtr& request : receives_) communicator_->wait(*request, "gather parameters");
  receives_.clear();
}

void BucketGather::wait_sent() {
  for (const RequestPtr& request : sends_) communicator_->wait(*request, "hand out parameters");
  sends_.clear();
}

}  // namespace rondo
