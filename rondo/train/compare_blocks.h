#pragma once
// Which of two models predicts a text better, and how sure that is: their losses differ block by block of the
// text, and the blocks are the sample.

#include <cstdint>
#include <span>

namespace rondo {

/// What a model was scored on in one block, and its loss there.
struct ScoredBlock {
  std::int64_t bytes = 0;
  double nats = 0;
};

/// In bits per byte.
struct BlockComparison {
  double first = 0, second = 0;
  double difference = 0;      ///< first - second: positive where the second model is better
  double standard_error = 0;  ///< of the difference, over blocks
  std::int64_t blocks = 0, bytes = 0;
};

/// The same text, block by block. The difference is a ratio, of summed losses to summed bytes, and so is its
/// standard error (Cochran, Sampling Techniques, 1977, section 6.3): n / (n - 1) times the sum over blocks of
/// (difference of the block - difference * bytes of the block)^2, its root over all bytes. Blocks without a
/// scored byte do not count. Throws ArgumentError where the two were not scored on the same bytes, or on
/// fewer than two blocks.
BlockComparison compare_blocks(std::span<const ScoredBlock> first, std::span<const ScoredBlock> second);

}  // namespace rondo
