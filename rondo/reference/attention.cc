#include "rondo/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/reference/vector.h"

namespace rondo::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void check_size(const char* what, const std::vector<double>& values, std::int64_t expected) {
  check_argument(static_cast<std::int64_t>(values.size()) == expected, "reference attention",
                 "expected {} elements in {}, got {}", expected, what, values.size());
}

void check(const AttentionProblem& p) {
  check_argument(p.kv_heads > 0 && p.q_heads % p.kv_heads == 0, "reference attention",
                 "expected query heads to be a multiple of key/value heads, got {} and {}", p.q_heads,
                 p.kv_heads);
  check_size("q", p.q_THD, p.q_tokens * p.q_heads * p.qk_dim);
  check_size("k", p.k_SGD, p.k_tokens * p.kv_heads * p.qk_dim);
  check_size("v", p.v_SGE, p.k_tokens * p.kv_heads * p.v_dim);
  if (static_cast<std::int64_t>(p.bias.size()) != p.q_tokens * p.k_tokens && !p.bias.empty())
    check_size("bias", p.bias, p.q_heads * p.q_tokens * p.k_tokens);
}

std::int64_t kv_head(const AttentionProblem& p, std::int64_t head) { return head / (p.q_heads / p.kv_heads); }
const double* q_row(const AttentionProblem& p, std::int64_t head, std::int64_t i) {
  return p.q_THD.data() + (i * p.q_heads + head) * p.qk_dim;
}
const double* k_row(const AttentionProblem& p, std::int64_t head, std::int64_t j) {
  return p.k_SGD.data() + (j * p.kv_heads + kv_head(p, head)) * p.qk_dim;
}
const double* v_row(const AttentionProblem& p, std::int64_t head, std::int64_t j) {
  return p.v_SGE.data() + (j * p.kv_heads + kv_head(p, head)) * p.v_dim;
}

double bias_of(const AttentionProblem& p, std::int64_t head, std::int64_t i, std::int64_t j) {
  if (p.bias.empty()) return 0;
  const bool per_head = static_cast<std::int64_t>(p.bias.size()) != p.q_tokens * p.k_tokens;
  const std::int64_t row = (per_head ? head * p.q_tokens : 0) + i;
  return p.bias[static_cast<std::size_t>(row * p.k_tokens + j)];
}

double keep_of(const AttentionProblem& p, std::int64_t head, std::int64_t i, std::int64_t j) {
  return p.keep ? p.keep(head, i, j) : 1;
}

double softcap(const AttentionProblem& p, double score) {
  return p.softcap > 0 ? p.softcap * std::tanh(score / p.softcap) : score;
}

// One row without its unmasked stages; hidden keys cost nothing. Reused from row to row.
struct Row {
  std::vector<double> capped, probability;
  double lse = -kInfinity;
};

void compute_row(const AttentionProblem& p, std::int64_t head, std::int64_t i, Row& row) {
  const auto size = static_cast<std::size_t>(p.k_tokens);
  row.capped.assign(size, -kInfinity);
  row.probability.assign(size, 0);
  row.lse = -kInfinity;
  double largest = -kInfinity;
  bool sees_nothing = true;  // not read off `largest`: it ignores NaN, which must come out as NaN
  for (std::size_t n = 0; n < size; ++n) {
    const auto j = static_cast<std::int64_t>(n);
    const double bias = bias_of(p, head, i, j);
    if (bias == -kInfinity || (p.visible && !p.visible(i, j))) continue;
    row.capped[n] = softcap(p, p.scale * dot(q_row(p, head, i), k_row(p, head, j), p.qk_dim));
    row.probability[n] = row.capped[n] + bias;
    largest = std::max(largest, row.probability[n]);
    sees_nothing = false;
  }
  if (sees_nothing) return;
  double sum = 0;
  for (std::size_t n = 0; n < size; ++n) {
    const bool hidden = row.capped[n] == -kInfinity;
    row.probability[n] = hidden ? 0 : std::exp(row.probability[n] - largest);
    sum += row.probability[n];
  }
  for (double& probability : row.probability) probability /= sum;
  row.lse = largest + std::log(sum);
}

}  // namespace

