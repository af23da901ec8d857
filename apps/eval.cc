// rondo eval: likelihood of a text under a model.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/eval_report.h"
#include "apps/eval_text.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "apps/progress.h"
#include "apps/start_facts.h"
#include "apps/stop.h"
#include "rondo/comm/communicator_part.h"
#include "rondo/core/error.h"
#include "rondo/infer/device_weights.h"
#include "rondo/io/file_error.h"
#include "rondo/io/kept_work.h"
#include "rondo/plan/fit.h"
#include "rondo/train/checkpoint.h"
#include "rondo/train/trainer.h"
#include "rondo/train/weight_store.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "eval";

struct Arguments {
  std::string model, config_file, format = "text", blocks, state;
  std::vector<std::string> text;
  std::int64_t context = 0, stride = 0, max_windows = 0, skip = 0;
  std::string shard = "none";
  int replicas = 1;
  RingArguments ring;
  SegmentArguments segments;
  ModelRunArguments run;
  FormArguments forms;

  bool spills() const { return !segments.spill().empty() || !state.empty(); }
  /// Tokens of segments where no memory limit decides.
  std::int64_t segment_tokens() const {
    return spills() && !segments.given() ? SegmentArguments::kSpilled : segments.tokens();
  }
};

/// The window's length: as asked, else what the model was trained on, as far as the text reaches. Of auto it
/// is all of the text.
std::int64_t context_of(const Arguments& arguments, const ModelSource& model, std::int64_t tokens) {
  const std::int64_t most = tokens - 1;
  check_argument(most >= 1, kOperation, "expected a text of at least 2 tokens, got {}", tokens);
  check_argument(arguments.context <= most, kOperation,
                 "expected --ctx-size up to the text's {} tokens, got {}", most, arguments.context);
  if (arguments.context > 0) return arguments.context;
  if (arguments.context == kAutoContext) return most;
  std::error_code error;
  const std::int64_t trained = fs::exists(model.folder / "training_state", error)
                                   ? read_training_state(model.folder).recipe.context
                                   : model.model.config().max_positions;
  return std::min(trained, most);
}

/// The model's weights on one device: all of them, or its part, of which passes gather what they need.
class EvaluationWeights {
 public:
  EvaluationWeights(Context& context, Communicator& communicator, const LoadedModel& model, DType dtype,
                    Shard shard) {
    if (shard == Shard::none || communicator.devices() == 1) {
      whole_.emplace(context, model, dtype);
      return;
    }
    divided_.emplace(context, communicator, model.table(), dtype, shard);
    divided_->begin_change();
    for (std::size_t bucket = 0; bucket < divided_->owned().buckets(); ++bucket) {
      model.read(divided_->owned().flat(bucket), divided_->master(bucket));
      divided_->changed(bucket);
    }
    divided_->end_change();
  }
  WeightReader reader() { return whole_ ? WeightReader(whole_->data()) : divided_->reader(); }
  void end_passes() {
    if (divided_) divided_->end_passes();
  }

 private:
  std::optional<DeviceWeights> whole_;
  std::optional<WeightStore> divided_;
};

/// What all devices evaluate.
struct Evaluated {
  const Arguments& arguments;
  const LoadedModel& model;
  const TokenSource& tokens;
  EvaluationOptions options;
  std::int64_t segment_tokens = 0;
  KeptWork* work = nullptr;
};

