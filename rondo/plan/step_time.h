#pragma once
// How long a step takes, and what it waits for: computation as executed, exchange beside it as the engine
// overlaps it. docs/plan.md has the prices.

#include "rondo/plan/hardware.h"
#include "rondo/plan/memory.h"

namespace rondo {

/// What a step would have to have more of to be faster (or to be possible).
enum class Bound { computation, node_link, network_link, copying, disk };
const char* name_of(Bound bound);

struct StepTime {
  double seconds = 0;    ///< of an optimizer step of one sequence a ring; an evaluation; reading a prompt
  double computing = 0;  ///< of the device that computes most, moving bytes by itself included
  double exposed = 0;    ///< seconds in which it waits for what travels, or for the disk
  double attention = 0, linear = 0, elementwise = 0, update = 0;  ///< parts of `computing`
  double moving = 0;           ///< the rest of `computing`: bytes that devices move or add by themselves
  double useful_flops = 0;     ///< of all devices; nothing that is computed again counts
  double mfu = 0;              ///< useful_flops over the peak of all devices in that time
  double per_token = 0;        ///< generation: seconds for each further token
  double sent_per_device = 0;  ///< bytes that the device that sends most does
  double disk_read = 0, disk_written = 0;  ///< bytes in a step, with segments on the disk
  /// Tokens of a device (with --spill of a segment) from which attention takes as long as the exchange beside
  /// it; 0: nothing travels.
  double tokens_to_hide_forward = 0, tokens_to_hide_backward = 0;
  Bound bound = Bound::computation;
};

/// Most devices of a ring that is simulated.
inline constexpr int kMostSimulated = 1024;

/// By running the ring's schedule on a clock for each device, or that of segments and their disk
/// (spill_time). ArgumentError for more than kMostSimulated devices, and where there are no tokens.
StepTime simulate_step(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens);
/// In closed form, for any number of devices: the slowest device of an even ring. Segments as simulate_step.
StepTime estimate_step(const MemoryModel& run, const Hardware& hardware, std::int64_t tokens);

}  // namespace rondo
