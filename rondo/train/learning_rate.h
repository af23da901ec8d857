#pragma once
// Learning rate by step: linear warm-up, then cosine (Loshchilov, Hutter, SGDR, arXiv 1608.03983, section 3)
// or warm-up-stable-decay (Hu et al., MiniCPM, arXiv 2404.06395, section 4) with a linear decay.

#include <cstdint>
#include <string_view>

namespace rondo {

enum class LearningRateShape { constant, cosine, wsd };
const char* name_of(LearningRateShape shape);
LearningRateShape parse_learning_rate_shape(std::string_view name);

struct LearningRate {
  LearningRateShape shape = LearningRateShape::cosine;
  double peak = 1e-3;
  double final_share = 0.1;      ///< of the peak, at the last step
  std::int64_t warmup = 10;      ///< steps that climb linearly to the peak
  double decay_share = 0.2;      ///< wsd: this last share of all steps decays
  std::int64_t total_steps = 0;  ///< of the whole run, resumed parts included

  /// For step 1 ... total_steps.
  double at(std::int64_t step) const;
};

}  // namespace rondo
