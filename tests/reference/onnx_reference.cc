#include <algorithm>
#include <numeric>

#include "rondo/reference/attention.h"
#include "rondo/reference/layers.h"
#include "tests/reference/onnx_ops.h"
#include "tests/support/onnx_attention.h"

namespace rondo::test {
namespace {

using Values = std::vector<double>;

// [heads, tokens, dim] to [tokens, heads, dim] (and back, with the first two extents exchanged).
Values swap_heads_and_tokens(const double* x, std::int64_t first, std::int64_t second, std::int64_t dim) {
  Values y;
  for (std::int64_t j = 0; j < second; ++j)
    for (std::int64_t i = 0; i < first; ++i)
      y.insert(y.end(), x + (i * second + j) * dim, x + (i * second + j + 1) * dim);
  return y;
}

void append(const Values& x, Values& y) { y.insert(y.end(), x.begin(), x.end()); }

reference::AttentionProblem problem_of(const OnnxCase& c, const OnnxAttention& a, std::int64_t batch) {
  reference::AttentionProblem p;
  p.q_tokens = a.q_tokens, p.k_tokens = a.k_tokens, p.q_heads = a.q_heads, p.kv_heads = a.kv_heads;
  p.qk_dim = a.qk_dim, p.v_dim = a.v_dim, p.scale = a.scale, p.softcap = a.softcap;
  const double* q = a.q.data() + batch * a.batch_stride(a.qk_dim);
  p.q_THD = a.heads_first ? swap_heads_and_tokens(q, a.q_heads, a.q_tokens, a.qk_dim)
                          : Values(q, q + a.batch_stride(a.qk_dim));
  const std::int64_t rows = a.kv_heads * a.k_tokens;
  p.k_SGD =
      swap_heads_and_tokens(a.present_key.data() + batch * rows * a.qk_dim, a.kv_heads, a.k_tokens, a.qk_dim);
  p.v_SGE =
      swap_heads_and_tokens(a.present_value.data() + batch * rows * a.v_dim, a.kv_heads, a.k_tokens, a.v_dim);
  if (a.causal) p.visible = [last = a.last_difference()](auto i, auto j) { return j - i <= last; };
  p.bias = onnx_attention_bias(c, a, batch);
  return p;
}

OnnxOutputs attention(const OnnxCase& c) {
  const OnnxAttention a = read_onnx_attention(c);
  const std::int64_t mode = c.integer("qk_matmul_output_mode", 0);
  OnnxOutputs outputs;
  outputs["present_key"] = a.present_key;
  outputs["present_value"] = a.present_value;
  for (std::int64_t batch = 0; batch < a.batches; ++batch) {
    const reference::AttentionProblem p = problem_of(c, a, batch);
    const Values out_THE = attention_forward(p).out_THE;
    append(a.heads_first ? swap_heads_and_tokens(out_THE.data(), a.q_tokens, a.q_heads, a.v_dim) : out_THE,
           outputs["Y"]);
    for (std::int64_t head = 0; head < a.q_heads; ++head)
      for (std::int64_t i = 0; i < a.q_tokens; ++i) {
        const reference::AttentionRow row = attention_row(p, head, i);
        const Values* const stages[] = {&row.scaled, &row.capped, &row.masked, &row.probability};
        append(*stages[mode], outputs["qk_matmul_output"]);
      }
  }
  return outputs;
}

OnnxOutputs rotary(const OnnxCase& c) {
  const OnnxRotary r = read_onnx_rotary(c);
  const reference::RotaryShape shape{r.tokens, r.heads, r.dim, r.pairs, r.interleaved};
  OnnxOutputs outputs;
  for (std::int64_t batch = 0; batch < r.batches; ++batch) {
    const std::int64_t size = r.tokens * r.heads * r.dim, angles = r.tokens * r.pairs;
    const double* x = c.inputs.at("input").values.data() + batch * size;
    const Values x_THD =
        r.heads_first ? swap_heads_and_tokens(x, r.heads, r.tokens, r.dim) : Values(x, x + size);
    const double *cos = r.cos_BTP.data() + batch * angles, *sin = r.sin_BTP.data() + batch * angles;
    const Values y = rotary_forward(x_THD, {{cos, cos + angles}, {sin, sin + angles}}, shape);
    append(r.heads_first ? swap_heads_and_tokens(y.data(), r.tokens, r.heads, r.dim) : y, outputs["output"]);
  }
  return outputs;
}

OnnxOutputs rms_norm(const OnnxCase& c) {
  const Values& w = c.inputs.at("W").values;
  check_argument(static_cast<std::int64_t>(w.size()) == onnx_norm_columns(c), "rms_norm",
                 "expected a weight of {} elements, got {}", onnx_norm_columns(c), w.size());
  return {{"Y", reference::rms_norm_forward(c.inputs.at("X").values, w, c.number("epsilon", 1e-5))}};
}

OnnxOutputs softmax(const OnnxCase& c, bool logarithm) {
  const NpyArray& x = c.inputs.at("x");
  const std::int64_t axis = c.integer("axis", -1);
  check_argument(axis == -1 || axis == x.rank() - 1, "softmax", "expected the last axis, got {}", axis);
  Values y = reference::log_softmax(x.values, x.shape.back());
  if (!logarithm) std::transform(y.begin(), y.end(), y.begin(), [](double v) { return std::exp(v); });
  return {{"y", y}};
}

OnnxOutputs cross_entropy(const OnnxCase& c) {
  const Values& logits = c.inputs.at("x").values;
  const std::vector<std::int32_t> labels = onnx_labels(c);
  return {{"z", onnx_reduce_losses(c, reference::cross_entropy_forward(logits, labels), labels)},
          {"log_prob", reference::log_softmax(logits, c.inputs.at("x").shape.back())}};
}

}  // namespace

OnnxRotary read_onnx_rotary(const OnnxCase& c) {
  onnx_detail::require_known(c, {"input", "cos_cache", "sin_cache", "position_ids"},
                             {"interleaved", "num_heads", "rotary_embedding_dim"}, "rotary");
  const NpyArray &x = c.inputs.at("input"), &cos = c.inputs.at("cos_cache"), &sin = c.inputs.at("sin_cache");
  OnnxRotary r;
  r.heads_first = x.rank() == 4;
  r.batches = x.shape.at(0);
  r.heads = r.heads_first ? x.shape[1] : c.integer("num_heads", 1);
  r.tokens = x.shape.at(r.heads_first ? 2 : 1);
  r.dim = r.heads_first ? x.shape[3] : x.shape.at(2) / r.heads;
  r.pairs = cos.shape.back();
  r.interleaved = c.integer("interleaved", 0) != 0;
  const std::int64_t turned = c.integer("rotary_embedding_dim", 0);
  check_argument(2 * r.pairs == (turned == 0 ? r.dim : turned), "rotary", "expected {} pairs, got {}",
                 (turned == 0 ? r.dim : turned) / 2, r.pairs);
  for (std::int64_t row = 0; row < r.batches * r.tokens; ++row) {
    const auto position =
        c.has("position_ids")
            ? static_cast<std::int64_t>(c.inputs.at("position_ids").values.at(static_cast<std::size_t>(row)))
            : row;
    for (std::int64_t pair = 0; pair < r.pairs; ++pair) {
      const auto at = static_cast<std::size_t>(position * r.pairs + pair);
      r.cos_BTP.push_back(cos.values.at(at));
      r.sin_BTP.push_back(sin.values.at(at));
    }
  }
  return r;
}

std::vector<std::int32_t> onnx_labels(const OnnxCase& c) {
  onnx_detail::require_known(c, {"x", "y"}, {"reduction", "ignore_index"}, "cross_entropy");
  check_argument(c.inputs.at("x").rank() == 2, "cross_entropy", "expected logits of rank 2, got {}",
                 c.inputs.at("x").rank());
  std::vector<std::int32_t> labels;
  for (const double label : c.inputs.at("y").values) {
    const bool ignored = c.attributes.contains("ignore_index") && label == c.number("ignore_index", 0);
    labels.push_back(ignored ? -1 : static_cast<std::int32_t>(label));
  }
  return labels;
}

std::vector<double> onnx_reduce_losses(const OnnxCase& c, const std::vector<double>& losses,
                                       const std::vector<std::int32_t>& labels) {
  const std::string reduction = c.attributes.value("reduction", "mean");
  if (reduction == "none") return losses;
  const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
  const auto scored = std::count_if(labels.begin(), labels.end(), [](auto label) { return label >= 0; });
  return {reduction == "sum" ? sum : sum / static_cast<double>(scored)};
}

OnnxOutputs run_reference(const OnnxCase& c) {
  if (c.op == "Attention") return attention(c);
  if (c.op == "RotaryEmbedding") return rotary(c);
  if (c.op == "RMSNormalization") return rms_norm(c);
  if (c.op == "SwiGLU")
    return {{"y", reference::swiglu_forward(c.inputs.at("a").values, c.inputs.at("b").values)}};
  if (c.op == "Swish" && c.number("alpha", 1) == 1) {
    const Values& x = c.inputs.at("x").values;
    return {{"y", reference::swiglu_forward(x, Values(x.size(), 1))}};
  }
  if (c.op == "Softmax" || c.op == "LogSoftmax") return softmax(c, c.op == "LogSoftmax");
  if (c.op == "SoftmaxCrossEntropyLoss") return cross_entropy(c);
  argument_error("onnx", "expected an operator that Rondo has, got {}", c.op);
}

}  // namespace rondo::test
