// Whole runs of a small model: evaluation, checkpoints, resuming, stopping, and how failures end them.

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>

#include "tests/train/training_support.h"

namespace rondo {
namespace {

using test::Case;
using test::Outcome;
using test::Text;
using test::text;

// ---- Whole runs
// --------------------------------------------------------------------------------------------------

/// A run through run_training, with what its observer saw.
struct WholeRun {
  explicit WholeRun(const Corpus& text) {
    run.config = test::small_config();
    run.recipe = test::small_recipe(200, 8);
    run.execution = {.ring = {.devices = 2, .timeout = std::chrono::seconds(60)}, .block_tokens = 32};
    run.corpus = &text;
    run.out = folder / "out";
    observer.on_step = [this](const StepReport& report) {
      events.push_back(fmt::format("step {}", report.step));
      losses.push_back(report.loss);
    };
    observer.on_evaluation = [this](std::int64_t step, const Evaluation&) {
      events.push_back(fmt::format("evaluation {}", step));
    };
    observer.on_checkpoint = [this](const std::filesystem::path& path) {
      events.push_back(path.filename().string());
    };
  }
  TrainingResult operator()() { return result = run_training(run, observer); }

  test::TemporaryFolder folder;
  TrainingRun run;
  TrainingObserver observer;
  TrainingResult result;
  std::vector<std::string> events;
  std::vector<double> losses;
};

using Events = std::vector<std::string>;

/// Everything a checkpoint holds for resuming.
Outcome contents(const std::filesystem::path& checkpoint, const ModelConfig& config) {
  const ParameterTable table(config);
  const auto total = static_cast<std::size_t>(table.total());
  std::vector<float> parameters(total), first(total), second(total);
  SavedTensors(checkpoint, table).read({0, table.total()}, {parameters, first, second});
  parameters.insert(parameters.end(), first.begin(), first.end());
  parameters.insert(parameters.end(), second.begin(), second.end());
  return {{}, {}, parameters};
}

void expect_resumes_exactly(const std::function<void(TrainingRun&)>& change, int resume_threads = 1) {
  const Corpus corpus = text().corpus();
  WholeRun whole(corpus), begin(corpus), rest(corpus);
  for (WholeRun* run : {&whole, &begin, &rest}) change(run->run);
  whole();
  begin.run.last_step = 3;
  begin();
  EXPECT_EQ(begin.result.steps_done, 3);
  rest.run.resume_from = begin.result.checkpoint;
  rest.run.execution.ring.threads = resume_threads;
  rest();
  EXPECT_EQ(rest.result.steps_done, 8);
  std::vector<double> losses = begin.losses;
  losses.insert(losses.end(), rest.losses.begin(), rest.losses.end());
  EXPECT_EQ(losses, whole.losses);
  EXPECT_TRUE(contents(rest.result.checkpoint, rest.run.config) ==
              contents(whole.result.checkpoint, whole.run.config));
}

TEST(Resume, GoesOnBitForBit) {
  expect_resumes_exactly([](TrainingRun&) {}, 3);
}
TEST(Resume, GoesOnBitForBitInBFloat16WithDropoutAndAccumulation) {
  expect_resumes_exactly([](TrainingRun& run) {
    run.recipe.dtype = DType::bf16;
    run.recipe.sequences_per_step = 2;
    run.config.attention_dropout = 0.1f;
    run.execution.remat = Remat::layer;
  });
}

TEST(Resume, OnAnotherRingAgreesWithinRounding) {
  const Corpus corpus = text().corpus();
  WholeRun whole(corpus), begin(corpus), rest(corpus);
  whole();
  begin.run.last_step = 4;
  begin();
  rest.run.resume_from = begin.result.checkpoint;
  rest.run.execution.ring.devices = 3;
  rest.run.execution.layout = Layout::striped;
  rest();
  ASSERT_EQ(rest.losses.size(), 4u);
  for (std::size_t n = 0; n < 4; ++n) EXPECT_NEAR(rest.losses[n] / whole.losses[4 + n], 1, 1e-4);
}

TEST(Resume, RefusesAnotherText) {
  const Corpus corpus = text().corpus();
  const Text other({4000});
  const Corpus others = other.corpus();
  WholeRun begin(corpus), rest(others);
  begin.run.last_step = 1;
  begin();
  rest.run.resume_from = begin.result.checkpoint;
  RONDO_EXPECT_ERROR(ArgumentError, rest(), "expected the text", begin.result.checkpoint.string());
}

TEST(Training, StartsFromAModel) {
  const Corpus corpus = text().corpus();
  WholeRun first(corpus), second(corpus);
  first();
  second.run.start_from = first.result.checkpoint;
  second.run.last_step = 1;
  second();
  EXPECT_LT(second.losses[0], first.losses[0] - 0.1);  // the same text, a model that has seen some
  EXPECT_EQ(second.events[0], "step 1");
}

TEST(Training, EvaluatesAndSavesWhenAsked) {
  const Corpus corpus = text().corpus();
  const Corpus::Split split = corpus.split(0.3);
  WholeRun test(split.train);
  test.run.held_out = &split.held_out;
  test.run.evaluate_every = 3, test.run.checkpoint_every = 2, test.run.keep = 2;
  test.run.evaluation_windows = 2, test.run.final_evaluation_windows = 3;
  std::vector<std::int64_t> windows;
  test.observer.on_evaluation = [&, note = test.observer.on_evaluation](std::int64_t step,
                                                                        const Evaluation& evaluation) {
    windows.push_back(evaluation.windows);
    note(step, evaluation);
  };
  const TrainingResult result = test();
  EXPECT_EQ(test.events, (Events{"step 1", "step 2", "step-00000002", "step 3", "evaluation 3", "step 4",
                                 "step-00000004", "step 5", "step 6", "evaluation 6", "step-00000006",
                                 "step 7", "step 8", "step-00000008", "evaluation 8"}));
  EXPECT_EQ(result.steps_done, 8);
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(result.checkpoint.filename(), "step-00000008");
  EXPECT_EQ(list_checkpoints(test.run.out).size(), 2u);
  ASSERT_TRUE(result.evaluation.has_value());
  EXPECT_EQ(windows, (std::vector<std::int64_t>{2, 2, 3}));
  EXPECT_EQ(result.evaluation->windows, 3);
  EXPECT_LT(result.evaluation->nats / static_cast<double>(result.evaluation->tokens), std::log(258.0));
  ASSERT_EQ(result.memory.size(), 2u);
  EXPECT_EQ(result.memory[1].device, 1);
  for (const auto& [entry, bytes] : result.memory[0].entries) EXPECT_GT(bytes, 0) << name_of(entry);
}

TEST(Training, SavesAtTheEndAloneUnlessAsked) {
  const Corpus corpus = text().corpus();
  WholeRun test(corpus);
  test.run.last_step = 2;
  test();
  EXPECT_EQ(test.events, (Events{"step 1", "step 2", "step-00000002"}));
  WholeRun nowhere(corpus);
  nowhere.run.out.clear();
  nowhere.run.last_step = 1;
  nowhere();
  EXPECT_EQ(nowhere.events, (Events{"step 1"}));
  EXPECT_TRUE(nowhere.result.checkpoint.empty());
}

TEST(Training, AStopSavesAndEnds) {
  const Corpus corpus = text().corpus();
  const Corpus::Split split = corpus.split(0.3);
  WholeRun test(split.train);
  test.run.held_out = &split.held_out;
  std::atomic<bool> stop = false;
  test.run.stop = &stop;
  const auto note = test.observer.on_step;
  test.observer.on_step = [&](const StepReport& report) {
    note(report);
    stop = report.step == 2;
  };
  const TrainingResult result = test();
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.steps_done, 2);
  EXPECT_EQ(test.events, (Events{"step 1", "step 2", "step-00000002"}));
  // And goes on from there as if nothing had been.
  WholeRun whole(split.train), rest(split.train);
  whole();
  rest.run.resume_from = result.checkpoint;
  rest();
  EXPECT_EQ(rest.events.front(), "step 3");
  EXPECT_EQ(rest.losses, std::vector<double>(whole.losses.begin() + 2, whole.losses.end()));
  // A stop before the first step saves what there is.
  stop = true;
  WholeRun none(split.train);
  none.run.stop = &stop;
  none();
  EXPECT_EQ(none.events, (Events{"step-00000000"}));
}

TEST(Training, ReportsWhatAStepDid) {
  const Corpus corpus = text().corpus();
  WholeRun test(corpus);
  test.run.recipe.sequences_per_step = 2;
  test.observer.on_step = [&](const StepReport& report) {
    EXPECT_EQ(report.tokens, 400);
    EXPECT_EQ(report.learning_rate, test.run.recipe.learning_rate.at(report.step));
    EXPECT_GT(report.gradient_norm, 0);
    EXPECT_GT(report.seconds, 0);
    const double pairs = 2 * 200 * 201 / 2;
    EXPECT_EQ(report.flops, model_flops(test.run.config).training(400, pairs));
    EXPECT_EQ(report.memory.size(), 2u);
  };
  test();
}

// ---- Failures
// ----------------------------------------------------------------------------------------------------

TEST(Failures, AContextLongerThanTheTextIsNamed) {
  const Text small({900});
  const Corpus corpus = small.corpus();
  WholeRun test(corpus);
  test.run.recipe.context = corpus.tokens();
  RONDO_EXPECT_ERROR(ArgumentError, test(), fmt::format("longer than the context of {}", corpus.tokens()),
                     "--ctx-size");
  test.run.recipe.context = corpus.tokens() - 1;  // exactly one sequence
  test.run.last_step = 1;
  EXPECT_EQ(test().steps_done, 1);
}

TEST(Failures, ARunThatDivergesStopsWithItsLastGoodCheckpoint) {
  const Corpus corpus = text().corpus();
  WholeRun test(corpus);
  test.run.checkpoint_every = 1;
  test.run.recipe.learning_rate = {
      .shape = LearningRateShape::constant, .peak = 1e30, .warmup = 0, .total_steps = 8};
  RONDO_EXPECT_ERROR(ArgumentError, test(), "finite gradient at step", "learning rate");
  EXPECT_FALSE(list_checkpoints(test.run.out).empty());
  EXPECT_FALSE(test.events.empty());
}

TEST(Failures, TooLittleMemoryEndsTheRunWithItsName) {
  const Corpus corpus = text().corpus();
  for (const std::int64_t limit : {64 << 10, 300 << 10, 1 << 20}) {  // in the constructor; later
    WholeRun test(corpus);
    test.run.recipe.context = 5000;
    test.run.execution.ring.devices = 4;
    test.run.execution.ring.memory_limit = limit;
    RONDO_EXPECT_ERROR(MemoryLimitError, test(), "[memory] device", "expected at most", "MiB");
    EXPECT_EQ(test.events, Events{});
  }
}

TEST(Failures, OneDeviceThatFailsInMidRunEndsAll) {
  const Corpus corpus = text().corpus();
  for (const Exchange exchange : {Exchange::copy, Exchange::share}) {
    const auto begin = std::chrono::steady_clock::now();
    Case test;
    test.execution.ring.devices = 3;
    test.execution.exchange = exchange;
    test.recipe.context = 300;
    std::atomic<int> others = 0;
    const auto body = [&](Context& context, Communicator& communicator) {
      Trainer trainer(context, communicator, test.config, test.recipe, test.execution, corpus);
      trainer.initialise();
      trainer.step();
      trainer.step();
      // From here on device 1 may not have another byte, and its next sequence is longer.
      Case longer = test;
      longer.recipe.context = 900;
      if (context.device == 1) context.ledger.set_limit(context.ledger.total() + (64 << 10));
      try {
        Trainer second(context, communicator, longer.config, longer.recipe, longer.execution, corpus);
        second.initialise();
        second.step();
      } catch (const CommunicationError& error) {
        EXPECT_NE(std::string(error.what()).find("device 1 failed"), std::string::npos) << error.what();
        ++others;
        throw;
      }
    };
    RONDO_EXPECT_ERROR(MemoryLimitError, run_ring(test.execution.ring, body), "[memory] device 1");
    EXPECT_EQ(others, 2);
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
  }
}

TEST(Failures, AnObserverThatThrowsEndsTheRun) {
  const Corpus corpus = text().corpus();
  WholeRun test(corpus);
  test.observer.on_step = [](const StepReport& report) {
    if (report.step == 2) throw std::runtime_error("disk full");
  };
  RONDO_EXPECT_ERROR(std::runtime_error, test(), "disk full");
}

TEST(Failures, ACheckpointThatCannotBeWrittenEndsTheRunWithItsPath) {
  const Corpus corpus = text().corpus();
  WholeRun test(corpus);
  test::write_text(test.run.out, "a file");
  RONDO_EXPECT_ERROR(IoError, test(), test.run.out.string());
}

}  // namespace
}  // namespace rondo
