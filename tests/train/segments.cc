// Training and evaluation segment by segment, in memory and on the disk.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <set>
#include <thread>

#include "rondo/plan/spill_time.h"
#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::Case;
using test::Outcome;
using test::run_steps;
using test::text;

/// Four segments, the last of them short.
Case segmented_case() {
  Case test;
  test.recipe.context = 1800;
  test.execution.ring.devices = 1;
  test.execution.segment_tokens = 512;
  return test;
}

/// Everything that decides which keys a query sees, and in which numbers it is computed.
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::function<void(Case&)>& change) {
    all.push_back(segmented_case());
    change(all.back());
  };
  add([](Case&) {});
  add([](Case& test) { test.recipe.dtype = DType::bf16, test.config.attention_dropout = 0.1f; });
  add([](Case& test) { test.config.sliding_window = 300, test.recipe.sequences_per_step = 2; });
  add([](Case& test) { test.recipe.separate_documents = true, test.config.tied_embedding = true; });
  add([](Case& test) { test.config.kv_heads = 4, test.config.attention_softcap = 20; });
  return all;
}

double most_relative_difference(const Outcome& a, const Outcome& b) {
  double most = 0;
  for (std::size_t n = 0; n < a.losses.size(); ++n) {
    most = std::max(most, std::abs(a.losses[n] / b.losses[n] - 1));
    most = std::max(most, std::abs(a.norms[n] / b.norms[n] - 1) / 10);
  }
  return most;
}

