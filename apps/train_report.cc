#include "apps/train_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "apps/model_source.h"
#include "apps/options.h"
#include "rondo/io/atomic_file.h"

namespace rondo::apps {

namespace {

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The numbers of a key over all lines that have it.
std::vector<double> column(const std::vector<nlohmann::json>& lines, const char* key) {
  std::vector<double> values;
  for (const nlohmann::json& line : lines)
    if (line.contains(key) && line[key].is_number()) values.push_back(line[key].get<double>());
  return values;
}

std::vector<LossPoint> points(const std::vector<nlohmann::json>& lines, const char* key) {
  std::vector<LossPoint> result;
  for (const nlohmann::json& line : lines)
    if (line.contains(key) && line[key].is_number())
      result.push_back({line["step"].get<std::int64_t>(), line[key].get<double>()});
  return result;
}

/// Mean of the steps on the ring of the last one. The first step is left out where there are others: it also
/// makes room.
std::vector<DeviceTimes> mean_times(const std::vector<nlohmann::json>& lines) {
  std::vector<std::vector<DeviceTimes>> steps;
  for (const nlohmann::json& line : lines) {
    if (!line.contains("compute_seconds")) continue;
    const auto of = [&line](const char* key) { return line.at(key).get<std::vector<double>>(); };
    const auto compute = of("compute_seconds"), exchange = of("exchange_seconds"), wait = of("wait_seconds");
    std::vector<DeviceTimes> step;
    for (std::size_t d = 0; d < std::min({compute.size(), exchange.size(), wait.size()}); ++d)
      step.push_back({compute[d], exchange[d], wait[d]});
    steps.push_back(std::move(step));
  }
  if (steps.size() > 1) steps.erase(steps.begin());
  if (steps.empty()) return {};
  std::erase_if(steps, [devices = steps.back().size()](const auto& step) { return step.size() != devices; });
  std::vector<DeviceTimes> mean(steps.back().size());
  const auto number = static_cast<double>(steps.size());
  for (const auto& step : steps)
    for (std::size_t d = 0; d < mean.size(); ++d) {
      mean[d].compute += step[d].compute / number;
      mean[d].exchange += step[d].exchange / number;
      mean[d].wait += step[d].wait / number;
    }
  return mean;
}

using Facts = std::vector<std::pair<std::string, std::string>>;

void add_speed(Facts& facts, const std::vector<nlohmann::json>& lines) {
  facts.emplace_back("tokens per second",
                     fmt::format("{:.0f} (median step)", median(column(lines, "tokens_per_second"))));
  facts.emplace_back("share of peak", fmt::format("{:.0f} % (median step)",
                                                  100 * median(column(lines, "flops_share_of_peak"))));
}

Facts facts_of(const TrainPlan& plan, const TrainSummary& summary, const std::vector<nlohmann::json>& lines) {
  const TrainingRun& run = plan.run;
  const RingOptions& ring = run.execution.ring;
  const int replicas = run.execution.replicas, devices = ring.devices_in_all() / replicas;
  Facts facts = {
      {"model", describe(run.config, ParameterTable(run.config).parameters())},
      {"context", fmt::format("{} tokens, {} per device", run.recipe.context,
                              (run.recipe.context + devices - 1) / devices)},
      {"ring", fmt::format("{}{} devices of {} threads, {}, exchange {}",
                           replicas > 1 ? fmt::format("{} rings of ", replicas) : "", devices, ring.threads,
                           name_of(run.execution.layout), name_of(run.execution.exchange))},
      {"storage", fmt::format("{}, remat {}, divided: {}", name_of(run.recipe.dtype),
                              name_of(run.execution.remat), name_of(run.execution.shard))},
      {"steps", fmt::format("{} of {}{}", summary.result.steps_done, run.recipe.learning_rate.total_steps,
                            summary.result.stopped ? ", stopped" : "")},
      {"training text", fmt::format("{} bytes in {} files", run.corpus->bytes(), run.corpus->documents())},
      {"measured peak", format_rate(summary.peak_flops) + "FLOP/s"},
  };
  add_speed(facts, lines);
  const auto held_out = column(lines, "held_out_bits_per_byte");
  if (!held_out.empty()) facts.emplace_back("held-out", fmt::format("{:.4f} bits per byte", held_out.back()));
  if (summary.bigram_bits)
    facts.emplace_back("byte bigrams", fmt::format("{:.4f} bits per byte", *summary.bigram_bits));
  return facts;
}

}  // namespace

void write_train_report(const std::filesystem::path& file, const TrainPlan& plan, const TrainWatch& watch,
                        const TrainSummary& summary) {
  const auto lines = read_metrics(watch.metrics().path());
  const ReportData data{.title = "Training run " + plan.run.out.filename().string(),
                        .facts = facts_of(plan, summary, lines),
                        .train = points(lines, "bits_per_byte"),
                        .held_out = points(lines, "held_out_bits_per_byte"),
                        .memory = summary.result.memory,
                        .memory_history = watch.memory_history(),
                        .times = mean_times(lines),
                        .timeline = watch.timeline(),
                        .table = {},
                        .sample = summary.sample};
  write_file_atomically(file, html_report(data));
}

}  // namespace rondo::apps
