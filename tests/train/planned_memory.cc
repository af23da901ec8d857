// The planner's bytes against the ledgers of training steps of models, masks and rings drawn at random.

#include "rondo/core/random.h"
#include "rondo/plan/memory.h"
#include "tests/train/memory_model.h"

namespace rondo {
namespace {

/// Draws from small sets of values.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : state_(mix64(seed)) {}
  template <class T>
  T of(std::initializer_list<T> values) {
    state_ = mix64(state_ + 1);
    return values.begin()[state_ % values.size()];
  }

 private:
  std::uint64_t state_;
};

struct RandomRun {
  RunShape shape;
  std::int64_t context = 0;
};

RandomRun random_run(std::uint64_t seed) {
  Draw draw(seed);
  ModelConfig model = test::small_config();
  model.layers = draw.of({1, 2, 3});
  model.width = draw.of({32, 48, 64});
  model.ffn = draw.of({40, 96, 160});
  model.kv_heads = draw.of({1, 2});
  model.q_heads = model.kv_heads * draw.of({1, 2, 4});
  model.head_dim = draw.of({8, 16});
  model.vocabulary = draw.of({258, 1000});
  model.tied_embedding = draw.of({false, true});
  if (draw.of({0, 0, 1}) == 1) {
    model.sliding_window = draw.of({100, 300});
    model.first_k = draw.of({0, 4});
  }
  return {.shape = {.config = model,
                    .dtype = draw.of({DType::f32, DType::bf16}),
                    .remat = draw.of({Remat::layer, Remat::attention, Remat::none}),
                    .exchange = draw.of({Exchange::copy, Exchange::copy, Exchange::share}),
                    .layout = draw.of({Layout::contiguous, Layout::striped, Layout::zigzag}),
                    .block_tokens = draw.of({16, 64, 512}),
                    .devices = draw.of({1, 2, 3, 4, 6})},
          .context = draw.of({700, 1200, 1999})};
}

TEST(PlannedMemory, IsWithin3PercentOfTheLedgersOfRandomRuns) {
  const Corpus corpus = test::text().corpus();
  double worst = 0;
  for (std::uint64_t seed = 1; seed <= 32; ++seed) {
    const RandomRun drawn = random_run(seed);
    const RunShape& shape = drawn.shape;
    SCOPED_TRACE(fmt::format("seed {}: {} devices, {}, {}, {}, {}, window {}, {} tokens", seed, shape.devices,
                             name_of(shape.layout), name_of(shape.remat), name_of(shape.dtype),
                             name_of(shape.exchange), shape.config.sliding_window, drawn.context));
    const test::Measured measured = test::run_one_step({.config = shape.config,
                                                        .dtype = shape.dtype,
                                                        .remat = shape.remat,
                                                        .exchange = shape.exchange,
                                                        .layout = shape.layout,
                                                        .block_tokens = shape.block_tokens,
                                                        .context = drawn.context,
                                                        .devices = shape.devices},
                                                       corpus);
    const MemoryModel model(shape);
    const EntryBytes planned = model.entries(drawn.context);
    const auto scratch = static_cast<std::size_t>(Entry::library_scratch);
    std::int64_t most = 0;  // of any device, scratch apart
    for (std::size_t device = 0; device < measured.peaks.size(); ++device)
      most = std::max(most, measured.peak_totals[device] - measured.peaks[device][scratch]);
    const double ratio = static_cast<double>(model.peak(planned)) / static_cast<double>(most);
    EXPECT_NEAR(ratio, 1, 0.03);
    worst = std::max(worst, std::abs(ratio - 1));
  }
  RecordProperty("worst", fmt::format("{:.4f}", worst));
}

}  // namespace
}  // namespace rondo
