// What is refused before it starts, and what is said to help.

#include "rondo/plan/fit.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"

namespace rondo {
namespace {

RunShape shape() {
  return {.config = {.vocabulary = 258,
                     .width = 256,
                     .ffn = 704,
                     .layers = 4,
                     .q_heads = 4,
                     .kv_heads = 2,
                     .head_dim = 64},
          .isa = Isa::portable};
}

std::string refusal(const RunShape& run, std::int64_t context, std::int64_t limit) {
  try {
    check_fits("train", MemoryModel(run), context, limit);
  } catch (const ArgumentError& error) {
    return error.what();
  }
  return "";
}

constexpr std::int64_t kMiB = 1 << 20;

TEST(Fit, SaysTheLedgersNumbersAndWhatWouldDo) {
  EXPECT_EQ(refusal(shape(), 16384, 0), "");
  EXPECT_EQ(refusal(shape(), 16384, 1024 * kMiB), "");
  const std::string words = refusal(shape(), 65536, 300 * kMiB);
  for (const char* part : {"[train]", "300.0 MiB a device", "layer inputs 320.0 MiB", "kept for backward",
                           "devices in all", "--spill DIR --segment-tokens", "--ctx-size"})
    EXPECT_NE(words.find(part), std::string::npos) << part << " in: " << words;
  EXPECT_EQ(words.find("--shard"), std::string::npos) << words;  // of one device
}

/// Every number that a refusal names is enough, and the next smaller one is not.
TEST(Fit, WhatIsSaidToDoDoes) {
  const std::int64_t limit = 300 * kMiB, context = 65536;
  const auto fits = [&](const RunShape& run, std::int64_t tokens) {
    return refusal(run, tokens, limit).empty();
  };
  RunShape run = shape();
  const int devices = fewest_devices(MemoryModel(run), context, limit, 1024);
  ASSERT_GT(devices, 1);
  run.devices = devices;
  EXPECT_TRUE(fits(run, context));
  run.devices = devices - 1;
  EXPECT_FALSE(fits(run, context));
  run = shape();
  const std::int64_t longest = longest_context(MemoryModel(run), limit).tokens;
  EXPECT_TRUE(fits(run, longest));
  EXPECT_FALSE(fits(run, longest + 1));
  run.segment_tokens = largest_segment(MemoryModel(run), context, limit);
  ASSERT_GT(run.segment_tokens, 0);
  run.spills = true;
  EXPECT_TRUE(fits(run, context));
  run.segment_tokens += kLeastSegmentStep;
  EXPECT_TRUE(!fits(run, context) || run.segment_tokens > 8192);
}

TEST(Fit, ChoosesContextAndSegments) {
  const RunShape run = shape();
  const std::int64_t limit = 300 * kMiB, usable = without_scratch(run, limit);
  const std::int64_t longest = longest_context(MemoryModel(run), usable).tokens;
  EXPECT_EQ(fit_context("train", run, false, limit, 1'000'000), longest);
  EXPECT_EQ(fit_context("train", run, false, limit, 1000), 1000);
  RunShape spills = run;
  spills.spills = true;
  const std::int64_t context = fit_context("train", spills, true, limit, 1'000'000);
  EXPECT_GT(context, longest);
  fit_segments(spills, context, usable);
  EXPECT_EQ(spills.segment_tokens, largest_segment(MemoryModel(spills), context, usable));
  EXPECT_GT(spills.segment_tokens, 0);
  EXPECT_EQ(refusal(spills, context, usable), "");
  EXPECT_THROW(fit_context("train", run, false, 0, 1000), ArgumentError);
  EXPECT_THROW(fit_context("train", run, false, kMiB, 1000), ArgumentError);
  // Room for a token, but not for it and all scratch that there may be.
  const MemoryModel memory(run);
  EXPECT_EQ(fit_context("train", run, false, memory.peak(memory.entries(1)), 1000), 1);
  // Where no segment fits they stay as they were.
  RunShape small = spills;
  small.segment_tokens = 512;
  fit_segments(small, context, kMiB);
  EXPECT_EQ(small.segment_tokens, 512);
}

/// The forms that hold a block at a time, where they help, and no ring where there is none.
TEST(Fit, NamesTheFormsThatWouldFit) {
  RunShape run = shape();
  run.attention = AttentionForm::vanilla, run.feed_forward = FeedForwardForm::whole;
  const auto says = [&](std::int64_t context, std::int64_t limit, const char* part) {
    const std::string words = refusal(run, context, limit);
    EXPECT_NE(words, "");
    return words.find(part) != std::string::npos;
  };
  // Scores of 4 heads, twice: 8 GiB of 16,384 tokens; four hidden layers of 704 with inputs: 208 MiB;
  // all others 325 MiB.
  EXPECT_TRUE(says(16384, 600 * kMiB, "--attention blockwise,"));
  EXPECT_FALSE(says(16384, 600 * kMiB, "--feedforward blockwise"));
  EXPECT_FALSE(says(16384, 600 * kMiB, "devices in all"));
  EXPECT_FALSE(says(16384, 600 * kMiB, "--spill"));
  EXPECT_TRUE(says(16384, 400 * kMiB, "--attention blockwise with --feedforward blockwise"));
  run.attention = AttentionForm::blockwise;
  EXPECT_TRUE(says(16384, 400 * kMiB, "--feedforward blockwise,"));
  EXPECT_FALSE(says(16384, 400 * kMiB, "--attention"));
}

TEST(Fit, RingsOfReplicasKeepTheirNumber) {
  RunShape run = shape();
  run.replicas = 2;
  const int devices = fewest_devices(MemoryModel(run), 65536, 300 * kMiB, 1024);
  EXPECT_EQ(devices % 2, 0);
  EXPECT_EQ(fewest_devices(MemoryModel(run), 65536, kMiB, 1024), 0);
}

}  // namespace
}  // namespace rondo
