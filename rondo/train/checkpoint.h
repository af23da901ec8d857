#pragma once
// Checkpoints: a Hugging Face folder (config.json, model.safetensors, tokenizer.json) that other software
// reads, and beside it training_state/ with what resuming needs. Each appears whole or not at all.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "rondo/model/config.h"
#include "rondo/model/parameters.h"
#include "rondo/train/recipe.h"

namespace rondo {

/// training_state/state.json
struct TrainingState {
  std::int64_t step = 0;  ///< optimizer steps done; the data cursor follows from it and the recipe
  std::uint64_t data_fingerprint = 0;
  std::vector<std::string> data, held_out;  ///< the paths that were given
  TrainingRecipe recipe;
};

/// Float32 flat buffers of a ParameterTable.
struct TrainingTensors {
  std::span<float> parameters, first_moment, second_moment;
};

/// Where a run's checkpoint after `step` steps lies: `run`/step-00000042.
std::filesystem::path checkpoint_path(const std::filesystem::path& run, std::int64_t step);

/// Writes checkpoint_path(run, state.step) and removes all but the newest `keep` checkpoints (0 keeps all).
/// IoError leaves the older ones untouched.
std::filesystem::path save_checkpoint(const std::filesystem::path& run, const ModelConfig& config,
                                      const ParameterTable& table, const TrainingState& state,
                                      const TrainingTensors& tensors, int keep);

/// Checkpoints of a run, oldest first.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run);
/// `path` itself when it is a checkpoint, else the newest one in it; IoError when there is none.
std::filesystem::path newest_checkpoint(const std::filesystem::path& path);

TrainingState read_training_state(const std::filesystem::path& checkpoint);
/// Fills the tensors from a checkpoint of this table; IoError naming what does not fit.
void load_training_tensors(const std::filesystem::path& checkpoint, const ParameterTable& table,
                           const TrainingTensors& tensors);

}  // namespace rondo
