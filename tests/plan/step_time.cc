// Step times: what must hold whatever the prices are, and a few that can be counted out.

#include "rondo/plan/step_time.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"
#include "rondo/plan/models.h"

namespace rondo {
namespace {

RunShape shape(const char* model, int devices, Remat remat = Remat::layer) {
  return {.config = find_named_model(model)->config,
          .dtype = DType::bf16,
          .remat = remat,
          .shard = Shard::parameters,
          .devices = devices,
          .between_processes = devices > 1,
          .isa = Isa::avx512_bf16};
}

Hardware hardware(const char* name) {
  const auto all = built_in_hardware();
  return find_hardware(all, name);
}

TEST(StepTime, PartsMakeTheWhole) {
  for (const char* name : {"a100-80gb", "tpu-v4", "epyc-9654"})
    for (const int devices : {1, 8, 16}) {
      const StepTime t = simulate_step(MemoryModel(shape("llama-7b", devices)), hardware(name), 65536);
      SCOPED_TRACE(name);
      EXPECT_NEAR(t.attention + t.linear + t.elementwise + t.update + t.moving + t.exposed, t.seconds,
                  1e-6 * t.seconds);
      EXPECT_GT(t.mfu, 0);
      EXPECT_LT(t.mfu, hardware(name).linear_efficiency);
    }
}

/// Attention alone, by hand: 4 N^2 d forward and 8 useful, 10 executed, backward, over half of the pairs.
TEST(StepTime, CountsOnlyUsefulOperations) {
  const MemoryModel run(shape("llama-7b", 8, Remat::attention));
  const double T = 1 << 20, N = static_cast<double>(run.parameters()), width = 4096, layers = 32;
  const StepTime t = simulate_step(run, hardware("a100-80gb"), 1 << 20);
  const double pairs = T * (T + 1) / 2;
  const double embedding = 32000.0 * width;
  EXPECT_NEAR(t.useful_flops / (6 * T * (N - embedding) + 12 * width * layers * pairs), 1, 1e-3);
  const double executed = 14 * width * layers * pairs / 8 / (312e12 * 0.55);
  EXPECT_NEAR(t.attention / executed, 1, 1e-3);
  const StepTime again = simulate_step(MemoryModel(shape("llama-7b", 8)), hardware("a100-80gb"), 1 << 20);
  EXPECT_EQ(again.useful_flops, t.useful_flops);
  EXPECT_NEAR(again.attention / t.attention, 18.0 / 14, 1e-3);
  EXPECT_LT(again.mfu, t.mfu);
}

/// With enough tokens the exchange hides, with few it does not: the formula says where.
TEST(StepTime, TheNetworkLimitsBelowTheTokensThatHide) {
  const Hardware a100 = hardware("a100-80gb");
  const MemoryModel run(shape("llama-7b", 32));
  const StepTime probe = simulate_step(run, a100, 1 << 20);
  const double needed = std::max(probe.tokens_to_hide_forward, probe.tokens_to_hide_backward);
  const auto at = [&](double share) {
    return simulate_step(run, a100, static_cast<std::int64_t>(share * needed * 32));
  };
  const StepTime few = at(0.25), many = at(2);
  EXPECT_EQ(few.bound, Bound::network_link);
  EXPECT_GT(few.exposed, 0.3 * few.seconds);
  EXPECT_EQ(many.bound, Bound::computation);
  EXPECT_LT(many.exposed, 0.02 * many.seconds);
}

TEST(StepTime, InClosedFormIsNearTheSimulation) {
  for (const char* name : {"a100-80gb", "tpu-v4", "ryzen-9950x"})
    for (const int devices : {1, 2, 8, 64, 256})
      for (const std::int64_t shard : {512, 8192, 100'000}) {
        const MemoryModel run(shape("llama3-8b", devices));
        const StepTime simulated = simulate_step(run, hardware(name), shard * devices);
        const StepTime estimated = estimate_step(run, hardware(name), shard * devices);
        SCOPED_TRACE(std::string(name) + ", devices " + std::to_string(devices) + ", shard " +
                     std::to_string(shard));
        EXPECT_NEAR(estimated.seconds / simulated.seconds, 1, 0.1);
        EXPECT_NEAR(estimated.useful_flops / simulated.useful_flops, 1, 1e-9);
      }
}

TEST(StepTime, AThousandDevicesAreSimulatedAndMoreAreNot) {
  const MemoryModel run(shape("llama-7b", 1024));
  const StepTime t = simulate_step(run, hardware("tpu-v4"), std::int64_t{1024} * 8192);
  EXPECT_EQ(t.bound, Bound::computation);
  EXPECT_THROW(simulate_step(run.on(1025), hardware("tpu-v4"), 1 << 20), ArgumentError);
  EXPECT_GT(estimate_step(run.on(100'000), hardware("tpu-v4"), std::int64_t{1} << 30).seconds, 0);
}

/// Sums of gradients travel beside backward; sharding trades them for gathers.
TEST(StepTime, SharedStateCostsWhatTravels) {
  RunShape run = shape("llama-7b", 8, Remat::attention);
  run.shard = Shard::none;
  Hardware slow = hardware("a100-80gb");
  slow.node.bytes_per_second = 1e9;
  const StepTime none = simulate_step(MemoryModel(run), slow, 8 * 512);
  run.shard = Shard::optimizer;
  const StepTime optimizer = simulate_step(MemoryModel(run), slow, 8 * 512);
  // Parts of 4 bytes there and sums of 4 back, against parts of 4 there and weights of 2 back.
  EXPECT_NEAR((none.sent_per_device - optimizer.sent_per_device) / 1e9, 2 * 6.74 * 7 / 8, 0.1);
  EXPECT_LT(optimizer.update, none.update);
  EXPECT_EQ(none.bound, Bound::node_link);
}

TEST(StepTime, OfEvaluationIsForwardAlone) {
  RunShape run = shape("llama3-8b", 8);
  run.shard = Shard::none;
  const StepTime trains = simulate_step(MemoryModel(run), hardware("h100"), 1 << 18);
  run.purpose = Purpose::evaluate;
  const StepTime evaluates = simulate_step(MemoryModel(run), hardware("h100"), 1 << 18);
  EXPECT_NEAR(trains.useful_flops / evaluates.useful_flops, 3, 1e-9);
  EXPECT_GT(trains.seconds, 3 * evaluates.seconds);
  run.purpose = Purpose::generate;
  const StepTime generates = simulate_step(MemoryModel(run), hardware("h100"), 1 << 18);
  EXPECT_LE(generates.seconds, evaluates.seconds);
  // 14 GB of weights and an eighth of the cache through 3,350 GB/s, and a merge in each layer.
  EXPECT_GT(generates.per_token, 4e-3);
  EXPECT_LT(generates.per_token, 8e-3);
}

TEST(StepTime, RefusesWhatMakesNoSense) {
  const MemoryModel run(shape("llama-7b", 8));
  EXPECT_THROW(simulate_step(run, hardware("h100"), 0), ArgumentError);
  EXPECT_THROW(simulate_step(run, Hardware{.name = "nothing"}, 1024), ArgumentError);
}

}  // namespace
}  // namespace rondo
