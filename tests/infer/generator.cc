// Prefill and decoding of small random models on rings, against the reference decoder over the whole text.

#include "rondo/infer/generator.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "rondo/reference/convert.h"
#include "rondo/reference/llama.h"
#include "tests/support/spawn.h"

namespace rondo {
namespace {

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::striped, Layout::zigzag};

ModelConfig base_config() {
  return {.vocabulary = 61,
          .width = 24,
          .ffn = 40,
          .layers = 2,
          .q_heads = 4,
          .kv_heads = 2,
          .head_dim = 8,
          .rope_scaling = {},
          .eos = {}};
}

struct Variant {
  const char* name;
  ModelConfig config;
};
std::vector<Variant> variants() {
  std::vector<Variant> all;
  const auto add = [&](const char* name, auto change) {
    all.push_back({name, base_config()});
    change(all.back().config);
  };
  add("full attention", [](ModelConfig&) {});
  add("window", [](ModelConfig& c) { c.sliding_window = 5, c.layers = 3; });
  add("window and first k", [](ModelConfig& c) { c.sliding_window = 4, c.first_k = 2; });
  add("softcap, tied", [](ModelConfig& c) { c.attention_softcap = 0.7f, c.tied_embedding = true; });
  add("one key head, window of one",
      [](ModelConfig& c) { c.kv_heads = 1, c.sliding_window = 1, c.first_k = 1; });
  add("all key heads, wide heads",
      [](ModelConfig& c) { c.kv_heads = 4, c.head_dim = 12, c.rope_theta = 100; });
  return all;
}

/// Random parameters in a flat buffer, and what the reference says of a random text.
class Model {
 public:
  Model(const ModelConfig& config, DType dtype, std::int64_t tokens)
      : config_(config), table_(config), dtype_(dtype) {
    const reference::LlamaConfig plain{.vocabulary = config.vocabulary,
                                       .width = config.width,
                                       .ffn = config.ffn,
                                       .layers = config.layers,
                                       .q_heads = config.q_heads,
                                       .kv_heads = config.kv_heads,
                                       .head_dim = config.head_dim,
                                       .epsilon = static_cast<double>(config.rms_epsilon),
                                       .frequencies = {},
                                       .theta = config.rope_theta,
                                       .softcap = static_cast<double>(config.attention_softcap),
                                       .tied_embedding = config.tied_embedding,
                                       .window = config.sliding_window,
                                       .first_k = config.first_k};
    reference::Parameters parameters = reference::random_llama_parameters(plain, 5);
    weights_.resize(static_cast<std::size_t>(table_.total() * size_of(dtype)));
    for (const ParameterInfo& info : table_.infos()) {
      std::vector<double>& values = parameters.at(info.name);
      values = reference::rounded(values, dtype);
      reference::from_doubles(values, parameter_view(info, Placed<void*>{weights_.data()}, dtype));
    }
    for (const double x : reference::standard_normal(tokens, 9))
      text_.push_back(static_cast<std::int32_t>(std::abs(x) * 1000) %
                      static_cast<std::int32_t>(config.vocabulary));
    logits_TV_ = reference::llama_forward(plain, parameters, {text_, {}, {}}).logits_TV;
  }
  const ModelConfig& config() const { return config_; }
  const ParameterTable& table() const { return table_; }
  const void* weights() const { return weights_.data(); }
  DType dtype() const { return dtype_; }
  const std::vector<std::int32_t>& text() const { return text_; }
  /// Logits of the successors of tokens [first, end of the text).
  std::vector<double> expected(std::int64_t first) const {
    return {logits_TV_.begin() + first * config_.vocabulary, logits_TV_.end()};
  }

