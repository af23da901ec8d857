#pragma once
// One attention problem run on a ring and against the double-precision reference.

#include <string>
#include <vector>

#include "rondo/attention/ring_attention.h"
#include "rondo/comm/processes.h"
#include "rondo/reference/attention.h"

namespace rondo::test {

/// A problem over whole (uncut) sequences; inputs are standard normal, rounded to `dtype`.
struct RingProblem {
  std::int64_t tokens = 0;
  Mask mask;
  std::vector<std::int64_t> document_starts;
  AttentionShape shape{.q_heads = 2, .kv_heads = 1, .qk_dim = 8, .v_dim = 8, .dtype = DType::f32};
  float softcap = 0;
  float dropout = 0;
  std::uint64_t seed = 1;
};

/// Everything in global token order, as doubles: out, dq, dk, dv.
struct RingResult {
  std::vector<double> out, dq, dk, dv, lse;
  std::int64_t kv_hops = 0, gradient_hops = 0;  ///< of all devices
  std::vector<std::int64_t> exchange_bytes;     ///< most that each device's ledger had under Entry::exchange
};

struct RingRun {
  int devices = 1;
  Layout layout = Layout::contiguous;
  std::vector<double> weights;  ///< shares of the devices; empty: equal
  Exchange exchange = Exchange::copy;
  int threads = 1;
  bool lend_memory = false;  ///< use forward's `lent` and backward's `spare`
  /// Use `spare` of both, so that keys and values are made again for backward, and its `idle`.
  bool reuse_memory = false;
  bool strided = false;                         ///< keys and values are slices of a wider tensor
  std::vector<std::int64_t> earlier_tokens;     ///< the ring was prepared for these before
  std::shared_ptr<rondo::Processes> processes;  ///< over which the devices are divided; null: one
};

/// The same visibility written as a predicate over global tokens, independent of schedules and tiles.
bool visible(const RingProblem& problem, std::int64_t query, std::int64_t key);

/// Inputs of the problem: q, k, v, dout in global order (rounded to the storage type).
reference::AttentionProblem reference_problem(const RingProblem& problem, std::vector<double>* dout);
RingResult run_reference(const RingProblem& problem);
/// Of several processes each has the results of its own tokens, and zeros.
RingResult run_on_ring(const RingProblem& problem, const RingRun& run);

/// Largest |a - b| over the largest |b|.
double relative_to_largest(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace rondo::test
