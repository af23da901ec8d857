// Steps of a small model: what must not change a bit and what may change rounding.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <mutex>

#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::Case;
using test::Outcome;
using test::run_steps;
using test::text;

/// Cases that must give the same bits as `base` with each of the other executions of it.
void expect_same_bits(const Case& base, const Corpus& corpus = text().corpus()) {
  const Outcome first = run_steps(base, corpus);
  for (const double loss : first.losses) EXPECT_TRUE(std::isfinite(loss));
  const auto expect_equal = [&](const char* what, const std::function<void(ExecutionOptions&)>& change) {
    Case other = base;
    change(other.execution);
    EXPECT_TRUE(run_steps(other, corpus) == first) << what;
  };
  expect_equal("repeated", [](ExecutionOptions&) {});
  expect_equal("2 threads", [](ExecutionOptions& e) { e.ring.threads = 2; });
  expect_equal("3 threads", [](ExecutionOptions& e) { e.ring.threads = 3; });
  expect_equal("remat layer", [](ExecutionOptions& e) { e.remat = Remat::layer; });
  expect_equal("remat none", [](ExecutionOptions& e) { e.remat = Remat::none; });
  expect_equal("shard optimizer", [](ExecutionOptions& e) { e.shard = Shard::optimizer; });
  // Else the gradients of the sequences are summed over the devices one by one.
  if (base.recipe.sequences_per_step == 1)
    expect_equal("shard parameters", [](ExecutionOptions& e) { e.shard = Shard::parameters; });
  expect_equal("share", [](ExecutionOptions& e) { e.exchange = Exchange::share; });
  expect_equal("all at once", [](ExecutionOptions& e) {
    e.ring.threads = 2, e.remat = Remat::layer, e.exchange = Exchange::share;
  });
}

TEST(SameBits, Float32) { expect_same_bits({}); }

TEST(SameBits, BFloat16) {
  Case test;
  test.recipe.dtype = DType::bf16;
  test.execution.ring.devices = 3;
  expect_same_bits(test);
}

TEST(SameBits, WithDropout) {
  Case test;
  test.config.attention_dropout = 0.2f;
  test.execution.layout = Layout::striped;
  expect_same_bits(test);
  Case without = test;
  without.config.attention_dropout = 0;
  const Corpus corpus = text().corpus();
  EXPECT_NE(run_steps(test, corpus).losses, run_steps(without, corpus).losses);
}

TEST(SameBits, WithSeparateDocuments) {
  const test::Text files({200, 150, 70, 500});  // two of the four sequences cross a file's end
  const Corpus corpus = files.corpus();
  Case test;
  test.recipe.separate_documents = true;
  test.recipe.context = 230;
  test.execution.ring.devices = 3;
  expect_same_bits(test, corpus);
  Case together = test;
  together.recipe.separate_documents = false;
  EXPECT_NE(run_steps(test, corpus).losses, run_steps(together, corpus).losses);
}

TEST(SameBits, WithAWarmUpOfTheContext) {
  Case test;
  test.recipe.context = 600;
  test.recipe.context_warmup = 0.5;
  test.execution.ring.devices = 3;
  const test::Text files({900, 700, 800});
  const Corpus corpus = files.corpus();
  expect_same_bits(test, corpus);
  Case without = test;
  without.recipe.context_warmup = 0;
  EXPECT_NE(run_steps(test, corpus).losses, run_steps(without, corpus).losses);
}

TEST(SameBits, WithSeveralSequencesPerStepAndAWindow) {
  Case test;
  test.recipe.sequences_per_step = 2;
  test.config.sliding_window = 70;
  test.config.first_k = 4;
  test.config.tied_embedding = true;
  test.execution.layout = Layout::contiguous;
  test.execution.ring.devices = 4;
  expect_same_bits(test);
}

TEST(Devices, AgreeOverTenSteps) { test::expect_devices_agree(10, {2, 3, 8}); }

TEST(Devices, GradientsOfSeveralSequencesAreTheirMean) {
  // Two sequences in one step have the mean loss of the same two one after the other without a change
  // between.
  const Corpus corpus = text().corpus();
  Case both, apart;
  both.recipe.sequences_per_step = 2;
  both.steps = 1;
  apart.recipe.learning_rate.peak = 0;
  apart.steps = 2;
  const Outcome a = run_steps(both, corpus), b = run_steps(apart, corpus);
  EXPECT_NEAR(a.losses[0], (b.losses[0] + b.losses[1]) / 2, 1e-9 * a.losses[0]);
}

}  // namespace
}  // namespace rondo
