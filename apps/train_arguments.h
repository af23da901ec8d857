#pragma once
// What `rondo train` is told.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "apps/options.h"
#include "rondo/model/config.h"
#include "rondo/train/recipe.h"

namespace rondo::apps {

/// Options are bound to these; words of choice (dtype, schedule) are read into recipe and model by finish().
struct TrainArguments {
  std::vector<std::string> data, valid;
  std::string out = "run", resume, config, from, config_file;
  TrainingRecipe recipe;
  std::string dtype = "f32", schedule = "cosine", remat = "attention", shard = "none";
  ModelConfig model{.width = 256, .layers = 6, .q_heads = 8, .kv_heads = 2};  ///< ffn, head_dim 0: derived
  FormArguments forms;
  std::int64_t block_tokens = 512;
  std::int64_t stop_after = 0, evaluate_every = 100, evaluation_windows = 4, save_every = 100;
  int keep = 2;
  std::string trace, report;
  bool bigram = false;
  std::int64_t sample_tokens = 0;
  RingArguments ring;
  bool start_anyway = false;
  int replicas = 1;
  SegmentArguments segments;
};

void add_train_options(CLI::App& command, TrainArguments& arguments);

/// The options that describe the model's shape, with --.
const std::vector<std::string>& model_options();

}  // namespace rondo::apps