/// The cut changes rounding alone; where segments are, and the number of threads, change nothing.
TEST(Segments, ComputeTheSameSteps) {
  const Corpus corpus = text().corpus();
  for (const Case& test : cases()) {
    Case whole = test;
    whole.execution.segment_tokens = 0;
    const Outcome in_memory = run_steps(test, corpus);
    const double tolerance = test.recipe.dtype == DType::f32 ? 1e-5 : 2e-3;
    EXPECT_LE(most_relative_difference(in_memory, run_steps(whole, corpus)), tolerance);
    Case spilled = test;
    const test::TemporaryFolder folder;
    spilled.execution.spill = folder.path();
    EXPECT_TRUE(run_steps(spilled, corpus) == in_memory);
    spilled.execution.ring.threads = 3;
    EXPECT_TRUE(run_steps(spilled, corpus) == in_memory);
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
}

TEST(Segments, OfAnyLengthAndNumber) {
  const Corpus corpus = text().corpus();
  Case test = segmented_case();
  test.steps = 2;
  for (const std::int64_t context : {100, 512, 513, 1024, 3000}) {
    test.recipe.context = context;
    test.execution.segment_tokens = 0, test.execution.spill.clear();
    const Outcome whole = run_steps(test, corpus);
    for (const std::int64_t segment : {512, 1536}) {
      const test::TemporaryFolder folder;
      test.execution.segment_tokens = segment;
      test.execution.spill = folder.path();
      EXPECT_LE(most_relative_difference(run_steps(test, corpus), whole), 1e-5) << context << " " << segment;
    }
  }
}

TEST(Segments, OfReplicasAndDividedState) {
  const Corpus corpus = text().corpus();
  Case test = segmented_case();
  test.recipe.sequences_per_step = 2;
  const Outcome one = run_steps(test, corpus);
  const test::TemporaryFolder folder;
  test.execution.spill = folder.path();
  test.execution.ring.devices = test.execution.replicas = 2;
  test.execution.shard = Shard::parameters;
  EXPECT_LE(most_relative_difference(run_steps(test, corpus), one), 1e-5);
}

/// Evaluation has no sums over tokens but the last one: its bits do not depend on the cut.
TEST(Segments, EvaluateToTheSameBits) {
  const Corpus corpus = text().corpus();
  const auto evaluate = [&](Case test) {
    Evaluation result;
    test::spawn(1, [&](Context& context, Communicator& communicator) {
      Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
      trainer.initialise();
      result = trainer.evaluate(corpus, {.context = 4096, .stride = 2048, .most_windows = 0});
    });
    return result;
  };
  for (const Case& test : cases()) {
    if (test.config.sliding_window > 0) continue;  // whose blocks of keys begin where the window does
    Case whole = test, spilled = test;
    whole.execution.segment_tokens = 0;
    const test::TemporaryFolder folder;
    spilled.execution.spill = folder.path();
    const Evaluation expected = evaluate(whole);
    for (const Case& other : {test, spilled}) {
      const Evaluation found = evaluate(other);
      EXPECT_EQ(found.nats, expected.nats);
      EXPECT_EQ(found.tokens, expected.tokens);
    }
  }
}

/// What a device holds depends on the segment, not on the context.
TEST(Segments, BoundTheMemory) {
  const test::Text files({60'000});
  const Corpus corpus = files.corpus();
  const auto peak = [&](std::int64_t context, bool spills) {
    const test::TemporaryFolder folder;
    Case test = segmented_case();
    test.recipe.context = context;
    if (spills) test.execution.spill = folder.path();
    std::int64_t bytes = 0;
    test::spawn(1, [&](Context& context_, Communicator& communicator) {
      Trainer trainer(context_, communicator, test.config, test.recipe, test.execution, corpus);
      trainer.initialise();
      trainer.step();
      bytes = context_.ledger.peak_total();
    });
    return bytes;
  };
  constexpr std::int64_t kPerToken = 36;  // where it stands, its id, label and loss
  const std::int64_t small = peak(2048, true), large = peak(20480, true);
  EXPECT_LE(large - small, (20480 - 2048) * kPerToken + 4 * 4096);
  EXPECT_GE(peak(20480, false), large + 4 * (20480 - 2048) * 32 * 5);
}

/// A disk that takes its time.
class SlowFiles final : public FileSystem {
 public:
  std::ptrdiff_t read_at(int descriptor, std::span<std::byte> bytes, std::int64_t offset) override {
    std::this_thread::sleep_for(kDelay);
    ++reads;
    return FileSystem::read_at(descriptor, bytes, offset);
  }
  static constexpr std::chrono::milliseconds kDelay{4};
  std::atomic<int> reads = 0;
};

/// What a device waits for the disk stands in its step's account, and in the trace, as waiting for a hop
/// does.
TEST(Segments, WaitingForTheDiskIsExchange) {
  const Corpus corpus = text().corpus();
  const test::TemporaryFolder folder;
  Case test = segmented_case();
  SlowFiles files;
  Trace trace;
  test.execution.spill = folder.path(), test.execution.spill_files = &files;
  test.execution.ring.trace = &trace;
  StepReport report;
  test::spawn(
      1,
      [&](Context& context, Communicator& communicator) {
        Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
        trainer.initialise();
        report = trainer.step();
      },
      test.execution.ring);
  const DeviceTimes& times = report.times.front();
  EXPECT_NEAR(times.compute + times.exchange + times.wait, report.seconds, 1e-6);
  // Two reads at a time, and a step that computes for a few milliseconds.
  const double least = files.reads / 2 * std::chrono::duration<double>(SlowFiles::kDelay).count();
  ASSERT_GT(files.reads, 40);
  EXPECT_GT(times.exchange, 0.6 * least);
  EXPECT_LE(times.exchange, report.seconds);
  double traced = 0;
  std::set<std::string> names;
  for (const TraceEvent& event : trace.events())
    if (event.category == std::string("exchange")) {
      traced += static_cast<double>(event.end_ns - event.begin_ns) / 1e9;
      names.insert(event.name);
    }
  EXPECT_NEAR(traced, times.exchange, 0.1 * times.exchange);
  EXPECT_TRUE(names.contains("keys and values"));
  EXPECT_TRUE(names.contains("layer inputs"));
}

/// Counts what goes to the disk and comes from it.
class CountingFiles final : public FileSystem {
 public:
  std::ptrdiff_t read_at(int descriptor, std::span<std::byte> bytes, std::int64_t offset) override {
    const std::ptrdiff_t count = FileSystem::read_at(descriptor, bytes, offset);
    return read += count, count;
  }
  std::ptrdiff_t write_at(int descriptor, std::span<const std::byte> bytes, std::int64_t offset) override {
    const std::ptrdiff_t count = FileSystem::write_at(descriptor, bytes, offset);
    return written += count, count;
  }
  std::atomic<std::int64_t> read = 0, written = 0;
};

/// The planner's schedule of transfers is that of the engine.
TEST(Segments, MoveTheBytesThatArePlanned) {
  const Corpus corpus = text().corpus();
  for (const std::int64_t layers : {2, 5})
    for (const std::int64_t window : {0, 700}) {
      const test::TemporaryFolder folder;
      CountingFiles files;
      Case test = segmented_case();
      test.config.layers = layers, test.config.sliding_window = window;
      test.recipe.context = 5000;
      test.execution.spill = folder.path(), test.execution.spill_files = &files;
      test::spawn(1, [&](Context& context, Communicator& communicator) {
        Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
        trainer.initialise();
        trainer.step();
      });
      const Hardware hardware{.name = "test",
                              .memory_bytes_per_second = 1e10,
                              .f32_flops = 1e11,
                              .attention_efficiency = 0.8,
                              .linear_efficiency = 0.8,
                              .disk = {1e9, 1e9}};
      const SpillTime planned = spill_time(
          MemoryModel({.config = test.config, .segment_tokens = 512, .spills = true}), hardware, 5000);
      EXPECT_EQ(planned.read, static_cast<double>(files.read)) << layers << " " << window;
      EXPECT_EQ(planned.written, static_cast<double>(files.written)) << layers << " " << window;
    }
}

/// The whole state of a step is eight times what the limit allows: same bits.
TEST(Segments, AnEighthOfTheMemoryIsEnough) {
  const test::Text files({30'000});
  const Corpus corpus = files.corpus();
  Case test = segmented_case();
  test.config.layers = 12, test.config.sliding_window = 600;
  test.config.q_heads = test.config.kv_heads = 1, test.config.head_dim = 32;
  test.recipe.context = 24'000;
  test.steps = 1;
  std::int64_t held = 0;
  const auto run = [&](std::int64_t limit) {
    Outcome outcome;
    test::spawn(1,
                [&](Context& context, Communicator& communicator) {
                  Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
                  trainer.initialise();
                  const StepReport report = trainer.step();
                  outcome.losses.push_back(report.loss), outcome.norms.push_back(report.gradient_norm);
                  const std::span<const float> master = trainer.weights().master(1);
                  outcome.parameters.assign(master.begin(), master.end());
                  held = context.ledger.peak_total();
                },
                {.memory_limit = limit, .timeout = std::chrono::seconds(60)});
    return outcome;
  };
  const Outcome in_memory = run(0);
  const std::int64_t limit = held / 8;
  const test::TemporaryFolder folder;
  test.execution.spill = folder.path();
  EXPECT_TRUE(run(limit) == in_memory);
  EXPECT_LE(held, limit);
}

TEST(Segments, ThatCannotBeAreRefused) {
  const Corpus corpus = text().corpus();
  const auto refuse = [&](const std::function<void(Case&)>& change, const char* words) {
    Case test = segmented_case();
    change(test);
    RONDO_EXPECT_ERROR(ArgumentError, run_steps(test, corpus), words);
  };
  refuse([](Case& test) { test.execution.ring.devices = 2; }, "expected one device for segments and --spill");
  refuse([](Case& test) { test.execution.segment_tokens = 500; }, "multiple of 512, got 500");
  refuse([](Case& test) { test.execution.remat = Remat::none; }, "expected --remat attention");
  refuse([](Case& test) { test.config.sliding_window = 20, test.config.first_k = 2; }, "first_k");
  Case test = segmented_case();
  test.execution.spill = "/nowhere/to/be/found";
  RONDO_EXPECT_ERROR(IoError, run_steps(test, corpus), "/nowhere/to/be/found", "expected a folder");
}

}  // namespace
}  // namespace rondo
