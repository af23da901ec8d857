#include "rondo/train/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "rondo/core/error.h"

namespace rondo {

const char* name_of(LearningRateShape shape) {
  return shape == LearningRateShape::constant ? "constant"
         : shape == LearningRateShape::cosine ? "cosine"
                                              : "wsd";
}

LearningRateShape parse_learning_rate_shape(std::string_view name) {
  for (const auto shape : {LearningRateShape::constant, LearningRateShape::cosine, LearningRateShape::wsd})
    if (name == name_of(shape)) return shape;
  argument_error("learning rate", "expected constant, cosine or wsd, got '{}'", name);
}

double LearningRate::at(std::int64_t step) const {
  if (step <= warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
  const double low = peak * final_share;
  const auto share_of = [&](double begin) {
    const double length = static_cast<double>(total_steps) - begin;
    return length <= 0 ? 1.0 : std::clamp((static_cast<double>(step) - begin) / length, 0.0, 1.0);
  };
  switch (shape) {
    case LearningRateShape::constant:
      return peak;
    case LearningRateShape::cosine:
      return low +
             (peak - low) * 0.5 * (1 + std::cos(std::numbers::pi * share_of(static_cast<double>(warmup))));
    case LearningRateShape::wsd:
      return peak + (low - peak) * share_of(std::max(static_cast<double>(warmup),
                                                     static_cast<double>(total_steps) * (1 - decay_share)));
  }
  return peak;
}

}  // namespace rondo
