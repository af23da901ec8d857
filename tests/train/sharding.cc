// State that is divided over the devices, and rings that are replicas: what must not change a bit, what may
// change rounding, and what each device holds.

#include "rondo/train/sharding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <mutex>

#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::Case;
using test::Outcome;
using test::run_steps;
using test::text;

constexpr std::array kDivided{Shard::optimizer, Shard::parameters};

/// An embedding of more than a layer, and one that the head reads too.
ModelConfig config_with(bool tied, std::int64_t layers) {
  ModelConfig config = test::small_config();
  config.tied_embedding = tied;
  config.layers = layers;
  return config;
}

double most_relative_difference(const Outcome& a, const Outcome& b) {
  double most = 0;
  for (std::size_t n = 0; n < a.losses.size(); ++n)
    most = std::max(most, std::abs(a.losses[n] / b.losses[n] - 1));
  return most;
}

TEST(OwnedElements, AreEachOfOneDeviceAndAligned) {
  for (const bool tied : {false, true})
    for (const int devices : {1, 2, 3, 7, 16}) {
      const ParameterTable table(config_with(tied, 3));
      std::vector<int> owners(static_cast<std::size_t>(table.total()));
      for (int device = 0; device < devices; ++device) {
        const OwnedElements owned(table, true, devices, device);
        std::int64_t sum = 0;
        for (std::size_t bucket = 0; bucket < owned.buckets(); ++bucket) {
          const Range flat = owned.flat(bucket), own = owned.own(bucket);
          EXPECT_EQ(flat.size(), own.size());
          EXPECT_EQ(own.begin, sum);
          EXPECT_EQ(flat.begin % ParameterTable::kAlignment, 0);
          sum += own.size();
          for (std::int64_t n = flat.begin; n < flat.end; ++n) ++owners[static_cast<std::size_t>(n)];
        }
        EXPECT_EQ(sum, owned.total());
      }
      for (const int count : owners) ASSERT_EQ(count, 1);
    }
}

TEST(Sharding, ChangesNoBitInAnyDivisionIntoProcesses) {
  const Corpus corpus = text().corpus();
  for (const auto& [tied, layers, dtype] :
       {std::tuple(false, 2, DType::f32), {true, 1, DType::f32}, {true, 4, DType::bf16}}) {
    Case test;
    test.config = config_with(tied, layers);
    test.recipe.dtype = dtype;
    test.execution.ring.devices = 4;
    const Outcome whole = run_steps(test, corpus);
    for (const Shard shard : kDivided)
      for (const int processes : {1, 2, 4}) {
        test.execution.shard = shard;
        EXPECT_TRUE(run_steps(test, corpus, processes) == whole)
            << name_of(shard) << ", " << processes << " processes, " << layers << " layers";
      }
  }
}

TEST(Sharding, OfOneDeviceIsNone) {
  const Corpus corpus = text().corpus();
  Case test;
  test.execution.ring.devices = 1;
  const Outcome whole = run_steps(test, corpus);
  for (const Shard shard : kDivided) {
    test.execution.shard = shard;
    EXPECT_TRUE(run_steps(test, corpus) == whole);
  }
}

TEST(Sharding, OfSeveralSequencesDiffersInRoundingAlone) {
  const Corpus corpus = text().corpus();
  Case test;
  test.recipe.sequences_per_step = 3;
  test.execution.ring.devices = 3;
  const Outcome whole = run_steps(test, corpus);
  test.execution.shard = Shard::optimizer;
  EXPECT_TRUE(run_steps(test, corpus) == whole);
  test.execution.shard = Shard::parameters;
  const Outcome divided = run_steps(test, corpus);
  EXPECT_LE(most_relative_difference(divided, whole), 1e-5);
  EXPECT_EQ(divided.losses[0], whole.losses[0]);
  for (const int processes : {1, 3}) EXPECT_TRUE(run_steps(test, corpus, processes) == divided);
}

/// Two rings of two take the sequences that one ring took one after the other.
TEST(Replicas, ComputeTheSameSteps) {
  const Corpus corpus = text().corpus();
  Case test;
  test.recipe.sequences_per_step = 4;
  test.recipe.separate_documents = true;
  const Outcome one = run_steps(test, corpus);
  test.execution.ring.devices = 4;
  test.execution.replicas = 2;
  const Outcome two = run_steps(test, corpus);
  EXPECT_LE(most_relative_difference(two, one), 1e-5);
  for (const int processes : {2, 4}) EXPECT_TRUE(run_steps(test, corpus, processes) == two) << processes;
  test.execution.shard = Shard::optimizer;
  EXPECT_TRUE(run_steps(test, corpus, 2) == two);
  test.execution.shard = Shard::parameters;
  EXPECT_LE(most_relative_difference(run_steps(test, corpus, 2), one), 1e-5);
}