/// Chooses tokens of segments, which it returns, and of a context that was left to the memory limit; refuses
/// what does not fit that.
std::int64_t fit_memory(const Arguments& arguments, const ModelConfig& config, const RingOptions& ring,
                        std::int64_t& context) {
  RunShape shape{.config = config,
                 .purpose = Purpose::evaluate,
                 .dtype = arguments.run.dtype(),
                 .exchange = arguments.ring.exchange(),
                 .attention = arguments.forms.attention(),
                 .feed_forward = arguments.forms.feed_forward(),
                 .layout = arguments.ring.layout(),
                 .shard = parse_shard(arguments.shard),
                 .block_tokens = arguments.run.block_tokens(),
                 .devices = ring.devices_in_all() / arguments.replicas,
                 .threads = ring.threads,
                 .replicas = arguments.replicas,
                 .between_processes = ring.processes != nullptr,
                 .segment_tokens = arguments.segment_tokens(),
                 .spills = arguments.spills(),
                 .keeps_work = !arguments.state.empty(),
                 .isa = ring.isa};
  const bool fits_segments = shape.spills && ring.memory_limit > 0 && !arguments.segments.given();
  if (arguments.context == kAutoContext) {
    context = fit_context(kOperation, shape, fits_segments, ring.memory_limit, context);
    if (ring.leads()) std::fprintf(stderr, "--ctx-size auto: %lld tokens\n", static_cast<long long>(context));
  }
  if (fits_segments) fit_segments(shape, context, without_scratch(shape, ring.memory_limit));
  check_fits(kOperation, MemoryModel(shape), context, ring.memory_limit);
  return shape.segment_tokens;
}

/// One device's part. `progress` as evaluate() takes it.
Evaluation evaluate_on(Context& context, Communicator& communicator, const Evaluated& what,
                       const std::function<bool(std::int64_t, std::int64_t)>& progress) {
  const Arguments& arguments = what.arguments;
  EvaluationOptions options = what.options;
  const int devices = communicator.devices() / options.replicas;
  options.replica = communicator.device() / devices;
  CommunicatorPart part(communicator, options.replica * devices, devices);
  Communicator& ring = options.replicas == 1 ? communicator : static_cast<Communicator&>(part);
  EvaluationWeights weights(context, communicator, what.model, arguments.run.dtype(),
                            parse_shard(arguments.shard));
  Transformer model(context, ring, what.model.config(), what.model.table(),
                    {.dtype = arguments.run.dtype(),
                     .exchange = arguments.ring.exchange(),
                     .attention = arguments.forms.attention(),
                     .feed_forward = arguments.forms.feed_forward(),
                     .block_tokens = arguments.run.block_tokens(),
                     .segment_tokens = what.segment_tokens,
                     .spill = arguments.segments.spill(),
                     .work = what.work});
  const Evaluation result = evaluate(communicator, model, weights.reader(), what.tokens, options, progress);
  weights.end_passes();
  return result;
}

/// What decides the bits of an evaluation, for --state to hold to.
KeptWork::Facts work_facts(const Evaluated& what, const ModelSource& source, const EvaluationText& text,
                           Isa isa) {
  const auto stamp = [](const FileStamp& s) { return fmt::format("{} bytes, {:016x}", s.bytes, s.checksum); };
  const Arguments& a = what.arguments;
  const EvaluationOptions& o = what.options;
  return {{"version of rondo", RONDO_VERSION},
          {"model", stamp(files_stamp(source.folder))},
          {"text", stamp(text.stamp())},
          {"--ctx-size", fmt::format("{}", o.context)},
          {"--stride", fmt::format("{}", o.stride)},
          {"--max-windows", fmt::format("{}", o.most_windows)},
          {"--skip", fmt::format("{}", o.skipped)},
          {"--blocks", o.block_tokens > 0 ? "a file" : "none"},
          {"--segment-tokens", fmt::format("{}", what.segment_tokens)},
          {"--block-tokens", fmt::format("{}", a.run.block_tokens())},
          {"--dtype", name_of(a.run.dtype())},
          {"--isa", name_of(isa)}};
}

/// The folder of --state, opened; null without it.
std::unique_ptr<KeptWork> open_work(const Evaluated& what, const ModelSource& source,
                                    const EvaluationText& text, const RingOptions& ring) {
  const std::string& folder = what.arguments.state;
  if (folder.empty()) return nullptr;
  check_argument(what.arguments.segments.spill().empty(), kOperation,
                 "expected --state or --spill, got both: --state spills into its own folder");
  check_argument(ring.devices_in_all() == 1, kOperation, "expected one device with --state, got {}",
                 ring.devices_in_all());
  return std::make_unique<KeptWork>(folder, work_facts(what, source, text, ring.isa));
}

