// The memory model without a ring: sharded state, limits, and how contexts grow. tests/train compares it
// with ledgers.

#include "rondo/plan/memory.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"
#include "rondo/plan/models.h"

namespace rondo {
namespace {

std::int64_t of(const EntryBytes& bytes, Entry entry) { return bytes[static_cast<std::size_t>(entry)]; }

RunShape shape(const char* model, int devices) {
  return {.config = find_named_model(model)->config,
          .dtype = DType::bf16,
          .devices = devices,
          .between_processes = devices > 1,
          .isa = Isa::avx512_bf16};
}

TEST(PlannedMemory, OfStateIsWhatTheModeHolds) {
  RunShape run = shape("llama-7b", 8);
  const MemoryModel none(run);
  const double N = static_cast<double>(none.total_elements());
  const auto near = [&](const EntryBytes& bytes, Entry entry, double expected) {
    EXPECT_NEAR(static_cast<double>(of(bytes, entry)), expected, 0.001 * expected) << name_of(entry);
  };
  const double layer = static_cast<double>(none.layer_elements()), outer = 32000.0 * 4096;
  const EntryBytes all = none.entries(8192);
  near(all, Entry::parameters, 4 * N);
  near(all, Entry::optimizer, 8 * N);
  near(all, Entry::gradients, 4 * N);
  near(all, Entry::gradient_exchange, 4 * layer);  // the devices' parts of a layer's
  near(all, Entry::compute_weights, 2 * N);

  run.shard = Shard::optimizer;
  const EntryBytes optimizer = MemoryModel(run).entries(8192);
  near(optimizer, Entry::parameters, 4 * N / 8);
  near(optimizer, Entry::optimizer, 8 * N / 8);
  near(optimizer, Entry::gradients, 4 * N);
  near(optimizer, Entry::gradient_exchange, 4 * layer);
  near(optimizer, Entry::compute_weights, 2 * N);
  run.dtype = DType::f32;
  near(MemoryModel(run).entries(8192), Entry::parameters, 4 * N);

  run.shard = Shard::parameters, run.dtype = DType::bf16;
  const EntryBytes parameters = MemoryModel(run).entries(8192);
  near(parameters, Entry::parameters, 4 * N / 8);
  near(parameters, Entry::optimizer, 8 * N / 8);
  near(parameters, Entry::compute_weights, 2 * (2 * layer + outer));
  near(parameters, Entry::gradients, 4 * N / 8);
  near(parameters, Entry::gradient_exchange, 4 * (3 * layer + outer));
  run.config.tied_embedding = true;
  const MemoryModel tied(run);
  near(tied.entries(8192), Entry::compute_weights, 2 * (2 * layer + outer));  // and the final norm
  EXPECT_GT(of(all, Entry::attention), 0);
}

TEST(PlannedMemory, OfReplicasIsDividedByAllDevices) {
  RunShape run = shape("llama-1b", 4);
  run.shard = Shard::parameters;
  const EntryBytes one = MemoryModel(run).entries(4096);
  run.replicas = 4;
  const EntryBytes four = MemoryModel(run).entries(4096);
  EXPECT_NEAR(
      static_cast<double>(of(one, Entry::optimizer)) / static_cast<double>(of(four, Entry::optimizer)), 4,
      0.01);
  EXPECT_EQ(of(one, Entry::attention), of(four, Entry::attention));
}

/// The claim that the project is about: context over memory limit grows with the ring.
TEST(PlannedMemory, LongestContextGrowsWithTheRing) {
  RunShape run = shape("llama3-8b", 2);
  run.remat = Remat::layer;
  for (const bool between_processes : {false, true}) {
    run.between_processes = between_processes;
    const MemoryModel two(run);
    const std::int64_t limit = std::int64_t{200} << 30;
    const double base = static_cast<double>(longest_context(two, limit).tokens);
    EXPECT_GT(base, 1e5);
    for (const int devices : {4, 8, 64, 1024}) {
      const LongestContext found = longest_context(two.on(devices), limit);
      const double tokens = static_cast<double>(found.tokens);
      EXPECT_NEAR(tokens / base, devices / 2.0, 0.01 * devices / 2.0) << devices;
      EXPECT_LE(found.peak, limit);
      EXPECT_EQ(found.limits, Entry::layer_inputs);
      const MemoryModel ring = two.on(devices);
      EXPECT_GT(ring.peak(ring.entries(found.tokens + 64 * devices)), limit);
    }
  }
}

TEST(PlannedMemory, SaysWhatLimits) {
  const MemoryModel run(shape("llama-7b", 8));
  const LongestContext none = longest_context(run, std::int64_t{80} << 30);
  EXPECT_EQ(none.tokens, 0);
  EXPECT_EQ(none.limits, Entry::optimizer);
  RunShape generates = shape("llama3-8b", 1);
  generates.purpose = Purpose::generate;
  const LongestContext cache = longest_context(MemoryModel(generates), std::int64_t{80} << 30);
  EXPECT_GT(cache.tokens, 100'000);
  EXPECT_EQ(cache.limits, Entry::kv_cache);
}

/// The forms in the order of their inventions: each reaches farther than the one before, the first by far.
TEST(PlannedMemory, OfEveryFormIsLessThanOfTheOneBefore) {
  RunShape run = shape("llama-1b", 1);
  run.remat = Remat::layer;
  const std::int64_t limit = std::int64_t{80} << 30;
  const auto longest = [&](AttentionForm attention, FeedForwardForm feed_forward) {
    run.attention = attention, run.feed_forward = feed_forward;
    const LongestContext found = longest_context(MemoryModel(run), limit);
    EXPECT_LE(found.peak, limit);
    return found;
  };
  const LongestContext vanilla = longest(AttentionForm::vanilla, FeedForwardForm::whole),
                       attention = longest(AttentionForm::blockwise, FeedForwardForm::whole),
                       both = longest(AttentionForm::blockwise, FeedForwardForm::blockwise);
  EXPECT_EQ(vanilla.limits, Entry::attention);
  EXPECT_GT(attention.tokens, 10 * vanilla.tokens);
  EXPECT_GT(both.tokens, attention.tokens);
}

TEST(PlannedMemory, OfVanillaAttentionIsOfOneDevice) {
  RunShape run = shape("llama-1b", 2);
  run.attention = AttentionForm::vanilla;
  EXPECT_THROW(MemoryModel{run}, ArgumentError);
  run.devices = 1;
  const MemoryModel one(run);
  EXPECT_THROW(one.on(2), ArgumentError);
  // A context whose scores no integer counts is larger than any limit.
  EXPECT_GT(one.peak(one.entries(std::int64_t{1} << 40)), std::int64_t{1} << 58);
}

TEST(PlannedMemory, RefusesWhatMakesNoSense) {
  RunShape run = shape("llama-1b", 2);
  run.devices = 0;
  EXPECT_THROW(MemoryModel{run}, ArgumentError);
  run = shape("llama-1b", 2), run.config.kv_heads = 3;
  EXPECT_THROW(MemoryModel{run}, ArgumentError);
  for (const char* name : {"train", "eval", "generate"}) EXPECT_STREQ(name_of(parse_purpose(name)), name);
}

TEST(NamedModels, HaveTheirNumberOfParameters) {
  for (const auto& [name, billions] : std::vector<std::pair<const char*, double>>{{"llama-1b", 1.10},
                                                                                  {"llama-3b", 3.43},
                                                                                  {"llama-7b", 6.74},
                                                                                  {"llama-13b", 13.02},
                                                                                  {"llama-30b", 32.53},
                                                                                  {"llama-65b", 65.29},
                                                                                  {"llama-70b", 68.98},
                                                                                  {"llama3-1b", 1.24},
                                                                                  {"llama3-3b", 3.21},
                                                                                  {"llama3-8b", 8.03},
                                                                                  {"llama3-70b", 70.55},
                                                                                  {"mistral-7b", 7.24}}) {
    const NamedModel* model = find_named_model(name);
    ASSERT_NE(model, nullptr) << name;
    check_config(model->config, "test");
    EXPECT_NEAR(static_cast<double>(ParameterTable(model->config).parameters()) / 1e9, billions, 0.006)
        << name;
  }
  EXPECT_EQ(find_named_model("gpt-5"), nullptr);
}

}  // namespace
}  // namespace rondo
