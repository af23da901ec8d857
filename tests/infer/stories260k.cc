// A trained model end to end: the engine on rings against logits, a text and a likelihood that were computed
// elsewhere in float64.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "rondo/infer/generator.h"
#include "rondo/infer/sampler.h"
#include "rondo/io/llama2c.h"
#include "rondo/text/llama2c.h"
#include "tests/support/data.h"
#include "tests/support/npy.h"
#include "tests/support/spawn.h"

namespace rondo {
namespace {

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::striped, Layout::zigzag};

std::filesystem::path data(const std::string& name) { return test::data_dir() / "tinyllama" / name; }

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Stories260K : public testing::Test {
 protected:
  void SetUp() override {
    RONDO_NEEDS_DATA("tinyllama/golden.json");
    const Llama2cWeights weights(data("stories260K.bin"));
    const Llama2cHeader& h = weights.header;
    config_ = {.vocabulary = h.vocabulary,
               .width = h.dim,
               .ffn = h.hidden_dim,
               .layers = h.layers,
               .q_heads = h.heads,
               .kv_heads = h.kv_heads,
               .head_dim = h.head_dim(),
               .rope_theta = 10000,
               .rope_scaling = {},
               .rms_epsilon = 1e-5f,
               .tied_embedding = true,
               .eos = {}};
    table_ = std::make_unique<ParameterTable>(config_);
    weights_.resize(static_cast<std::size_t>(table_->total()));
    put("model.embed_tokens", weights.embedding);
    put("model.norm", weights.final_norm);
    for (std::int64_t l = 0; l < h.layers; ++l) put_layer(weights, l);

    const auto tokens = test::read_npy(data("golden_greedy_tokens.npy")).values;
    golden_tokens_.assign(tokens.begin(), tokens.end());
    golden_logits_ = test::read_npy(data("golden_greedy_logits_f64to_f32.npy")).values;
    ASSERT_EQ(golden_logits_.size(), golden_tokens_.size() * 512);
  }

  void put(const std::string& name, std::span<const float> values) {
    const ParameterInfo* info = table_->find(name + ".weight");
    ASSERT_NE(info, nullptr) << name;
    ASSERT_EQ(info->elements(), static_cast<std::int64_t>(values.size())) << name;
    std::copy(values.begin(), values.end(), weights_.begin() + info->offset);
  }
  void put_layer(const Llama2cWeights& weights, std::int64_t l) {
    const auto name = [l](const char* part) { return fmt::format("model.layers.{}.{}", l, part); };
    const auto halves = [&](std::span<const float> w, std::int64_t heads) {
      return permute_rotary_rows_to_halves(weights.layer(w, l), heads, config_.head_dim, config_.width);
    };
    put(name("input_layernorm"), weights.layer(weights.attention_norm, l));
    put(name("self_attn.q_proj"), halves(weights.wq, config_.q_heads));
    put(name("self_attn.k_proj"), halves(weights.wk, config_.kv_heads));
    put(name("self_attn.v_proj"), weights.layer(weights.wv, l));
    put(name("self_attn.o_proj"), weights.layer(weights.wo, l));
    put(name("post_attention_layernorm"), weights.layer(weights.ffn_norm, l));
    put(name("mlp.gate_proj"), weights.layer(weights.w1, l));
    put(name("mlp.down_proj"), weights.layer(weights.w2, l));
    put(name("mlp.up_proj"), weights.layer(weights.w3, l));
  }

  /// Largest difference of logits [tokens, 512] from the golden ones of the tokens from `first` on.
  double difference(std::span<const float> logits, std::int64_t first) const {
    double largest = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double d = std::abs(logits[i] - golden_logits_[static_cast<std::size_t>(first) * 512 + i]);
      largest = d <= largest ? largest : d;  // a NaN stays
    }
    return largest;
  }

  ModelConfig config_;
  std::unique_ptr<ParameterTable> table_;
  std::vector<float> weights_;
  std::vector<std::int32_t> golden_tokens_;
  std::vector<double> golden_logits_;
};