/// The line on stderr.
class EvaluationProgress {
 public:
  void windows(std::int64_t done, std::int64_t all) {
    line_.show(fmt::format("window {}/{}", done, all), done == all);
  }
  /// Of all windows, of which `window` is at work and done by `share`.
  void within(std::int64_t window, std::int64_t all, double share) {
    const double done = (static_cast<double>(window) + share) / static_cast<double>(all);
    const auto now = Clock::now();
    if (first_ < 0) first_ = done, begin_ = now;
    const double seconds = std::chrono::duration<double>(now - begin_).count();
    const std::string left =
        done > first_ ? fmt::format(", {} left", format_duration(seconds * (1 - done) / (done - first_)))
                      : std::string();
    line_.show(fmt::format("window {}/{}, {:.1f} %{}", window + 1, all, 100 * share, left));
  }
  void finish() { line_.finish(); }
  void note(const std::string& words) { line_.note(words); }

 private:
  using Clock = std::chrono::steady_clock;
  ProgressLine line_;
  double first_ = -1;  ///< share of the whole at begin_
  Clock::time_point begin_;
};

/// Runs the devices. Returns the most bytes that one of this process held.
std::int64_t run_evaluation(const Evaluated& what, const RingOptions& ring, EvaluationProgress& line,
                            Evaluation& evaluation) {
  const char* words =
      what.work != nullptr ? "\nstopping after this segment\n" : "\nstopping after this window\n";
  const std::atomic<bool>& stop = stop_on_signals(ring.leads() ? words : "");
  const std::int64_t windows = evaluation_windows(what.tokens.tokens, what.options);
  std::vector<std::int64_t> held(static_cast<std::size_t>(ring.devices));
  run_ring(ring, [&](Context& context, Communicator& communicator) {
    const auto progress = [&](std::int64_t done, std::int64_t all) {
      if (context.device == 0) line.windows(done, all);
      std::array<std::byte, 1> flag{std::byte{stop.load()}};
      communicator.broadcast(0, flag);
      return flag[0] == std::byte{0};
    };
    Evaluated here = what;
    here.options.within = [&](std::int64_t window, double share) {
      if (context.device == 0) line.within(window, windows, share);
      return !stop.load();
    };
    const Evaluation found = evaluate_on(context, communicator, here, progress);
    if (ring.is_first_here(context.device)) evaluation = found;
    held[static_cast<std::size_t>(context.device - ring.rank() * ring.devices)] = context.ledger.peak_total();
  });
  line.finish();
  return *std::max_element(held.begin(), held.end());
}