 private:
  ModelConfig config_;
  ParameterTable table_;
  DType dtype_;
  std::vector<std::byte> weights_;
  std::vector<std::int32_t> text_;
  std::vector<double> logits_TV_;
};

struct Run {
  int devices = 1;
  Layout layout = Layout::zigzag;
  std::int64_t prompt = 1;  ///< tokens of the text that are prefilled; the others are decoded one by one
  int threads = 1;
  Exchange exchange = Exchange::copy;
  Isa isa = default_isa();
};

/// Each device's logits: of the prompt's successor and of each decoded token's.
std::vector<std::vector<double>> generate(const Model& model, const Run& run) {
  std::vector<std::vector<double>> logits(static_cast<std::size_t>(run.devices));
  test::spawn(run.devices,
              [&](Context& context, Communicator& communicator) {
                const auto tokens = static_cast<std::int64_t>(model.text().size());
                Generator generator(
                    context, communicator, model.config(), model.table(), model.weights(),
                    {.capacity = tokens,
                     .layout = run.layout,
                     .model = {.dtype = model.dtype(), .exchange = run.exchange, .block_tokens = 7}});
                std::vector<double>& own = logits[static_cast<std::size_t>(context.device)];
                const auto prompt = static_cast<std::size_t>(run.prompt);
                const auto keep = [&own](std::span<const float> row) {
                  own.insert(own.end(), row.begin(), row.end());
                };
                keep(generator.prefill(std::span(model.text()).first(prompt)));
                for (std::size_t n = prompt; n < model.text().size(); ++n)
                  keep(generator.decode(model.text()[n]));
                EXPECT_EQ(generator.tokens(), tokens);
              },
              {.threads = run.threads, .isa = run.isa, .timeout = std::chrono::seconds(60)});
  return logits;
}

/// Rounding errors are independent and norms keep them from growing, so their squares add up. float32: sums
/// of up to `ffn` terms, each rounded to a unit u = 2^-24, err by sqrt(ffn) u at worst. bfloat16: each tensor
/// that a layer stores errs by u = 2^-9 at worst; half as much again for single rows, whose errors are too
/// few to average out. A layer has 12 such places (two norms, q, k, v, probabilities, attention, gate, up,
/// their product and twice the residual stream), the ends have 3.
double root_mean_square_bound(const Model& model) {
  const double places = 12.0 * static_cast<double>(model.config().layers) + 3;
  if (model.dtype() == DType::bf16) return 1.5 * 0x1p-9 * std::sqrt(places);
  return 0x1p-24 * std::sqrt(places * static_cast<double>(model.config().ffn));
}

void expect_reference(const Model& model, const Run& run) {
  SCOPED_TRACE(testing::Message() << run.devices << " devices, " << name_of(run.layout) << ", prompt of "
                                  << run.prompt << ", " << name_of(model.dtype()));
  const std::vector<double> expected = model.expected(run.prompt - 1);
  const auto logits = generate(model, run);
  double size = 0, error = 0, largest = 0;
  ASSERT_EQ(logits.front().size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(logits.front()[i] - expected[i]);
    ASSERT_FALSE(std::isnan(difference));
    size += expected[i] * expected[i];
    error += difference * difference;
    largest = std::max(largest, difference);
  }
  const double bound = root_mean_square_bound(model), count = static_cast<double>(expected.size());
  EXPECT_LE(std::sqrt(error / size), bound);
  EXPECT_LE(largest, 6 * bound * std::sqrt(size / count));  // six deviations: no single logit is off
  for (const auto& other : logits) EXPECT_EQ(other, logits.front()) << "devices differ";
}

class Variants : public testing::TestWithParam<Variant> {};

TEST_P(Variants, PrefillAndDecodingEqualTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Model model(GetParam().config, dtype, 17);
    for (const int devices : dtype == DType::f32 ? std::vector{1, 2, 3, 4, 5} : std::vector{1, 3})
      for (const Layout layout : kLayouts)
        for (const std::int64_t prompt : {1, 2, 3, 13, 17})  // shorter than the ring, uneven, all of it
          expect_reference(model, {.devices = devices, .layout = layout, .prompt = prompt});
  }
}
INSTANTIATE_TEST_SUITE_P(Generator, Variants, testing::ValuesIn(variants()), [](const auto& tested) {
  std::string name = tested.param.name;
  for (char& c : name)
    if (c == ' ' || c == ',') c = '_';
  return name;
});

