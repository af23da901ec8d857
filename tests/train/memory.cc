// The ledger holds what docs/memory.md says, to the byte.

#include <gtest/gtest.h>

#include "rondo/plan/memory.h"
#include "tests/train/memory_model.h"

namespace rondo {
namespace {

using test::Entries;
using test::MemoryCase;

RunShape shape_of(const MemoryCase& run) {
  return {.config = run.config,
          .dtype = run.dtype,
          .remat = run.remat,
          .exchange = run.exchange,
          .attention = run.attention,
          .feed_forward = run.feed_forward,
          .block_tokens = run.block_tokens,
          .devices = run.devices};
}

void expect_as_predicted(const MemoryCase& run, const Corpus& corpus) {
  SCOPED_TRACE(fmt::format("{} devices, {}, {}, {}, attention {}, feed-forward {}, {} tokens", run.devices,
                           name_of(run.remat), name_of(run.dtype), name_of(run.exchange),
                           name_of(run.attention), name_of(run.feed_forward), run.context));
  const test::Measured measured = test::run_one_step(run, corpus);
  const SequencePlan plan{.tokens = run.context, .devices = run.devices, .layout = Layout::zigzag};
  std::int64_t largest = 0;
  for (int device = 0; device < run.devices; ++device)
    largest = std::max(largest, shard_tokens(plan, device));
  for (int device = 0; device < run.devices; ++device) {
    const auto me = static_cast<std::size_t>(device);
    Entries expected = test::predicted(run, shard_tokens(plan, device), largest);
    // The planner's own reading of the page.
    const ShardSize shard{run.context, shard_tokens(plan, device), largest, device};
    EXPECT_EQ(MemoryModel(shape_of(run)).entries(shard), expected) << "device " << device;
    const auto scratch = static_cast<std::size_t>(Entry::library_scratch);
    expected[scratch] = measured.peaks[me][scratch];
    for (std::size_t entry = 0; entry < expected.size(); ++entry)
      EXPECT_EQ(measured.peaks[me][entry], expected[entry])
          << name_of(static_cast<Entry>(entry)) << " of device " << device;
    EXPECT_EQ(measured.peak_totals[me], test::sum_of(expected));
    EXPECT_LE(expected[scratch], (run.attention == AttentionForm::vanilla ? 2 : 1) << 20);
  }
}

TEST(Memory, TheLedgerHoldsWhatThePageSays) {
  const Corpus corpus = test::text().corpus();
  for (const Remat remat : {Remat::layer, Remat::attention, Remat::none})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int devices : {1, 2, 5})
        expect_as_predicted({.config = test::small_config(),
                             .dtype = dtype,
                             .remat = remat,
                             .block_tokens = 32,
                             .context = 997,
                             .devices = devices},
                            corpus);
}

TEST(Memory, TheLedgerHoldsWhatThePageSaysOfOtherShapes) {
  const Corpus corpus = test::text().corpus();
  ModelConfig config = test::small_config();
  config.layers = 3, config.q_heads = 6, config.kv_heads = 3,
  config.head_dim = 12;  // q is wider than the model
  config.vocabulary = 9000, config.ffn = 100, config.tied_embedding = true;
  for (const Exchange exchange : {Exchange::copy, Exchange::share})
    expect_as_predicted({.config = config,
                         .dtype = DType::bf16,
                         .exchange = exchange,
                         .block_tokens = 512,  // more than the loss takes of 9000 logits
                         .context = 1500,
                         .devices = 3},
                        corpus);
}

/// Heads whose attention state holds none, one and more than two of the pairs in which gradients travel.
TEST(Memory, TheLedgerHoldsWhatThePageSaysForAnyGroup) {
  const Corpus corpus = test::text().corpus();
  for (const std::int64_t kv_heads : {6, 3, 1}) {
    ModelConfig config = test::small_config();
    config.q_heads = 6, config.kv_heads = kv_heads;
    expect_as_predicted({.config = config, .block_tokens = 32, .context = 1499, .devices = 3}, corpus);
  }
}

/// The earlier forms hold what the page says of them, and nothing of the others.
TEST(Memory, TheLedgerHoldsWhatThePageSaysOfEveryForm) {
  const Corpus corpus = test::text().corpus();
  for (const Remat remat : {Remat::layer, Remat::attention, Remat::none})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const FeedForwardForm feed_forward : {FeedForwardForm::whole, FeedForwardForm::blockwise})
        for (const int devices : {1, 3}) {
          if (devices > 1 && feed_forward == FeedForwardForm::blockwise) continue;
          expect_as_predicted({.config = test::small_config(),
                               .dtype = dtype,
                               .remat = remat,
                               .attention = devices == 1 ? AttentionForm::vanilla : AttentionForm::blockwise,
                               .feed_forward = feed_forward,
                               .block_tokens = 32,
                               .context = 501,
                               .devices = devices},
                              corpus);
        }
}

/// What docs/memory.md says of the longest context with 12 layers and 4 query heads per key/value head.
TEST(Memory, LongestContextsByTheFormulas) {
  struct Expected {
    DType dtype;
    Remat remat;
    double eight_over_one;
  };
  for (const Expected& expected : {Expected{DType::f32, Remat::layer, 7.816},
                                   {DType::f32, Remat::attention, 7.878},
                                   {DType::f32, Remat::none, 7.952},
                                   {DType::bf16, Remat::layer, 7.843},
                                   {DType::bf16, Remat::attention, 7.891},
                                   {DType::bf16, Remat::none, 7.954}}) {
    const MemoryCase run{
        .config = test::deep_config(512, 8, 2), .dtype = expected.dtype, .remat = expected.remat};
    const std::int64_t limit = std::int64_t{8} << 30;
    const auto tokens = [&](int devices) {
      return static_cast<double>(test::longest_context(run, devices, limit));
    };
    EXPECT_NEAR(tokens(8) / tokens(1), expected.eight_over_one, 0.005)
        << name_of(expected.dtype) << ", " << name_of(expected.remat);
    EXPECT_NEAR(tokens(8) / tokens(2), 4, 1e-3);
  }
}

}  // namespace
}  // namespace rondo
