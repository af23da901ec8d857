#pragma once
// Inner header of the room: seconds of everything that a step does beside the ring, on the device with the
// most tokens.

#include "rondo/plan/hardware.h"
#include "rondo/plan/memory.h"
#include "rondo/plan/ring_time.h"

namespace rondo {

struct StepPrices {
  AttentionPrice attention;
  double tokens = 0, most_pairs = 0;  ///< of the sequence; of the device with the most visible pairs
  // Of a layer: what stands before and after attention, forward and backward; what backward computes again.
  double forward_before = 0, forward_after = 0, again = 0, backward_before = 0, backward_after = 0;
  double head = 0, embedding = 0, update = 0;
  double linear = 0, elementwise = 0;  ///< of the whole step, contained in the above
  // Links: gathering sharded weights, summing gradients. `moving_layer`: what a device does for it itself.
  double gather_layer = 0, gather_head = 0, gather_updated = 0, sum_layer = 0, sum_head = 0,
         sum_embedding = 0, moving_layer = 0;
  double sent_per_device = 0;  ///< bytes in a step
  double further_token = 0;    ///< seconds of one token in generation
};

/// `most_pairs`: of the device that sees the most.
StepPrices step_prices(const MemoryModel& memory, const Hardware& hardware, std::int64_t tokens,
                       double most_pairs);

}  // namespace rondo
