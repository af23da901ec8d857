// The ledgers against what the operating system counts: anonymous resident memory of a process that does
// nothing else.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/train/training_support.h"

namespace rondo {
namespace {

/// Bytes of RssAnon in /proc/self/status.
std::int64_t resident_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssAnon:", 0) == 0) return std::stoll(line.substr(8)) * 1024;
  return -1;
}

struct Figures {
  double ledgers = 0, resident = 0;
};

/// In a process of its own, so that neither other tests nor what they left behind count.
Figures measure(const ModelConfig& config, const TrainingRecipe& recipe, const ExecutionOptions& execution) {
  int ends[2];
  if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
  const pid_t child = ::fork();
  if (child == 0) {
    Figures figures;
    try {
      const test::Text files({recipe.context + 1000});
      const Corpus corpus = files.corpus();
      const std::int64_t before = resident_bytes();
      run_ring(execution.ring, [&](Context& context, Communicator& communicator) {
        Trainer trainer(context, communicator, config, recipe, execution, corpus);
        trainer.initialise();
        trainer.step();
        trainer.step();
        std::array<double, 1> total{static_cast<double>(context.ledger.total())};
        communicator.all_reduce_sum(std::span<double>(total));
        if (context.device == 0) figures = {total[0], static_cast<double>(resident_bytes() - before)};
        communicator.barrier();
      });
    } catch (const std::exception& error) {
      fmt::print(stderr, "{}\n", error.what());
    }
    [[maybe_unused]] const auto written = ::write(ends[1], &figures, sizeof figures);
    ::_exit(0);
  }
  Figures figures;
  ::close(ends[1]);
  EXPECT_EQ(::read(ends[0], &figures, sizeof figures), static_cast<ssize_t>(sizeof figures));
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return figures;
}

void expect_ledgers_tell_the_truth(const char* name, const ModelConfig& config, const TrainingRecipe& recipe,
                                   const ExecutionOptions& execution) {
  const Figures figures = measure(config, recipe, execution);
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
