// Linear layers, training steps, decoding and exchange: operations counted, results verified, rows whole.

#include <gtest/gtest.h>

#include "bench/decode.h"
#include "bench/exchange.h"
#include "bench/linear.h"
#include "bench/step.h"
#include "rondo/core/error.h"

namespace rondo::bench {
namespace {

constexpr MeasureOptions kQuick{.runs = 2, .least_seconds = 0, .peak_time = std::chrono::milliseconds(2)};

double number(const Value& value) { return std::get<double>(value); }

const Value& more(const Row& row, const std::string& name) {
  for (const Column& column : row.more)
    if (column.name == name) return column.value;
  throw std::out_of_range("no column " + name);
}

TEST(LinearBench, CountsAndVerifiesEachProduct) {
  const auto passes = parse_linear_passes("--pass", "forward,dx,dw,backward,both");
  const double products[] = {1, 1, 1, 2, 3};
  for (const DType dtype : {DType::f32, DType::bf16})
    for (std::size_t n = 0; n < 2 * passes.size(); ++n) {
      const LinearCase what{.dtype = dtype, .m = 33, .n = 17, .k = 40, .packed = n < passes.size()};
      const std::size_t p = n % passes.size();
      EXPECT_EQ(linear_flops(passes[p], what), products[p] * 2 * 33 * 17 * 40);
      const Row row = bench_linear(what, passes[p], kQuick);
      EXPECT_EQ(std::get<std::string>(row.pass), name_of(passes[p]));
      EXPECT_LT(number(row.max_rel_error), dtype == DType::f32 ? 2e-6 : 1e-2) << name_of(passes[p]);
      EXPECT_EQ(std::get<std::int64_t>(more(row, "m")), 33);
      EXPECT_GT(number(row.fraction_of_peak), 0);
      EXPECT_LT(number(row.fraction_of_peak), 1);
    }
  EXPECT_THROW(parse_linear_passes("--pass", "dy"), ArgumentError);
}

StepCase small_step() {
  return {.model = {.vocabulary = 258,
                    .width = 16,
                    .ffn = 24,
                    .layers = 3,
                    .q_heads = 2,
                    .kv_heads = 1,
                    .head_dim = 8,
                    .sliding_window = 9},
          .ctx = 30,
          .execution = {.block_tokens = 8}};
}

TEST(StepBench, CountsTheModelsOwnOperations) {
  StepCase what = small_step();
  what.model.sliding_window = 0;
  const double layer = 16 * (2 * 8) * 2 + 16 * 8 * 2 + 3 * 16 * 24;  // q and o, k and v, feed-forward
  const double matrices = 3 * layer + 258 * 16;
  EXPECT_EQ(step_flops(what), 6 * matrices * 30 + 12.0 * 8 * 2 * 3 * (30 * 30 / 2));
  what.model.sliding_window = 1;  // each token sees itself alone
  EXPECT_EQ(step_flops(what), 6 * matrices * 30 + 12.0 * 8 * 2 * 3 * 30);
}

TEST(StepBench, VerifiesEveryTypeRematAndRing) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Remat remat : {Remat::layer, Remat::none})
      for (const int devices : {1, 3}) {
        StepCase what = small_step();
        what.dtype = dtype;
        what.execution.remat = remat;
        what.execution.ring.devices = devices;
        const Row row = bench_step(what, kQuick);
        EXPECT_LT(number(row.max_rel_error), dtype == DType::f32 ? 5e-6 : 3e-2);
        EXPECT_EQ(row.devices, devices);
        EXPECT_EQ(std::get<std::string>(row.mask), "window:9");
        EXPECT_EQ(std::get<std::string>(more(row, "remat")), name_of(remat));
        EXPECT_GT(number(more(row, "tokens_per_second")), 0);
      }
}

TEST(StepBench, VerifiesEveryForm) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    StepCase what = small_step();
    what.dtype = dtype;
    what.execution.attention = AttentionForm::vanilla;
    what.execution.feed_forward = FeedForwardForm::whole;
    const Row row = bench_step(what, kQuick);
    EXPECT_LT(number(row.max_rel_error), dtype == DType::f32 ? 5e-6 : 3e-2);
    EXPECT_EQ(std::get<std::string>(more(row, "attention")), "vanilla");
    EXPECT_EQ(std::get<std::string>(more(row, "feedforward")), "whole");
  }
}

TEST(DecodeBench, SaysHowFastTheCacheIsRead) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const DecodeCase what{
        .dtype = dtype, .head_dim = 12, .heads = 6, .kv_heads = 2, .sequences = 3, .ctx = 131, .threads = 2};
    const Row row = bench_decode(what, kQuick);
    EXPECT_LT(number(row.max_rel_error), dtype == DType::f32 ? 2e-6 : 1e-2);
    EXPECT_EQ(std::get<std::int64_t>(more(row, "cache_bytes")), 3 * 131 * 2 * 2 * 12 * size_of(dtype));
    EXPECT_NEAR(number(more(row, "gbytes_per_second")),
                static_cast<double>(what.cache_bytes()) / row.seconds_median / 1e9, 1e-9);
    EXPECT_GT(number(more(row, "fraction_of_bandwidth")), 0);
  }
  EXPECT_GE(last_level_cache_bytes(), 1 << 18);
}

TEST(ExchangeBench, EveryBlockArrivesAtEveryDevice) {
  for (const Exchange exchange : {Exchange::copy, Exchange::share})
    for (const int devices : {2, 5}) {
      const ExchangeCase what{.exchange = exchange,
                              .head_dim = 4,
                              .kv_heads = 3,
                              .block_tokens = 11,
                              .ring = {.devices = devices}};
      const Row row = bench_exchange(what, kQuick);
      EXPECT_EQ(std::get<std::int64_t>(more(row, "block_bytes")), 2 * 11 * 3 * 4 * 4);
      EXPECT_EQ(std::get<std::int64_t>(row.ctx), 11 * devices);
      EXPECT_NEAR(
          number(more(row, "gbytes_per_second")),
          static_cast<double>(devices * (devices - 1) * what.block_bytes()) / row.seconds_median / 1e9, 1e-9);
    }
  EXPECT_THROW(bench_exchange({.block_tokens = 1}, kQuick), ArgumentError);
  EXPECT_THROW(bench_exchange({.block_tokens = 0, .ring = {.devices = 2}}, kQuick), ArgumentError);
}

}  // namespace
}  // namespace rondo::bench
