#pragma once
// Makes the parts of a bucket that each device holds known to all: every device sends its part to each of the
// others, while it computes where messages travel between processes.

#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/model/parameters.h"

namespace rondo {

/// What a gather's messages are told apart by from others' of the same buckets.
enum class GatherUse { weights, master };

class BucketGather {
 public:
  /// The communicator outlives it.
  BucketGather(Communicator& communicator, GatherUse use) : communicator_(&communicator), use_(use) {}

  /// `data` is the first element of bucket number `bucket`, the elements `range` of the flat buffer, with
  /// this device's own part in place. Called by all devices in the same order; no other is under way.
  void start(std::size_t bucket, const Range& range, DType dtype, void* data);
  /// All of the bucket is there.
  void wait();
  /// The others have this device's part: its memory may change. After wait().
  void wait_sent();

 private:
  Communicator* communicator_;
  GatherUse use_;
  std::vector<RequestPtr> receives_, sends_;
};

}  // namespace rondo
