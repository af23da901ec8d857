#include "bench/measure.h"

#include <algorithm>
#include <cmath>

#include "rondo/core/error.h"

namespace rondo::bench {

namespace {

double seconds_of(const Work& work, int repeats) {
  const auto begin = std::chrono::steady_clock::now();
  work(repeats);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// How often the work has to be done to fill a run, after one that warms up.
int repeats_of(const Work& work, double least_seconds) {
  double once = seconds_of(work, 1);
  if (once < least_seconds) once = seconds_of(work, 1);
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
      all[w].seconds.push_back(seconds_of(works[w], repeats[w]) / repeats[w]);
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

Row with_times(Row row, const Runs& runs) {
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