TEST(Generator, EveryTierEqualsTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    ModelConfig config = base_config();
    config.sliding_window = 9, config.first_k = 1;
    const Model model(config, dtype, 30);
    for (const Isa isa : kEveryIsa)
      if (isa <= detected_isa()) expect_reference(model, {.devices = 2, .prompt = 11, .isa = isa});
  }
}

TEST(Generator, AnswersLongerThanABlock) {
  for (const bool window : {false, true}) {
    ModelConfig config = base_config();
    if (window) config.sliding_window = 270, config.first_k = 3;
    const Model model(config, DType::f32, 600);
    expect_reference(model, {.devices = 3, .layout = Layout::zigzag, .prompt = 20});
    expect_reference(model, {.devices = 2, .layout = Layout::striped, .prompt = 550});
  }
}

TEST(Generator, BitsDoNotDependOnThreadsOrExchange) {
  ModelConfig config = base_config();
  config.sliding_window = 9, config.first_k = 1;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Model model(config, dtype, 40);
    for (const Layout layout : kLayouts) {
      const auto base = generate(model, {.devices = 3, .layout = layout, .prompt = 30});
      for (const int threads : {2, 3})
        EXPECT_EQ(generate(model, {.devices = 3, .layout = layout, .prompt = 30, .threads = threads}), base);
      EXPECT_EQ(generate(model, {.devices = 3, .layout = layout, .prompt = 30, .exchange = Exchange::share}),
                base);
    }
  }
}

// Dropout is for training: a model that has it generates as one without.
TEST(Generator, NothingIsDropped) {
  ModelConfig config = base_config();
  const auto without = generate(Model(config, DType::f32, 12), {.devices = 2, .prompt = 8});
  config.attention_dropout = 0.5f;
  EXPECT_EQ(generate(Model(config, DType::f32, 12), {.devices = 2, .prompt = 8}), without);
}

TEST(Generator, DecodingAllocatesNothing) {
  const Model model(base_config(), DType::bf16, 300);
  test::spawn(2, [&](Context& context, Communicator& communicator) {
    Generator generator(context, communicator, model.config(), model.table(), model.weights(),
                        {.capacity = 300, .model = {.dtype = DType::bf16}});
    generator.prefill(std::span(model.text()).first(10));
    generator.decode(model.text()[10]);
    const std::int64_t allocations = context.ledger.allocations(), peak = context.ledger.peak_total();
    for (std::size_t n = 11; n < 300; ++n) generator.decode(model.text()[n]);
    EXPECT_EQ(context.ledger.allocations(), allocations);
    EXPECT_EQ(context.ledger.peak_total(), peak);
  });
}

void expect_refused(const std::function<void()>& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "not refused: " << words;
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Generator, CallsOutOfOrderOrBeyondTheCapacityAreRefused) {
  const Model model(base_config(), DType::f32, 4);
  const std::vector<std::int32_t> tokens{1, 2, 3, 4};
  for (const int devices : {1, 3}) {
    test::spawn(devices, [&](Context& context, Communicator& communicator) {
      Generator generator(context, communicator, model.config(), model.table(), model.weights(),
                          {.capacity = 3, .model = {}});
      expect_refused([&] { generator.decode(1); }, "prefill() before decode()");
      expect_refused([&] { generator.prefill({}); }, "prompt of at least 1 token");
      expect_refused([&] { generator.prefill(tokens); }, "at most 3 tokens, got 4");
      const auto first = generator.prefill(std::span(tokens).first(2));
      const std::vector<double> before(first.begin(), first.end());
      EXPECT_EQ(before.size(), 61u);
      expect_refused([&] { generator.prefill(tokens); }, "prefill() once");
      expect_refused([&] { generator.decode(61); }, "61");
      EXPECT_EQ(generator.tokens(), 2);  // a refused token leaves nothing behind
      generator.decode(3);
      expect_refused([&] { generator.decode(4); }, "--ctx-size");
      EXPECT_EQ(generator.tokens(), 3);
    });
  }
}

}  // namespace
}  // namespace rondo
