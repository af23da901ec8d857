// rondo eval: likelihood of a text under a model.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "apps/progress.h"
#include "apps/start_facts.h"
#include "apps/stop.h"
#include "rondo/comm/communicator_part.h"
#include "rondo/core/error.h"
#include "rondo/infer/device_weights.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/mapped_file.h"
#include "rondo/plan/fit.h"
#include "rondo/train/checkpoint.h"
#include "rondo/train/corpus.h"
#include "rondo/train/trainer.h"
#include "rondo/train/weight_store.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "eval";

struct Arguments {
  std::string model, config_file, format = "text", blocks;
  std::vector<std::string> text;
  std::int64_t context = 0, stride = 0, max_windows = 0, skip = 0;
  std::string shard = "none";
  int replicas = 1;
  RingArguments ring;
  SegmentArguments segments;
  ModelRunArguments run;
};

/// A text as tokens. Bytes are read from the mapped files as they are needed; for a model with a vocabulary
/// of its own the ids are held.
class Text {
 public:
  Text(const std::vector<std::string>& paths, const ModelSource& model) : tokenizer_(*model.tokenizer) {
    if (model.is_bytes()) {
      corpus_ = Corpus::open({paths.begin(), paths.end()});
      return;
    }
    check_argument(paths.size() == 1, kOperation,
                   "expected one text for a model with the tokenizer '{}', got {}", tokenizer_.name(),
                   paths.size());
    const MappedFile file(paths.front());
    check_argument(file.size() > 0, kOperation, "expected text in {}, got an empty file", paths.front());
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    ids_ = tokenizer_.bos() ? tokenizer_.encode_with_bos(text) : tokenizer_.encode(text);
  }

  TokenSource source() const {
    if (corpus_) return token_source(*corpus_);
    return {.tokens = static_cast<std::int64_t>(ids_.size()),
            .read = [this](std::int64_t first, std::span<std::int32_t> ids) {
              std::copy_n(ids_.begin() + first, ids.size(), ids.begin());
            }};
  }

  /// For processes to compare.
  Fact fact() const {
    if (corpus_) return text_fact("text", *corpus_);
    return hash_fact("text", {reinterpret_cast<const char*>(ids_.data()), ids_.size() * sizeof(ids_[0])});
  }

  /// Bytes of `tokens`, of which `scored` were scored.
  std::int64_t bytes(Range tokens, std::int64_t scored) const {
    if (corpus_) return scored;
    std::int64_t bytes = 0;
    for (std::int64_t n = tokens.begin; n < tokens.end; ++n)
      bytes += static_cast<std::int64_t>(tokenizer_.piece(ids_[static_cast<std::size_t>(n)]).size());
    // The space that encoding put in front of the text is no byte of it.
    const bool first = tokens.begin <= 1 && tokens.end > 1;
    return bytes - (tokenizer_.drops_leading_space() && tokenizer_.bos() && first ? 1 : 0);
  }

 private:
  const Tokenizer& tokenizer_;
  std::optional<Corpus> corpus_;
  std::vector<std::int32_t> ids_;
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

/// Tokens of the text whose losses --blocks tells apart.
constexpr std::int64_t kBlockTokens = 4096;

struct Summary {
  Evaluation evaluation;
  EvaluationOptions options;
  std::int64_t bytes = 0;
  std::vector<std::int64_t> block_bytes;  ///< scored bytes of each block

