#include "rondo/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/core/random.h"

namespace rondo {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A NaN compares false with everything: sorting it would choose tokens by chance.
void check_logits(std::span<const float> logits) {
  bool possible = false;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    check_argument(logits[id] < kInfinity, "sampling", "expected logits below infinity, got {} for token {}",
                   logits[id], id);
    possible = possible || logits[id] > -kInfinity;
  }
  check_argument(possible, "sampling", "expected a finite logit among {}, got none", logits.size());
}

}  // namespace

void check(const SamplingOptions& options) {
  constexpr const char* op = "sampling";
  check_argument(options.temperature >= 0 && std::isfinite(options.temperature), op,
                 "expected --temp of at least 0, got {}", options.temperature);
  check_argument(options.top_k >= 0, op, "expected --top-k of at least 0, got {}", options.top_k);
  check_argument(options.top_p > 0 && options.top_p <= 1, op, "expected --top-p above 0 and up to 1, got {}",
                 options.top_p);
  check_argument(options.min_p >= 0 && options.min_p <= 1, op, "expected --min-p from 0 to 1, got {}",
                 options.min_p);
}

Sampler::Sampler(const SamplingOptions& options) : options_(options) { check(options); }

std::int32_t Sampler::operator()(std::span<const float> logits, std::int64_t n) {
  check_logits(logits);
  candidates_.clear();
  for (std::size_t id = 0; id < logits.size(); ++id)
    candidates_.push_back({static_cast<std::int32_t>(id), logits[id], 0});
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  if (options_.temperature == 0)
    return std::min_element(candidates_.begin(), candidates_.end(), likelier)->id;

  std::size_t kept = candidates_.size();
  if (options_.top_k > 0) kept = std::min(kept, static_cast<std::size_t>(options_.top_k));
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                    candidates_.end(), likelier);
  candidates_.resize(kept);
  const float largest = candidates_.front().logit;
  double total = 0;
  for (Candidate& candidate : candidates_)
    total += candidate.probability = std::exp(static_cast<double>(candidate.logit) - largest);
  double sum = 0;
  for (kept = 0; kept < candidates_.size(); ++kept) {
    const Candidate& candidate = candidates_[kept];
    // A sum that rounding brought to the total must not cut what a high temperature makes likely again.
    const bool enough = options_.top_p < 1 && sum >= options_.top_p * total;
    if (kept > 0 && (enough || candidate.probability < options_.min_p || candidate.logit == -kInfinity))
      break;
    sum += candidate.probability;
  }
  candidates_.resize(kept);

  total = 0;
  for (Candidate& candidate : candidates_)
    total += candidate.probability =
        std::exp((static_cast<double>(candidate.logit) - largest) / options_.temperature);
  const PhiloxCounter bits =
      philox4x32({static_cast<std::uint32_t>(n), static_cast<std::uint32_t>(n >> 32), 0, 0},
                 philox_key(options_.seed, 0));
  double drawn = uniform(bits[0]) * total;
  for (const Candidate& candidate : candidates_) {
    drawn -= candidate.probability;
    if (drawn < 0) return candidate.id;
  }
  return candidates_.back().id;
}

}  // namespace rondo
