#pragma once
// Attention's results against rondo/reference, at a cost that stays small beside the runs that are timed.

#include "bench/attention_work.h"

namespace rondo::bench {

/// Runs the pass once and returns the largest error over the tensors that it makes, each relative to the
/// largest value of its reference; throws std::runtime_error where it is too large to be rounding.
///
/// Compared are rows of queries and keys, first and last among them, of up to four key/value heads: outputs
/// and dq with the reference, dk and dv with its formula from the log-sums and outputs of the forward pass. A
/// backward pass is also compared over all elements of a short sequence with the same mask on the same ring.
double verified_error(AttentionWork& work, Pass pass);

/// Whether the mask lets the query see the key.
bool visible(const Mask& mask, std::int64_t query, std::int64_t key);

}  // namespace rondo::bench
