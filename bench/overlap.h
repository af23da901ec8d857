#pragma once
// bench overlap: how much of a ring's exchange between processes hides behind its computation.

#include "bench/arguments.h"
#include "bench/attention_device.h"
#include "bench/measure.h"
#include "bench/row.h"

namespace rondo::bench {

/// Times one pass with messages that travel while devices compute, with messages that travel while devices
/// wait, and its computation alone; a pass takes as long as its slowest device. The exchange takes what
/// the second takes more than the third, and the share of it that is hidden is (second - first) / exchange.
/// Checks on every device that overlap changes no bit of the results, whose error other benchmarks and tests
/// measure: max_rel_error stays empty. The row is the same on all processes.
Row bench_overlap(const AttentionCase& what, Pass pass, const MeasureOptions& options);

}  // namespace rondo::bench
