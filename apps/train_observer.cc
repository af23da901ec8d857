#include "apps/train_observer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "apps/options.h"
#include "rondo/io/atomic_file.h"

namespace rondo::apps {

namespace {

/// Standstill that is worth a word on the progress line.
constexpr double kMuchExposed = 0.05;

std::vector<double> of_each(const StepReport& report, double DeviceTimes::*what) {
  std::vector<double> values;
  for (const DeviceTimes& device : report.times) values.push_back(device.*what);
  return values;
}

std::string exposed_words(const StepReport& report) {
  const double exposed = exposed_share(report.times);
  return exposed > kMuchExposed ? fmt::format("  exchange and wait {:.0f}%", 100 * exposed) : "";
}

}  // namespace

std::vector<MemoryChange> memory_changes(const std::vector<ProcessTrace>& processes) {
  std::vector<MemoryChange> all;
  for (const ProcessTrace& process : processes)
    all.insert(all.end(), process.memory.begin(), process.memory.end());
  return all;
}

StepTime step_time(const StepReport& report, const Trace& trace) {
  const std::int64_t now = trace.now_ns();
  return {report.step, now - std::llround(report.seconds * 1e9), now};
}

TrainWatch::TrainWatch(const TrainPlan& plan, double peak_flops, Trace& trace,
                       std::filesystem::path trace_file)
    : plan_(plan),
      peak_flops_(peak_flops),
      trace_(trace),
      trace_file_(std::move(trace_file)),
      metrics_(plan.run.out / "metrics.jsonl", plan.first_step),
      memory_{.limit = plan.run.execution.ring.memory_limit} {}

TrainingObserver TrainWatch::observer() {
  return {.on_step = [this](const StepReport& report) { on_step(report); },
          .on_evaluation = [this](std::int64_t step,
                                  const Evaluation& evaluation) { on_evaluation(step, evaluation); },
          .on_checkpoint =
              [this](const std::filesystem::path& path) {
                checkpoint_ = path;
                line_.note("saved " + path.string());
              },
          .on_trace = [this](const std::vector<ProcessTrace>& processes) { write_trace(processes); }};
}

void TrainWatch::on_step(const StepReport& report) {
  const auto now = std::chrono::steady_clock::now();
  const double wall = std::chrono::duration<double>(now - std::exchange(last_step_, now)).count();
  // The first step also makes room for everything: it says little about the others.
  seconds_per_step_ = steps_ <= 1 ? wall : 0.9 * seconds_per_step_ + 0.1 * wall;
  ++steps_;
  const double bits = report.loss / std::numbers::ln2;
  const double tokens_per_second = static_cast<double>(report.tokens) / report.seconds;
  const double share = peak_flops_ > 0 ? report.flops / report.seconds / peak_flops_ : 0;
  metrics_.append({{"step", report.step},
                   {"loss", report.loss},
                   {"bits_per_byte", bits},
                   {"learning_rate", report.learning_rate},
                   {"gradient_norm", report.gradient_norm},
                   {"tokens", report.tokens},
                   {"seconds", report.seconds},
                   {"tokens_per_second", tokens_per_second},
                   {"flops", report.flops},
                   {"flops_share_of_peak", share},
                   {"memory_bytes", report.memory},
                   {"compute_seconds", of_each(report, &DeviceTimes::compute)},
                   {"exchange_seconds", of_each(report, &DeviceTimes::exchange)},
                   {"wait_seconds", of_each(report, &DeviceTimes::wait)},
                   {"slowest_device", slowest_device(report.times)},
                   {"imbalance", imbalance(report.times)}});
  const TrainingRun& run = plan_.run;
  const std::int64_t last = run.last_step > 0 ? run.last_step : run.recipe.learning_rate.total_steps;
  const auto memory = *std::max_element(report.memory.begin(), report.memory.end());
  line_.show(
      // What matters most stands first: a terminal may be narrow.
      fmt::format("step {}/{}  {} left  loss {:.4f}  {:.3f} bits/byte  {}tok/s  {}/device  {}FLOP/s ({:.0f}% "
                  "of peak){}",
                  report.step, last,
                  format_duration(seconds_per_step_ * static_cast<double>(last - report.step)), report.loss,
                  bits, format_rate(tokens_per_second), format_bytes(static_cast<double>(memory)),
                  format_rate(report.flops / report.seconds), 100 * share, exposed_words(report)),
      steps_ == 1 || report.step == last);
  if (steps_ <= kTracedSteps) memory_.steps.push_back(step_time(report, trace_));
}

void TrainWatch::on_evaluation(std::int64_t step, const Evaluation& evaluation) {
  const double nats = evaluation.nats / static_cast<double>(std::max<std::int64_t>(1, evaluation.tokens));
  metrics_.append({{"step", step},
                   {"held_out_loss", nats},
                   {"held_out_bits_per_byte", nats / std::numbers::ln2},
                   {"held_out_tokens", evaluation.tokens},
                   {"held_out_windows", evaluation.windows}});
  line_.note(fmt::format("step {}: held-out {:.4f} bits per byte ({} bytes in {} windows)", step,
                         nats / std::numbers::ln2, evaluation.tokens, evaluation.windows));
}

void TrainWatch::write_trace(const std::vector<ProcessTrace>& processes) {
  trace_written_ = true;
  const std::vector<StepTime>& steps = memory_.steps;
  const std::size_t step = steps.size() >= 2 ? 1 : 0;
  const std::int64_t begin = step == 0 ? 0 : steps[0].end_ns, end = steps.empty() ? 0 : steps[step].end_ns;
  std::size_t dropped = 0;
  for (const ProcessTrace& process : processes) {
    dropped += process.dropped;
    for (const TraceEvent& event : process.events)
      if (event.begin_ns >= begin && event.begin_ns <= end) timeline_.push_back(event);
  }
  memory_.changes = memory_changes(processes);
  write_file_atomically(trace_file_, chrome_json(processes));
  if (dropped > 0)
    line_.note(fmt::format("the trace leaves out {} events and changes of memory, the latest of each process",
                           dropped));
}

void TrainWatch::finish() {
  line_.finish();
  if (steps_ == 0 || trace_written_) return;
  const std::vector<ProcessTrace> own{
      {.events = trace_.events(), .memory = trace_.memory(), .dropped = trace_.dropped()}};
  write_trace(own);
}

std::vector<TraceEvent> TrainWatch::timeline() const { return timeline_; }

}  // namespace rondo::apps
