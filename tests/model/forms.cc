// The forms of the Transformer: one result, whatever exists in memory at a time.

#include "tests/model/transformer_support.h"

#include "rondo/core/error.h"

namespace rondo::transformer_test {
namespace {

constexpr AttentionForm kAttentionForms[] = {AttentionForm::vanilla, AttentionForm::blockwise};
constexpr FeedForwardForm kFeedForwardForms[] = {FeedForwardForm::whole, FeedForwardForm::blockwise};

std::string words_of(const TransformerOptions& options) {
  return fmt::format("attention {}, feed-forward {}, remat {}, {}", name_of(options.attention),
                     name_of(options.feed_forward), name_of(options.remat), name_of(options.dtype));
}

/// The bounds to which tests/model/transformer.cc holds the blockwise forms.
struct Bounds {
  double loss, gradients;
};
Bounds bounds_of(DType dtype) { return dtype == DType::f32 ? Bounds{2e-6, 2e-5} : Bounds{0x1p-7, 0x1p-3}; }

/// Every form, each with the bits of its own first run in all --remat modes, against the reference.
void expect_one_result(const ModelConfig& config, const std::vector<std::int64_t>& document_starts = {}) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Case test = make_case(config, document_starts, dtype);
    const reference::LlamaConfig llama = reference_config(config);
    const reference::LlamaInput input{test.ids, test.labels, test.document_starts};
    const reference::LlamaResult expected = reference::llama_forward(llama, test.parameters, input);
    const auto gradients = reference::llama_backward(llama, test.parameters, input, 0.25);
    for (const AttentionForm attention : kAttentionForms)
      for (const FeedForwardForm feed_forward : kFeedForwardForms) {
        ModelRun run{
            .options = {
                .dtype = dtype, .attention = attention, .feed_forward = feed_forward, .block_tokens = 8}};
        SCOPED_TRACE(words_of(run.options));
        const Outcome outcome = run_model(test, run);
        EXPECT_NEAR(outcome.loss, expected.loss_sum, bounds_of(dtype).loss * expected.loss_sum);
        EXPECT_LE(worst_gradient_error(test, outcome, gradients), bounds_of(dtype).gradients);
        for (std::size_t t = 0; dtype == DType::f32 && t < test.ids.size(); ++t) {
          if (test.labels[t] >= 0) {
            EXPECT_NEAR(outcome.losses[t], expected.losses_T[t], 2e-5) << "token " << t;
          }
        }
        for (const Remat remat : {Remat::layer, Remat::none}) {
          run.options.remat = remat;
          run.threads = 2;
          const Outcome other = run_model(test, run);
          EXPECT_EQ(other.loss, outcome.loss) << name_of(remat);
          EXPECT_EQ(other.gradients, outcome.gradients) << name_of(remat);
          EXPECT_EQ(other.losses, outcome.losses) << name_of(remat);
        }
      }
  }
}

TEST(Forms, GiveOneResult) { expect_one_result(small_config()); }

TEST(Forms, GiveOneResultUnderEveryMask) {
  ModelConfig windowed = small_config();
  windowed.sliding_window = 7;
  expect_one_result(windowed);
  windowed.first_k = 2;
  expect_one_result(windowed);
  expect_one_result(windowed, {0, 5, 20});
}

TEST(Forms, WholeFeedForwardIsThatOfADevicesShare) {
  const Case test = make_case(small_config());
  const reference::LlamaConfig config = reference_config(test.config);
  const reference::LlamaInput input{test.ids, test.labels, {}};
  const auto gradients = reference::llama_backward(config, test.parameters, input, 0.25);
  for (const Remat remat : {Remat::attention, Remat::none}) {
    const Outcome outcome = run_model(
        test, {.devices = 3,
               .options = {.remat = remat, .feed_forward = FeedForwardForm::whole, .block_tokens = 8}});
    EXPECT_LE(worst_gradient_error(test, outcome, gradients), bounds_of(DType::f32).gradients);
  }
}

/// Sequences of falling and rising lengths in one model, with evaluation between.
TEST(Forms, FollowTheLengthOfTheSequence) {
  const ModelConfig config = small_config();
  const ParameterTable table(config);
  for (const AttentionForm attention : kAttentionForms)
    run_ring({.devices = 1}, [&](Context& context, Communicator& communicator) {
      const std::vector<float> weights(static_cast<std::size_t>(table.total()), 0.02f);
      const auto losses = [&](Transformer& model, std::int64_t tokens) {
        model.prepare({.tokens = tokens}, false);
        const std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens), 3), labels(ids.size(), 5);
        std::vector<float> found(ids.size());
        model.losses(weights.data(), ids, labels, found);
        return found;
      };
      const TransformerOptions options{.remat = Remat::none,
                                       .attention = attention,
                                       .feed_forward = FeedForwardForm::whole,
                                       .block_tokens = 8};
      Transformer model(context, communicator, config, table, options);
      for (const std::int64_t tokens : {11, 30, 7}) {
        Transformer fresh(context, communicator, config, table, options);
        EXPECT_EQ(losses(model, tokens), losses(fresh, tokens)) << tokens;
        model.prepare({.tokens = tokens}, true);
        EXPECT_EQ(losses(model, tokens), losses(fresh, tokens)) << tokens << ", after training";
      }
    });
}

std::string refusal(const TransformerOptions& options, int devices,
                    const ModelConfig& config = small_config()) {
  const ParameterTable table(config);
  std::string words;
  std::mutex mutex;
  run_ring({.devices = devices}, [&](Context& context, Communicator& communicator) {
    try {
      Transformer model(context, communicator, config, table, options);
      model.prepare({.tokens = 20, .devices = devices}, true);
    } catch (const ArgumentError& error) {
      const std::lock_guard lock(mutex);
      words = error.what();
    }
  });
  return words;
}

TEST(Forms, ThatCannotBeAreRefusedByName) {
  const TransformerOptions vanilla{.attention = AttentionForm::vanilla};
  EXPECT_EQ(refusal(vanilla, 1), "");
  const auto expect_words = [](const std::string& words, std::initializer_list<const char*> parts) {
    for (const char* part : parts) EXPECT_NE(words.find(part), std::string::npos) << part << " in: " << words;
  };
  expect_words(refusal(vanilla, 3), {"one device for --attention vanilla", "a ring of 3", "blockwise"});
  TransformerOptions segments = vanilla;
  segments.segment_tokens = 512;
  expect_words(refusal(segments, 1), {"--attention vanilla", "segments of 512", "--spill"});
  expect_words(refusal({.feed_forward = FeedForwardForm::whole, .segment_tokens = 512}, 1),
               {"--feedforward blockwise for segments", "whole"});
  ModelConfig config = small_config();
  config.attention_softcap = 3;
  expect_words(refusal(vanilla, 1, config), {"soft-cap", "got 3", "--attention blockwise"});
  config.attention_softcap = 0, config.attention_dropout = 0.5f;
  expect_words(refusal(vanilla, 1, config), {"dropout", "got 0.5", "--attention blockwise"});
}

TEST(Forms, HaveNames) {
  for (const AttentionForm form : kAttentionForms) EXPECT_EQ(parse_attention_form(name_of(form)), form);
  for (const FeedForwardForm form : kFeedForwardForms)
    EXPECT_EQ(parse_feed_forward_form(name_of(form)), form);
  EXPECT_THROW(parse_attention_form("flash"), ArgumentError);
  EXPECT_THROW(parse_feed_forward_form("half"), ArgumentError);
}

}  // namespace
}  // namespace rondo::transformer_test
