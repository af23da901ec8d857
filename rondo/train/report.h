#pragma once
// A training run as one HTML page: curves, memory (also over time), a step's timeline, facts, a sample. The
// page loads nothing and runs nothing, and follows the reader's light or dark setting.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "rondo/core/ledger.h"
#include "rondo/core/trace.h"
#include "rondo/train/device_times.h"

namespace rondo {

struct LossPoint {
  std::int64_t step = 0;
  double loss_bits = 0;  ///< bits per byte
};

/// What each device's ledger held, in bytes.
struct DeviceMemory {
  int device = 0;
  std::vector<std::pair<Entry, std::int64_t>> entries;
};

/// When a step was done, on the trace's clock.
struct StepTime {
  std::int64_t step = 0, begin_ns = 0, end_ns = 0;
};

/// What the ledgers held over time.
struct MemoryHistory {
  std::vector<MemoryChange> changes;  ///< each device's in order
  std::vector<StepTime> steps;  ///< the history is drawn to the end of the last; none: to the last change
  std::int64_t limit = 0;       ///< bytes that a device may hold; 0: no limit
};

/// Rows shorter than the header are filled with empty cells.
struct ReportTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};

/// Texts may hold any bytes: they are escaped, and what is not UTF-8 is shown as U+FFFD.
struct ReportData {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  ///< name and value
  std::vector<LossPoint> train, held_out;
  std::vector<DeviceMemory> memory;
  MemoryHistory memory_history;
  std::vector<DeviceTimes> times;    ///< of each device, mean of the steps
  std::vector<TraceEvent> timeline;  ///< one step; categories compute, exchange and wait
  ReportTable table;
  std::string sample;  ///< text that the model wrote
};

/// The page. Parts without data are left out. However much data there is, the charts have at most about 4000
/// elements: dense curves keep each pixel column's extremes, neighbouring events are drawn as one, and
/// captions say so.
std::string html_report(const ReportData& data);

}  // namespace rondo
