// With one memory limit per device the longest context grows with the ring.

#include <gtest/gtest.h>

#include "tests/train/memory_model.h"

namespace rondo {
namespace {

using test::MemoryCase;

/// 12 layers, 4 query heads per key/value head.
ModelConfig deep_config() {
  return {.vocabulary = 258,
          .width = 64,
          .ffn = 64,
          .layers = 12,
          .q_heads = 4,
          .kv_heads = 1,
          .head_dim = 16,
          .bos = 256,
          .eos = {257}};
}

class LongestContext : public ::testing::TestWithParam<Remat> {};
INSTANTIATE_TEST_SUITE_P(Memory, LongestContext,
                         ::testing::Values(Remat::layer, Remat::attention, Remat::none),
                         [](const auto& test_case) { return std::string(name_of(test_case.param)); });

/// By the formulas, which the ledger follows to the byte (memory.cc).
std::int64_t longest(MemoryCase run, int devices, std::int64_t limit) {
  run.devices = devices;
  std::int64_t fits = 1, too_long = limit;
  while (too_long - fits > 1) {
    const std::int64_t middle = (fits + too_long) / 2, shard = (middle + devices - 1) / devices;
    (test::sum_of(test::predicted(run, shard, shard)) <= limit ? fits : too_long) = middle;
  }
  return fits;
}

TEST_P(LongestContext, GrowsWithTheRing) {
  const test::Text files({12000});
  const Corpus corpus = files.corpus();
  MemoryCase run{
      .config = deep_config(), .remat = GetParam(), .block_tokens = 64, .context = 2000, .devices = 2};
  const test::Measured two = test::run_one_step(run, corpus);
  const std::int64_t limit = two.peak_totals[0];
  const std::int64_t scratch = two.peaks[0][static_cast<std::size_t>(Entry::library_scratch)];

  std::array<double, 3> tokens{};
  for (std::size_t n = 0; n < 3; ++n) {
    const int devices = std::array{1, 2, 8}[n];
    run.devices = devices;
    run.context = longest(run, devices, limit - scratch);
    tokens[n] = static_cast<double>(run.context);
    EXPECT_NO_THROW(test::run_one_step(run, corpus, limit))
        << devices << " devices, " << run.context << " tokens";
    run.context += devices;  // one token more on each
    EXPECT_THROW(test::run_one_step(run, corpus, limit), MemoryLimitError) << devices << " devices";
  }
  EXPECT_NEAR(tokens[2] / tokens[1], 4, 0.04);
  EXPECT_GE(tokens[2] / tokens[0], 7.4);
  RecordProperty("limit_MiB", fmt::format("{:.1f}", static_cast<double>(limit) / (1 << 20)));
  RecordProperty("longest", fmt::format("{} {} {}", tokens[0], tokens[1], tokens[2]));
  fmt::print(
      "{}: limit {:.1f} MiB, longest context on 1, 2, 8 devices: {}, {}, {}; 8 over 2: {:.3f}, 8 over 1: "
      "{:.3f}\n",
      name_of(GetParam()), static_cast<double>(limit) / (1 << 20), tokens[0], tokens[1], tokens[2],
      tokens[2] / tokens[1], tokens[2] / tokens[0]);
}

}  // namespace
}  // namespace rondo
