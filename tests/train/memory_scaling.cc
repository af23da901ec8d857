// With one memory limit per device the longest context grows with the ring.

#include <gtest/gtest.h>

#include "tests/train/memory_model.h"

namespace rondo {
namespace {

using test::MemoryCase;

class LongestContext : public ::testing::TestWithParam<std::tuple<DType, Remat>> {};
INSTANTIATE_TEST_SUITE_P(Memory, LongestContext,
                         ::testing::Combine(::testing::Values(DType::f32, DType::bf16),
                                            ::testing::Values(Remat::layer, Remat::attention, Remat::none)),
                         [](const auto& test_case) {
                           return fmt::format("{}_{}", name_of(std::get<0>(test_case.param)),
                                              name_of(std::get<1>(test_case.param)));
                         });

/// Steps on 1, 2 and 8 devices, of one process or of as many, under the limit that 2 need for 2,000 tokens.
void expect_growth(DType dtype, Remat remat, bool apart) {
  const test::Text files({12000});
  const Corpus corpus = files.corpus();
  MemoryCase run{.config = test::deep_config(64, 4, 1),
                 .dtype = dtype,
                 .remat = remat,
                 .block_tokens = 64,
                 .context = 2000,
                 .devices = 2,
                 .processes = apart ? 2 : 1};
  const test::Measured two = test::run_one_step(run, corpus);
  const std::int64_t limit = two.peak_totals[0];
  const std::int64_t scratch = two.peaks[0][static_cast<std::size_t>(Entry::library_scratch)];

  std::array<double, 3> tokens{};
  for (std::size_t n = 0; n < 3; ++n) {
    const int devices = std::array{1, 2, 8}[n];
    run.devices = devices, run.processes = apart ? devices : 1;
    run.context = test::longest_context(run, devices, limit - scratch);
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
      "{}, {}{}: limit {:.1f} MiB, longest context on 1, 2, 8 devices: {}, {}, {}; 8 over 2: {:.3f}, 8 over "
      "1: "
      "{:.3f}\n",
      name_of(dtype), name_of(remat), apart ? ", processes" : "", static_cast<double>(limit) / (1 << 20),
      tokens[0], tokens[1], tokens[2], tokens[2] / tokens[1], tokens[2] / tokens[0]);
}

TEST_P(LongestContext, GrowsWithTheRing) {
  expect_growth(std::get<0>(GetParam()), std::get<1>(GetParam()), false);
}

TEST(LongestContextOfProcesses, GrowsWithTheRing) { expect_growth(DType::f32, Remat::layer, true); }

}  // namespace
}  // namespace rondo
