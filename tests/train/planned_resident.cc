// The planner's bytes against the anonymous resident memory of processes that train models drawn at random.

#include "rondo/core/random.h"
#include "rondo/plan/fit.h"
#include "tests/train/resident_support.h"

namespace rondo {
namespace {

constexpr std::int64_t kAllDevices = std::int64_t{256} << 20;

/// A run whose devices are planned to hold about kAllDevices together. A window keeps attention cheap.
RunShape random_shape(std::uint64_t seed) {
  std::uint64_t state = mix64(seed);
  const auto of = [&]<class T>(std::initializer_list<T> values) {
    state = mix64(state + 1);
    return values.begin()[state % values.size()];
  };
  ModelConfig model = test::small_config();
  model.layers = of({2, 4, 6});
  model.width = of({128, 192, 256});
  model.ffn = of({256, 512, 768});
  model.kv_heads = of({1, 2});
  model.q_heads = model.kv_heads * of({1, 2, 4});
  model.head_dim = of({32, 64});
  model.vocabulary = of({258, 4000});
  model.tied_embedding = of({false, true});
  model.sliding_window = of({64, 128});
  return {.config = model,
          .dtype = of({DType::f32, DType::bf16}),
          .remat = of({Remat::layer, Remat::attention, Remat::none}),
          .exchange = of({Exchange::copy, Exchange::share}),
          .layout = of({Layout::contiguous, Layout::striped, Layout::zigzag}),
          .shard = of({Shard::none, Shard::optimizer, Shard::parameters}),
          .block_tokens = of({128, 512}),
          .devices = of({1, 2, 3, 4})};
}

TEST(PlannedResident, IsWithin10PercentOfTheMemoryOf30RandomRuns) {
  double least = 2, most = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    const RunShape shape = random_shape(seed);
    const MemoryModel model(shape);
    const std::int64_t context = longest_context(model, kAllDevices / shape.devices).tokens;
    TrainingRecipe recipe = test::small_recipe(context, 2);
    recipe.dtype = shape.dtype;
    const ExecutionOptions execution{.ring = {.devices = shape.devices, .timeout = std::chrono::seconds(600)},
                                     .layout = shape.layout,
                                     .remat = shape.remat,
                                     .exchange = shape.exchange,
                                     .block_tokens = shape.block_tokens,
                                     .shard = shape.shard};
    const test::ResidentFigures figures = test::measure_resident(shape.config, recipe, execution);
    const double planned = static_cast<double>(shape.devices * model.peak(model.entries(context)));
    const double ratio = planned / figures.resident;
    const std::string words = fmt::format(
        "seed {}: {} devices, {}, {}, {}, {}, {}, {} tokens: planned {:.1f} MiB, ledgers {:.1f} MiB, "
        "resident {:.1f} "
        "MiB, ratio {:.3f}",
        seed, shape.devices, name_of(shape.layout), name_of(shape.remat), name_of(shape.shard),
        name_of(shape.dtype), name_of(shape.exchange), context, planned / (1 << 20),
        figures.ledgers / (1 << 20), figures.resident / (1 << 20), ratio);
    fmt::print("{}\n", words);
    EXPECT_NEAR(ratio, 1, 0.1) << words;
    least = std::min(least, ratio), most = std::max(most, ratio);
  }
  fmt::print("30 runs: planned over resident from {:.3f} to {:.3f}\n", least, most);
}

}  // namespace
}  // namespace rondo