// float32 rounds each of some 12 tensors a layer, 63 in all, after sums of up to 172 terms: independent
// errors of 2^-24 add up to sqrt(63 * 172) 2^-24 = 6.2e-6 of logits whose root mean square is 9.2. That
// counts every rounding at its largest and every partial sum at the size of the whole, some four times what
// they are in the mean: room for the worst of 131,584 logits.
constexpr double kLogitBound = 6e-5;

TEST_F(Stories260K, ForwardOnRingsGivesTheGoldenLogits) {
  double worst = 0;
  for (int devices = 1; devices <= 5; ++devices) {
    const Isa isa = std::min(static_cast<Isa>(devices % 3), detected_isa());  // every tier has a turn
    for (const Layout layout : kLayouts) {
      std::vector<double> differences(static_cast<std::size_t>(devices));
      test::spawn(devices,
                  [&](Context& context, Communicator& communicator) {
                    Transformer model(context, communicator, config_, *table_, {.block_tokens = 50});
                    model.prepare({.tokens = static_cast<std::int64_t>(golden_tokens_.size()),
                                   .devices = devices,
                                   .layout = layout},
                                  false);
                    std::vector<std::int32_t> ids;
                    for (const TokenPlace& place : model.places())
                      ids.push_back(golden_tokens_[static_cast<std::size_t>(place.global)]);
                    const ConstTensor x_TC = model.hidden(weights_.data(), ids, {});
                    std::vector<float> logits(ids.size() * 512);
                    model.head().logits(model.head_weights(weights_.data()), x_TC,
                                        view(logits.data(), DType::f32, model.tokens(), 1, 512));
                    double& largest = differences[static_cast<std::size_t>(context.device)];
                    for (std::size_t t = 0; t < ids.size(); ++t)
                      largest = std::max(largest, difference(std::span(logits).subspan(t * 512, 512),
                                                             model.places()[t].global));
                  },
                  {.isa = isa, .timeout = std::chrono::seconds(60)});
      for (const double d : differences) {
        EXPECT_LE(d, kLogitBound) << devices << " " << name_of(layout);
        worst = std::max(worst, d);
      }
    }
  }
  RecordProperty("largest_difference", fmt::format("{:.3g}", worst));
}

TEST_F(Stories260K, PrefillAndDecodingGiveTheGoldenLogits) {
  double worst = 0;
  for (int devices = 1; devices <= 5; ++devices) {
    for (const Layout layout : kLayouts) {
      test::spawn(devices, [&](Context& context, Communicator& communicator) {
        Generator generator(context, communicator, config_, *table_, weights_.data(),
                            {.capacity = 257, .layout = layout, .model = {.block_tokens = 50}});
        // Another cut for each ring, even and uneven; one prompt is shorter than the ring.
        const auto of_ring = static_cast<std::size_t>(devices);
        const std::size_t prompt =
            devices == 4 && layout == Layout::striped ? 3 : golden_tokens_.size() - 10 * of_ring;
        double largest = difference(generator.prefill(std::span(golden_tokens_).first(prompt)),
                                    static_cast<std::int64_t>(prompt) - 1);
        for (std::size_t n = prompt; n < golden_tokens_.size(); ++n)
          largest = std::max(largest,
                             difference(generator.decode(golden_tokens_[n]), static_cast<std::int64_t>(n)));
        EXPECT_LE(largest, kLogitBound) << devices << " " << name_of(layout);
        if (context.device == 0) worst = std::max(worst, largest);
      });
    }
  }
  RecordProperty("largest_difference", fmt::format("{:.3g}", worst));
}

TEST_F(Stories260K, GreedyDecodingGivesTheGoldenText) {
  for (const int devices : {1, 4}) {
    std::vector<std::vector<std::int32_t>> texts(static_cast<std::size_t>(devices));
    test::spawn(devices, [&](Context& context, Communicator& communicator) {
      Generator generator(context, communicator, config_, *table_, weights_.data(),
                          {.capacity = 256, .model = {}});
      Sampler greedy({.temperature = 0});
      auto& text = texts[static_cast<std::size_t>(context.device)];
      text = {golden_tokens_.front()};
      std::span<const float> logits = generator.prefill(text);
      while (true) {
        text.push_back(greedy(logits, static_cast<std::int64_t>(text.size())));
        if (text.size() == golden_tokens_.size()) break;
        logits = generator.decode(text.back());
      }
    });
    for (const auto& text : texts) EXPECT_EQ(text, golden_tokens_) << devices << " devices";
  }
}

