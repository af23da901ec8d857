#pragma once
// What decides the course of a training run, and nothing else: two runs of one recipe on one ring give equal
// bits, whatever their threads, --remat and --exchange. It is saved with every checkpoint.

#include <cstdint>
#include <string>

#include "rondo/core/dtype.h"
#include "rondo/train/learning_rate.h"
#include "rondo/train/optimizer.h"

namespace rondo {

struct TrainingRecipe {
  std::int64_t context = 16384;         ///< tokens of a sequence
  std::int64_t sequences_per_step = 1;  ///< gradients of so many sequences make one optimizer step
  std::uint64_t seed = 1;               ///< of initialisation, order and dropout
  bool separate_documents = false;      ///< attention does not cross files, positions restart in each
  /// Share of the steps, from the first, in which attention's reach doubles from kWarmupContext to the
  /// context (sequence length warm-up; Li, Zhang, He 2022, arXiv 2108.06084): over thousands of keys,
  /// attention that is still uniform hardly learns where to look. 0: full reach from the first step.
  double context_warmup = 0;
  double held_out = 0.05;    ///< share of the text kept for evaluation, where none is given
  DType dtype = DType::f32;  ///< of activations; master weights are float32
  LearningRate learning_rate;
  OptimizerOptions optimizer;
};

inline constexpr std::int64_t kWarmupContext = 256;
/// Tokens of the pieces within which attention stays at a step (counted from 1): the context but for the
/// warm-up.
std::int64_t reach_at(const TrainingRecipe& recipe, std::int64_t step);

/// As a JSON object, and back; reading refuses unknown and missing keys by name.
std::string to_json(const TrainingRecipe& recipe);
TrainingRecipe parse_recipe(const std::string& json);

}  // namespace rondo
