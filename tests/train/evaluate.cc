#include "rondo/train/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "rondo/reference/llama.h"
#include "tests/support/spawn.h"
#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::small_config;

reference::LlamaConfig reference_config(const ModelConfig& c) {
  reference::LlamaConfig r;
  r.vocabulary = c.vocabulary, r.width = c.width, r.ffn = c.ffn, r.layers = c.layers;
  r.q_heads = c.q_heads, r.kv_heads = c.kv_heads, r.head_dim = c.head_dim;
  r.epsilon = static_cast<double>(c.rms_epsilon), r.theta = c.rope_theta;
  return r;
}

/// The reference's random parameters, rounded to float32 in both.
struct Model {
  Model() {
    for (const ParameterInfo& info : table.infos()) {
      std::vector<double>& values = parameters.at(info.name);
      for (std::size_t n = 0; n < values.size(); ++n) {
        const auto rounded = static_cast<float>(values[n]);
        flat[static_cast<std::size_t>(info.offset) + n] = rounded;
        values[n] = static_cast<double>(rounded);
      }
    }
  }
  ModelConfig config = small_config();
  ParameterTable table{config};
  reference::Parameters parameters = reference::random_llama_parameters(reference_config(config), 3);
  std::vector<float> flat = std::vector<float>(static_cast<std::size_t>(table.total()));
};

/// A text of random ids with a <bos> every now and then.
struct Stream {
  explicit Stream(std::int64_t tokens) {
    for (std::int64_t n = 0; n < tokens; ++n)
      ids.push_back(n % 37 == 0 ? 256
                                : static_cast<std::int32_t>(mix64(static_cast<std::uint64_t>(n)) % 256));
  }
  TokenSource source() const {
    return {.tokens = static_cast<std::int64_t>(ids.size()),
            .read =
                [this](std::int64_t first, std::span<std::int32_t> out) {
                  ASSERT_GE(first, 0);
                  ASSERT_LE(first + static_cast<std::int64_t>(out.size()),
                            static_cast<std::int64_t>(ids.size()));
                  std::copy_n(ids.begin() + first, out.size(), out.begin());
                },
            .first_special = 256};
  }
  std::vector<std::int32_t> ids;
};

Evaluation run(const Model& model, const Stream& stream, const EvaluationOptions& options, int devices) {
  std::vector<Evaluation> results(static_cast<std::size_t>(devices));
  test::spawn(devices, [&](Context& context, Communicator& communicator) {
    Transformer transformer(context, communicator, model.config, model.table, {.block_tokens = 16});
    results[static_cast<std::size_t>(context.device)] =
        evaluate(communicator, transformer, model.flat.data(), stream.source(), options);
  });
  for (const Evaluation& other : results) {
    EXPECT_EQ(other.nats, results[0].nats);
    EXPECT_EQ(other.tokens, results[0].tokens);
  }
  return results[0];
}

/// Losses of each token by the definition: the first window in which it is not the first token scores it.
struct Expected {
  double nats = 0;
  std::int64_t tokens = 0, windows = 0;
  std::map<std::int64_t, std::pair<std::int64_t, double>> by_position;  // by power of two: tokens, nats
  std::map<std::int64_t, std::pair<std::int64_t, double>> by_block;     // by its number
};
Expected expected_of(const Model& model, const Stream& stream, const EvaluationOptions& options) {
  Expected expected;
  const std::int64_t stride = options.stride > 0 ? options.stride : options.context;
  std::vector<bool> scored(stream.ids.size());
  const auto total = static_cast<std::int64_t>(stream.ids.size());
  for (std::int64_t first = 0, end = 1; end < total; first += stride, ++expected.windows) {
    if (options.most_windows > 0 && expected.windows == options.most_windows) break;
    end = std::min(total, first + options.context + 1);
    reference::LlamaInput input;
    input.tokens.assign(stream.ids.begin() + first, stream.ids.begin() + end - 1);
    input.labels.assign(stream.ids.begin() + first + 1, stream.ids.begin() + end);
    const auto result = reference::llama_forward(reference_config(model.config), model.parameters, input);
    for (std::int64_t at = first + 1; at < end; ++at) {
      if (scored[static_cast<std::size_t>(at)]) continue;
      scored[static_cast<std::size_t>(at)] = true;
      if (at <= options.skipped) continue;
      if (stream.ids[static_cast<std::size_t>(at)] >= 256) continue;
      const double loss = result.losses_T[static_cast<std::size_t>(at - first - 1)];
      const auto power = static_cast<std::int64_t>(std::exp2(std::floor(std::log2(at - first))));
      expected.nats += loss, ++expected.tokens;
      expected.by_position[power].first += 1;
      expected.by_position[power].second += loss;
      if (options.block_tokens == 0) continue;
      expected.by_block[at / options.block_tokens].first += 1;
      expected.by_block[at / options.block_tokens].second += loss;
    }
  }
  return expected;
}

void check(const Evaluation& got, const Expected& expected) {
  EXPECT_EQ(got.windows, expected.windows);
  EXPECT_EQ(got.tokens, expected.tokens);
  EXPECT_NEAR(got.nats, expected.nats, 1e-6 * expected.nats);
  ASSERT_EQ(got.by_position.size(), expected.by_position.size());
  std::int64_t tokens = 0;
  double nats = 0;
  for (const PositionBucket& bucket : got.by_position) {
    const auto& [count, sum] = expected.by_position.at(bucket.begin);
    EXPECT_EQ(bucket.end, 2 * bucket.begin);
    EXPECT_EQ(bucket.tokens, count);
    EXPECT_NEAR(bucket.nats, sum, 1e-5 * sum);
    tokens += bucket.tokens, nats += bucket.nats;
  }
  EXPECT_EQ(tokens, got.tokens);
  EXPECT_EQ(nats, got.nats);
}

