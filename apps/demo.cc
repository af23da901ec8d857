// rondo demo: a Transformer trained at a context of 16,384 tokens over a ring of four devices, measured, and
// made to write.

#include "apps/demo.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <thread>

#include "apps/commands.h"
#include "apps/options.h"
#include "apps/progress.h"
#include "apps/stop.h"
#include "apps/train_observer.h"
#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/model/parameters.h"

namespace rondo::apps {

namespace {

constexpr std::int64_t kFirstSteps = 3;
constexpr double kWarmup = 0.6;  // of the steps: attention learns where to look over short reaches first
constexpr double kBits = 1 / 0.69314718055994530942;  // nats to bits

/// Small enough to learn in minutes on two cores, wide enough to beat counting pairs of bytes.
ModelConfig demo_model(std::int64_t context) {
  ModelConfig config;
  config.vocabulary = 258;
  config.width = 192;
  config.ffn = 512;
  config.layers = 2;
  config.q_heads = 2;
  config.kv_heads = 1;
  config.head_dim = 16;
  config.max_positions = context;
  config.bos = 256;
  config.eos = {257};
  return config;
}

TrainingRecipe demo_recipe(const DemoSettings& settings) {
  TrainingRecipe recipe;
  recipe.context = settings.context;
  recipe.seed = settings.seed;
  recipe.learning_rate.peak = 3e-3;
  recipe.learning_rate.warmup = 10;
  recipe.learning_rate.final_share = 0.02;
  recipe.learning_rate.total_steps = kFirstSteps;
  return recipe;
}

void say(const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); }

/// Trains for the minutes asked, showing progress.
TrainingResult train(TrainingRun run, ReportData& report) {
  ProgressLine progress;
  Trace trace(kMostEvents);
  run.execution.ring.trace = &trace;
  run.traced_steps = kTracedSteps;
  MemoryHistory& memory = report.memory_history;
  const std::int64_t steps = run.recipe.learning_rate.total_steps;
  double seconds = 0;
  const TrainingResult result = run_training(
      run, {.on_step =
                [&](const StepReport& step) {
                  seconds += step.seconds;
                  report.train.push_back({step.step, step.loss * kBits});
                  if (step.step <= kTracedSteps) memory.steps.push_back(step_time(step, trace));
                  const double left =
                      seconds / static_cast<double>(step.step) * static_cast<double>(steps - step.step);
                  progress.show(fmt::format("step {}/{}  {:.3f} bits per byte  {:.0f} tok/s  {} left",
                                            step.step, steps, step.loss * kBits,
                                            static_cast<double>(step.tokens) / step.seconds,
                                            format_duration(left)));
                },
            .on_evaluation =
                [&](std::int64_t step, const Evaluation& evaluation) {
                  const double bits = evaluation.nats / static_cast<double>(evaluation.tokens) * kBits;
                  report.held_out.push_back({step, bits});
                  progress.note(fmt::format("step {}: {:.3f} bits per byte held out", step, bits));
                },
            .on_trace = [&](const std::vector<ProcessTrace>& all) { memory.changes = memory_changes(all); }});
  progress.finish();
  return result;
}

/// A line of the held-out text to continue.
std::string prompt_of(const Corpus& held_out) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(std::min<std::int64_t>(held_out.tokens(), 400)));
  held_out.read(0, ids);
  std::string text;
  for (const std::int32_t id : ids)
    if (id < 256) text += static_cast<char>(id);
  return text;
}

/// `out`, or out-2, out-3, ...: the first that holds no run yet.
std::string fresh_folder(const std::string& out) {
  std::string folder = out;
  for (int n = 2; std::filesystem::exists(folder) && !std::filesystem::is_empty(folder); ++n)
    folder = fmt::format("{}-{}", out, n);
  return folder;
}

class Demo {
 public:
  explicit Demo(const DemoSettings& settings)
      : settings_(settings), corpus_(open_corpus()), split_(corpus_.split(0.05)) {}

  int operator()() {
    settings_.out = fresh_folder(settings_.out);
    run_.config = demo_model(settings_.context);
    run_.recipe = demo_recipe(settings_);
    run_.corpus = &split_.train;
    run_.data_paths = settings_.data;
    report_.title =
        fmt::format("Rondo: {} tokens of context on a ring of {}", settings_.context, settings_.devices);
    say(fmt::format(
        "{:.1f} MB of text in {} files, {:.1f} MB held out; a model of {:.2f} M parameters, context {}",
        static_cast<double>(split_.train.bytes()) / 1e6, corpus_.documents(),
        static_cast<double>(split_.held_out.bytes()) / 1e6,
        static_cast<double>(ParameterTable(run_.config).parameters()) / 1e6, settings_.context));
    compare_first_steps();
    const TrainingResult result = train_for_minutes();
    if (result.stopped) return kStoppedStatus;
    finish(result);
    return 0;
  }

 private:
  Corpus open_corpus() {
    std::vector<std::filesystem::path> paths(settings_.data.begin(), settings_.data.end());
    if (paths.empty()) paths = compiler_headers();
    settings_.data.assign(paths.begin(), paths.end());
    return Corpus::open(paths);
  }

