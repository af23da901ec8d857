#include "apps/train_plan.h"

#include <algorithm>
#include <functional>

#include "rondo/core/error.h"
#include "rondo/io/file_error.h"
#include "rondo/model/hf_folder.h"
#include "rondo/plan/fit.h"
#include "rondo/text/byte_tokenizer.h"

namespace rondo::apps {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "train";

/// Compares what was given with what a checkpoint says.
class Agreement {
 public:
  Agreement(const CLI::App& command, const fs::path& checkpoint)
      : command_(command), checkpoint_(checkpoint) {}
  template <class T>
  void check(const char* option, const T& saved, const T& asked) const {
    check_argument(!given(command_, option) || saved == asked, kOperation,
                   "expected {} {} as in the checkpoint {}, got {}", option, saved, checkpoint_.string(),
                   asked);
  }

 private:
  const CLI::App& command_;
  const fs::path& checkpoint_;
};

void check_recipe(const Agreement& agree, const TrainingRecipe& saved, const TrainArguments& asked) {
  const TrainingRecipe& r = asked.recipe;
  if (r.context > 0) agree.check("--ctx-size", saved.context, r.context);  // 0: auto
  agree.check("--batch", saved.sequences_per_step, r.sequences_per_step);
  agree.check("--seed", saved.seed, r.seed);
  agree.check("--separate-documents", saved.separate_documents, r.separate_documents);
  agree.check("--ctx-warmup", saved.context_warmup, r.context_warmup);
  agree.check("--holdout", saved.held_out, r.held_out);
  agree.check("--dtype", std::string(saved.dtype == DType::f32 ? "f32" : "bf16"), asked.dtype);
  agree.check("--lr", saved.learning_rate.peak, r.learning_rate.peak);
  agree.check("--schedule", std::string(name_of(saved.learning_rate.shape)), asked.schedule);
  agree.check("--warmup", saved.learning_rate.warmup, r.learning_rate.warmup);
  agree.check("--final-lr-share", saved.learning_rate.final_share, r.learning_rate.final_share);
  agree.check("--decay-share", saved.learning_rate.decay_share, r.learning_rate.decay_share);
  agree.check("--weight-decay", saved.optimizer.weight_decay, r.optimizer.weight_decay);
  agree.check("--beta1", saved.optimizer.beta1, r.optimizer.beta1);
  agree.check("--beta2", saved.optimizer.beta2, r.optimizer.beta2);
  agree.check("--clip", saved.optimizer.clip, r.optimizer.clip);
}

void check_model(const Agreement& agree, const ModelConfig& saved, const ModelConfig& asked) {
  agree.check("--layers", saved.layers, asked.layers);
  agree.check("--width", saved.width, asked.width);
  agree.check("--heads", saved.q_heads, asked.q_heads);
  agree.check("--kv-heads", saved.kv_heads, asked.kv_heads);
  agree.check("--head-dim", saved.head_dim, asked.head_dim > 0 ? asked.head_dim : saved.head_dim);
  agree.check("--ffn", saved.ffn, asked.ffn > 0 ? asked.ffn : saved.ffn);
  agree.check("--tie-embeddings", saved.tied_embedding, asked.tied_embedding);
  agree.check("--window", saved.sliding_window, asked.sliding_window);
  agree.check("--first-k", saved.first_k, asked.first_k);
  agree.check("--softcap", saved.attention_softcap, asked.attention_softcap);
  agree.check("--dropout", saved.attention_dropout, asked.attention_dropout);
  agree.check("--rope-theta", saved.rope_theta, asked.rope_theta);
}

ModelConfig model_of_options(const TrainArguments& arguments) {
  ModelConfig config = arguments.model;
  config.vocabulary = ByteTokenizer::kVocabulary;
  config.bos = ByteTokenizer::kBos;
  config.eos = {ByteTokenizer::kEos};
  config.max_positions = std::max<std::int64_t>(1, arguments.recipe.context);  // auto: set when it is known
  if (config.head_dim == 0) {
    check_argument(config.width % config.q_heads == 0, kOperation,
                   "expected --width to be a multiple of --heads (or a --head-dim), got {} and {}",
                   config.width, config.q_heads);
    config.head_dim = config.width / config.q_heads;
  }
  if (config.ffn == 0) config.ffn = std::max<std::int64_t>(32, (config.width * 8 / 3 + 31) / 32 * 32);
  check_config(config, kOperation);
  return config;
}

/// The model of --config or --from, which has to be one of bytes.
ModelConfig model_of_file(const CLI::App& command, const TrainArguments& arguments) {
  check_argument(arguments.config.empty() || arguments.from.empty(), kOperation,
                 "expected --config or --from, got both");
  const char* source = arguments.from.empty() ? "--config" : "--from";
  for (const std::string& option : model_options())
    check_argument(option == "--dropout" || !given(command, option), kOperation,
                   "expected the model's shape from {} alone, got {} too", source, option);
  const fs::path file =
      arguments.from.empty() ? fs::path(arguments.config) : fs::path(arguments.from) / "config.json";
  ModelConfig config = read_config(file);
  if (!arguments.from.empty()) {
    const auto tokenizer = load_tokenizer(arguments.from);
    check_argument(tokenizer->name() == "bytes", kOperation,
                   "expected a model with the tokenizer 'bytes' in {}, got '{}'", arguments.from,
                   tokenizer->name());
  }
  check_argument(config.vocabulary == ByteTokenizer::kVocabulary, kOperation,
                 "expected vocab_size {} (bytes, <bos> and <eos>) in {}, got {}", +ByteTokenizer::kVocabulary,
                 file.string(), config.vocabulary);
  config.bos = ByteTokenizer::kBos;
  config.eos = {ByteTokenizer::kEos};
  config.max_positions = std::max(config.max_positions, arguments.recipe.context);
  if (given(command, "--dropout")) config.attention_dropout = arguments.model.attention_dropout;
  check_config(config, kOperation);
  return config;
}

std::vector<std::string> absolute(const std::vector<std::string>& paths) {
  std::vector<std::string> result;
  for (const std::string& path : paths) result.push_back(fs::absolute(path).lexically_normal().string());
  return result;
}

std::vector<fs::path> as_paths(const std::vector<std::string>& names) { return {names.begin(), names.end()}; }

void open_texts(TrainPlan& plan) {
  TrainingRun& run = plan.run;
  auto corpus = std::make_unique<const Corpus>(Corpus::open(as_paths(run.data_paths)));
  if (!run.held_out_paths.empty()) {
    plan.held_out = std::make_unique<const Corpus>(Corpus::open(as_paths(run.held_out_paths)));
  } else if (run.recipe.held_out > 0) {
    Corpus::Split split = corpus->split(run.recipe.held_out);
    corpus = std::make_unique<const Corpus>(std::move(split.train));
    plan.held_out = std::make_unique<const Corpus>(std::move(split.held_out));
  }
  plan.corpus = std::move(corpus);
  run.corpus = plan.corpus.get();
  run.held_out = plan.held_out.get();
  check_argument(
      run.corpus->tokens() > run.recipe.context, kOperation,
      "expected a text longer than the context of {} tokens, got {} tokens; use a smaller --ctx-size",
      run.recipe.context, run.corpus->tokens());
}

void plan_new_run(const CLI::App& command, const TrainArguments& arguments, TrainPlan& plan) {
  check_argument(!arguments.data.empty(), kOperation, "expected DATA (files or folders of text), got none");
  TrainingRun& run = plan.run;
  std::error_code error;
  check_file(list_checkpoints(run.out).empty() && !fs::exists(run.out / "metrics.jsonl", error), kOperation,
             run.out,
             "expected a folder without a run, got one with a run; --resume continues it, --out names "
             "another folder");
  run.recipe = arguments.recipe;
  run.recipe.dtype = arguments.dtype == "f32" ? DType::f32 : DType::bf16;
  run.recipe.learning_rate.shape = parse_learning_rate_shape(arguments.schedule);
  if (!arguments.valid.empty()) {
    check_argument(!given(command, "--holdout"), kOperation, "expected --valid or --holdout, got both");
    run.recipe.held_out = 0;
  }
  const bool of_file = !arguments.config.empty() || !arguments.from.empty();
  run.config = of_file ? model_of_file(command, arguments) : model_of_options(arguments);
  if (!arguments.from.empty()) run.start_from = arguments.from;
  run.data_paths = absolute(arguments.data);
  run.held_out_paths = absolute(arguments.valid);
}

void plan_steps(const CLI::App& command, const TrainArguments& arguments, TrainPlan& plan) {
  std::int64_t& total = plan.run.recipe.learning_rate.total_steps;
  if (given(command, "--steps")) {
    const std::int64_t asked = arguments.recipe.learning_rate.total_steps;
    check_argument(asked >= total, kOperation,
                   "expected --steps of at least {} as in the checkpoint {}, got {}", total,
                   plan.run.resume_from->string(), asked);
    if (asked > total)
      plan.note +=
          fmt::format("--steps raised from {} to {}: the learning rate's course is that of {} steps\n", total,
                      asked, asked);
    total = asked;
  }
  check_argument(plan.first_step < total, kOperation,
                 "expected --steps above the {} that {} has done, got {}", plan.first_step,
                 plan.run.resume_from->string(), total);
}

/// Looks at the run together with the devices that will train: each verifies its share.
FoundCheckpoint find_checkpoint(const RingOptions& ring, const fs::path& source) {
  FoundCheckpoint found;
  run_ring({.devices = ring.devices, .timeout = ring.timeout, .processes = ring.processes},
           [&](Context& context, Communicator& communicator) {
             const FoundCheckpoint same = newest_checkpoint(communicator, source);
             if (ring.is_first_here(context.device)) found = same;
           });
  return found;
}

/// A run does not go on below checkpoints that are whole and newer.
void check_is_last(const TrainingRun& run, const FoundCheckpoint& found, std::int64_t step) {
  auto others = list_checkpoints(run.out);
  for (const DamagedCheckpoint& damaged : found.passed_over)
    std::erase_if(others, [&](const fs::path& other) { return other == damaged.path; });
  check_file(others.empty() || read_training_state(others.back()).step <= step, kOperation, run.out,
             "expected no checkpoint beyond step {} in the folder to continue in, got {}; name another --out",
             step, others.empty() ? "" : others.back().filename().string());
}

void plan_resumed_run(const CLI::App& command, const TrainArguments& arguments, TrainPlan& plan) {
  TrainingRun& run = plan.run;
  for (const char* option : {"--config", "--from"})
    check_argument(!given(command, option), kOperation,
                   "expected no {} beside --resume, which has the checkpoint's model", option);
  const bool named = !arguments.resume.empty() && arguments.resume != "true";
  const fs::path source = named ? fs::path(arguments.resume) : fs::path(arguments.out);
  const FoundCheckpoint found = find_checkpoint(run.execution.ring, source);
  const fs::path& checkpoint = found.path;
  for (const DamagedCheckpoint& damaged : found.passed_over)
    plan.note += fmt::format("warning: {} is passed over: {}\n", damaged.path.string(), damaged.what);
  if (!given(command, "--out"))
    run.out = fs::equivalent(checkpoint, source) ? fs::absolute(checkpoint).lexically_normal().parent_path()
                                                 : source;
  const TrainingState state = read_training_state(checkpoint);
  plan.first_step = state.step;
  run.resume_from = checkpoint;
  run.resume_is_verified = true;
  check_is_last(run, found, state.step);
  const Agreement agree(command, checkpoint);
  check_recipe(agree, state.recipe, arguments);
  run.config = read_config(checkpoint / "config.json");
  check_model(agree, run.config, arguments.model);
  run.recipe = state.recipe;
  plan_steps(command, arguments, plan);
  run.data_paths = arguments.data.empty() ? state.data : absolute(arguments.data);
  run.held_out_paths = arguments.valid.empty() ? state.held_out : absolute(arguments.valid);
}

/// Chooses what was left to the memory limit, and refuses what does not fit it.
void fit_memory(const TrainArguments& arguments, TrainPlan& plan) {
  TrainingRun& run = plan.run;
  ExecutionOptions& execution = run.execution;
  const std::int64_t limit = execution.ring.memory_limit;
  RunShape shape{.config = run.config,
                 .dtype = run.recipe.dtype,
                 .remat = execution.remat,
                 .exchange = execution.exchange,
                 .attention = execution.attention,
                 .feed_forward = execution.feed_forward,
                 .layout = execution.layout,
                 .shard = execution.shard,
                 .block_tokens = execution.block_tokens,
                 .devices = execution.ring.devices_in_all() / execution.replicas,
                 .threads = execution.ring.threads,
                 .replicas = execution.replicas,
                 .between_processes = execution.ring.processes != nullptr,
                 .segment_tokens = execution.segment_tokens,
                 .spills = !execution.spill.empty(),
                 .isa = execution.ring.isa};
  const bool fits_segments = shape.spills && limit > 0 && !arguments.segments.given();
  std::int64_t& context = run.recipe.context;
  if (context == 0) {
    const std::int64_t all = plan.corpus->tokens() - 1;
    context = fit_context(kOperation, shape, fits_segments, limit, all);
    run.config.max_positions = std::max(run.config.max_positions, context);
    plan.note +=
        fmt::format("--ctx-size auto: {} tokens{}\n", context, context == all ? ", all of the text" : "");
  }
  if (fits_segments) fit_segments(shape, context, without_scratch(shape, limit));
  execution.segment_tokens = shape.segment_tokens;
  if (!arguments.start_anyway) check_fits(kOperation, MemoryModel(shape), context, limit);
}

void check_replicas(const TrainingRun& run) {
  const int replicas = run.execution.replicas, devices = run.execution.ring.devices_in_all();
  check_argument(devices % replicas == 0, kOperation,
                 "expected --data-parallel that divides the {} devices in all, got {}", devices, replicas);
  check_argument(run.recipe.sequences_per_step % replicas == 0, kOperation,
                 "expected --batch of a multiple of {}, so that each of --data-parallel's rings has as many "
                 "sequences, got {}",
                 replicas, run.recipe.sequences_per_step);
}

}  // namespace

