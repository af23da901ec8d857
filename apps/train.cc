// rondo train: a model trained over a ring, with all that people and programs see of it.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <thread>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/model_source.h"
#include "apps/run_failure.h"
#include "apps/start_facts.h"
#include "apps/stop.h"
#include "apps/train_arguments.h"
#include "apps/train_observer.h"
#include "apps/train_plan.h"
#include "apps/train_report.h"
#include "rondo/core/context.h"
#include "rondo/core/error.h"
#include "rondo/infer/generate.h"
#include "rondo/io/file_error.h"
#include "rondo/kernels/peak.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

/// Creates the run's folder now, so that a place that cannot be written to is known before the work; takes it
/// away again when nothing came of it.
class RunFolder {
 public:
  explicit RunFolder(const fs::path& path) : path_(path) {
    std::error_code error;
    created_ = fs::create_directories(path, error);
    check_file(!error && fs::is_directory(path, error), "train", path,
               "expected a folder for the run, got {}", error ? error.message() : "a file");
    check_call(::access(path.c_str(), W_OK) == 0, "train", path, "expected a folder to write into");
  }
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;
  ~RunFolder() {
    std::error_code ignored;
    if (created_) fs::remove(path_, ignored);  // fails when anything is in it
  }

 private:
  fs::path path_;
  bool created_ = false;
};

/// A file that is written late in the run has to have a folder from the start.
void check_place(const char* option, const std::string& name) {
  if (name.empty()) return;
  const fs::path parent = fs::absolute(name).parent_path();
  std::error_code error;
  check_argument(fs::is_directory(parent, error) && ::access(parent.c_str(), W_OK) == 0, "train",
                 "expected a folder to write into for {} {}, got none", option, name);
  check_argument(!fs::is_directory(name, error), "train", "expected a file for {}, got the folder {}", option,
                 name);
}

/// What the threads that will run could do at most, in FLOP/s: measured on this host, and taken to be the
/// same on the others.
double peak_flops(const TrainPlan& plan) {
  const RingOptions& ring = plan.run.execution.ring;
  const int cpus = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  const int here = ring.processes ? ring.processes->on_this_host() : 1;
  Context context({.threads = std::min(cpus, here * ring.devices * ring.threads), .isa = ring.isa});
  const double peak =
      kernels::measure_peak_flops(context.stream, plan.run.recipe.dtype, std::chrono::milliseconds(200));
  return peak * ring.devices_in_all() / (here * ring.devices);
}

const char* divided_words(Shard shard) {
  return shard == Shard::none        ? ""
         : shard == Shard::optimizer ? ", optimizer divided over all devices"
                                     : ", parameters, gradients and optimizer divided over all devices";
}

/// The forms that are not the usual ones.
std::string form_words(const ExecutionOptions& execution) {
  std::string words;
  if (execution.attention != AttentionForm::blockwise)
    words += fmt::format(", attention {}", name_of(execution.attention));
  if (execution.feed_forward != FeedForwardForm::blockwise)
    words += fmt::format(", feed-forward {}", name_of(execution.feed_forward));
  return words;
}

std::string segment_words(const ExecutionOptions& execution) {
  if (execution.segment_tokens == 0) return "";
  return fmt::format(", segments of {} tokens{}", execution.segment_tokens,
                     execution.spill.empty() ? "" : " on the disk at " + execution.spill.string());
}