/// Rings of one device; windows with first tokens, which are gathered within a replica.
TEST(Replicas, OfAnySizeAndMask) {
  const Corpus corpus = text().corpus();
  Case test;
  test.config.sliding_window = 40;
  test.config.first_k = 3;
  test.config.attention_dropout = 0.1f;
  test.recipe.sequences_per_step = 6;
  test.execution.ring.devices = 1;
  const Outcome one = run_steps(test, corpus);
  for (const auto& [devices, replicas] : {std::pair(2, 2), {6, 3}, {6, 2}}) {
    test.execution.ring.devices = devices;
    test.execution.replicas = replicas;
    EXPECT_LE(most_relative_difference(run_steps(test, corpus), one), 1e-5) << devices << " " << replicas;
  }
}

TEST(Replicas, ThatDoNotFitAreRefused) {
  const Corpus corpus = text().corpus();
  const auto refuse = [&](int devices, int replicas, std::int64_t sequences, const char* words) {
    Case test;
    test.execution.ring.devices = devices;
    test.execution.replicas = replicas;
    test.recipe.sequences_per_step = sequences;
    RONDO_EXPECT_ERROR(ArgumentError, run_steps(test, corpus), words);
  };
  refuse(4, 3, 3, "expected replicas that divide the 4 devices, got 3");
  refuse(4, 0, 1, "expected replicas that divide the 4 devices, got 0");
  refuse(4, 2, 3, "expected a multiple of 2 sequences a step, one for each replica, got 3");
}

TEST(Replicas, ShareTheWindowsOfAnEvaluation) {
  const Corpus corpus = text().corpus();
  const auto evaluate = [&](int devices, int replicas, Shard shard) {
    Evaluation result;
    Case test;
    test.execution.shard = shard;
    test.execution.replicas = replicas;
    test.recipe.sequences_per_step = replicas;
    test::spawn(devices, [&](Context& context, Communicator& communicator) {
      Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
      trainer.initialise();
      // An odd number of windows, of which the last is short.
      const Evaluation own =
          trainer.evaluate(corpus, {.context = 700, .stride = 500, .most_windows = 0, .block_tokens = 300});
      if (context.device == devices - 1) result = own;
    });
    return result;
  };
  const Evaluation expected = evaluate(2, 1, Shard::none);
  EXPECT_GT(expected.windows, 8);
  for (const Shard shard : {Shard::none, Shard::parameters}) {
    const Evaluation other = evaluate(6, 3, shard);
    EXPECT_EQ(other.windows, expected.windows);
    EXPECT_EQ(other.tokens, expected.tokens);
    EXPECT_NEAR(other.nats, expected.nats, 1e-9 * expected.nats);  // the order of the sum
    ASSERT_EQ(other.by_block.size(), expected.by_block.size());
    for (std::size_t n = 0; n < other.by_block.size(); ++n) {
      EXPECT_EQ(other.by_block[n].tokens, expected.by_block[n].tokens);
      EXPECT_NEAR(other.by_block[n].nats, expected.by_block[n].nats, 1e-9 * expected.by_block[n].nats);
    }
  }
}

// ---- Checkpoints ----

/// A run of four devices in all, with a checkpoint after each of the first `steps` steps.
TrainingResult train(const std::filesystem::path& out, const ExecutionOptions& execution, std::int64_t steps,
                     const std::optional<std::filesystem::path>& resume = {}) {
  const Corpus corpus = text().corpus();
  TrainingRun run;
  run.config = test::small_config();
  run.recipe = test::small_recipe(200, 8);
  run.recipe.sequences_per_step = 2;
  run.recipe.dtype = DType::bf16;
  run.execution = execution;
  run.corpus = &corpus;
  run.out = out;
  run.keep = 0;
  run.checkpoint_every = 1;
  run.last_step = steps;
  run.resume_from = resume;
  return run_training(run, {});
}

std::map<std::string, std::string> files_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().lexically_relative(folder)] = {std::istreambuf_iterator<char>(file), {}};
  }
  return files;
}

