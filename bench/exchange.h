#pragma once
// bench exchange: keys and values go once round the ring while nothing is computed.

#include "bench/measure.h"
#include "bench/row.h"
#include "rondo/attention/ring_loop.h"
#include "rondo/comm/device_group.h"

namespace rondo::bench {

struct ExchangeCase {
  Exchange exchange = Exchange::copy;
  DType dtype = DType::f32;
  std::int64_t head_dim = 64, kv_heads = 1;
  std::int64_t block_tokens = 0;  ///< of each device's keys and values
  RingOptions ring{};

  std::int64_t block_bytes() const { return 2 * block_tokens * kv_heads * head_dim * size_of(dtype); }
};

/// Checks on every device that each block that arrives is its owner's, then times the exchange of one
/// attention without a mask: every block visits every device. Views that are handed over are not read.
Row bench_exchange(const ExchangeCase& what, const MeasureOptions& options);

}  // namespace rondo::bench