void say_what_begins(const TrainPlan& plan, double peak) {
  const TrainingRun& run = plan.run;
  const RingOptions& ring = run.execution.ring;
  const int replicas = run.execution.replicas, devices = ring.devices_in_all() / replicas;
  if (!plan.note.empty()) std::fputs(plan.note.c_str(), stderr);
  const std::string lines = fmt::format(
      "model    {}\ncontext  {} tokens, {} per device, {} sequences a step\n"
      "ring     {}{} devices{} of {} threads ({}), {}, exchange {}, remat {}, {}{}{}{}\n"
      "text     {} bytes in {} files to train on, {} bytes held out\n"
      "machine  {}FLOP/s at most (measured), {} CPUs\nrun      {}{}\n",
      describe(run.config, ParameterTable(run.config).parameters()), run.recipe.context,
      (run.recipe.context + devices - 1) / devices, run.recipe.sequences_per_step,
      replicas > 1 ? fmt::format("{} rings of ", replicas) : "", devices,
      ring.processes ? fmt::format(" in {} processes", ring.processes->size()) : "", ring.threads,
      name_of(ring.isa), name_of(run.execution.layout), name_of(run.execution.exchange),
      name_of(run.execution.remat), name_of(run.recipe.dtype), divided_words(run.execution.shard),
      form_words(run.execution), segment_words(run.execution), run.corpus->bytes(), run.corpus->documents(),
      run.held_out != nullptr ? run.held_out->bytes() : 0, format_rate(peak),
      std::thread::hardware_concurrency(), run.out.string(),
      run.resume_from ? fmt::format(", resumed after step {}", plan.first_step) : "");
  std::fputs(lines.c_str(), stderr);
}

/// What is left of a run that failed; empty where there is none. What is there, not what this process was
/// told: the failure may have come right after the last one.
fs::path last_checkpoint(const TrainPlan& plan) {
  try {
    const std::vector<fs::path> saved = list_checkpoints(plan.run.out);
    return saved.empty() ? fs::path() : saved.back();
  } catch (const fs::filesystem_error&) {
    return {};  // the folder is out of reach too; the failure itself matters more
  }
}

/// Runs; a failure after the first step is one of running, and says what is left of the run.
TrainingResult train_watched(const TrainPlan& plan, TrainWatch& watch) {
  try {
    return run_training(plan.run, watch.observer());
  } catch (const std::exception& error) {
    watch.finish();
    if (watch.steps() == 0) throw;
    const fs::path last = last_checkpoint(plan);
    throw RunFailure(error.what() + (last.empty() ? std::string("; no checkpoint was written yet")
                                                  : "; the last checkpoint is " + last.string()));
  }
}

std::string write_sample(const TrainArguments& arguments, const TrainPlan& plan, const fs::path& checkpoint) {
  const ModelSource source = open_model(checkpoint);
  std::string sample;
  RingOptions ring = plan.run.execution.ring;
  ring.trace = nullptr;
  generate_text(source.model, *source.tokenizer, "",
                {.ring = ring,
                 .layout = plan.run.execution.layout,
                 .model = {.dtype = plan.run.recipe.dtype, .exchange = plan.run.execution.exchange},
                 .sampling = {.seed = plan.run.recipe.seed},
                 .max_tokens = arguments.sample_tokens},
                [&](std::string_view text) { sample += text; });
  return sample;
}

void finish_run(const TrainArguments& arguments, const TrainPlan& plan, TrainWatch& watch,
                TrainSummary& summary) {
  const TrainingResult& result = summary.result;
  const bool whole = !result.stopped;
  if (whole && arguments.bigram && plan.held_out != nullptr) {
    summary.bigram_bits = bigram_bits_per_byte(*plan.corpus, *plan.held_out);
    watch.note(
        fmt::format("held-out text under a byte-bigram model: {:.4f} bits per byte", *summary.bigram_bits));
  }
  if (whole && arguments.sample_tokens > 0 && !watch.checkpoint().empty())
    summary.sample = write_sample(arguments, plan, watch.checkpoint());
  const fs::path report =
      arguments.report.empty() ? plan.run.out / "report.html" : fs::path(arguments.report);
  write_train_report(report, plan, watch, summary);
  watch.note("report: " + report.string());
}

/// The options that were given and that a checkpoint does not hold. On the same ring, in the same blocks, a
/// resumed run gives the same bits; without its --keep it would remove checkpoints.
std::string options_beside_checkpoint(const CLI::App& command) {
  std::string words;
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    const bool named = name == "out" || name == "resume" || name == "config-file";
    const bool of_run = option->get_group() == "Run" && !named;
    if (!of_run && option->get_group() != "Ring" && name != "remat" && name != "block-tokens" &&
        name != "attention" && name != "feedforward")
      continue;
    words += " --" + name;
    if (option->get_items_expected_max() > 0) words += " " + option->results().back();
  }
  return words;
}

