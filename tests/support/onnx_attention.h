#pragma once
// ONNX Attention (opset 23 and 24) in the words of the engine, and what of it a band does not express.

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "rondo/core/error.h"
#include "tests/support/onnx.h"

namespace rondo::test {

/// One case. Q and Y keep their layout, [B,T,H*D] or [B,H,T,D]; keys and values are joined with the past ones
/// and lie as the operator's present outputs do: [B,G,S,D] and [B,G,S,E].
struct OnnxAttention {
  std::int64_t batches = 0, q_tokens = 0, k_tokens = 0, past = 0;
  std::int64_t q_heads = 0, kv_heads = 0, qk_dim = 0, v_dim = 0;
  double scale = 1, softcap = 0;
  bool causal = false, heads_first = false;
  std::vector<double> q, present_key, present_value;

  /// Strides of Q (dim D) and Y (dim E) in elements.
  std::int64_t token_stride(std::int64_t dim) const { return heads_first ? dim : q_heads * dim; }
  std::int64_t head_stride(std::int64_t dim) const { return heads_first ? q_tokens * dim : dim; }
  std::int64_t batch_stride(std::int64_t dim) const { return q_heads * q_tokens * dim; }
  /// The largest j - i that is seen: causal is aligned at the top left without a past, shifted by its length
  /// with one.
  std::int64_t last_difference() const { return past; }
};

namespace onnx_detail {

/// Throws unless every input and attribute is one of those the adapter understands.
inline void require_known(const OnnxCase& c, const std::set<std::string>& inputs,
                          const std::set<std::string>& attributes, const char* operation) {
  for (const auto& [name, array] : c.inputs)
    check_argument(inputs.contains(name), operation, "expected no such input, got {}", name);
  for (const auto& item : c.attributes.items())
    check_argument(attributes.contains(item.key()), operation, "expected no such attribute, got {}",
                   item.key());
}

/// Past [B,G,P,dim] and new keys or values, [B,S,G*dim] or [B,G,S,dim], joined to [B,G,P+S,dim].
inline std::vector<double> join(const NpyArray& fresh, const NpyArray* past, std::int64_t heads) {
  const bool heads_first = fresh.rank() == 4;
  const std::int64_t batches = fresh.shape.at(0), tokens = fresh.shape.at(heads_first ? 2 : 1);
  const std::int64_t dim = heads_first ? fresh.shape[3] : fresh.shape.at(2) / heads;
  const std::int64_t past_tokens = past != nullptr ? past->shape.at(2) : 0;
  std::vector<double> joined;
  for (std::int64_t b = 0; b < batches; ++b)
    for (std::int64_t head = 0; head < heads; ++head) {
      if (past != nullptr) {
        const auto old = past->values.begin() + (b * heads + head) * past_tokens * dim;
        joined.insert(joined.end(), old, old + past_tokens * dim);
      }
      for (std::int64_t t = 0; t < tokens; ++t) {
        const std::int64_t row =
            heads_first ? (b * heads + head) * tokens + t : (b * tokens + t) * heads + head;
        joined.insert(joined.end(), fresh.values.begin() + row * dim, fresh.values.begin() + (row + 1) * dim);
      }
    }
  return joined;
}

}  // namespace onnx_detail

/// Throws ArgumentError for inputs and attributes that are not known here.
inline OnnxAttention read_onnx_attention(const OnnxCase& c) {
  onnx_detail::require_known(c, {"Q", "K", "V", "attn_mask", "past_key", "past_value"},
                             {"is_causal", "q_num_heads", "kv_num_heads", "scale", "softcap",
                              "qk_matmul_output_mode", "softmax_precision"},
                             "attention");
  const NpyArray &q = c.inputs.at("Q"), &k = c.inputs.at("K"), &v = c.inputs.at("V");
  OnnxAttention a;
  a.heads_first = q.rank() == 4;
  a.q_heads = a.heads_first ? q.shape[1] : c.integer("q_num_heads", 0);
  a.kv_heads = a.heads_first ? k.shape.at(1) : c.integer("kv_num_heads", 0);
  check_argument(a.q_heads > 0 && a.kv_heads > 0, "attention", "expected numbers of heads, got {} and {}",
                 a.q_heads, a.kv_heads);
  a.batches = q.shape.at(0);
  a.q_tokens = q.shape.at(a.heads_first ? 2 : 1);
  a.qk_dim = a.heads_first ? q.shape[3] : q.shape.at(2) / a.q_heads;
  a.v_dim = a.heads_first ? v.shape.at(3) : v.shape.at(2) / a.kv_heads;
  const NpyArray* past_key = c.has("past_key") ? &c.inputs.at("past_key") : nullptr;
  const NpyArray* past_value = c.has("past_value") ? &c.inputs.at("past_value") : nullptr;
  a.past = past_key != nullptr ? past_key->shape.at(2) : 0;
  a.k_tokens = a.past + k.shape.at(a.heads_first ? 2 : 1);
  a.scale = c.number("scale", 1 / std::sqrt(static_cast<double>(a.qk_dim)));
  a.softcap = c.number("softcap", 0);
  a.causal = c.integer("is_causal", 0) != 0;
  a.q = q.values;
  a.present_key = onnx_detail::join(k, past_key, a.kv_heads);
  a.present_value = onnx_detail::join(v, past_value, a.kv_heads);
  return a;
}

/// What attn_mask, broadcast to [B,H,T,S], adds to the score of one batch: [H,T,S], empty without a mask. A
/// boolean mask hides where false; keys behind the end of the mask are hidden.
inline std::vector<double> onnx_attention_bias(const OnnxCase& c, const OnnxAttention& a,
                                               std::int64_t batch) {
  if (!c.has("attn_mask")) return {};
  const NpyArray& mask = c.inputs.at("attn_mask");
  const auto extent = [&](std::int64_t from_last) {
    return from_last < mask.rank() ? mask.shape[static_cast<std::size_t>(mask.rank() - 1 - from_last)] : 1;
  };
  constexpr double hidden = -std::numeric_limits<double>::infinity();
  std::vector<double> bias;
  for (std::int64_t head = 0; head < a.q_heads; ++head)
    for (std::int64_t i = 0; i < a.q_tokens; ++i)
      for (std::int64_t j = 0; j < a.k_tokens; ++j) {
        if (extent(0) > 1 && j >= extent(0)) {
          bias.push_back(hidden);
          continue;
        }
        const std::int64_t index[] = {j, i, head, batch};
        std::int64_t at = 0;
        for (int axis = 3; axis >= 0; --axis)
          at = at * extent(axis) + std::min(index[axis], extent(axis) - 1);
        const double value = mask.values[static_cast<std::size_t>(at)];
        bias.push_back(mask.dtype != "bool" ? value : value != 0 ? 0 : hidden);
      }
  return bias;
}

/// Throws ArgumentError naming the first thing that the attention kernels do not take.
inline void require_band_attention(const OnnxCase& c) {
  const OnnxAttention a = read_onnx_attention(c);
  check_argument(!c.has("attn_mask"), "attention",
                 "expected a band (causal, window), got an attn_mask input");
  check_argument(!c.wants("qk_matmul_output"), "attention",
                 "expected no output of scores, which are never stored, got qk_matmul_output");
  for (const auto& [name, array] : c.inputs)
    check_argument(array.dtype == "float32", "attention", "expected float32, got {} {}", array.dtype, name);
  for (const std::int64_t dim : {a.qk_dim, a.v_dim})
    check_argument(4 <= dim && dim <= 256, "attention", "expected a head size in 4...256, got {}", dim);
}

}  // namespace rondo::test
