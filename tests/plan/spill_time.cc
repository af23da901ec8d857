// Steps that go segment by segment: pairs by brute force, and what must hold whatever the prices are.

#include "rondo/plan/spill_time.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"
#include "rondo/plan/step_time.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

RunShape shape(std::int64_t segment_tokens, bool spills, Purpose purpose = Purpose::train) {
  return {.config = {.vocabulary = 258,
                     .width = 256,
                     .ffn = 704,
                     .layers = 6,
                     .q_heads = 4,
                     .kv_heads = 2,
                     .head_dim = 64},
          .purpose = purpose,
          .segment_tokens = segment_tokens,
          .spills = spills,
          .isa = Isa::portable};
}

Hardware machine(double read, double write) {
  return {.name = "test",
          .memory = 1 << 30,
          .memory_bytes_per_second = 20e9,
          .f32_flops = 200e9,
          .bf16_flops = 400e9,
          .attention_efficiency = 0.8,
          .attention_backward_efficiency = 0.8,
          .linear_efficiency = 0.9,
          .disk = {read, write}};
}

TEST(SpillTime, PairsAreThoseOfTheMask) {
  const std::vector<Range> ranges{{0, 1}, {0, 5}, {3, 9}, {5, 10}, {9, 17}, {16, 20}};
  for (const std::int64_t window : {0, 1, 2, 5, 7, 30})
    for (const Range& q : ranges)
      for (const Range& k : ranges) {
        int pairs = 0;
        for (std::int64_t i = q.begin; i < q.end; ++i)
          for (std::int64_t j = k.begin; j < k.end; ++j) pairs += j <= i && (window == 0 || i - j < window);
        EXPECT_EQ(visible_pairs(q, k, window), pairs)
            << q.begin << "-" << q.end << " on " << k.begin << "-" << k.end << ", window " << window;
      }
}

TEST(SpillTime, AFastDiskIsHiddenAndASlowOneIsAllThereIs) {
  for (const Purpose purpose : {Purpose::train, Purpose::evaluate, Purpose::generate})
    for (const std::int64_t context : {100, 512, 20'000, 60'000}) {
      SCOPED_TRACE(fmt::format("{}, {} tokens", name_of(purpose), context));
      const StepTime in_memory =
          simulate_step(MemoryModel(shape(1024, false, purpose)), machine(0, 0), context);
      EXPECT_NEAR(in_memory.exposed, 0, 1e-9 * in_memory.seconds);
      EXPECT_EQ(in_memory.disk_read, 0);
      const MemoryModel run(shape(1024, true, purpose));
      const StepTime fast = simulate_step(run, machine(1e15, 1e15), context);
      EXPECT_NEAR(fast.seconds / in_memory.seconds, 1, 1e-4);
      EXPECT_NEAR(fast.attention + fast.linear + fast.elementwise + fast.update + fast.moving + fast.exposed,
                  fast.seconds, 1e-6 * fast.seconds);
      const StepTime slow = simulate_step(run, machine(2e5, 1e5), context);
      EXPECT_NEAR(slow.computing, fast.computing, 1e-6 * fast.computing);
      EXPECT_GE(slow.seconds, slow.disk_read / 2e5);
      if (context < 20'000) continue;
      EXPECT_NEAR((slow.disk_read / 2e5 + slow.disk_written / 1e5) / slow.seconds, 1, 0.02);
      EXPECT_EQ(slow.bound, Bound::disk);
      EXPECT_EQ(fast.bound, Bound::computation);
    }
}

/// With so many tokens the block that is computed on takes as long as the next one's way.
TEST(SpillTime, TheFormulaSaysWhereTheDiskHides) {
  const Hardware hardware = machine(200e6, 200e6);
  const StepTime probe = simulate_step(MemoryModel(shape(512, true)), hardware, 50'000);
  // F e / (2 g B): 160 GFLOP/s, 4 bytes, 2 heads on one.
  EXPECT_NEAR(probe.tokens_to_hide_forward, 160e9 * 4 / (2 * 2 * 200e6), 1e-6);
  EXPECT_NEAR(probe.tokens_to_hide_backward, 160e9 * (2 * 4 + 16) / (10 * 2 * 200e6), 1e-6);
  const auto exposed = [&](std::int64_t segment) {
    const StepTime t = simulate_step(MemoryModel(shape(segment, true)), hardware, 65'536);
    return t.exposed / t.seconds;
  };
  EXPECT_GT(exposed(512), 0.3);
  EXPECT_LT(exposed(4096), 0.1);
}

TEST(SpillTime, ManySegmentsGoOnAsFewDo) {
  for (const std::int64_t window : {0, 3000}) {
    RunShape run = shape(512, true);
    run.config.sliding_window = window;
    const auto at = [&](std::int64_t segments) {
      return simulate_step(MemoryModel(run), machine(500e6, 400e6), segments * 512);
    };
    const StepTime few = at(kMostSegments), more = at(kMostSegments + 1), many = at(2 * kMostSegments);
    EXPECT_GT(more.seconds, few.seconds);
    EXPECT_LT(more.seconds, 1.01 * few.seconds);
    EXPECT_NEAR(many.seconds / few.seconds, window > 0 ? 2 : 3.5, window > 0 ? 0.1 : 0.5);
    EXPECT_GE(many.exposed, 0);
  }
}

TEST(SpillTime, WhatItCannotPriceIsRefused) {
  const auto refuse = [](const RunShape& run, const Hardware& hardware, const char* words) {
    RONDO_EXPECT_ERROR(ArgumentError, spill_time(MemoryModel(run), hardware, 10'000), words);
  };
  refuse(shape(1024, true), machine(0, 0), "give --disk-rate");
  refuse(shape(1000, true), machine(1e9, 1e9), "multiple of 512, got 1000");
  RunShape run = shape(1024, true);
  run.devices = 2;
  refuse(run, machine(1e9, 1e9), "one device");
  run = shape(1024, true);
  run.remat = Remat::layer;
  refuse(run, machine(1e9, 1e9), "--remat attention");
}

}  // namespace
}  // namespace rondo
