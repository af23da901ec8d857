// Attention's benchmark: its verification sees what is wrong, and its rows say what was run.

#include "bench/attention.h"

#include <gtest/gtest.h>

#include "bench/attention_check.h"
#include "rondo/core/error.h"

namespace rondo::bench {
namespace {

constexpr MeasureOptions kQuick{.runs = 2, .least_seconds = 0, .peak_time = std::chrono::milliseconds(2)};

double number(const Value& value) { return std::get<double>(value); }

TEST(Team, RunsJobAfterJobAndReportsTheFirstFailure) {
  Team team({.devices = 3, .timeout = std::chrono::seconds(20)});
  std::vector<int> done(3);
  for (int round = 0; round < 5; ++round)
    team.run([&](Context& context, Communicator& communicator) {
      communicator.barrier();
      ++done[static_cast<std::size_t>(context.device)];
    });
  EXPECT_EQ(done, (std::vector<int>{5, 5, 5}));
  const auto failing = [](Context& context, Communicator& communicator) {
    if (context.device == 1) throw std::runtime_error("device one has had enough");
    communicator.barrier();
  };
  try {
    team.run(failing);
    FAIL() << "no failure";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "device one has had enough");
  }
  EXPECT_THROW(team.run(failing), ArgumentError);
}

TEST(AttentionBench, VerifiesEveryMaskTypeAndRing) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Mask& mask : parse_masks("--mask", "none,causal,window:20"))
      for (const int devices : {1, 3}) {
        AttentionWork work({.dtype = dtype,
                            .head_dim = 12,
                            .heads = 4,
                            .kv_heads = 2,
                            .ctx = 75,
                            .mask = mask,
                            .ring = {.devices = devices}});
        const double error = verified_error(work, Pass::both);
        EXPECT_GT(error, 0);
        EXPECT_LT(error, dtype == DType::f32 ? 2e-6 : 1e-2) << name_of(mask) << " on " << devices;
      }
}

TEST(AttentionBench, OneTokenWorks) {
  AttentionWork work({.head_dim = 4, .ctx = 1});
  EXPECT_LT(verified_error(work, Pass::both), 1e-6);
}

TEST(AttentionBench, RowsSayWhatWasRun) {
  const Row row = bench_attention(
      {.dtype = DType::bf16, .head_dim = 16, .heads = 2, .kv_heads = 1, .ctx = 64, .ring = {.threads = 2}},
      Pass::backward, kQuick);
  EXPECT_EQ(row.bench, "attention");
  EXPECT_EQ(std::get<std::string>(row.pass), "backward");
  EXPECT_EQ(std::get<std::string>(row.dtype), "bf16");
  EXPECT_EQ(std::get<std::string>(row.mask), "causal");
  EXPECT_EQ(std::get<std::int64_t>(row.head_dim), 16);
  EXPECT_EQ(std::get<std::int64_t>(row.kv_heads), 1);
  EXPECT_EQ(row.threads, 2);
  EXPECT_EQ(row.runs, 2);
  EXPECT_LE(row.seconds_min, row.seconds_median);
  EXPECT_NEAR(number(row.gflops), 2 * 5 * 64 * 64 * 16 / row.seconds_median / 1e9, 1e-6 * number(row.gflops));
  EXPECT_GT(number(row.fraction_of_peak), 0);
  EXPECT_LT(number(row.fraction_of_peak), 1);
  EXPECT_GT(number(row.peak_gflops), number(row.gflops));
}

TEST(RingBench, ComparesTheRingWithOneDevice) {
  const int before = available_cpus();
  const auto rows = bench_ring({.head_dim = 8, .ctx = 64, .ring = {.devices = 3}}, Pass::both, 1, kQuick);
  EXPECT_EQ(available_cpus(), before);  // no longer pinned
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].devices, 1);
  EXPECT_EQ(rows[0].threads, 1);
  EXPECT_EQ(rows[1].devices, 3);
  for (const Row& row : rows) {
    ASSERT_FALSE(row.more.empty());
    EXPECT_EQ(row.more.back().name, "ratio_to_one_device");
    EXPECT_GT(number(row.more.back().value), 0);
  }
  EXPECT_EQ(number(rows[0].more.back().value), 1);
}

TEST(RingBench, ProcessorsThatAreNotThereAreRefused) {
  for (const int cpus : {0, -1, available_cpus() + 1}) EXPECT_THROW(PinnedCpus pinned(cpus), ArgumentError);
}

}  // namespace
}  // namespace rondo::bench
