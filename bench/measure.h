#pragma once
// Timed runs between measurements of what the machine can do at that moment: a rate means little by itself on
// a machine whose speed changes from one second to the next, its ratio to a neighbouring peak does.

#include <chrono>
#include <functional>
#include <vector>

#include "bench/row.h"

namespace rondo::bench {

struct MeasureOptions {
  int runs = 5;
  /// Short work is repeated within a run until a run takes at least this long.
  double least_seconds = 0.05;
  /// Length of each measurement of the peak.
  std::chrono::milliseconds peak_time{40};
};

/// Does the work `repeats` times.
using Work = std::function<void(int repeats)>;
/// Measures what the machine can do now: FLOP/s, bytes/s.
using Peak = std::function<double()>;

/// One work's runs: seconds of the work once, the mean of the peaks measured right before and right after,
/// and how many processors the process had at work on average.
struct Runs {
  std::vector<double> seconds, peaks, processors;
};

/// Runs each of `works` once to warm up, then all in turn `runs` times, backwards every other time, so that
/// none always follows the same one. ArgumentError unless runs >= 1.
std::vector<Runs> measure(const MeasureOptions& options, const std::vector<Work>& works, const Peak& peak);

double median(std::vector<double> values);  ///< of at least one
double least(const std::vector<double>& values);

/// Median over runs of (amount / seconds) / peak.
double median_share(const Runs& runs, double amount);
/// Median over runs of seconds of `a` over seconds of `b` at its side.
double median_ratio(const Runs& a, const Runs& b);

/// Processors that this thread may run on.
int available_cpus();

/// The row with its times, and its rates where the work has operations and the peaks were FLOP/s.
Row with_times(Row row, const Runs& runs);
Row with_rates(Row row, const Runs& runs, double flops);

}  // namespace rondo::bench
