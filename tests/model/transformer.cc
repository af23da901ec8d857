// The whole decoder over a ring against the double-precision decoder: losses, gradients of every parameter,
// and equal bits in every --remat mode, exchange and number of threads.

#include "tests/model/transformer_support.h"

namespace rondo::transformer_test {
namespace {

void expect_equals_reference(const Case& test, const ModelRun& run, double bound) {
  const reference::LlamaConfig config = reference_config(test.config);
  const reference::LlamaInput input{test.ids, test.labels, test.document_starts};
  const reference::LlamaResult expected = reference::llama_forward(config, test.parameters, input);
  const Outcome outcome = run_model(test, run);
  EXPECT_NEAR(outcome.loss, expected.loss_sum, bound * expected.loss_sum);
  for (std::size_t t = 0; t < test.ids.size(); ++t) {
    if (test.labels[t] >= 0) {
      EXPECT_NEAR(outcome.losses[t], expected.losses_T[t], 10 * bound) << "token " << t;
    }
  }
  EXPECT_LE(
      worst_gradient_error(test, outcome, reference::llama_backward(config, test.parameters, input, 0.25)),
      10 * bound);
}

// Two layers of float32 sums of some tens of products each: errors of a few 1e-7 relative.
constexpr double kFloatBound = 2e-6;

TEST(Transformer, EqualsTheReferenceOnEveryRing) {
  const Case test = make_case(small_config());
  for (const int devices : {1, 2, 3, 8})
    for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
      SCOPED_TRACE(testing::Message() << devices << " devices, " << name_of(layout));
      expect_equals_reference(test, {.devices = devices, .layout = layout}, kFloatBound);
    }
}

TEST(Transformer, VariantsEqualTheReference) {
  ModelConfig tied = small_config();
  tied.tied_embedding = true;
  expect_equals_reference(make_case(tied), {.devices = 2}, kFloatBound);

  ModelConfig windowed = small_config();
  windowed.sliding_window = 7;
  windowed.first_k = 2;
  windowed.attention_softcap = 3;
  expect_equals_reference(make_case(windowed), {.devices = 3}, kFloatBound);
  expect_equals_reference(make_case(windowed, {0, 5, 20}), {.devices = 4, .layout = Layout::striped},
                          kFloatBound);

  ModelConfig scaled = small_config();
  scaled.rope_scaling = {.type = RopeType::llama3,
                         .factor = 8,
                         .low_freq_factor = 1,
                         .high_freq_factor = 4,
                         .original_max_positions = 16};
  expect_equals_reference(make_case(scaled), {.devices = 2, .layout = Layout::contiguous}, kFloatBound);

  expect_equals_reference(make_case(small_config(), {0, 1, 18}), {.devices = 5}, kFloatBound);
}

// The hand-written gradient against what the loss itself says: central differences of the double-precision
// loss.
TEST(Transformer, GradientMatchesFiniteDifferences) {
  Case test = make_case(small_config());
  const Outcome outcome = run_model(test, {.devices = 3});
  const reference::LlamaConfig config = reference_config(test.config);
  const reference::LlamaInput input{test.ids, test.labels, {}};
  const ParameterTable table(test.config);
  constexpr double step = 1e-5;  // error step^2 of the difference, 1e-16 / step of rounding: about 1e-10
  for (const ParameterInfo& info : table.infos()) {
    std::vector<double>& values = test.parameters.at(info.name);
    for (const std::size_t n : {std::size_t{0}, values.size() / 2, values.size() - 1}) {
      const double kept = values[n];
      values[n] = kept + step;
      const double above = reference::llama_forward(config, test.parameters, input).loss_sum;
      values[n] = kept - step;
      const double below = reference::llama_forward(config, test.parameters, input).loss_sum;
      values[n] = kept;
      const double difference = 0.25 * (above - below) / (2 * step);
      EXPECT_NEAR(outcome.gradients[static_cast<std::size_t>(info.offset) + n], difference, 2e-5)
          << info.name << " element " << n;
    }
  }
}

TEST(Transformer, Bfloat16StaysNearTheReference) {
  const Case test = make_case(small_config(), {}, DType::bf16);
  const reference::LlamaConfig config = reference_config(test.config);
  const reference::LlamaInput input{test.ids, test.labels, {}};
  const Outcome outcome =
      run_model(test, {.devices = 3, .options = {.dtype = DType::bf16, .block_tokens = 8}});
  const double exact = reference::llama_forward(config, test.parameters, input).loss_sum;
  EXPECT_NEAR(outcome.loss, exact,
              0x1p-7 * exact);  // activations rounded to 2^-9 at some ten places in a row
  EXPECT_LE(
      worst_gradient_error(test, outcome, reference::llama_backward(config, test.parameters, input, 0.25)),
      0x1p-3);
}

TEST(Transformer, BitsDoNotDependOnRematExchangeOrThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    ModelConfig config = small_config();
    config.attention_dropout = 0.2f;
    const Case test = make_case(config, {0, 9}, dtype);
    const TransformerOptions options{.dtype = dtype, .block_tokens = 8};
    const Outcome base = run_model(test, {.devices = 3, .options = options});
    const auto expect_same = [&](const ModelRun& run, const char* what) {
      const Outcome other = run_model(test, run);
      EXPECT_EQ(other.loss, base.loss) << what;
      EXPECT_EQ(other.gradients, base.gradients) << what;
    };
    for (const Remat remat : {Remat::layer, Remat::attention, Remat::none}) {
      TransformerOptions changed = options;
      changed.remat = remat;
      expect_same({.devices = 3, .options = changed}, name_of(remat));
      changed.exchange = Exchange::share;
      expect_same({.devices = 3, .options = changed}, "share");
    }
    expect_same({.devices = 3, .threads = 2, .options = options}, "2 threads");
    expect_same({.devices = 3, .threads = 3, .options = options}, "3 threads");
  }
}

}  // namespace
}  // namespace rondo::transformer_test
