#include "rondo/kernels/kernels.h"
#include "tests/reference/onnx_ops.h"
#include "tests/support/onnx_attention.h"

namespace rondo::test {
namespace {

using Floats = std::vector<float>;

Floats to_floats(const std::vector<double>& values) { return {values.begin(), values.end()}; }
std::vector<double> to_doubles(const Floats& values) { return {values.begin(), values.end()}; }

Tensor matrix(Floats& values, std::int64_t columns) {
  return view(values.data(), DType::f32, static_cast<std::int64_t>(values.size()) / columns, 1, columns);
}

void require_float32(const OnnxCase& c, const char* operation) {
  for (const auto& [name, array] : c.inputs)
    check_argument(array.dtype == "float32" || array.dtype == "int64", operation,
                   "expected float32, got {} {}", array.dtype, name);
}

// [G,S,dim] of one batch, seen as [S,G,dim].
ConstTensor present(const Floats& values, const OnnxAttention& a, std::int64_t batch, std::int64_t dim) {
  return {values.data() + batch * a.kv_heads * a.k_tokens * dim,
          DType::f32,
          a.k_tokens,
          a.kv_heads,
          dim,
          dim,
          a.k_tokens * dim};
}

OnnxOutputs attention(Stream& stream, const OnnxCase& c) {
  require_band_attention(c);
  const OnnxAttention a = read_onnx_attention(c);
  const Floats q = to_floats(a.q), k = to_floats(a.present_key), v = to_floats(a.present_value);
  Floats y(static_cast<std::size_t>(a.batches * a.batch_stride(a.v_dim)));
  Floats memory(static_cast<std::size_t>(kernels::attention_state_elements(a.q_tokens, a.q_heads, a.v_dim)));
  const kernels::AttentionState state{memory.data(), a.q_tokens, a.q_heads, a.v_dim};
  Tile tile;
  tile.q = {0, a.q_tokens}, tile.k = {0, a.k_tokens};
  if (a.causal) tile.band.hi = a.last_difference();
  for (std::int64_t batch = 0; batch < a.batches; ++batch) {
    const ConstTensor q_THD{q.data() + batch * a.batch_stride(a.qk_dim),
                            DType::f32,
                            a.q_tokens,
                            a.q_heads,
                            a.qk_dim,
                            a.token_stride(a.qk_dim),
                            a.head_stride(a.qk_dim)};
    const Tensor y_THE{y.data() + batch * a.batch_stride(a.v_dim),
                       DType::f32,
                       a.q_tokens,
                       a.q_heads,
                       a.v_dim,
                       a.token_stride(a.v_dim),
                       a.head_stride(a.v_dim)};
    kernels::attention_state_clear(stream, state);
    kernels::AttentionForward forward;
    forward.q_THD = q_THD;
    forward.k_SGD = present(k, a, batch, a.qk_dim);
    forward.v_SGE = present(v, a, batch, a.v_dim);
    forward.tiles = {&tile, 1};
    forward.params.scale = static_cast<float>(a.scale);
    forward.params.softcap = static_cast<float>(a.softcap);
    forward.state = state;
    kernels::attention_forward(stream, forward);
    kernels::attention_state_finish(stream, state, y_THE, nullptr);
  }
  return {{"Y", to_doubles(y)}, {"present_key", a.present_key}, {"present_value", a.present_value}};
}

OnnxOutputs rotary(Stream& stream, const OnnxCase& c) {
  const OnnxRotary r = read_onnx_rotary(c);
  require_float32(c, "rotary");
  Floats x = to_floats(c.inputs.at("input").values);
  const Floats cos = to_floats(r.cos_BTP), sin = to_floats(r.sin_BTP);
  for (std::int64_t batch = 0; batch < r.batches; ++batch) {
    const std::int64_t token_stride = r.heads_first ? r.dim : r.heads * r.dim;
    const std::int64_t head_stride = r.heads_first ? r.tokens * r.dim : r.dim;
    const Tensor x_THD{x.data() + batch * r.tokens * r.heads * r.dim,
                       DType::f32,
                       r.tokens,
                       r.heads,
                       r.dim,
                       token_stride,
                       head_stride};
    kernels::rotary(
        stream, x_THD,
        {.cos_TP = cos.data() + batch * r.tokens * r.pairs,
         .sin_TP = sin.data() + batch * r.tokens * r.pairs,
         .pairs = r.pairs,
         .layout = r.interleaved ? kernels::RotaryPairs::interleaved : kernels::RotaryPairs::halves},
        kernels::RotaryDirection::forward);
  }
  return {{"output", to_doubles(x)}};
}

OnnxOutputs rms_norm(Stream& stream, const OnnxCase& c) {
  require_float32(c, "rms_norm");
  const std::int64_t columns = onnx_norm_columns(c);
  Floats x = to_floats(c.inputs.at("X").values), w = to_floats(c.inputs.at("W").values), y(x.size());
  check_argument(static_cast<std::int64_t>(w.size()) == columns, "rms_norm",
                 "expected a weight of {} elements, got {}", columns, w.size());
  kernels::rms_norm_forward(stream, matrix(x, columns), matrix(w, columns),
                            static_cast<float>(c.number("epsilon", 1e-5)), matrix(y, columns));
  return {{"Y", to_doubles(y)}};
}

OnnxOutputs swiglu(Stream& stream, const OnnxCase& c) {
  require_float32(c, "swiglu");
  const std::int64_t columns = c.inputs.at("a").shape.back();
  Floats a = to_floats(c.inputs.at("a").values), b = to_floats(c.inputs.at("b").values), y(a.size());
  kernels::swiglu_forward(stream, matrix(a, columns), matrix(b, columns), matrix(y, columns));
  return {{"y", to_doubles(y)}};
}

OnnxOutputs cross_entropy(Stream& stream, const OnnxCase& c) {
  require_float32(c, "cross_entropy");
  check_argument(!c.wants("log_prob"), "cross_entropy", "expected no output of probabilities, got log_prob");
  const std::vector<std::int32_t> labels = onnx_labels(c);
  Floats logits = to_floats(c.inputs.at("x").values), losses(labels.size());
  kernels::cross_entropy(stream, matrix(logits, c.inputs.at("x").shape.back()), labels, 0, losses);
  return {{"z", onnx_reduce_losses(c, to_doubles(losses), labels)}};
}

}  // namespace

OnnxOutputs run_kernels(Stream& stream, const OnnxCase& c) {
  if (c.op == "Attention") return attention(stream, c);
  if (c.op == "RotaryEmbedding") return rotary(stream, c);
  if (c.op == "RMSNormalization") return rms_norm(stream, c);
  if (c.op == "SwiGLU") return swiglu(stream, c);
  if (c.op == "SoftmaxCrossEntropyLoss") return cross_entropy(stream, c);
  argument_error("onnx", "expected an operator that the kernels have, got {}", c.op);
}

}  // namespace rondo::test
