#pragma once
// The parts of `rondo demo`: what it trains, what it measures and what it shows.

#include <filesystem>
#include <string>
#include <vector>

#include "rondo/train/report.h"
#include "rondo/train/trainer.h"

namespace rondo::apps {

struct DemoSettings {
  std::vector<std::string> data;  ///< empty: the C++ compiler's headers
  std::string out = "demo-run";
  double minutes = 5;  ///< of training
  std::int64_t context = 16384;
  int devices = 4;
  std::uint64_t seed = 1;
};

/// The folders in which the C++ compiler of this machine looks for its own headers, or IoError with what to
/// give.
std::vector<std::filesystem::path> compiler_headers();

/// What a run over the first steps showed.
struct FirstSteps {
  int devices = 0, threads = 0;
  std::vector<double> losses;  ///< nats per token, one for each step
  std::vector<DeviceMemory> memory;
  double seconds_per_step = 0;  ///< the median: the first one warms up, and any may meet other work
  std::vector<TraceEvent> last_step;
  std::int64_t peak_memory() const;  ///< of the device that needs most
};
/// Trains `steps` steps on a ring and forgets them.
FirstSteps run_first_steps(TrainingRun run, int devices, int threads, std::int64_t steps);

/// The comparison of one device with the ring, row by row.
ReportTable compare(const FirstSteps& one, const FirstSteps& ring, std::int64_t context);
/// A table in plain text with aligned columns.
std::string as_text(const ReportTable& table);

/// The model's continuation of a line of the held-out text.
std::string sample_text(const std::filesystem::path& checkpoint, const std::string& prompt, int devices);

}  // namespace rondo::apps