AttentionResult attention_forward(const AttentionProblem& p) {
  check(p);
  AttentionResult result;
  result.out_THE.assign(static_cast<std::size_t>(p.q_tokens * p.q_heads * p.v_dim), 0);
  result.lse_HT.assign(static_cast<std::size_t>(p.q_heads * p.q_tokens), 0);
  Row row;
  for (std::int64_t head = 0; head < p.q_heads; ++head)
    for (std::int64_t i = 0; i < p.q_tokens; ++i) {
      compute_row(p, head, i, row);
      result.lse_HT[static_cast<std::size_t>(head * p.q_tokens + i)] = row.lse;
      double* out = result.out_THE.data() + (i * p.q_heads + head) * p.v_dim;
      for (std::int64_t j = 0; j < p.k_tokens; ++j) {
        const double probability = row.probability[static_cast<std::size_t>(j)];
        if (row.capped[static_cast<std::size_t>(j)] == -kInfinity) continue;
        add_scaled(probability * keep_of(p, head, i, j), v_row(p, head, j), out, p.v_dim);
      }
    }
  return result;
}

AttentionGradients attention_backward(const AttentionProblem& p, const std::vector<double>& dout_THE) {
  check(p);
  check_size("dout", dout_THE, p.q_tokens * p.q_heads * p.v_dim);
  AttentionGradients g;
  g.dq_THD.assign(p.q_THD.size(), 0);
  g.dk_SGD.assign(p.k_SGD.size(), 0);
  g.dv_SGE.assign(p.v_SGE.size(), 0);
  Row row;
  std::vector<double> dprobability(static_cast<std::size_t>(p.k_tokens));
  for (std::int64_t head = 0; head < p.q_heads; ++head)
    for (std::int64_t i = 0; i < p.q_tokens; ++i) {
      compute_row(p, head, i, row);
      const double* dout = dout_THE.data() + (i * p.q_heads + head) * p.v_dim;
      double* dq = g.dq_THD.data() + (q_row(p, head, i) - p.q_THD.data());
      double delta = 0;  // sum over j of p_j dp_j: what the softmax's normalisation takes back
      for (std::int64_t j = 0; j < p.k_tokens; ++j) {
        const auto n = static_cast<std::size_t>(j);
        if (row.capped[n] == -kInfinity) continue;
        const double keep = keep_of(p, head, i, j);
        double* dv = g.dv_SGE.data() + (v_row(p, head, j) - p.v_SGE.data());
        add_scaled(row.probability[n] * keep, dout, dv, p.v_dim);
        dprobability[n] = keep * dot(dout, v_row(p, head, j), p.v_dim);
        delta += row.probability[n] * dprobability[n];
      }
      for (std::int64_t j = 0; j < p.k_tokens; ++j) {
        const auto n = static_cast<std::size_t>(j);
        if (row.capped[n] == -kInfinity) continue;
        double dscore = row.probability[n] * (dprobability[n] - delta);
        if (p.softcap > 0) dscore *= 1 - std::pow(row.capped[n] / p.softcap, 2);  // tanh' = 1 - tanh^2
        double* dk = g.dk_SGD.data() + (k_row(p, head, j) - p.k_SGD.data());
        add_scaled(dscore * p.scale, k_row(p, head, j), dq, p.qk_dim);
        add_scaled(dscore * p.scale, q_row(p, head, i), dk, p.qk_dim);
      }
    }
  return g;
}

AttentionRow attention_row(const AttentionProblem& p, std::int64_t head, std::int64_t i) {
  check(p);
  AttentionRow stages;
  for (std::int64_t j = 0; j < p.k_tokens; ++j) {
    const double score = p.scale * dot(q_row(p, head, i), k_row(p, head, j), p.qk_dim);
    const bool hidden = p.visible && !p.visible(i, j);
    stages.scaled.push_back(score);
    stages.capped.push_back(softcap(p, score));
    stages.masked.push_back(hidden ? -kInfinity : stages.capped.back() + bias_of(p, head, i, j));
  }
  Row row;
  compute_row(p, head, i, row);
  stages.probability = row.probability;
  stages.lse = row.lse;
  return stages;
}

}  // namespace rondo::reference
