#include "bench/attention_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "bench/data.h"
#include "bench/verify.h"
#include "rondo/reference/attention.h"

namespace rondo::bench {

namespace {

using Part = AttentionWork::Part;
using Tokens = std::vector<std::int64_t>;

// Multiplications of a comparison, a second or so of plain loops.
constexpr double kBudget = 1.5e8;
constexpr std::int64_t kShortSequence = 160;
constexpr std::int64_t kComparedHeads = 4;

Tokens all_tokens(std::int64_t count) {
  Tokens tokens(static_cast<std::size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

/// One head of an input at these tokens.
std::vector<double> input(const AttentionCase& what, AttentionStream stream, std::int64_t head,
                          const Tokens& tokens) {
  const bool of_keys = stream == kKeys || stream == kValues;
  const std::int64_t row = (of_keys ? what.kv_heads : what.heads) * what.head_dim;
  std::vector<double> values;
  for (const std::int64_t token : tokens) {
    const auto part = drawn_values(stream, token * row + head * what.head_dim, what.head_dim, what.dtype);
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

double scale_of(const AttentionCase& what) { return 1 / std::sqrt(static_cast<float>(what.head_dim)); }

/// Some queries of one head over all keys.
reference::AttentionProblem problem_of(const AttentionCase& what, std::int64_t head, const Tokens& queries) {
  const std::int64_t kv_head = head / (what.heads / what.kv_heads);
  const Tokens keys = all_tokens(what.ctx);
  reference::AttentionProblem problem;
  problem.q_tokens = static_cast<std::int64_t>(queries.size());
  problem.k_tokens = what.ctx;
  problem.qk_dim = problem.v_dim = what.head_dim;
  problem.scale = scale_of(what);
  problem.q_THD = input(what, kQueries, head, queries);
  problem.k_SGD = input(what, kKeys, kv_head, keys);
  problem.v_SGE = input(what, kValues, kv_head, keys);
  problem.visible = [mask = what.mask, queries](std::int64_t i, std::int64_t j) {
    return visible(mask, queries[static_cast<std::size_t>(i)], j);
  };
  return problem;
}

struct Errors {
  Comparison out, dq, dk, dv;
  double largest() const { return std::max({out.relative(), dq.relative(), dk.relative(), dv.relative()}); }
};

void compare_queries(const AttentionWork& work, Pass pass, std::int64_t head, const Tokens& queries,
                     Errors& errors) {
  const AttentionCase& what = work.what();
  const reference::AttentionProblem problem = problem_of(what, head, queries);
  errors.out.add(work.rows(Part::out, head, queries), reference::attention_forward(problem).out_THE);
  if (pass == Pass::forward) return;
  const auto dout = input(what, kOutputGradients, head, queries);
  errors.dq.add(work.rows(Part::dq, head, queries), reference::attention_backward(problem, dout).dq_THD);
}

double dot(const double* a, const double* b, std::int64_t n) { return std::inner_product(a, a + n, b, 0.0); }

/// Adds one query head's share to the gradients of these keys: p = exp(s - lse), ds = p (dout·v - dout·out).
void add_key_gradients(const AttentionWork& work, std::int64_t head, const Tokens& keys,
                       std::vector<double>& dk, std::vector<double>& dv) {
  const AttentionCase& what = work.what();
  const Tokens queries = all_tokens(what.ctx);
  const std::int64_t D = what.head_dim, kv_head = head / (what.heads / what.kv_heads);
  const auto q = input(what, kQueries, head, queries), dout = input(what, kOutputGradients, head, queries);
  const auto k = input(what, kKeys, kv_head, keys), v = input(what, kValues, kv_head, keys);
  const auto out = work.rows(Part::out, head, queries), lse = work.lse(head, queries);
  for (std::int64_t i = 0; i < what.ctx; ++i) {
    const double *q_i = &q[static_cast<std::size_t>(i * D)], *dout_i = &dout[static_cast<std::size_t>(i * D)];
    const double delta = dot(dout_i, &out[static_cast<std::size_t>(i * D)], D);
    for (std::size_t n = 0; n < keys.size(); ++n) {
      if (!visible(what.mask, i, keys[n])) continue;
      const auto at = static_cast<std::ptrdiff_t>(n) * D;
      const double score = scale_of(what) * dot(q_i, k.data() + at, D);
      const double p = std::exp(score - lse[static_cast<std::size_t>(i)]);
      const double ds = p * (dot(dout_i, v.data() + at, D) - delta) * scale_of(what);
      for (std::int64_t c = 0; c < D; ++c) {
        dk[static_cast<std::size_t>(at + c)] += ds * q_i[c];
        dv[static_cast<std::size_t>(at + c)] += p * dout_i[c];
      }
    }
  }
}

void compare_keys(const AttentionWork& work, std::int64_t kv_head, const Tokens& keys, Errors& errors) {
  const AttentionCase& what = work.what();
  std::vector<double> dk(keys.size() * static_cast<std::size_t>(what.head_dim)), dv = dk;
  const std::int64_t group = what.heads / what.kv_heads;
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    add_key_gradients(work, head, keys, dk, dv);
  errors.dk.add(work.rows(Part::dk, kv_head, keys), dk);
  errors.dv.add(work.rows(Part::dv, kv_head, keys), dv);
}

double sampled_error(const AttentionWork& work, Pass pass) {
  const AttentionCase& what = work.what();
  const Tokens kv_heads = sampled(what.kv_heads, std::min(what.kv_heads, kComparedHeads));
  const std::int64_t group = what.heads / what.kv_heads;
  const double per_row = 2.0 * static_cast<double>(what.ctx * what.head_dim) *
                         static_cast<double>(static_cast<std::int64_t>(kv_heads.size()) * group);
  const auto rows = static_cast<std::int64_t>(kBudget / per_row);
  Errors errors;
  for (const std::int64_t kv_head : kv_heads) {
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
      compare_queries(work, pass, head, sampled(what.ctx, rows), errors);
    if (pass != Pass::forward) compare_keys(work, kv_head, sampled(what.ctx, rows), errors);
  }
  return errors.largest();
}

/// Every element of a short sequence: the exact reference of all gradients.
double short_error(AttentionCase what) {
  what.ctx = std::min(what.ctx, kShortSequence);
  what.mask.window = std::min(what.mask.window, std::max<std::int64_t>(1, what.ctx / 3));
  AttentionWork work(what);
  work.run(Pass::both, 1);
  const Tokens tokens = all_tokens(what.ctx);
  const std::int64_t group = what.heads / what.kv_heads;
  Errors errors;
  for (const std::int64_t kv_head : sampled(what.kv_heads, std::min(what.kv_heads, kComparedHeads))) {
    std::vector<double> dk, dv;
    for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const auto problem = problem_of(what, head, tokens);
      const auto dout = input(what, kOutputGradients, head, tokens);
      const auto gradients = reference::attention_backward(problem, dout);
      errors.out.add(work.rows(Part::out, head, tokens), reference::attention_forward(problem).out_THE);
      errors.dq.add(work.rows(Part::dq, head, tokens), gradients.dq_THD);
      dk.resize(gradients.dk_SGD.size());
      dv.resize(gradients.dv_SGE.size());
      for (std::size_t n = 0; n < dk.size(); ++n) {
        dk[n] += gradients.dk_SGD[n];
        dv[n] += gradients.dv_SGE[n];
      }
    }
    errors.dk.add(work.rows(Part::dk, kv_head, tokens), dk);
    errors.dv.add(work.rows(Part::dv, kv_head, tokens), dv);
  }
  return errors.largest();
}

}  // namespace

bool visible(const Mask& mask, std::int64_t query, std::int64_t key) {
  if (mask.causal && key > query) return false;
  const std::int64_t ahead = query - key;
  return mask.window == 0 || (ahead < mask.window && -ahead < mask.window);
}

double verified_error(AttentionWork& work, Pass pass) {
  work.run(pass == Pass::forward ? Pass::forward : Pass::both, 1);
  double error = sampled_error(work, pass);
  if (pass != Pass::forward) error = std::max(error, short_error(work.what()));
  require_small(error, work.what().dtype, "attention");
  return error;
}

}  // namespace rondo::bench
