#pragma once
// Choice of the next token from its logits.

#include <cstdint>
#include <span>
#include <vector>

namespace rondo {

struct SamplingOptions {
  float temperature = 0.8f;  ///< 0: always the likeliest token
  int top_k = 0;             ///< only the k likeliest; 0: all
  float top_p = 1;  ///< only the likeliest whose probabilities first sum to p (Holtzman et al. 2020); 1: all
  float min_p = 0;  ///< only those at least min_p times as likely as the likeliest (Nguyen et al. 2024)
  std::uint64_t seed = 1;
};
/// Throws ArgumentError naming the option that is out of range.
void check(const SamplingOptions& options);

/// Deterministic: token n of a text depends on the seed, n and the logits alone, so that all devices choose
/// alike.
class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options);
  /// Filters apply to the untempered probabilities in the order top-k, top-p, min-p; then the temperature.
  /// Ties go to the lower id. -infinity rules a token out; a NaN, +infinity or nothing finite is an
  /// ArgumentError.
  std::int32_t operator()(std::span<const float> logits, std::int64_t n);

 private:
  struct Candidate {
    std::int32_t id;
    float logit;
    double probability;
  };
  SamplingOptions options_;
  std::vector<Candidate> candidates_;
};

}  // namespace rondo
