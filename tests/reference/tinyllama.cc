// The reference decoder against a trained model: logits and continuation computed elsewhere in float64.

#include "tests/support/tinyllama.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "rondo/reference/convert.h"
#include "tests/support/data.h"
#include "tests/support/npy.h"

namespace rondo::reference {
namespace {

std::vector<std::int32_t> golden_tokens() {
  const auto values = test::read_npy(test::data_dir() / "tinyllama/golden_greedy_tokens.npy").values;
  return {values.begin(), values.end()};
}

// Both sides compute in double from the same float32 weights, so they differ by the rounding of the golden
// logits to float32 alone: half a unit in the last place, at most 2^-20 for logits below 32.
TEST(ReferenceTinyLlama, MatchesTheGoldenLogits) {
  RONDO_NEEDS_DATA("tinyllama");
  const test::TinyLlama model = test::read_tinyllama(test::data_dir() / "tinyllama/stories260K.bin");
  const test::NpyArray golden =
      test::read_npy(test::data_dir() / "tinyllama/golden_greedy_logits_f64to_f32.npy");
  const auto tokens = golden_tokens();
  const LlamaResult result = llama_forward(model.config, model.parameters, {tokens, {}, {}});
  ASSERT_EQ(result.logits_TV.size(), golden.values.size());
  double largest = 0;
  for (const double logit : golden.values) largest = std::max(largest, std::abs(logit));
  const double difference = max_difference(result.logits_TV, golden.values);
  std::printf("largest logit %.3g, largest difference %.3g\n", largest, difference);
  EXPECT_LT(largest, 32);
  EXPECT_LE(difference, 0x1p-20 + 1e-12);

  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {  // the golden text is the greedy continuation
    const auto row = result.logits_TV.begin() + static_cast<std::ptrdiff_t>(t * 512);
    ASSERT_EQ(std::max_element(row, row + 512) - row, tokens[t + 1]) << "after token " << t;
  }
}

}  // namespace
}  // namespace rondo::reference
