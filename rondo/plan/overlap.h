#pragma once
// How many tokens a device needs for its computation to take as long as the exchange beside it.

#include <cstdint>

#include "rondo/core/dtype.h"

namespace rondo {

/// One hop of a ring on which each device has equally many tokens.
struct HopModel {
  double flops = 0;             ///< FLOP/s of a device
  double bytes_per_second = 0;  ///< of a hop while all hops are at work
  double latency = 0;           ///< seconds until the first byte of a message has arrived
  std::int64_t heads = 1, kv_heads = 1, head_dim = 1;
  DType dtype = DType::f32;  ///< of keys and values; their gradients travel as float32
  bool causal = true;        ///< and the work shared evenly (zigzag, striped): half of all pairs
};

/// Tokens per device from which the attention of one hop takes as long as the exchange of the next block:
/// c = kappa F e / (2 g B) without latency, where g query heads share a key/value head and kappa is 2 when
/// causal, else 1. ArgumentError for rates and extents that are not positive.
double tokens_to_hide_forward(const HopModel& hop);
/// The same for the backward pass, where 5 products stand beside keys, values and both their gradients.
double tokens_to_hide_backward(const HopModel& hop);

}  // namespace rondo
