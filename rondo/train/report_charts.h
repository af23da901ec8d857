#pragma once
// The report's charts, each an HTML figure; "" where there is nothing to draw.

#include <span>
#include <string>

#include "rondo/train/report.h"

namespace rondo::report {

/// Bits per byte over optimizer steps. Values that are not finite are left out and counted in the caption.
std::string loss_chart(std::span<const LossPoint> train, std::span<const LossPoint> held_out);

/// One bar per device, stacked by ledger entry.
std::string memory_chart(std::span<const DeviceMemory> memory);

/// A picture per device: what its ledger held over time, stacked by entry. At most 6 devices.
std::string memory_history_chart(const MemoryHistory& memory);

/// One bar per device: computing, moving data, waiting.
std::string times_chart(std::span<const DeviceTimes> times);

/// Lanes of compute, exchange and wait per device.
std::string timeline_chart(std::span<const TraceEvent> events);

}  // namespace rondo::report
