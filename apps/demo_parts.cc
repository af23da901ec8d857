#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "apps/demo.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "bench/measure.h"
#include "rondo/core/error.h"
#include "rondo/infer/generate.h"

namespace rondo::apps {

namespace fs = std::filesystem;

std::vector<fs::path> compiler_headers() {
  // The compiler says itself where it looks: `-v` prints its include folders.
  std::string text;
  if (FILE* pipe = popen("c++ -E -x c++ -v /dev/null 2>&1 >/dev/null", "r")) {
    std::array<char, 4096> chunk{};
    while (fgets(chunk.data(), static_cast<int>(chunk.size()), pipe) != nullptr) text += chunk.data();
    pclose(pipe);
  }
  std::vector<fs::path> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(" /")) continue;
    const fs::path folder = fs::path(line.substr(1)).lexically_normal();
    if (folder.string().find("c++") == std::string::npos || !fs::is_directory(folder)) continue;
    // A folder inside one that is there already would be read twice.
    const bool inside = std::any_of(found.begin(), found.end(), [&](const fs::path& outer) {
      return folder.string().starts_with(outer.string());
    });
    if (!inside) found.push_back(folder);
  }
  if (found.empty())
    throw IoError(
        "[demo] expected a C++ compiler's headers on this machine, got none; name text files or folders");
  return found;
}

std::int64_t FirstSteps::peak_memory() const {
  std::int64_t most = 0;
  for (const DeviceMemory& device : memory) {
    std::int64_t sum = 0;
    for (const auto& entry : device.entries) sum += entry.second;
    most = std::max(most, sum);
  }
  return most;
}

FirstSteps run_first_steps(TrainingRun run, int devices, int threads, std::int64_t steps) {
  FirstSteps result{.devices = devices, .threads = threads};
  Trace trace;
  std::int64_t step_begin = 0;
  std::vector<double> seconds;
  run.execution.ring.devices = devices;
  run.execution.ring.threads = threads;
  run.execution.ring.trace = &trace;
  run.last_step = steps;
  run.out.clear();
  run.held_out = nullptr;
  const TrainingResult done = run_training(run, {.on_step = [&](const StepReport& step) {
                                             result.losses.push_back(step.loss);
                                             seconds.push_back(step.seconds);
                                             if (step.step < steps) step_begin = trace.now_ns();
                                           }});
  result.memory = done.memory;
  result.seconds_per_step = bench::median(seconds);
  for (const TraceEvent& event : trace.events())
    if (event.begin_ns >= step_begin) result.last_step.push_back(event);
  return result;
}

ReportTable compare(const FirstSteps& one, const FirstSteps& ring, std::int64_t context) {
  ReportTable table{.header = {"", fmt::format("{} device x {} threads", one.devices, one.threads),
                               fmt::format("{} devices x {} thread", ring.devices, ring.threads)}};
  for (std::size_t step = 0; step < one.losses.size(); ++step)
    table.rows.push_back({fmt::format("loss of step {} (bits per byte)", step + 1),
                          fmt::format("{:.6f}", one.losses[step] / std::log(2.0)),
                          fmt::format("{:.6f}", ring.losses[step] / std::log(2.0))});
  const auto row = [&](const char* name, const auto& value) {
    table.rows.push_back({name, value(one), value(ring)});
  };
  row("tokens per device", [&](const FirstSteps& run) { return fmt::format("{}", context / run.devices); });
  row("memory per device",
      [](const FirstSteps& run) { return format_bytes(static_cast<double>(run.peak_memory())); });
  row("seconds per step", [](const FirstSteps& run) { return fmt::format("{:.2f}", run.seconds_per_step); });
  row("tokens per second", [&](const FirstSteps& run) {
    return fmt::format("{:.0f}", static_cast<double>(context) / run.seconds_per_step);
  });
  return table;
}

std::string as_text(const ReportTable& table) {
  std::vector<std::size_t> widths(table.header.size(), 0);
  const auto widen = [&](const std::vector<std::string>& row) {
    for (std::size_t n = 0; n < row.size(); ++n) widths[n] = std::max(widths[n], row[n].size());
  };
  widen(table.header);
  for (const auto& row : table.rows) widen(row);
  std::string text;
  const auto write = [&](const std::vector<std::string>& row) {
    for (std::size_t n = 0; n < row.size(); ++n)
      text +=
          n == 0 ? fmt::format("  {:<{}}", row[n], widths[n]) : fmt::format("  {:>{}}", row[n], widths[n]);
    text += '\n';
  };
  write(table.header);
  for (const auto& row : table.rows) write(row);
  return text;
}

std::string sample_text(const fs::path& checkpoint, const std::string& prompt, int devices) {
  const ModelSource source = open_model(checkpoint);
  std::string text = prompt;
  const GenerateOptions options{
      .ring = {.devices = devices}, .sampling = {.temperature = 0.6f, .top_p = 0.9f}, .max_tokens = 400};
  generate_text(source.model, *source.tokenizer, prompt, options,
                [&](std::string_view piece) { text += piece; });
  return text;
}

}  // namespace rondo::apps
