#include "bench/measure.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <thread>

#include "rondo/core/error.h"

namespace rondo::bench {

namespace {

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct Run {
  double seconds, processors;
};

Run run_once(const Work& work, int repeats) {
  const double processor_begin = processor_seconds();
  const auto begin = std::chrono::steady_clock::now();
  work(repeats);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return {seconds, (processor_seconds() - processor_begin) / std::max(seconds, 1e-9)};
}

/// How often the work has to be done to fill a run, after one that warms up.
int repeats_of(const Work& work, double least_seconds) {
  double once = run_once(work, 1).seconds;
  if (once < least_seconds) once = run_once(work, 1).seconds;
  constexpr double kMost = 1e6;
  return static_cast<int>(std::clamp(std::ceil(least_seconds / std::max(once, 1e-9)), 1.0, kMost));
}

}  // namespace

std::vector<Runs> measure(const MeasureOptions& options, const std::vector<Work>& works, const Peak& peak) {
  check_argument(options.runs >= 1, "bench", "expected at least 1 run, got {}", options.runs);
  std::vector<int> repeats;
  for (const Work& work : works) repeats.push_back(repeats_of(work, options.least_seconds));
  std::vector<Runs> all(works.size());
  double before = peak();
  for (int run = 0; run < options.runs; ++run) {
    for (std::size_t n = 0; n < works.size(); ++n) {
      const std::size_t w = run % 2 == 0 ? n : works.size() - 1 - n;
      const Run timed = run_once(works[w], repeats[w]);
      all[w].seconds.push_back(timed.seconds / repeats[w]);
      all[w].processors.push_back(timed.processors);
      const double after = peak();
      all[w].peaks.push_back((before + after) / 2);
      before = after;
    }
  }
  return all;
}

double median(std::vector<double> values) {
  RONDO_ASSERT(!values.empty());
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double least(const std::vector<double>& values) { return *std::min_element(values.begin(), values.end()); }

double median_share(const Runs& runs, double amount) {
  std::vector<double> shares;
  for (std::size_t n = 0; n < runs.seconds.size(); ++n)
    shares.push_back(amount / runs.seconds[n] / runs.peaks[n]);
  return median(shares);
}

double median_ratio(const Runs& a, const Runs& b) {
  std::vector<double> ratios;
  for (std::size_t n = 0; n < a.seconds.size(); ++n) ratios.push_back(a.seconds[n] / b.seconds[n]);
  return median(ratios);
}

int available_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

Row with_times(Row row, const Runs& runs) {
  const auto most = std::min<std::int64_t>(row.devices * row.threads, available_cpus());
  row.cpu_share = median(runs.processors) / static_cast<double>(most);
  row.seconds_median = median(runs.seconds);
  row.seconds_min = least(runs.seconds);
  row.runs = static_cast<std::int64_t>(runs.seconds.size());
  return row;
}

Row with_rates(Row row, const Runs& runs, double flops) {
  row = with_times(std::move(row), runs);
  row.gflops = flops / row.seconds_median / 1e9;
  row.peak_gflops = median(runs.peaks) / 1e9;
  row.fraction_of_peak = median_share(runs, flops);
  return row;
}

}  // namespace rondo::bench
