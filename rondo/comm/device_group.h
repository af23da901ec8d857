#pragma once
// A ring of devices that are threads of this process, and of others that were launched with it: what
// training, evaluation and generation run on.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "rondo/comm/communicator.h"
#include "rondo/comm/processes.h"
#include "rondo/core/context.h"

namespace rondo {

struct RingOptions {
  int devices = 1;                ///< of this process; as many on each of the others
  int threads = 1;                ///< per device
  Isa isa = default_isa();        ///< tier of the kernels
  std::int64_t memory_limit = 0;  ///< bytes per device; 0 is no limit
  /// Longest wait for another device, longer than it may compute between two exchanges.
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  /// Whether messages travel while devices compute, brought forward between the tiles of their work. Without
  /// it, which is for comparison, they travel when a device waits for them.
  bool overlap = true;
  /// Called, on a thread of its own, when the ring has failed and has not ended here within another timeout:
  /// a device hangs outside of it, and run_ring cannot return before that. May leave the process; null:
  /// waits.
  std::function<void(const std::string& words)> on_stuck = nullptr;
  Trace* trace = nullptr;  ///< where events of this process' devices go; null records nothing
  std::shared_ptr<Processes> processes = nullptr;  ///< that form the ring together; null: this one alone

  /// Devices of all processes. Those of process p are [p * devices, (p + 1) * devices).
  int devices_in_all() const { return devices * (processes ? processes->size() : 1); }
  int rank() const { return processes ? processes->rank() : 0; }
  /// The process of device 0: the one that prints and writes.
  bool leads() const { return rank() == 0; }
  /// Whether `device` is the first one of this process.
  bool is_first_here(int device) const { return device == rank() * devices; }
};

/// Runs fn once per device of this process, each on a thread of its own with a context and a communicator,
/// and returns when all devices of all processes have ended. When one throws, the others' waits throw
/// CommunicationError, and the exception of the device that failed first is rethrown here, or in another
/// process CommunicationError. Contexts outlive every device's fn. Throws ArgumentError for options out of
/// range.
void run_ring(const RingOptions& options, const std::function<void(Context&, Communicator&)>& fn);

}  // namespace rondo
