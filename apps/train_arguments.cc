#include "apps/train_arguments.h"

namespace rondo::apps {

namespace {

constexpr std::int64_t kMostExtent = 1 << 20;  // of widths and counts of a model
constexpr std::int64_t kMostSteps = std::int64_t{1} << 40;

void add_data(CLI::App& command, TrainArguments& a) {
  command.add_option("DATA", a.data, "Files or folders of text, read as bytes [of a resumed run: its own]");
  command.add_option("--valid", a.valid, "Held-out files or folders [--holdout's share of DATA]")
      ->group("Data");
  add(command, "--holdout", a.recipe.held_out, "Share of DATA held out where no --valid is given; 0: none")
      ->check(between(0.0, 0.9))
      ->group("Data");
  add_switch(command, "--separate-documents", a.recipe.separate_documents,
             "Attention stays within a file, positions restart in each")
      ->group("Data");
}

void add_model(CLI::App& command, TrainArguments& a) {
  constexpr const char* kGroup = "Model (or --config, or --from)";
  const auto extent = [&](const char* name, std::int64_t& value, std::int64_t low, const char* help) {
    add(command, name, value, help)->check(between(low, kMostExtent))->group(kGroup);
  };
  extent("--layers", a.model.layers, 1, "Layers");
  extent("--width", a.model.width, 1, "Width of the residual stream");
  extent("--heads", a.model.q_heads, 1, "Query heads");
  extent("--kv-heads", a.model.kv_heads, 1, "Key/value heads; divides --heads");
  extent("--head-dim", a.model.head_dim, 0, "Width of a head; 0: width / heads");
  extent("--ffn", a.model.ffn, 0, "Width of the feed-forward part; 0: 8/3 of the width");
  add_switch(command, "--tie-embeddings,--tie-embedding", a.model.tied_embedding,
             "The output matrix is the embedding")
      ->group(kGroup);
  add(command, "--window", a.model.sliding_window,
      "Sliding window in tokens, the token itself included; 0: none")
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kGroup);
  add(command, "--first-k", a.model.first_k, "With a window: first tokens of a document that all see")
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kGroup);
  add(command, "--softcap", a.model.attention_softcap, "Soft-cap of attention scores; 0: none")
      ->check(at_least(0.0f))
      ->group(kGroup);
  add(command, "--dropout", a.model.attention_dropout, "Dropout of attention probabilities, 0 up to 1")
      ->check(between(0.0f, 0.999f))
      ->group(kGroup);
  add(command, "--rope-theta", a.model.rope_theta, "Base of the rotary frequencies")
      ->check(above(1))
      ->group(kGroup);
  command.add_option("--config", a.config, "config.json of a Llama or Mistral to train from scratch [none]")
      ->group(kGroup);
  command.add_option("--from", a.from, "Hugging Face folder with the byte tokenizer to start from [none]")
      ->group(kGroup);
}

void add_recipe(CLI::App& command, TrainArguments& a) {
  constexpr const char* kGroup = "Training";
  TrainingRecipe& r = a.recipe;
  r.learning_rate.total_steps = 1000;
  const auto count = [&](const char* name, std::int64_t& value, std::int64_t low, const char* help) {
    add(command, name, value, help)->check(between(low, kMostSteps))->group(kGroup);
  };
  add(command, "--ctx-size", r.context,
      "Tokens of a sequence; auto: the most that --memory-limit has room for")
      ->transform([](std::string words) { return words == "auto" ? "0" : words; })
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kGroup);
  add(command, "--ctx-warmup", a.recipe.context_warmup,
      "Share of the steps, from the first, in which attention's reach doubles from 256 tokens to --ctx-size")
      ->check(between(0.0, 1.0))
      ->group(kGroup);
  count("--steps", r.learning_rate.total_steps, 1, "Optimizer steps of the whole run");
  count("--stop-after", a.stop_after, 0, "Save and end after this step of --steps; 0: do not");
  count("--batch", r.sequences_per_step, 1, "Sequences of a step");
  add(command, "--lr", r.learning_rate.peak, "Highest learning rate")->check(above(0))->group(kGroup);
  add(command, "--schedule", a.schedule, "Course of the learning rate after the warm-up")
      ->check(one_of({"constant", "cosine", "wsd"}))
      ->group(kGroup);
  count("--warmup", r.learning_rate.warmup, 0, "Steps in which the learning rate climbs");
  const auto share = [&](const char* name, auto& value, const char* help) {
    using T = std::remove_reference_t<decltype(value)>;
    add(command, name, value, help)->check(between(T{0}, T{1}))->group(kGroup);
  };
  share("--final-lr-share", r.learning_rate.final_share, "Learning rate of the last step, as share of --lr");
  share("--decay-share", r.learning_rate.decay_share, "wsd: share of the steps that decays, at the end");
  add(command, "--weight-decay", r.optimizer.weight_decay, "Weight decay of matrices")
      ->check(at_least(0.0f))
      ->group(kGroup);
  for (auto [name, beta] :
       {std::pair{"--beta1", &r.optimizer.beta1}, std::pair{"--beta2", &r.optimizer.beta2}})
    add(command, name, *beta, "AdamW's decay of a moment per step")
        ->check(between(0.0f, 0.9999999f))
        ->group(kGroup);
  add(command, "--clip", r.optimizer.clip, "Largest norm of the gradient; 0: any")
      ->check(at_least(0.0))
      ->group(kGroup);
  add(command, "--seed", r.seed, "Seed of parameters, order and dropout")
      ->check(without_sign())
      ->group(kGroup);
  add(command, "--dtype", a.dtype, "Storage of activations; parameters are updated in f32")
      ->check(one_of({"f32", "bf16"}))
      ->group(kGroup);
  add(command, "--remat", a.remat,
      "Computed again in the backward pass: all of a layer, all but attention, little")
      ->check(one_of({"layer", "attention", "none"}))
      ->group(kGroup);
  a.forms.add_to(command, kGroup);
  count("--block-tokens", a.block_tokens, 1, "Tokens of a feed-forward and loss block");
}

