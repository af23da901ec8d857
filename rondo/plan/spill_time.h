#pragma once
// How long a step takes that goes segment by segment with the others on the disk: computation and transfers
// in the order of model/segmented.cc, on a clock for the device and one for its disk.

#include "rondo/plan/hardware.h"
#include "rondo/plan/memory.h"
#include "rondo/plan/step_prices.h"

namespace rondo {

struct SpillTime {
  double seconds = 0, computing = 0;
  double pairs = 0;              ///< visible ones of the sequence
  double read = 0, written = 0;  ///< bytes that the step moves from and to the disk
  double further_token = 0;      ///< generation: seconds of one token
  /// Tokens of a segment from which attention on a block takes as long as the block's way from (and to) the
  /// disk; 0: nothing is on the disk.
  double tokens_to_hide_forward = 0, tokens_to_hide_backward = 0;
  StepPrices prices;  ///< of the whole step: sums of all segments'
};

/// Segments up to which every block is simulated; of more, each block takes as long as the slower of disk and
/// device.
inline constexpr std::int64_t kMostSegments = 512;

/// For runs with RunShape::segment_tokens on one device. ArgumentError for others, and where the hardware's
/// disk is not known but needed.
SpillTime spill_time(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens);

/// Bytes that the files take on the disk.
double spilled_bytes(const RunShape& run, std::int64_t tokens);

/// Query-key pairs of queries [q.begin, q.end) on keys [k.begin, k.end) that a causal mask with a window (0:
/// none) lets see each other.
double visible_pairs(Range q, Range k, std::int64_t window);

}  // namespace rondo
