#pragma once
// A model's weights on one device, as generation and evaluation read them.

#include "rondo/core/context.h"
#include "rondo/model/hf_folder.h"

namespace rondo {

class DeviceWeights {
 public:
  /// Reads all parameters into this device's memory in the storage type of its activations. Throws as
  /// LoadedModel::fill does; MemoryLimitError where they do not fit.
  DeviceWeights(Context& context, const LoadedModel& model, DType dtype);
  /// Flat, table().total() elements.
  const void* data() const { return weights_.data(); }

 private:
  Buffer weights_;
};

}  // namespace rondo
