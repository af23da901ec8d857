#include "rondo/reference/llama.h"

#include <gtest/gtest.h>

#include <cmath>

#include "rondo/core/error.h"
#include "rondo/reference/convert.h"
#include "tests/reference/finite_difference.h"

namespace rondo::reference {
namespace {

LlamaConfig small_config() {
  LlamaConfig config;
  config.vocabulary = 7, config.width = 8, config.ffn = 6, config.layers = 2;
  config.q_heads = 4, config.kv_heads = 2, config.head_dim = 2;
  return config;
}

std::vector<double> rows(const std::vector<double>& logits_TV, std::size_t begin, std::size_t end) {
  const auto at = [&](std::size_t row) { return logits_TV.begin() + static_cast<std::ptrdiff_t>(row * 7); };
  return {at(begin), at(end)};
}

// Every parameter against central differences: all layers, the tie, the mask and the rotary transpose at
// once.
void expect_gradients(const LlamaConfig& config, const LlamaInput& input) {
  Parameters parameters = random_llama_parameters(config, 5);
  const Parameters gradients = llama_backward(config, parameters, input, 0.5);
  ASSERT_EQ(gradients.size(), parameters.size());
  for (auto& [name, values] : parameters)
    test::expect_gradient(
        values, gradients.at(name), [&] { return 0.5 * llama_forward(config, parameters, input).loss_sum; },
        name.c_str());
}

TEST(ReferenceLlama, LabelsAreTheNextTokensOfTheSameDocument) {
  EXPECT_EQ(next_token_labels({4, 5, 6, 7}, {0, 2}), (std::vector<std::int32_t>{5, -1, 7, -1}));
  EXPECT_TRUE(next_token_labels({}).empty());
}

TEST(ReferenceLlama, LaterTokensDoNotChangeEarlierLogits) {
  const LlamaConfig config = small_config();
  const Parameters parameters = random_llama_parameters(config, 1);
  const auto a = llama_forward(config, parameters, {{1, 2, 3, 4}, {}, {}});
  const auto b = llama_forward(config, parameters, {{1, 2, 3, 6}, {}, {}});
  EXPECT_EQ(rows(a.logits_TV, 0, 3), rows(b.logits_TV, 0, 3));
  EXPECT_NE(rows(a.logits_TV, 3, 4), rows(b.logits_TV, 3, 4));
}

TEST(ReferenceLlama, APackOfDocumentsEqualsTheDocumentsAlone) {
  for (const std::int64_t window : {0, 1}) {  // with a window, each document has first tokens of its own
    LlamaConfig config = small_config();
    config.window = window, config.first_k = window;
    const Parameters parameters = random_llama_parameters(config, 1);
    const std::vector<std::int64_t> starts{0, 3};
    const std::vector<std::int32_t> tokens{1, 2, 3, 4, 5};
    const auto pack = llama_forward(config, parameters, {tokens, next_token_labels(tokens, starts), starts});
    const auto first = llama_forward(config, parameters, {{1, 2, 3}, {2, 3, -1}, {}});
    const auto second = llama_forward(config, parameters, {{4, 5}, {5, -1}, {}});
    EXPECT_EQ(rows(pack.logits_TV, 0, 3), first.logits_TV);
    EXPECT_EQ(rows(pack.logits_TV, 3, 5), second.logits_TV);
    EXPECT_EQ(pack.scored, 3);
    EXPECT_NEAR(pack.loss_sum, first.loss_sum + second.loss_sum, 1e-14);
  }
}

TEST(ReferenceLlama, AWindowForgetsAllButTheFirstTokens) {
  LlamaConfig config = small_config();
  config.layers = 1;  // with more layers a window reaches further back
  config.window = 2;
  const Parameters parameters = random_llama_parameters(config, 1);
  const auto last = [&](std::int32_t token0, std::int32_t token1) {
    return rows(llama_forward(config, parameters, {{token0, token1, 3, 4}, {}, {}}).logits_TV, 3, 4);
  };
  EXPECT_EQ(last(1, 2), last(5, 6));
  config.first_k = 1;
  EXPECT_EQ(last(1, 2), last(1, 6));
  EXPECT_NE(last(1, 2), last(5, 2));
}

TEST(ReferenceLlama, RefusesParametersThatDoNotFit) {
  const LlamaConfig config = small_config();
  Parameters parameters = random_llama_parameters(config, 1);
  const LlamaInput input{{1}, {}, {}};
  auto missing = parameters, superfluous = parameters, wrong = parameters;
  missing.erase("lm_head.weight");
  superfluous["model.layers.0.self_attn.q_proj.bias"] = {1};
  wrong["model.norm.weight"].pop_back();
  EXPECT_THROW(llama_forward(config, missing, input), ArgumentError);
  EXPECT_THROW(llama_forward(config, superfluous, input), ArgumentError);
  EXPECT_THROW(llama_forward(config, wrong, input), ArgumentError);
  EXPECT_THROW(llama_forward(config, parameters, {{7}, {}, {}}), ArgumentError);
  EXPECT_THROW(llama_forward(config, parameters, {{1, 2}, {1}, {}}), ArgumentError);
}

TEST(ReferenceLlamaGradient, PackedDocumentsWithAnIgnoredLabel) {
  expect_gradients(small_config(), {{1, 2, 3, 2, 0, 6}, {2, 3, -1, 0, -1, 1}, {0, 2}});
}

TEST(ReferenceLlamaGradient, TiedInterleavedWindowedWithFirstTokens) {
  LlamaConfig config = small_config();
  config.tied_embedding = config.rotary_interleaved = true;
  config.window = 2, config.first_k = 1;
  config.softcap = 1.5, config.rotary_factor = 1.2, config.frequencies = {0.3};
  expect_gradients(config, {{1, 2, 3, 2, 0}, {2, 3, 2, 0, 5}, {}});
}

TEST(ReferenceLlamaGradient, NothingScoredGivesZero) {
  const LlamaConfig config = small_config();
  for (const auto& [name, gradient] :
       llama_backward(config, random_llama_parameters(config, 1), {{1, 2}, {}, {}}))
    for (const double value : gradient) ASSERT_EQ(value, 0) << name;
}

}  // namespace
}  // namespace rondo::reference
