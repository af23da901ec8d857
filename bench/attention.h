#pragma once
// bench attention: one sequence on a ring of one device or more, a pass at a time.
// bench ring: the same work on one device and on several, over the same processors.

#include <vector>

#include "bench/attention_work.h"
#include "bench/measure.h"
#include "bench/row.h"

namespace rondo::bench {

/// Verifies and times one pass.
Row bench_attention(const AttentionCase& what, Pass pass, const MeasureOptions& options);

/// Keeps the calling thread, and those that it starts, on the first `cpus` processors that it may run on, as
/// long as this lives. ArgumentError where there are fewer, or the system does not allow it.
class PinnedCpus {
 public:
  explicit PinnedCpus(int cpus);
  ~PinnedCpus();
  PinnedCpus(const PinnedCpus&) = delete;
  PinnedCpus& operator=(const PinnedCpus&) = delete;

 private:
  std::vector<unsigned long> before_;
};

/// Verifies and times one pass on one device with a thread for each of `cpus` processors, and on the ring of
/// `what`, in turn. Two rows, the second with the ratio of their speeds (median of ratios of runs at each
/// other's side): above 1 the ring is faster.
std::vector<Row> bench_ring(const AttentionCase& what, Pass pass, int cpus, const MeasureOptions& options);

}  // namespace rondo::bench