TEST(Evaluate, EqualsTheReferenceOnAnyRing) {
  const Model model;
  const Stream stream(200);
  const EvaluationOptions options{.context = 64, .stride = 24};
  const Expected expected = expected_of(model, stream, options);
  EXPECT_EQ(expected.tokens, 199 - 5);  // all but the first and the other <bos>
  for (int devices = 1; devices <= 4; ++devices)
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      SCOPED_TRACE(fmt::format("{} devices, {}", devices, name_of(layout)));
      EvaluationOptions with = options;
      with.layout = layout;
      check(run(model, stream, with, devices), expected);
    }
}

TEST(Evaluate, TellsBlocksOfTheTextApartAndSkipsItsBeginning) {
  const Model model;
  const Stream stream(200);
  for (const std::int64_t skipped : {0, 1, 40, 70}) {
    for (const int devices : {1, 3}) {
      SCOPED_TRACE(fmt::format("{} skipped, {} devices", skipped, devices));
      const EvaluationOptions options{.context = 64, .stride = 24, .skipped = skipped, .block_tokens = 32};
      const Expected expected = expected_of(model, stream, options);
      const Evaluation got = run(model, stream, options, devices);
      check(got, expected);
      ASSERT_EQ(got.by_block.size(), 7u);
      for (std::size_t n = 0; n < 7; ++n) {
        const auto found = expected.by_block.find(static_cast<std::int64_t>(n));
        const auto [tokens, nats] =
            found == expected.by_block.end() ? std::pair<std::int64_t, double>{} : found->second;
        EXPECT_EQ(got.by_block[n].tokens, tokens);
        EXPECT_NEAR(got.by_block[n].nats, nats, 1e-5 * nats);
      }
    }
  }
}

TEST(Evaluate, ScoresEachTokenOnceForAnyLengthContextAndStride) {
  const Model model;
  for (const std::int64_t tokens : {2, 3, 17, 33, 34})
    for (const std::int64_t context : {1, 2, 16, 32, 33, 100})
      for (const std::int64_t stride : {std::int64_t{0}, std::int64_t{1}, context / 2, context}) {
        if (context > 2 && stride == 1 && tokens != 17) continue;
        SCOPED_TRACE(fmt::format("{} tokens, context {}, stride {}", tokens, context, stride));
        const Stream stream(tokens);
        const EvaluationOptions options{.context = context, .stride = stride};
        EXPECT_EQ(evaluation_windows(tokens, options), expected_of(model, stream, options).windows);
        check(run(model, stream, options, 2), expected_of(model, stream, options));
      }
  EXPECT_EQ(evaluation_windows(0, {.context = 4}), 0);
  EXPECT_EQ(evaluation_windows(1, {.context = 4}), 0);
}

TEST(Evaluate, StopsAfterTheMostWindows) {
  const Model model;
  const Stream stream(200);
  for (const std::int64_t most : {1, 2, 1000}) {
    const EvaluationOptions options{.context = 32, .stride = 16, .most_windows = most};
    check(run(model, stream, options, 3), expected_of(model, stream, options));
  }
}

TEST(Evaluate, ReportsProgressAndCanBeStopped) {
  const Model model;
  const Stream stream(100);
  test::spawn(2, [&](Context& context, Communicator& communicator) {
    Transformer transformer(context, communicator, model.config, model.table, {});
    std::vector<std::int64_t> seen;
    const Evaluation result = evaluate(communicator, transformer, model.flat.data(), stream.source(),
                                       {.context = 10}, [&](std::int64_t done, std::int64_t all) {
                                         EXPECT_EQ(all, 10);
                                         seen.push_back(done);
                                         return done < 3;
                                       });
    EXPECT_EQ(seen, (std::vector<std::int64_t>{1, 2, 3}));
    EXPECT_EQ(result.windows, 3);
    EXPECT_EQ(result.tokens, 30);
  });
}

TEST(Evaluate, NamesWhatIsWrong) {
  const Model model;
  const Stream stream(100), empty(1);
  RONDO_EXPECT_ERROR(ArgumentError, run(model, empty, {.context = 4}, 1), "at least 2 tokens, got 1");
  RONDO_EXPECT_ERROR(ArgumentError, run(model, stream, {.context = 0}, 2), "context of at least 1");
  RONDO_EXPECT_ERROR(ArgumentError, run(model, stream, {.context = 4, .stride = 5}, 2),
                     "stride up to the context of 4");
}

TEST(ReadShard, GivesEachTokenAndItsSuccessor) {
  const Stream stream(20000);
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag})
    for (int device = 0; device < 3; ++device) {
      const SequencePlan plan{.tokens = 15000, .devices = 3, .layout = layout};
      const auto places = shard_places(plan, device);
      std::vector<std::int32_t> ids(places.size()), labels(places.size());
      read_shard(stream.source(), 4999, places, ids, labels);
      for (std::size_t n = 0; n < places.size(); ++n) {
        ASSERT_EQ(ids[n], stream.ids[static_cast<std::size_t>(4999 + places[n].global)]);
        ASSERT_EQ(labels[n], stream.ids[static_cast<std::size_t>(5000 + places[n].global)]);
      }
    }
}

}  // namespace
}  // namespace rondo