  double nats_per_token() const {
    return evaluation.nats / static_cast<double>(std::max<std::int64_t>(1, evaluation.tokens));
  }
  double bits_per_byte() const {
    return evaluation.nats / std::numbers::ln2 / static_cast<double>(std::max<std::int64_t>(1, bytes));
  }
};

void print_text(const Summary& s) {
  std::string out = fmt::format(
      "bits per byte  {:.4f}\nperplexity     {:.4f} per token\nscored         {} tokens, {} bytes\n"
      "windows        {} of {} tokens, stride {}\n\n{:>20} {:>12} {:>14}\n",
      s.bits_per_byte(), std::exp(s.nats_per_token()), s.evaluation.tokens, s.bytes, s.evaluation.windows,
      s.options.context, s.options.stride, "tokens in context", "scored", "bits per token");
  const auto last_of = [&](const PositionBucket& bucket) {
    return std::min(bucket.end - 1, s.options.context);
  };
  for (const PositionBucket& bucket : s.evaluation.by_position)
    out +=
        fmt::format("{:>20} {:>12} {:>14.4f}\n",
                    bucket.begin == last_of(bucket) ? fmt::format("{}", bucket.begin)
                                                    : fmt::format("{} ... {}", bucket.begin, last_of(bucket)),
                    bucket.tokens, bucket.nats / static_cast<double>(bucket.tokens) / std::numbers::ln2);
  std::fputs(out.c_str(), stdout);
}

nlohmann::ordered_json json_of(const Summary& s, const fs::path& folder) {
  nlohmann::ordered_json json;
  json["model"] = folder.string();
  json["bits_per_byte"] = s.bits_per_byte();
  json["perplexity"] = std::exp(s.nats_per_token());
  json["nats"] = s.evaluation.nats;
  json["tokens"] = s.evaluation.tokens;
  json["bytes"] = s.bytes;
  json["context"] = s.options.context;
  json["stride"] = s.options.stride;
  json["skipped"] = s.options.skipped;
  json["windows"] = s.evaluation.windows;
  json["by_position"] = nlohmann::ordered_json::array();
  for (const PositionBucket& bucket : s.evaluation.by_position)
    json["by_position"].push_back(
        {{"begin", bucket.begin}, {"end", bucket.end}, {"tokens", bucket.tokens}, {"nats", bucket.nats}});
  return json;
}

std::string text_of(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

/// What `rondo compare` reads: the result and its blocks.
void write_blocks(const Summary& s, const fs::path& folder, const fs::path& file) {
  nlohmann::ordered_json json = json_of(s, folder);
  json["block_tokens"] = kBlockTokens;
  json["blocks"] = nlohmann::ordered_json::array();
  for (std::size_t n = 0; n < s.block_bytes.size(); ++n)
    json["blocks"].push_back({{"bytes", s.block_bytes[n]}, {"nats", s.evaluation.by_block[n].nats}});
  AtomicFile out(file);
  out.write(text_of(json));
  out.commit();
}

/// Places of the scored tokens: behind the first and the skipped ones, up to the end of the last window.
Range scored_tokens(std::int64_t tokens, const EvaluationOptions& options, std::int64_t windows) {
  const std::int64_t begin = 1 + options.skipped;
  if (windows == 0) return {begin, begin};
  const std::int64_t end = std::min(tokens, (windows - 1) * options.stride + options.context + 1);
  return {begin, std::max(begin, end)};
}

/// Fills in what the numbers of tokens come to in bytes.
void count_bytes(const Text& text, std::int64_t tokens, Summary& s) {
  const Range scored = scored_tokens(tokens, s.options, s.evaluation.windows);
  s.bytes = text.bytes(scored, s.evaluation.tokens);
  std::int64_t begin = 0;
  for (const TextBlock& block : s.evaluation.by_block) {
    const std::int64_t end = begin + kBlockTokens;
    const std::int64_t from = std::max(begin, scored.begin), to = std::min(end, scored.end);
    s.block_bytes.push_back(text.bytes({from, std::max(from, to)}, block.tokens));
    begin = end;
  }
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
};

/// Chooses tokens of segments, which it returns, and of a context that was left to the memory limit; refuses
/// what does not fit that.
std::int64_t fit_memory(const Arguments& arguments, const ModelConfig& config, const RingOptions& ring,
                        std::int64_t& context) {
  RunShape shape{.config = config,
                 .purpose = Purpose::evaluate,
                 .dtype = arguments.run.dtype(),
                 .exchange = arguments.ring.exchange(),
                 .layout = arguments.ring.layout(),
                 .shard = parse_shard(arguments.shard),
                 .block_tokens = arguments.run.block_tokens(),
                 .devices = ring.devices_in_all() / arguments.replicas,
                 .threads = ring.threads,
                 .replicas = arguments.replicas,
                 .between_processes = ring.processes != nullptr,
                 .segment_tokens = arguments.segments.tokens(),
                 .spills = !arguments.segments.spill().empty(),
                 .isa = ring.isa};
  const bool chooses_segments = shape.spills && ring.memory_limit > 0 && !arguments.segments.given();
  if (arguments.context == kAutoContext) {
    check_argument(ring.memory_limit > 0, kOperation,
                   "expected a --memory-limit for --ctx-size auto, got none");
    RunShape least = shape;
    if (chooses_segments) least.segment_tokens = kLeastSegmentStep;
    const std::int64_t longest =
        longest_context(MemoryModel(least), without_scratch(shape, ring.memory_limit)).tokens;
    context = std::clamp<std::int64_t>(longest, 1, context);
    if (ring.leads()) std::fprintf(stderr, "--ctx-size auto: %lld tokens\n", static_cast<long long>(context));
  }
  if (chooses_segments)
    if (const std::int64_t segment =
            largest_segment(MemoryModel(shape), context, without_scratch(shape, ring.memory_limit)))
      shape.segment_tokens = segment;
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
                     .block_tokens = arguments.run.block_tokens(),
                     .segment_tokens = what.segment_tokens,
                     .spill = arguments.segments.spill()});
  const Evaluation result = evaluate(communicator, model, weights.reader(), what.tokens, options, progress);
  weights.end_passes();
  return result;
}

int evaluate_text(const CLI::App& command, const Arguments& arguments) {
  const RingOptions ring = arguments.ring.ring();
  const ModelSource source = open_model(arguments.model);
  const Text text(arguments.text, source);
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
  const Evaluated what{arguments, source.model, tokens, options, segment_tokens};
  if (ring.processes) {
    std::vector<Fact> facts = option_facts(command, ring);
    facts.insert(facts.end(), {folder_fact("model", source.folder), text.fact()});
    agree(ring, facts);
  }
  const std::atomic<bool>& stop = stop_on_signals(ring.leads() ? "\nstopping after this window\n" : "");
  ProgressLine line;
  Summary summary{.evaluation = {}, .options = options};
  run_ring(ring, [&](Context& context, Communicator& communicator) {
    const auto progress = [&](std::int64_t done, std::int64_t all) {
      if (context.device == 0) line.show(fmt::format("window {}/{}", done, all), done == all);
      std::array<std::byte, 1> flag{std::byte{stop.load()}};
      communicator.broadcast(0, flag);
      return flag[0] == std::byte{0};
    };
    const Evaluation evaluation = evaluate_on(context, communicator, what, progress);
    if (ring.is_first_here(context.device)) summary.evaluation = evaluation;
  });
  line.finish();
  if (summary.evaluation.windows < evaluation_windows(tokens.tokens, options)) {
    if (ring.leads()) line.note(fmt::format("stopped after {} windows", summary.evaluation.windows));
    return kStoppedStatus;
  }
  if (!ring.leads()) return 0;
  count_bytes(text, tokens.tokens, summary);
  if (!arguments.blocks.empty()) write_blocks(summary, source.folder, arguments.blocks);
  if (arguments.format == "json") {
    std::fputs(text_of(json_of(summary, source.folder)).c_str(), stdout);
  } else {
    print_text(summary);
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
  arguments->ring.add_to(*command);
  arguments->segments.add_to(*command);
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
