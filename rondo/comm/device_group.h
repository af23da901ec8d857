#pragma once
// A ring of devices that are threads of this process: what training, evaluation and generation run on.

#include <chrono>
#include <cstdint>
#include <functional>

#include "rondo/comm/communicator.h"
#include "rondo/core/context.h"

namespace rondo {

struct RingOptions {
  int devices = 1;
  int threads = 1;                ///< per device
  Isa isa = detected_isa();       ///< tier of the kernels
  std::int64_t memory_limit = 0;  ///< bytes per device; 0 is no limit
  /// Longest wait for another device, longer than it may compute between two exchanges.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  Trace* trace = nullptr;  ///< where events go; null records nothing
};

/// Runs fn once per device, each on a thread of its own with a context and a communicator, and returns when
/// all have ended. When one throws, the others' waits throw CommunicationError, and the exception of the
/// device that failed first is rethrown here. Contexts outlive every device's fn. Throws ArgumentError for
/// options out of range.
void run_ring(const RingOptions& options, const std::function<void(Context&, Communicator&)>& fn);

}  // namespace rondo