struct Pack {
  std::vector<std::int32_t> tokens, labels;
  std::vector<std::int64_t> starts;
};

/// The sample's documents without the white space around them, BOS in front, at most 512 tokens of each.
Pack sample_pack() {
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(data("tok512.bin"));
  const std::string sample = read_text(data("tinystories_sample.cs336.txt")), mark = "<|endoftext|>";
  Pack pack;
  for (std::size_t at = 0; at < sample.size();) {
    const std::size_t end = std::min(sample.find(mark, at), sample.size());
    std::string text = sample.substr(at, end - at);
    at = end + mark.size();
    const std::size_t begin = text.find_first_not_of(" \n");
    if (begin == std::string::npos) continue;
    text = text.substr(begin, text.find_last_not_of(" \n") + 1 - begin);
    std::vector<std::int32_t> ids = tokenizer.encode_with_bos(text);
    ids.resize(std::min<std::size_t>(ids.size(), 512));
    pack.starts.push_back(static_cast<std::int64_t>(pack.tokens.size()));
    pack.tokens.insert(pack.tokens.end(), ids.begin(), ids.end());
    pack.labels.insert(pack.labels.end(), ids.begin() + 1, ids.end());
    pack.labels.push_back(kernels::kIgnoreLabel);
  }
  return pack;
}

TEST_F(Stories260K, LikelihoodOfTheSample) {
  const auto golden =
      nlohmann::json::parse(read_text(data("golden.json")))["nll"]["tinystories_sample.cs336.txt"];
  const Pack pack = sample_pack();
  ASSERT_EQ(pack.starts.size(), golden["docs"].get<std::size_t>());
  for (const int devices : {1, 2, 5}) {
    for (const Layout layout : kLayouts) {
      SCOPED_TRACE(testing::Message() << devices << " " << name_of(layout));
      std::vector<float> losses(pack.tokens.size());
      test::spawn(devices, [&](Context& context, Communicator& communicator) {
        Transformer model(context, communicator, config_, *table_, {});
        model.prepare({.tokens = static_cast<std::int64_t>(pack.tokens.size()),
                       .devices = devices,
                       .layout = layout,
                       .document_starts = pack.starts},
                      false);
        std::vector<std::int32_t> ids, labels;
        for (const TokenPlace& place : model.places()) {
          ids.push_back(pack.tokens[static_cast<std::size_t>(place.global)]);
          labels.push_back(pack.labels[static_cast<std::size_t>(place.global)]);
        }
        std::vector<float> own(ids.size());
        model.losses(weights_.data(), ids, labels, own);
        for (std::size_t t = 0; t < own.size(); ++t)
          losses[static_cast<std::size_t>(model.places()[t].global)] = own[t];
      });
      double sum = 0, scored = 0;
      for (std::size_t document = 0; document < pack.starts.size(); ++document) {
        const auto first = static_cast<std::size_t>(pack.starts[document]);
        const std::size_t end = document + 1 < pack.starts.size()
                                    ? static_cast<std::size_t>(pack.starts[document + 1])
                                    : pack.tokens.size();
        double loss = 0;
        for (std::size_t t = first; t < end; ++t) loss += losses[t];
        const auto expected = golden["per_doc(first<=512 tokens)"][document];
        EXPECT_EQ(static_cast<std::int64_t>(end - first), expected[0].get<std::int64_t>());
        // Errors of the logits, some 1e-5 each, do not all point one way.
        EXPECT_NEAR(loss, expected[1].get<double>(), 1e-5 * static_cast<double>(end - first));
        sum += loss, scored += static_cast<double>(end - first - 1);
      }
      EXPECT_EQ(scored, golden["tokens"].get<double>());
      EXPECT_NEAR(sum / scored, golden["mean_nll"].get<double>(), 1e-5);
    }
  }
}

}  // namespace
}  // namespace rondo