/// Whatever is divided, a checkpoint is the same, and a run goes on from it in any other division.
TEST(Sharding, ChangesNoFileOfACheckpoint) {
  const test::TemporaryFolder folder;
  ExecutionOptions execution{
      .ring = {.devices = 4, .timeout = std::chrono::seconds(60)}, .block_tokens = 32, .replicas = 2};
  train(folder / "none", execution, 4);
  const auto at = [&](const char* name, int step) { return checkpoint_path(folder / name, step); };
  execution.shard = Shard::optimizer;
  train(folder / "optimizer", execution, 4);
  EXPECT_EQ(files_of(at("optimizer", 4)), files_of(at("none", 4)));
  execution.shard = Shard::parameters;  // each replica's one sequence: no other rounding
  train(folder / "parameters", execution, 3);
  EXPECT_EQ(files_of(at("parameters", 3)), files_of(at("none", 3)));
  train(folder / "resumed", execution, 4, at("optimizer", 2));
  EXPECT_EQ(files_of(at("resumed", 4)), files_of(at("none", 4)));
  execution.shard = Shard::none;
  train(folder / "again", execution, 4, at("parameters", 1));
  EXPECT_EQ(files_of(at("again", 4)), files_of(at("none", 4)));
}

// ---- Memory ----

/// Bytes of each entry of the device that holds most, after a step.
std::array<std::int64_t, static_cast<std::size_t>(Entry::count)> memory_of(const ModelConfig& config,
                                                                           Shard shard, int devices) {
  std::array<std::int64_t, static_cast<std::size_t>(Entry::count)> most{};
  const Corpus corpus = text().corpus();
  Case test;
  test.config = config;
  test.recipe.dtype = DType::bf16;
  test.execution.shard = shard;
  std::mutex mutex;
  test::spawn(devices, [&](Context& context, Communicator& communicator) {
    Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
    trainer.initialise();
    trainer.step();
    const std::lock_guard lock(mutex);
    for (std::size_t entry = 0; entry < most.size(); ++entry)
      most[entry] = std::max(most[entry], context.ledger.peak(static_cast<Entry>(entry)));
  });
  return most;
}

/// 2 × 4N of moments, 4N of master weights and 4N of gradients are divided by the number of devices, but for
/// what rounds to 16 elements in each bucket and to pages; a pass works in the memory of some layers, however
/// many there are.
TEST(Sharding, DividesTheStateByTheNumberOfDevices) {
  ModelConfig config = test::small_config();
  config.width = 64, config.ffn = 96, config.layers = 12, config.head_dim = 16;
  const ParameterTable table(config);
  const std::int64_t elements = table.total();
  constexpr std::int64_t kPage = 4096;
  const auto buckets = static_cast<std::int64_t>(table.buckets().size());
  const auto at = [](const auto& entries, Entry entry) { return entries[static_cast<std::size_t>(entry)]; };
  const auto whole = memory_of(config, Shard::none, 2);
  for (const int devices : {2, 4, 8}) {
    const std::int64_t share = elements / devices, rounding = 64 * buckets + kPage;
    const auto near = [&](std::int64_t bytes, std::int64_t expected) {
      EXPECT_GE(bytes, expected) << devices;
      EXPECT_LE(bytes, expected + 2 * rounding) << devices;
    };
    const auto moments = memory_of(config, Shard::optimizer, devices);
    near(at(moments, Entry::optimizer), 8 * share);
    near(at(moments, Entry::parameters), 4 * share);
    EXPECT_EQ(at(moments, Entry::compute_weights), at(whole, Entry::compute_weights));
    EXPECT_EQ(at(moments, Entry::gradients), at(whole, Entry::gradients));
    const auto all = memory_of(config, Shard::parameters, devices);
    near(at(all, Entry::optimizer), 8 * share);
    near(at(all, Entry::parameters), 4 * share);
    near(at(all, Entry::gradients), 4 * share);
    // Three of the buckets in the storage type; in float32 as many and the parts of one.
    const std::int64_t bucket = table.buckets()[1].size(), outer = table.buckets()[0].size();
    EXPECT_LE(at(all, Entry::compute_weights), 2 * (2 * bucket + outer) + 3 * kPage);
    EXPECT_LE(at(all, Entry::gradient_exchange),
              4 * (3 * std::max<std::int64_t>(bucket, 1 << 16) + outer) + 5 * kPage);
  }
  config.layers = 24;
  const auto deeper = memory_of(config, Shard::parameters, 4);
  config.layers = 12;
  const auto shallower = memory_of(config, Shard::parameters, 4);
  for (const Entry entry : {Entry::compute_weights, Entry::gradient_exchange})
    EXPECT_EQ(at(deeper, entry), at(shallower, entry)) << name_of(entry);
}

}  // namespace
}  // namespace rondo