TrainPlan make_train_plan(const CLI::App& command, const TrainArguments& arguments) {
  TrainPlan plan;
  TrainingRun& run = plan.run;
  run.execution = {.ring = arguments.ring.ring(),
                   .layout = arguments.ring.layout(),
                   .remat = parse_remat(arguments.remat),
                   .exchange = arguments.ring.exchange(),
                   .attention = arguments.forms.attention(),
                   .feed_forward = arguments.forms.feed_forward(),
                   .block_tokens = arguments.block_tokens,
                   .shard = parse_shard(arguments.shard),
                   .replicas = arguments.replicas,
                   .segment_tokens = arguments.segments.tokens(),
                   .spill = arguments.segments.spill()};
  run.out = arguments.out;
  given(command, "--resume") ? plan_resumed_run(command, arguments, plan)
                             : plan_new_run(command, arguments, plan);
  check_replicas(run);
  open_texts(plan);
  fit_memory(arguments, plan);
  run.evaluate_every = arguments.evaluate_every;
  run.evaluation_windows = arguments.evaluation_windows;
  // Bigrams are counted over all of the held-out text: so must be what they are compared with.
  run.final_evaluation_windows = arguments.bigram ? 0 : arguments.evaluation_windows;
  run.checkpoint_every = arguments.save_every;
  run.keep = arguments.keep;
  if (arguments.stop_after > 0) {
    check_argument(arguments.stop_after > plan.first_step, kOperation,
                   "expected --stop-after beyond the {} steps done, got {}", plan.first_step,
                   arguments.stop_after);
    run.last_step = std::min(arguments.stop_after, run.recipe.learning_rate.total_steps);
  }
  return plan;
}

}  // namespace rondo::apps
