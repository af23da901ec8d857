#pragma once
// Measures what the devices of a ring and the hops between them can do.

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/core/context.h"
#include "rondo/plan/host.h"

namespace rondo {

/// One process of the ring.
struct ProcessFacts {
  HostFacts host;
  std::string version;          ///< of Rondo
  std::uint64_t build = 0;      ///< program_fingerprint
  std::string instruction_set;  ///< tier of its kernels
  int devices = 1;
  int threads = 1;  ///< per device
};

/// FLOP/s that a device reaches in registers, while the others of its host rest (alone) and while all devices
/// do the same (together).
struct DeviceRates {
  double f32_alone = 0, f32_together = 0;
  double bf16_alone = 0, bf16_together = 0;
  double read_together = 0;  ///< bytes/s of memory read, all devices at once
};

/// Bytes/s of messages of one size over a hop, as the receiver sees them.
struct MessageRate {
  std::int64_t bytes = 0;
  double alone = 0;     ///< no other hop at work
  double together = 0;  ///< all hops at work
};

/// From device d to the next one round the ring.
struct HopRates {
  double latency = 0;                 ///< seconds; half of the median round trip of 4 bytes
  std::vector<MessageRate> messages;  ///< by size
  const MessageRate& largest() const { return messages.back(); }
};

struct RingFindings {
  std::vector<ProcessFacts> processes;
  std::vector<DeviceRates> devices;
  std::vector<HopRates> hops;  ///< of device d to d + 1; none on a ring of one

  int process_of(int device) const { return device / processes.front().devices; }
};

struct ProbeOptions {
  double seconds = 3;                                                      ///< about how long all takes
  std::vector<std::int64_t> message_bytes = {64 << 10, 1 << 20, 8 << 20};  ///< rising, each a multiple of 4
};

/// Called by all devices at once, each with the facts of its process; all get the same findings. Larger
/// messages are left out where they would take too long. ArgumentError for options out of range.
RingFindings probe_ring(Context& context, Communicator& communicator, const ProcessFacts& own,
                        const ProbeOptions& options);

}  // namespace rondo
