// rondo inspect: what a model folder holds, in a few lines.

#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "apps/commands.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "rondo/train/checkpoint.h"

namespace rondo::apps {

namespace {

void print(const std::string& name, const std::string& value) {
  std::fputs(fmt::format("{:<12}{}\n", name, value).c_str(), stdout);
}

std::string positions_of(const ModelConfig& c) {
  std::string words = fmt::format("{}, rotary theta {}", c.max_positions, c.rope_theta);
  if (c.rope_scaling.type != RopeType::none)
    words += fmt::format(", scaled by {} x {}", name_of(c.rope_scaling.type), c.rope_scaling.factor);
  return words;
}

std::string attention_of(const ModelConfig& c) {
  std::string words = c.sliding_window > 0 ? fmt::format("causal, window {}", c.sliding_window) : "causal";
  if (c.first_k > 0) words += fmt::format(", first {} tokens always", c.first_k);
  if (c.attention_softcap > 0) words += fmt::format(", soft-cap {}", c.attention_softcap);
  if (c.attention_dropout > 0) words += fmt::format(", dropout {}", c.attention_dropout);
  return words;
}

void print_training(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::exists(folder / "training_state", error)) return print("training", "none");
  const TrainingState state = read_training_state(folder);
  const TrainingRecipe& r = state.recipe;
  print("training",
        fmt::format("step {} of {}, context {}, {} sequences a step, {}, learning rate {} {}, seed {}",
                    state.step, r.learning_rate.total_steps, r.context, r.sequences_per_step,
                    name_of(r.dtype), name_of(r.learning_rate.shape), r.learning_rate.peak, r.seed));
  for (const std::string& path : state.data) print("data", path);
  for (const std::string& path : state.held_out) print("held out", path);
}

/// Reads every file of a checkpoint; throws when one is damaged.
void print_verified(const std::filesystem::path& folder) {
  std::error_code error;
  check_argument(std::filesystem::exists(folder / kStateFolder, error), "inspect",
                 "expected a checkpoint for --verify, got a model without training_state/ in {}",
                 folder.string());
  verify_checkpoint(folder);
  if (read_training_state(folder).format == kFirstFormat)
    return print("verified", "sizes alone: checkpoints of format 1 have no checksums");
  std::int64_t bytes = 0;
  const std::vector<CheckpointFile> files = read_manifest(folder);
  for (const CheckpointFile& file : files) bytes += file.stamp.bytes;
  print("verified", fmt::format("{} files, {}, as when they were written", files.size(),
                                format_bytes(static_cast<double>(bytes))));
}

int inspect(const std::string& path, bool tensors, bool verify) {
  const ModelSource source = open_model(path, false);
  const ModelConfig& config = source.model.config();
  const ParameterTable& table = source.model.table();
  print("folder", source.folder.string());
  print("model", describe(config, table.parameters()));
  print("positions", positions_of(config));
  print("attention", attention_of(config));
  print("tensors", fmt::format("{}, {} as float32{}", table.infos().size(),
                               format_bytes(4.0 * static_cast<double>(table.parameters())),
                               table.tied() ? ", output tied to the embedding" : ""));
  print("tokenizer",
        fmt::format("{}, {} tokens", source.tokenizer->name(), source.tokenizer->vocabulary_size()));
  print_training(source.folder);
  if (verify) print_verified(source.folder);
  if (tensors)
    for (const ParameterInfo& info : table.infos())
      print("", info.is_norm() ? fmt::format("{} [{}]", info.name, info.columns)
                               : fmt::format("{} [{}, {}]", info.name, info.rows, info.columns));
  return 0;
}

}  // namespace

Run add_inspect_command(CLI::App& app) {
  struct Arguments {
    std::string model;
    bool tensors = false, verify = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("inspect", "Say what a model or a run holds");
  command->add_option("MODEL", arguments->model, "A Hugging Face folder, a checkpoint or a run")->required();
  add_switch(*command, "--tensors", arguments->tensors, "List every tensor with its shape");
  add_switch(*command, "--verify", arguments->verify,
             "Read every file of the checkpoint and compare it with its checksum");
  return [arguments] { return inspect(arguments->model, arguments->tensors, arguments->verify); };
}

}  // namespace rondo::apps
