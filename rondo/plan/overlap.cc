#include "rondo/plan/overlap.h"

#include <cmath>

#include "rondo/core/error.h"

namespace rondo {

namespace {

/// The c from which c^2 * work = c * travel + latency, all in seconds.
double crossing(double work, double travel, double latency) {
  return (travel + std::sqrt(travel * travel + 4 * work * latency)) / (2 * work);
}

/// `operations` for each pair and element of a head, `bytes` for each element of keys and of values.
double tokens(const HopModel& hop, double operations, double bytes) {
  constexpr const char* op = "tokens to hide";
  check_argument(hop.flops > 0 && hop.bytes_per_second > 0 && hop.latency >= 0, op,
                 "expected positive rates, got {} FLOP/s, {} bytes/s and a latency of {} s", hop.flops,
                 hop.bytes_per_second, hop.latency);
  check_argument(hop.kv_heads > 0 && hop.heads % hop.kv_heads == 0 && hop.heads > 0 && hop.head_dim > 0, op,
                 "expected heads of which each key/value head serves as many, got {} on {} of {}", hop.heads,
                 hop.kv_heads, hop.head_dim);
  const auto dim = static_cast<double>(hop.head_dim);
  const double seen = hop.causal ? 0.5 : 1;
  const double work = seen * operations * dim * static_cast<double>(hop.heads) / hop.flops;
  const double travel = 2 * bytes * dim * static_cast<double>(hop.kv_heads) / hop.bytes_per_second;
  return crossing(work, travel, hop.latency);
}

}  // namespace

double tokens_to_hide_forward(const HopModel& hop) {
  return tokens(hop, 4, static_cast<double>(size_of(hop.dtype)));
}

double tokens_to_hide_backward(const HopModel& hop) {
  return tokens(hop, 10, static_cast<double>(size_of(hop.dtype) + size_of(DType::f32)));
}

}  // namespace rondo