int evaluate_text(const CLI::App& command, const Arguments& arguments) {
  const RingOptions ring = arguments.ring.ring();
  const ModelSource source = open_model(arguments.model);
  const EvaluationText text(arguments.text, source);
  const TokenSource tokens = text.source();
  EvaluationOptions options{.context = context_of(arguments, source, tokens.tokens),
                            .stride = arguments.stride,
                            .most_windows = arguments.max_windows,
                            .skipped = arguments.skip,
                            .block_tokens = arguments.blocks.empty() ? 0 : kBlockTokens,
                            .layout = arguments.ring.layout(),
                            .replicas = arguments.replicas};
  check_argument(ring.devices_in_all() % options.replicas == 0, kOperation,
                 "expected --data-parallel that divides the {} devices in all, got {}", ring.devices_in_all(),
                 options.replicas);
  const std::int64_t segment_tokens = fit_memory(arguments, source.model.config(), ring, options.context);
  if (options.stride == 0) options.stride = options.context;
  check_argument(options.stride <= options.context, kOperation,
                 "expected --stride up to the context of {} tokens, got {}", options.context, options.stride);
  check_argument(options.skipped < tokens.tokens - 1, kOperation,
                 "expected --skip below the text's {} tokens, got {}", tokens.tokens - 1, options.skipped);
  Evaluated what{arguments, source.model, tokens, options, segment_tokens};
  if (ring.processes) {
    std::vector<Fact> facts = option_facts(command, ring);
    facts.insert(facts.end(), {folder_fact("model", source.folder), text.fact()});
    agree(ring, facts);
  }
  const std::unique_ptr<KeptWork> work = open_work(what, source, text, ring);
  what.work = work.get();
  const auto begin = std::chrono::steady_clock::now();
  EvaluationProgress line;
  EvaluationSummary summary{.evaluation = {}, .options = options};
  const std::int64_t held = run_evaluation(what, ring, line, summary.evaluation);
  if (summary.evaluation.windows < evaluation_windows(tokens.tokens, options)) {
    if (ring.leads())
      line.note(fmt::format("stopped after {} windows{}", summary.evaluation.windows,
                            work ? "; the same command goes on" : ""));
    return kStoppedStatus;
  }
  if (!ring.leads()) return 0;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  line.note(fmt::format("held {} a device at most, took {:.1f} s", format_bytes(static_cast<double>(held)),
                        work ? work->seconds() : took.count()));
  count_bytes(text, tokens.tokens, summary);
  if (!arguments.blocks.empty()) write_blocks(summary, source.folder, arguments.blocks);
  std::fputs((arguments.format == "json" ? json_of(summary, source.folder) : text_of(summary)).c_str(),
             stdout);
  if (work) {
    check_file(std::fflush(stdout) == 0, kOperation, "stdout", "expected to write the result there, got: {}",
               errno_text(errno));
    work->finish();
  }
  return 0;
}

}  // namespace

Run add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("eval", "Bits per byte and perplexity of a text, by sliding window");
  command->add_option("MODEL", arguments->model, "A Hugging Face folder, a checkpoint or a run")->required();
  command->add_option("TEXT", arguments->text, "Files or folders, as bytes; one file for other tokenizers")
      ->required();
  command
      ->add_option("--ctx-size", arguments->context,
                   "Tokens of a window; auto: the most that --memory-limit has room for, at most the text "
                   "[what the model was trained on, at most the text]")
      ->transform(tokens_or_auto());
  command->add_option("--stride", arguments->stride, "Tokens by which windows advance [the window]")
      ->check(between<std::int64_t>(1, kMostTokens));
  add(*command, "--max-windows", arguments->max_windows, "Windows to score at most; 0: all of the text")
      ->check(between<std::int64_t>(0, kMostTokens));
  add(*command, "--skip", arguments->skip, "Tokens at the beginning that are context alone, and not scored")
      ->check(between<std::int64_t>(0, kMostTokens));
  command->add_option("--blocks", arguments->blocks,
                      "File for the result by blocks of 4096 tokens of the text, for rondo compare [none]");
  add(*command, "--format", arguments->format, "Form of the result")->check(one_of({"text", "json"}));
  arguments->run.add_to(*command);
  arguments->forms.add_to(*command);
  arguments->ring.add_to(*command);
  arguments->segments.add_to(*command);
  command
      ->add_option(
          "--state", arguments->state,
          "Folder to spill into whose files stay when the work is interrupted: the same command then "
          "goes on; for one device [none]")
      ->group(kRingGroup);
  add(*command, "--shard", arguments->shard,
      "Divided over the devices: nothing, or the weights, of which each layer's are gathered for its use")
      ->check(one_of({"none", "parameters"}))
      ->group(kRingGroup);
  add(*command, "--data-parallel", arguments->replicas,
      "Rings that the devices form, which share the windows; divides the devices")
      ->check(between(1, 1 << 20))
      ->group(kRingGroup);
  command->add_option("--config-file", arguments->config_file, "TOML file with options by name [none]");
  return [arguments, command] {
    if (!arguments->config_file.empty()) apply_config_file(*command, arguments->config_file);
    return evaluate_text(*command, *arguments);
  };
}

}  // namespace rondo::apps
