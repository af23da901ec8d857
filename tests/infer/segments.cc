// Prompts that are read segment by segment, with their keys and values in memory or on the disk.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "rondo/infer/generator.h"
#include "tests/support/spawn.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

ModelConfig small_model() {
  return {.vocabulary = 61, .width = 24, .ffn = 40, .layers = 3, .q_heads = 4, .kv_heads = 2, .head_dim = 8};
}

/// Random weights in a storage type.
class Weights {
 public:
  Weights(const ModelConfig& config, DType dtype) : table(config) {
    flat_.resize(static_cast<std::size_t>(table.total()));
    initialise(table, config, 5, flat_);
    for (float& weight : flat_) weight *= 4;  // attention that is far from even
    for (const float weight : flat_) rounded_.push_back(to_bfloat16(weight));
    data = dtype == DType::f32 ? static_cast<const void*>(flat_.data()) : rounded_.data();
  }
  const ParameterTable table;
  const void* data = nullptr;

 private:
  std::vector<float> flat_;
  std::vector<bfloat16> rounded_;
};

std::int32_t token_at(std::int64_t n) { return static_cast<std::int32_t>((n * n + 7 * n) % 61); }

struct Text {  // and how it is made
  ModelConfig config = small_model();
  DType dtype = DType::f32;
  std::int64_t prompt = 1300, answer = 6;
  std::int64_t segment_tokens = 0;
  std::filesystem::path spill = {};
  int threads = 1;
};

struct Outcome {
  std::vector<std::vector<float>> logits;  ///< of the prompt's successor, and of each token's after it
  std::int64_t cached = 0;                 ///< most bytes in the ledger under the cache's name
};

Outcome generate(const Text& run) {
  Outcome outcome;
  const Weights weights(run.config, run.dtype);
  test::spawn(1,
              [&](Context& context, Communicator& communicator) {
                Generator generator(context, communicator, run.config, weights.table, weights.data,
                                    {.capacity = run.prompt + run.answer,
                                     .model = {.dtype = run.dtype,
                                               .block_tokens = 100,
                                               .segment_tokens = run.segment_tokens,
                                               .spill = run.spill}});
                std::vector<std::int32_t> prompt;
                for (std::int64_t n = 0; n < run.prompt; ++n) prompt.push_back(token_at(n));
                const auto keep = [&](std::span<const float> row) {
                  outcome.logits.emplace_back(row.begin(), row.end());
                };
                keep(generator.prefill(prompt));
                for (std::int64_t n = 0; n < run.answer; ++n)
                  keep(generator.decode(token_at(run.prompt + n)));
                EXPECT_EQ(generator.tokens(), run.prompt + run.answer);
                outcome.cached = context.ledger.peak(Entry::kv_cache);
              },
              {.threads = run.threads});
  return outcome;
}

/// Largest difference, as a part of the largest logit.
double difference(const Outcome& a, const Outcome& b) {
  double most = 0, largest = 0;
  for (std::size_t row = 0; row < a.logits.size(); ++row)
    for (std::size_t id = 0; id < a.logits[row].size(); ++id) {
      largest = std::max(largest, std::abs(static_cast<double>(a.logits[row][id])));
      most = std::max(most, std::abs(static_cast<double>(a.logits[row][id]) - b.logits[row][id]));
    }
  return most / largest;
}

std::vector<Text> runs() {
  std::vector<Text> all;
  const auto add = [&](const std::function<void(Text&)>& change) { all.emplace_back(), change(all.back()); };
  add([](Text&) {});
  add([](Text& run) { run.dtype = DType::bf16; });
  add([](Text& run) { run.config.sliding_window = 300; });
  add([](Text& run) { run.config.sliding_window = 2, run.answer = 8; });  // past all blocks
  add([](Text& run) { run.config.kv_heads = 4, run.config.attention_softcap = 20; });
  for (const std::int64_t prompt : {1, 512, 513, 1536})
    add([prompt](Text& run) { run.prompt = prompt, run.config.layers = 1; });
  return all;
}

/// Where blocks are, and the number of threads, change no bit. The cut changes rounding: of the prompt's
/// successor only where a window begins within a block, or the last segment is so short that its products
/// are others (kernels.h, PackedWeight); of later ones as decoding adds up by blocks.
TEST(GeneratorSegments, GiveTheSameLogits) {
  for (const Text& run : runs()) {
    SCOPED_TRACE(testing::Message() << name_of(run.dtype) << ", prompt of " << run.prompt << ", window "
                                    << run.config.sliding_window);
    const Outcome whole = generate(run);
    Text other = run;
    other.segment_tokens = 512;
    const Outcome in_memory = generate(other);
    if (run.config.sliding_window == 0 &&
        (run.prompt < 512 || run.prompt % 512 == 0 || run.prompt % 512 > 32)) {
      EXPECT_EQ(in_memory.logits.front(), whole.logits.front());
    }
    EXPECT_LE(difference(whole, in_memory), run.dtype == DType::f32 ? 1e-5 : 3e-2);
    const test::TemporaryFolder folder;
    other.spill = folder.path();
    EXPECT_EQ(generate(other).logits, in_memory.logits);
    other.threads = 3;
    EXPECT_EQ(generate(other).logits, in_memory.logits);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

/// Three blocks of the prompt and what the answer takes, whatever the prompt's length.
TEST(GeneratorSegments, BoundTheCache) {
  const test::TemporaryFolder folder;
  Text run;
  run.segment_tokens = 512, run.spill = folder.path();
  const std::int64_t small = generate(run).cached;
  run.prompt = 5000;
  EXPECT_EQ(generate(run).cached, small);
  run.spill.clear();
  EXPECT_GE(generate(run).cached, 3 * 5000 * 2 * 16 * 4);
}

TEST(GeneratorSegments, ThatCannotBeAreRefused) {
  Text run;
  run.segment_tokens = 500;
  RONDO_EXPECT_ERROR(ArgumentError, generate(run), "multiple of 512, got 500");
  run.segment_tokens = 512, run.spill = "/nowhere/to/be/found";
  RONDO_EXPECT_ERROR(IoError, generate(run), "/nowhere/to/be/found", "expected a folder");
  run.spill.clear(), run.config.sliding_window = 9, run.config.first_k = 1;
  RONDO_EXPECT_ERROR(ArgumentError, generate(run), "first_k");
}

}  // namespace
}  // namespace rondo
