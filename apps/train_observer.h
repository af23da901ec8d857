#pragma once
// What people and programs see of a run while it goes: the progress line, metrics.jsonl, the trace.

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "apps/metrics.h"
#include "apps/progress.h"
#include "apps/train_plan.h"
#include "rondo/core/trace.h"

namespace rondo::apps {

/// Steps whose events the trace file holds, and most events that a process keeps of them.
inline constexpr std::int64_t kTracedSteps = 3;
inline constexpr std::size_t kMostEvents = 200'000;

/// All processes' changes of memory.
std::vector<MemoryChange> memory_changes(const std::vector<ProcessTrace>& processes);
/// When a step that has just ended was done, by the trace's clock.
StepTime step_time(const StepReport& report, const Trace& trace);

class TrainWatch {
 public:
  /// `peak_flops` is what the machine could do at most; 0 is unknown.
  TrainWatch(const TrainPlan& plan, double peak_flops, Trace& trace, std::filesystem::path trace_file);

  /// Refers to this object.
  TrainingObserver observer();
  /// Ends the progress line. Writes the trace of this process where a run failed before those of all were
  /// handed over.
  void finish();
  void note(std::string_view words) { line_.note(words); }

  std::int64_t steps() const { return steps_; }
  const MetricsFile& metrics() const { return metrics_; }
  const std::filesystem::path& checkpoint() const { return checkpoint_; }  ///< the last; empty: none yet
  /// Events of one step, the second where there is one: the first also makes room.
  std::vector<TraceEvent> timeline() const;
  /// What all ledgers held during the traced steps and before.
  const MemoryHistory& memory_history() const { return memory_; }

 private:
  void on_step(const StepReport& report);
  void on_evaluation(std::int64_t step, const Evaluation& evaluation);
  void write_trace(const std::vector<ProcessTrace>& processes);

  const TrainPlan& plan_;
  double peak_flops_;
  Trace& trace_;
  std::filesystem::path trace_file_;
  ProgressLine line_;
  MetricsFile metrics_;
  std::int64_t steps_ = 0;
  std::filesystem::path checkpoint_;
  MemoryHistory memory_;  // its steps are the first ones
  std::vector<TraceEvent> timeline_;
  bool trace_written_ = false;
  std::chrono::steady_clock::time_point last_step_ = std::chrono::steady_clock::now();
  double seconds_per_step_ = 0;  // smoothed, evaluations and checkpoints included
};

}  // namespace rondo::apps
