// The whole decoder over a ring against the double-precision decoder: losses, gradients of every parameter,
// and equal bits in every --remat mode, exchange and number of threads.

#include "rondo/model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "rondo/comm/device_group.h"
#include "rondo/model/rotary.h"
#include "rondo/reference/convert.h"
#include "rondo/reference/llama.h"

namespace rondo {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.vocabulary = 19;
  config.width = 24;
  config.ffn = 40;
  config.layers = 2;
  config.q_heads = 4;
  config.kv_heads = 2;
  config.head_dim = 6;
  config.rms_epsilon = 1e-5f;
  return config;
}

reference::LlamaConfig reference_config(const ModelConfig& c) {
  return {.vocabulary = c.vocabulary,
          .width = c.width,
          .ffn = c.ffn,
          .layers = c.layers,
          .q_heads = c.q_heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .epsilon = c.rms_epsilon,
          .frequencies = rotary_frequencies(c).inverse,
          .softcap = c.attention_softcap,
          .tied_embedding = c.tied_embedding,
          .window = c.sliding_window,
          .first_k = c.first_k};
}

struct Case {
  ModelConfig config = small_config();
  std::int64_t tokens = 37;
  std::vector<std::int64_t> document_starts;
  std::vector<std::int32_t> ids, labels;
  reference::Parameters parameters;
};

Case make_case(const ModelConfig& config, std::vector<std::int64_t> document_starts = {},
               DType dtype = DType::f32) {
  Case test{.config = config, .document_starts = std::move(document_starts)};
  for (std::int64_t t = 0; t < test.tokens; ++t)
    test.ids.push_back(
        static_cast<std::int32_t>(philox4x32({static_cast<std::uint32_t>(t), 0, 0, 0}, {7, 7})[0] %
                                  static_cast<std::uint32_t>(config.vocabulary)));
  test.labels = reference::next_token_labels(test.ids, test.document_starts);
  test.parameters = reference::random_llama_parameters(reference_config(config), 11);
  for (auto& [name, values] : test.parameters) values = reference::rounded(values, dtype);
  return test;
}

struct ModelRun {
  int devices = 1, threads = 1;
  Layout layout = Layout::zigzag;
  TransformerOptions options{.block_tokens = 8};
};

struct Outcome {
  double loss = 0;
  std::vector<float> gradients;  // flat, summed over the devices
  std::vector<double> losses;    // per token, in global order
};

Outcome run_model(const Case& test, const ModelRun& run) {
  const ParameterTable table(test.config);
  Outcome outcome;
  outcome.losses.resize(test.ids.size());
  std::mutex mutex;
  run_ring({.devices = run.devices, .threads = run.threads, .timeout = std::chrono::seconds(120)},
           [&](Context& context, Communicator& communicator) {
             const DType dtype = run.options.dtype;
             const Buffer weights =
                 context.arena.allocate(Entry::parameters, table.total() * size_of(dtype), "test weights");
             const Buffer gradients =
                 context.arena.allocate(Entry::gradients, table.total() * 4, "test gradients");
             for (const ParameterInfo& info : table.infos())
               reference::from_doubles(test.parameters.at(info.name),
                                       parameter_view(info, Placed<void*>{weights.data()}, dtype));
             Transformer model(context, communicator, test.config, table, run.options);
             model.prepare({.tokens = test.tokens,
                            .devices = run.devices,
                            .layout = run.layout,
                            .document_starts = test.document_starts},
                           true);
             std::vector<std::int32_t> ids, labels;
             for (const TokenPlace& place : model.places()) {
               ids.push_back(test.ids[static_cast<std::size_t>(place.global)]);
               labels.push_back(test.labels[static_cast<std::size_t>(place.global)]);
             }
             double loss[1] = {model.forward_backward({.weights = weights.data(),
                                                       .gradients = gradients.as<float>(),
                                                       .ids = ids,
                                                       .labels = labels,
                                                       .gradient_scale = 0.25f,
                                                       .dropout_seed = 3,
                                                       .optimizer_step = 2})};
             const std::span<float> flat(gradients.as<float>(), static_cast<std::size_t>(table.total()));
             communicator.all_reduce_sum(flat);
             communicator.all_reduce_sum(std::span<double>(loss));
             std::vector<float> losses(ids.size());
             model.losses(weights.data(), ids, labels, losses);
             const std::lock_guard lock(mutex);
             outcome.loss = loss[0];
             outcome.gradients.assign(flat.begin(), flat.end());
             for (std::size_t n = 0; n < losses.size(); ++n)
               outcome.losses[static_cast<std::size_t>(model.places()[n].global)] = losses[n];
           });
  return outcome;
}

/// The largest error of a parameter's gradient over the largest gradient of that parameter.
double worst_gradient_error(const Case& test, const Outcome& outcome, const reference::Parameters& expected) {
  const ParameterTable table(test.config);
  double worst = 0;
  for (const ParameterInfo& info : table.infos()) {
    const std::vector<double>& exact = expected.at(info.name);
    double largest = 0, error = 0;
    for (std::size_t n = 0; n < exact.size(); ++n) {
      largest = std::max(largest, std::abs(exact[n]));
      error =
          std::max(error, std::abs(exact[n] - outcome.gradients[static_cast<std::size_t>(info.offset) + n]));
    }
    worst = std::max(worst, error / largest);
  }
  return worst;
}

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
}  // namespace rondo
