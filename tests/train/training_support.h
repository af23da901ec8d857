#pragma once
// A small model, a text that has something to learn in it, and runs of a few steps.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "rondo/train/trainer.h"
#include "tests/support/spawn.h"
#include "tests/support/temporary_folder.h"

namespace rondo::test {

/// Sentences of a small grammar: words, and which word follows which, can be learned.
inline std::string sentences(std::int64_t bytes, std::uint64_t seed) {
  constexpr std::array<const char*, 6> subjects{"the keeper",   "a sailor",        "her sister",
                                                "the old ship", "every traveller", "no one"};
  constexpr std::array<const char*, 6> verbs{"watched", "remembered", "followed", "left", "heard", "feared"};
  constexpr std::array<const char*, 5> objects{"the lighthouse", "a quiet harbour", "the long winter",
                                               "his brother", "an open road"};
  std::string text;
  for (std::uint64_t n = 0; static_cast<std::int64_t>(text.size()) < bytes; ++n) {
    const std::uint64_t draw = mix64(seed * 1'000'003 + n);
    text += subjects[draw % subjects.size()];
    text += ' ';
    text += verbs[draw / 7 % verbs.size()];
    text += ' ';
    text += objects[draw / 77 % objects.size()];
    text += draw % 5 == 0 ? ".\n" : ", ";
  }
  text.resize(static_cast<std::size_t>(bytes));
  return text;
}

/// Width 32, 2 layers, 4 heads over 2 key/value heads, 258 tokens.
inline ModelConfig small_config() {
  return {.vocabulary = 258,
          .width = 32,
          .ffn = 48,
          .layers = 2,
          .q_heads = 4,
          .kv_heads = 2,
          .head_dim = 8,
          .rms_epsilon = 1e-5f,
          .bos = 256,
          .eos = {257}};
}

inline TrainingRecipe small_recipe(std::int64_t context, std::int64_t steps) {
  TrainingRecipe recipe{.context = context, .seed = 7};
  recipe.learning_rate = {.peak = 3e-3, .warmup = 3, .total_steps = steps};
  return recipe;
}

/// Bits of a run, to compare exactly.
struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> parameters;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

/// Everything that decides a test run.
struct Case {
  ModelConfig config = small_config();
  TrainingRecipe recipe = small_recipe(256, 10);
  ExecutionOptions execution = {.ring = {.devices = 2, .timeout = std::chrono::seconds(60)},
                                .block_tokens = 32};
  std::int64_t steps = 3;
};

/// Runs `steps` steps, with the devices divided over so many processes. Checks that every device ends with
/// the same parameters and reports.
inline Outcome run_steps(const Case& test, const Corpus& corpus, int processes = 1) {
  Outcome outcome;
  std::vector<std::vector<float>> parameters(static_cast<std::size_t>(test.execution.ring.devices));
  std::vector<std::vector<double>> losses(parameters.size());
  const int devices = test.execution.ring.devices;
  const auto run = [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
    trainer.initialise();
    const auto me = static_cast<std::size_t>(context.device);
    for (std::int64_t n = 0; n < test.steps; ++n) {
      const StepReport report = trainer.step();
      losses[me].push_back(report.loss);
      if (me == 0) outcome.norms.push_back(report.gradient_norm);
    }
    const CheckpointSource source = trainer.checkpoint_source();
    for (std::size_t bucket = 0; bucket < trainer.table().buckets().size(); ++bucket) {
      const auto values = source.parameters(bucket);
      parameters[me].insert(parameters[me].end(), values.begin(), values.end());
    }
  };
  spawn_divided(devices, devices / processes, run, test.execution.ring);
  for (std::size_t device = 1; device < parameters.size(); ++device) {
    EXPECT_EQ(parameters[device], parameters[0]) << "device " << device;
    EXPECT_EQ(losses[device], losses[0]) << "device " << device;
  }
  outcome.losses = losses[0];
  outcome.parameters = std::move(parameters[0]);
  return outcome;
}

/// A corpus of a few files in a folder of its own.
struct Text {
  explicit Text(const std::vector<std::int64_t>& sizes) {
    for (std::size_t n = 0; n < sizes.size(); ++n)
      write_text(folder / ("part" + std::to_string(n) + ".txt"), sentences(sizes[n], n + 1));
  }
  Corpus corpus() const { return Corpus::open({folder.path()}); }
  TemporaryFolder folder;
};

/// A text for tests that change nothing about it.
inline const Text& text() {
  static const Text shared({3000, 1500, 700, 5000});
  return shared;
}

/// Losses on several rings, relative to those on one device.
inline void expect_devices_agree(std::int64_t steps, const std::vector<int>& rings) {
  const Corpus corpus = text().corpus();
  Case test;
  test.recipe = small_recipe(256, steps);
  test.steps = steps;
  test.execution.ring.devices = 1;
  const Outcome one = run_steps(test, corpus);
  EXPECT_LT(one.losses.back(), one.losses.front() - 0.02 * static_cast<double>(steps));  // it learns
  for (const int devices : rings) {
    test.execution.ring.devices = devices;
    const Outcome other = run_steps(test, corpus);
    double most = 0;
    for (std::size_t n = 0; n < one.losses.size(); ++n)
      most = std::max(most, std::abs(other.losses[n] / one.losses[n] - 1));
    EXPECT_LE(most, 1e-4) << devices << " devices";
    ::testing::Test::RecordProperty(fmt::format("loss_difference_on_{}_devices", devices),
                                    fmt::format("{:.1e}", most));
  }
}

}  // namespace rondo::test