void add_run(CLI::App& command, TrainArguments& a) {
  constexpr const char* kGroup = "Run";
  add(command, "--out", a.out, "Folder for checkpoints, metrics.jsonl, report.html and trace.json")
      ->group(kGroup);
  command
      .add_option("--resume", a.resume,
                  "Continue this run or checkpoint; without a value that of --out [start anew]")
      ->expected(0, 1)
      ->group(kGroup);
  const auto every = [&](const char* name, std::int64_t& value, const char* help) {
    add(command, name, value, help)->check(between<std::int64_t>(0, kMostSteps))->group(kGroup);
  };
  every("--eval-every", a.evaluate_every, "Steps between evaluations of held-out text; 0: at the end alone");
  add(command, "--eval-windows", a.evaluation_windows,
      "Windows of --ctx-size tokens of an evaluation; 0: all")
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kGroup);
  every("--save-every", a.save_every, "Steps between checkpoints; 0: at the end alone");
  add(command, "--keep", a.keep, "Checkpoints to keep; 0: all")->check(between(0, 1 << 30))->group(kGroup);
  command
      .add_option("--trace", a.trace,
                  "Chrome trace of the first 3 steps, for ui.perfetto.dev [trace.json in --out]")
      ->group(kGroup);
  command.add_option("--report", a.report, "HTML report of the run [report.html in --out]")->group(kGroup);
  add_switch(command, "--bigram", a.bigram,
             "At the end, fit a byte-bigram model to compare held-out bits with")
      ->group(kGroup);
  add(command, "--sample-tokens", a.sample_tokens, "Tokens that the trained model writes into the report")
      ->check(between<std::int64_t>(0, kMostTokens))
      ->group(kGroup);
  command
      .add_option("--config-file", a.config_file,
                  "TOML file with options by name; the command line wins over it [none]")
      ->group(kGroup);
}

void add_division(CLI::App& command, TrainArguments& a) {
  add(command, "--shard", a.shard,
      "Divided over the devices: nothing, the optimizer's state, or parameters and gradients too")
      ->check(one_of({"none", "optimizer", "parameters"}))
      ->group(kRingGroup);
  add(command, "--data-parallel", a.replicas,
      "Rings that the devices form, each with sequences of its own; divides the devices and --batch")
      ->check(between(1, 1 << 20))
      ->group(kRingGroup);
}

}  // namespace

void add_train_options(CLI::App& command, TrainArguments& arguments) {
  add_data(command, arguments);
  add_model(command, arguments);
  add_recipe(command, arguments);
  add_run(command, arguments);
  arguments.ring.add_to(command);
  add_switch(
      command, "--start-anyway", arguments.start_anyway,
      "Begin also where the plan says that --memory-limit is too small: what does not fit is refused when "
      "it is allocated")
      ->group(kRingGroup);
  add_division(command, arguments);
  arguments.segments.add_to(command);
}

const std::vector<std::string>& model_options() {
  static const std::vector<std::string> options = {
      "--layers",         "--width",  "--heads",   "--kv-heads", "--head-dim", "--ffn",
      "--tie-embeddings", "--window", "--first-k", "--softcap",  "--dropout",  "--rope-theta"};
  return options;
}

}  // namespace rondo::apps
