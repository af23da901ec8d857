#include "rondo/train/compare_blocks.h"

#include <cmath>
#include <numbers>

#include "rondo/core/error.h"

namespace rondo {

BlockComparison compare_blocks(std::span<const ScoredBlock> first, std::span<const ScoredBlock> second) {
  constexpr const char* op = "compare";
  check_argument(first.size() == second.size(), op, "expected the same text, got {} and {} blocks",
                 first.size(), second.size());
  BlockComparison result;
  for (std::size_t n = 0; n < first.size(); ++n) {
    check_argument(first[n].bytes == second[n].bytes, op,
                   "expected the same scored bytes, got {} and {} in block {}", first[n].bytes,
                   second[n].bytes, n);
    if (first[n].bytes == 0) continue;
    ++result.blocks;
    result.bytes += first[n].bytes;
    result.first += first[n].nats / std::numbers::ln2;
    result.second += second[n].nats / std::numbers::ln2;
  }
  check_argument(result.blocks >= 2, op, "expected at least 2 blocks with scored bytes, got {}",
                 result.blocks);
  const auto bytes = static_cast<double>(result.bytes), blocks = static_cast<double>(result.blocks);
  result.first /= bytes;
  result.second /= bytes;
  result.difference = result.first - result.second;
  double squares = 0;
  for (std::size_t n = 0; n < first.size(); ++n) {
    const double bits = (first[n].nats - second[n].nats) / std::numbers::ln2;
    const double residual = bits - result.difference * static_cast<double>(first[n].bytes);
    squares += residual * residual;
  }
  result.standard_error = std::sqrt(blocks / (blocks - 1) * squares) / bytes;
  return result;
}

}  // namespace rondo
