// The ledgers against what the operating system counts: anonymous resident memory of a process that does
// nothing else.

#include "tests/train/resident_support.h"

namespace rondo {
namespace {

void expect_ledgers_tell_the_truth(const char* name, const ModelConfig& config, const TrainingRecipe& recipe,
                                   const ExecutionOptions& execution) {
  const test::ResidentFigures figures = test::measure_resident(config, recipe, execution);
  fmt::print("{}: ledgers {:.1f} MiB, resident {:.1f} MiB, ratio {:.4f}\n", name, figures.ledgers / (1 << 20),
             figures.resident / (1 << 20), figures.ledgers / figures.resident);
  EXPECT_GT(figures.resident, 512 << 20) << name;
  EXPECT_NEAR(figures.ledgers / figures.resident, 1, 0.1) << name;
}

ExecutionOptions on_ring(int devices, int threads, Remat remat) {
  return {.ring = {.devices = devices, .threads = threads, .timeout = std::chrono::seconds(600)},
          .layout = Layout::contiguous,
          .remat = remat};
}

TEST(Resident, LongContext) {
  ModelConfig config = test::small_config();
  config.layers = 12, config.width = 128, config.ffn = 256, config.q_heads = 4, config.kv_heads = 1;
  config.head_dim = 32, config.sliding_window = 128;  // keeps the attention cheap; memory is the same
  expect_ledgers_tell_the_truth("long context", config, test::small_recipe(34000, 2),
                                on_ring(4, 1, Remat::attention));
}

TEST(Resident, ManyParameters) {
  ModelConfig config = test::small_config();
  config.layers = 4, config.width = 512, config.ffn = 1536, config.q_heads = 8, config.kv_heads = 2;
  config.head_dim = 64, config.vocabulary = 8000;
  TrainingRecipe recipe = test::small_recipe(600, 2);
  recipe.dtype = DType::bf16;
  expect_ledgers_tell_the_truth("many parameters", config, recipe, on_ring(2, 2, Remat::layer));
}

TEST(Resident, WideFeedForwardKept) {
  ModelConfig config = test::small_config();
  config.layers = 4, config.width = 128, config.ffn = 4096, config.q_heads = 4, config.kv_heads = 2;
  config.head_dim = 32;
  expect_ledgers_tell_the_truth("wide feed-forward kept", config, test::small_recipe(4000, 2),
                                on_ring(3, 1, Remat::none));
}

}  // namespace
}  // namespace rondo
