#pragma once
// bench overlap: how much of a ring's exchange between processes hides behind its computation.

#include "bench/arguments.h"
#include "bench/attention_device.h"
#include "bench/measure.h"
#include "bench/row.h"

namespace rondo::bench {

/// Times one pass with messages that travel while devices compute, with messages that travel while devices
/// wait, and the exchange alone; a pass takes as long as its slowest device. The share that is hidden is
/// (without overlap - with overlap) / exchange. Checks on every device that overlap changes no bit of the
/// results. The row is the same on all processes.
Row bench_overlap(const AttentionCase& what, Pass pass, const MeasureOptions& options);

}  // namespace rondo::bench