/// What a process without device 0 does: its part of the ring, in silence. When the ring breaks it may be the
/// process with device 0 that is gone, so each says what is left.
int follow(const TrainArguments& arguments, TrainPlan& plan) {
  Trace trace(kMostEvents);
  plan.run.execution.ring.trace = &trace;
  plan.run.stop = &stop_on_signals("");
  TrainingResult result;
  try {
    result = run_training(plan.run, {});
  } catch (const CommunicationError& error) {
    const fs::path last = last_checkpoint(plan);
    if (last.empty()) throw;
    throw RunFailure(error.what() + ("; the last checkpoint is " + last.string()));
  }
  if (result.stopped) return kStoppedStatus;
  if (arguments.sample_tokens > 0) write_sample(arguments, plan, result.checkpoint);
  return 0;
}

/// Compares what the processes are about to do, and so waits until all have planned, and looked at the run's
/// folder, before one writes into it.
void agree_on(const TrainPlan& plan, const CLI::App& command, const TrainArguments& arguments) {
  const RingOptions& ring = plan.run.execution.ring;
  if (!ring.processes) return;
  std::vector<Fact> facts = option_facts(command, ring);
  facts.push_back(text_fact("training text", *plan.corpus));
  if (plan.held_out) facts.push_back(text_fact("held-out text", *plan.held_out));
  facts.push_back({"recipe", to_json(plan.run.recipe)});
  facts.push_back({"step to begin after", fmt::format("{}", plan.first_step)});
  if (plan.run.resume_from) facts.push_back(folder_fact("checkpoint", *plan.run.resume_from));
  if (!arguments.config.empty()) facts.push_back({"model", describe(plan.run.config, 0)});
  if (!arguments.from.empty()) facts.push_back(folder_fact("model", arguments.from));
  agree(ring, facts);
}

int train(const CLI::App& command, const TrainArguments& arguments) {
  TrainPlan plan = make_train_plan(command, arguments);
  const RingOptions& ring = plan.run.execution.ring;
  agree_on(plan, command, arguments);
  plan.run.traced_steps = kTracedSteps;
  if (!ring.leads()) return follow(arguments, plan);
  const RunFolder folder(plan.run.out);
  check_place("--trace", arguments.trace);
  check_place("--report", arguments.report);
  const std::atomic<bool>& stop = stop_on_signals("\nstopping after this step; Ctrl-C again stops at once\n");
  Trace trace(kMostEvents);
  plan.run.execution.ring.trace = &trace;
  plan.run.stop = &stop;
  TrainSummary summary{.peak_flops = peak_flops(plan), .sample = {}};
  say_what_begins(plan, summary.peak_flops);
  TrainWatch watch(plan, summary.peak_flops, trace,
                   arguments.trace.empty() ? plan.run.out / "trace.json" : fs::path(arguments.trace));
  summary.result = train_watched(plan, watch);
  try {
    watch.finish();
    finish_run(arguments, plan, watch, summary);
  } catch (const std::exception& error) {
    throw RunFailure(error.what());
  }
  if (!summary.result.stopped) return 0;
  watch.note(fmt::format("stopped at step {} of {}; to continue: rondo train --resume {}{}",
                         summary.result.steps_done, plan.run.recipe.learning_rate.total_steps,
                         plan.run.out.string(), options_beside_checkpoint(command)));
  return kStoppedStatus;
}

}  // namespace

Run add_train_command(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* command = app.add_subcommand("train", "Train a model on text, over a ring of devices");
  add_train_options(*command, *arguments);
  return [arguments, command] {
    if (!arguments->config_file.empty()) apply_config_file(*command, arguments->config_file);
    return train(*command, *arguments);
  };
}

}  // namespace rondo::apps
