// The ledger holds what docs/memory.md says, to the byte.

#include <gtest/gtest.h>

#include <atomic>

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
          .devices = run.devices,
          .between_processes = run.processes > 1};
}

void expect_as_predicted(const MemoryCase& run, const Corpus& corpus) {
  SCOPED_TRACE(fmt::format("{} devices in {} processes, {}, {}, {}, attention {}, feed-forward {}, {} tokens",
                           run.devices, run.processes, name_of(run.remat), name_of(run.dtype),
                           name_of(run.exchange), name_of(run.attention), name_of(run.feed_forward),
                           run.context));
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
    EXPECT_LE(expected[scratch], 2 << 20);  // 512 words of 768 lines and of a tile of 256
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

/// With as many tokens on each device, the layer at work, what is kept and what travels take the same for
/// every ring, within a process and between processes.
TEST(Memory, OfALayerDoesNotDependOnTheLengthOfTheRing) {
  const Corpus corpus = test::text().corpus();
  for (const int group : {1, 2, 4})
    for (const bool processes : {false, true})
      for (const int devices : {2, 3, 4, 8}) {
        ModelConfig config = test::small_config();
        config.layers = 2, config.q_heads = 4, config.kv_heads = 4 / group, config.head_dim = 8,
        config.width = 32;
        const MemoryCase run{.config = config,
                             .block_tokens = 32,
                             .context = 128 * devices,
                             .devices = devices,
                             .processes = processes ? devices : 1};
        expect_as_predicted(run, corpus);
        const Entries longer = test::predicted(run, 128, 128);
        MemoryCase two = run;
        two.devices = 2, two.processes = processes ? 2 : 1;
        const Entries shortest = test::predicted(two, 128, 128);
        for (const Entry entry : {Entry::attention, Entry::kept, Entry::layer_inputs, Entry::exchange})
          EXPECT_EQ(longer[static_cast<std::size_t>(entry)], shortest[static_cast<std::size_t>(entry)]);
      }
}

/// What one device's ledger holds of a layer while evaluation goes forward, the attention state apart.
std::int64_t forward_activations(const MemoryCase& run, std::int64_t state) {
  const ParameterTable table(run.config);
  const std::vector<std::byte> weights(static_cast<std::size_t>(table.total() * size_of(run.dtype)));
  std::atomic<std::int64_t> most = 0;
  const auto pass = [&](Context& context, Communicator& communicator) {
    Transformer model(context, communicator, run.config, table,
                      {.dtype = run.dtype, .block_tokens = run.block_tokens});
    model.prepare({.tokens = run.context, .devices = run.devices, .layout = run.layout}, false);
    const auto [ids, labels, losses] = model.token_memory();
    model.losses(weights.data(), ids, labels, losses);
    const std::int64_t bytes =
        context.ledger.peak(Entry::attention) + context.ledger.peak(Entry::exchange) - state;
    if (context.device == 0) most = bytes;
    EXPECT_EQ(context.ledger.peak(Entry::kept), 0);
  };
  test::spawn_divided(run.devices, run.devices / run.processes, pass);
  return most;
}

/// Ring Attention, Table 1: 6bch elements, with as many key/value heads as query heads. In bytes, whatever
/// the ring; fewer key/value heads take less.
TEST(Memory, OfALayersForwardIsBelowWhatThePaperCounts) {
  constexpr std::int64_t c = 256, heads = 8, d = 8, C = heads * d;
  constexpr std::int64_t state = 4 * heads * c * (d + 2);
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t group : {1, 4})
      for (const int devices : {1, 2, 3, 4, 8})
        for (const bool apart : {false, true}) {
          ModelConfig config = test::small_config();
          config.width = C, config.q_heads = heads, config.kv_heads = heads / group, config.head_dim = d;
          const std::int64_t bytes = forward_activations({.config = config,
                                                          .dtype = dtype,
                                                          .context = c * devices,
                                                          .devices = devices,
                                                          .processes = apart ? devices : 1},
                                                         state);
          const std::int64_t block = c * C * size_of(dtype);
          EXPECT_LE(bytes, 6 * block);
          // Queries, in whose place the output comes; keys and values at work, and arriving.
          EXPECT_EQ(bytes, block + (devices == 1 ? 2 : 4) * block / group) << devices << ", " << group;
        }
}

/// What docs/memory.md says of the longest context with 12 layers and 4 query heads per key/value head.
TEST(Memory, LongestContextsByTheFormulas) {
  struct Expected {
    DType dtype;
    Remat remat;
    double eight_over_one;
    std::int64_t kv_heads = 2;
  };
  for (const Expected& expected : {Expected{DType::f32, Remat::layer, 7.816},
                                   {DType::f32, Remat::attention, 7.878},
                                   {DType::f32, Remat::none, 7.952},
                                   {DType::bf16, Remat::layer, 7.843},
                                   {DType::bf16, Remat::attention, 7.891},
                                   {DType::bf16, Remat::none, 7.954},
                                   {DType::f32, Remat::layer, 7.655, 4},
                                   {DType::bf16, Remat::layer, 7.708, 4},
                                   {DType::f32, Remat::layer, 7.390, 8},
                                   {DType::bf16, Remat::layer, 5.970, 8}}) {
    const MemoryCase run{.config = test::deep_config(512, 8, expected.kv_heads),
                         .dtype = expected.dtype,
                         .remat = expected.remat};
    const std::int64_t limit = std::int64_t{8} << 30;
    const auto tokens = [&](int devices) {
      return static_cast<double>(test::longest_context(run, devices, limit));
    };
    EXPECT_NEAR(tokens(8) / tokens(1), expected.eight_over_one, 0.005)
        << name_of(expected.dtype) << ", " << name_of(expected.remat);
    EXPECT_NEAR(tokens(8) / tokens(2), 4, 1e-3);
    const auto apart = [&](int devices) {
      MemoryCase each = run;
      each.processes = 2;  // or more: as long as they are of several
      return static_cast<double>(test::longest_context(each, devices, limit));
    };
    EXPECT_NEAR(apart(8) / apart(2), 4, 1e-3);
  }
}

}  // namespace
}  // namespace rondo
