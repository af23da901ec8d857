#pragma once
// Softmax attention in double precision, one query at a time, with any mask: what every kernel, tile list and
// ring must equal. Legend: T queries, S keys, H query heads, G key/value heads, D query and key size, E value
// size.

#include <cstdint>
#include <functional>
#include <vector>

namespace rondo::reference {

/// score = scale * q·k; then softcap c > 0: c * tanh(score / c); then + bias and the mask; then softmax over
/// the visible keys; then times keep; then ·v. Query head h reads key/value head h / (H/G).
struct AttentionProblem {
  std::int64_t q_tokens = 0, k_tokens = 0, q_heads = 1, kv_heads = 1, qk_dim = 0, v_dim = 0;
  double scale = 1, softcap = 0;
  std::vector<double> q_THD, k_SGD, v_SGE;
  /// Whether query i sees key j. Empty: every query sees every key.
  std::function<bool(std::int64_t i, std::int64_t j)> visible;
  /// Factor of a probability after the softmax: 0 (dropped) or 1 / (1 - p). Empty: 1.
  std::function<double(std::int64_t head, std::int64_t i, std::int64_t j)> keep;
  /// Added to the scores after the softcap: [T,S], [H,T,S] or empty; -infinity hides the key.
  std::vector<double> bias;
};

struct AttentionResult {
  std::vector<double> out_THE;
  std::vector<double> lse_HT;  ///< natural log of the sum of exp(score) over the visible keys
};
/// A query that sees no key gives out 0 and lse -infinity. Throws ArgumentError when sizes do not fit.
AttentionResult attention_forward(const AttentionProblem& problem);

struct AttentionGradients {
  std::vector<double> dq_THD, dk_SGD, dv_SGE;
};
/// Gradients of sum(dout * out). A query that sees no key gives and gets nothing.
AttentionGradients attention_backward(const AttentionProblem& problem, const std::vector<double>& dout_THE);

/// The stages of one row of the score matrix, each of S entries: products scaled, soft-capped, masked
/// (-infinity where hidden) and the probabilities before `keep` (all 0 when nothing is visible).
struct AttentionRow {
  std::vector<double> scaled, capped, masked, probability;
  double lse = 0;
};
AttentionRow attention_row(const AttentionProblem& problem, std::int64_t head, std::int64_t i);

}  // namespace rondo::reference
