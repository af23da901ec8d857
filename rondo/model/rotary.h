#pragma once
// Rotary position embedding (Su et al., RoFormer, arXiv 2104.09864, section 3.2) with the scalings of
// released models.

#include <cstdint>
#include <span>
#include <vector>

#include "rondo/model/config.h"

namespace rondo {

/// Pair p of a head turns by position * inverse[p] radians; cos and sin are multiplied by `attention_factor`.
struct RotaryFrequencies {
  std::vector<double> inverse;  ///< head_dim / 2 of them
  double attention_factor = 1;
};

/// none: theta^(-2p / head_dim). linear (Chen et al., arXiv 2306.15595): divided by factor. llama3
/// (Llama 3.1): wavelengths beyond original_max / low_freq_factor are divided, those below original_max /
/// high_freq_factor kept, between them a linear blend in 1 / wavelength. yarn (Peng et al., arXiv 2309.00071,
/// sections 3.2 to 3.4): "NTK by parts" with a ramp over pairs and attention_factor 0.1 ln(factor) + 1. All
/// as transformers defines them, but in double precision.
RotaryFrequencies rotary_frequencies(const ModelConfig& config);

/// Fills the tables [positions.size(), head_dim / 2] (row-major) that kernels::rotary takes. Angles are
/// computed and reduced in double and only their cos and sin rounded to float32: float32 angles are off by
/// 0.04 at a million tokens. Positions are those within the sequence, 0 <= position < 2^53.
void fill_rotary_tables(const RotaryFrequencies& frequencies, std::span<const std::int64_t> positions,
                        float* cos_TP, float* sin_TP);
void fill_rotary_tables(const ModelConfig& config, std::span<const std::int64_t> positions, float* cos_TP,
                        float* sin_TP);

}  // namespace rondo
