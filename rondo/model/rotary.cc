#include "rondo/model/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "rondo/core/error.h"

namespace rondo {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

void scale_llama3(const RopeScaling& s, std::vector<double>& inverse) {
  const auto original = static_cast<double>(s.original_max_positions);
  for (double& frequency : inverse) {
    const double turns = original * frequency / kTurn;  // over the original context: original / wavelength
    if (turns > s.high_freq_factor) continue;
    const double blend = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
    const double kept = std::max(blend, 0.0);  // 0 where the wavelength exceeds original / low_freq_factor
    frequency *= (1 - kept) / s.factor + kept;
  }
}

/// The (fractional) pair that makes `turns` turns over the original context.
double pair_with_turns(double turns, const ModelConfig& config) {
  const auto original = static_cast<double>(config.rope_scaling.original_max_positions);
  return static_cast<double>(config.head_dim) * std::log(original / (turns * kTurn)) /
         (2 * std::log(config.rope_theta));
}

void scale_yarn(const ModelConfig& config, std::vector<double>& inverse) {
  const RopeScaling& s = config.rope_scaling;
  double low = pair_with_turns(s.beta_fast, config), high = pair_with_turns(s.beta_slow, config);
  if (s.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(config.head_dim - 1));
  if (low == high) high += 0.001;  // a step instead of a ramp; transformers' constant
  for (std::size_t p = 0; p < inverse.size(); ++p) {
    const double ramp = std::clamp((static_cast<double>(p) - low) / (high - low), 0.0, 1.0);
    inverse[p] *= ramp / s.factor + (1 - ramp);
  }
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double yarn_attention_factor(const RopeScaling& s) {
  if (s.attention_factor > 0) return s.attention_factor;
  if (s.mscale > 0 && s.mscale_all_dim > 0)
    return yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim);
  return yarn_mscale(s.factor, 1);
}

}  // namespace

RotaryFrequencies rotary_frequencies(const ModelConfig& config) {
  RotaryFrequencies result;
  result.inverse.resize(static_cast<std::size_t>(config.head_dim / 2));
  for (std::size_t p = 0; p < result.inverse.size(); ++p)
    result.inverse[p] =
        std::pow(config.rope_theta, -2.0 * static_cast<double>(p) / static_cast<double>(config.head_dim));
  const RopeScaling& s = config.rope_scaling;
  switch (s.type) {
    case RopeType::none:
      break;
    case RopeType::linear:
      for (double& frequency : result.inverse) frequency /= s.factor;
      break;
    case RopeType::llama3:
      scale_llama3(s, result.inverse);
      break;
    case RopeType::yarn:
      scale_yarn(config, result.inverse);
      result.attention_factor = yarn_attention_factor(s);
      break;
  }
  return result;
}

void fill_rotary_tables(const RotaryFrequencies& frequencies, std::span<const std::int64_t> positions,
                        float* cos_TP, float* sin_TP) {
  constexpr std::int64_t limit = std::int64_t{1} << 53;
  for (const std::int64_t position : positions) {
    check_argument(position >= 0 && position < limit, "fill_rotary_tables",
                   "expected positions in 0...2^53, got {}", position);
    for (const double frequency : frequencies.inverse) {
      // The C library reduces a double modulo 2 pi exactly; the product's own rounding is position * 2^-53 at
      // most.
      const double angle = static_cast<double>(position) * frequency;
      *cos_TP++ = static_cast<float>(std::cos(angle) * frequencies.attention_factor);
      *sin_TP++ = static_cast<float>(std::sin(angle) * frequencies.attention_factor);
    }
  }
}

void fill_rotary_tables(const ModelConfig& config, std::span<const std::int64_t> positions, float* cos_TP,
                        float* sin_TP) {
  fill_rotary_tables(rotary_frequencies(config), positions, cos_TP, sin_TP);
}

}  // namespace rondo