  void compare_first_steps() {
    const int cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    say(fmt::format("the first {} steps on one device ...", kFirstSteps));
    const FirstSteps one = run_first_steps(run_, 1, cpus, kFirstSteps);
    say(fmt::format("... and on a ring of {}", settings_.devices));
    ring_ = run_first_steps(run_, settings_.devices, 1, kFirstSteps);
    report_.table = compare(one, ring_, settings_.context);
    report_.timeline = ring_.last_step;
  }

  /// Seconds of a step, averaged over a run whose context warms up.
  double mean_step_seconds() {
    TrainingRun run = run_;
    run.recipe.context_warmup = 1;
    run.recipe.learning_rate.total_steps = 1000;  // the first steps are those of the shortest reach
    const double full = ring_.seconds_per_step;
    const double least = run_first_steps(run, settings_.devices, 1, kFirstSteps).seconds_per_step;
    run.recipe.context_warmup = kWarmup;
    double sum = 0;  // attention's part of a step grows with its reach
    for (std::int64_t step = 1; step <= 1000; ++step)
      sum += least + (full - least) * static_cast<double>(reach_at(run.recipe, step)) /
                         static_cast<double>(settings_.context);
    return sum / 1000;
  }

  TrainingResult train_for_minutes() {
    const auto steps = static_cast<std::int64_t>(settings_.minutes * 60 / mean_step_seconds());
    run_.recipe.context_warmup = kWarmup;
    run_.recipe.learning_rate.total_steps = std::max<std::int64_t>(steps, kFirstSteps);
    run_.execution.ring = {.devices = settings_.devices};
    run_.out = settings_.out;
    run_.held_out = &split_.held_out;
    run_.final_evaluation_windows = 0;  // all: bigrams are counted over all of it too
    run_.evaluate_every = std::max<std::int64_t>(1, run_.recipe.learning_rate.total_steps / 4);
    run_.stop = &stop_on_signals("\nstopping after this step\n");
    say(fmt::format(
        "training for about {:.1f} minutes: {} steps of {} tokens, the reach of attention growing from 256",
        settings_.minutes, run_.recipe.learning_rate.total_steps, settings_.context));
    return train(run_, report_);
  }

  void finish(const TrainingResult& result) {
    const double model = result.evaluation->nats / static_cast<double>(result.evaluation->tokens) * kBits;
    const double bigram = bigram_bits_per_byte(split_.train, split_.held_out);
    report_.table.rows.push_back({"held-out bits per byte", "", fmt::format("{:.3f}", model)});
    report_.table.rows.push_back({"... of a byte-bigram model", "", fmt::format("{:.3f}", bigram)});
    report_.memory = result.memory;
    report_.sample = sample_text(result.checkpoint, prompt_of(split_.held_out), settings_.devices);
    report_.facts = {{"text", fmt::format("{} files, {:.1f} MB", corpus_.documents(),
                                          static_cast<double>(corpus_.bytes()) / 1e6)},
                     {"context", fmt::format("{} tokens", settings_.context)},
                     {"devices", fmt::format("{} threads of one process", settings_.devices)},
                     {"steps", fmt::format("{}", result.steps_done)},
                     {"held out", fmt::format("{:.3f} bits per byte", model)},
                     {"byte bigrams", fmt::format("{:.3f} bits per byte", bigram)}};
    const std::filesystem::path page = std::filesystem::path(settings_.out) / "report.html";
    write_file_atomically(page, html_report(report_));
    std::printf("\n%s\n", as_text(report_.table).c_str());
    std::printf("%s\n",
                model < bigram
                    ? "The model has learned more than which byte follows which."
                    : "The model is not yet better than counting pairs of bytes: give it more --minutes.");
    std::printf("\nIt continues the held-out text like this:\n----\n%s\n----\n", report_.sample.c_str());
    std::printf("\nmodel   %s (a Hugging Face folder)\nreport  %s\nNext: rondo generate %s \"#include\"\n",
                result.checkpoint.c_str(), page.c_str(), settings_.out.c_str());
  }

  DemoSettings settings_;
  Corpus corpus_;
  Corpus::Split split_;
  TrainingRun run_;
  ReportData report_;
  FirstSteps ring_;
};

}  // namespace

Run add_demo_command(CLI::App& app) {
  auto settings = std::make_shared<DemoSettings>();
  CLI::App* command = app.add_subcommand(
      "demo", "Train a small model at a long context for a few minutes and show what came of it");
  command->add_option("DATA", settings->data, "Text files or folders [the C++ compiler's headers]");
  add(*command, "--out", settings->out,
      "Folder of the run: checkpoint and report.html; -2, -3, ... is added where it holds one");
  add(*command, "--minutes", settings->minutes,
      "Minutes of training; the number of steps follows from the measured speed")
      ->check(above(0));
  add(*command, "--ctx-size", settings->context, "Context in tokens")
      ->check(between<std::int64_t>(64, kMostTokens));
  add(*command, "--devices", settings->devices, "Devices of the ring")->check(between(1, 1024));
  add(*command, "--seed", settings->seed, "Seed of the initialisation and the order of the text");
  return [settings] { return Demo(*settings)(); };
}

}  // namespace rondo::apps
