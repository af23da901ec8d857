#include "rondo/model/layer.h"

#include <algorithm>

namespace rondo {

using kernels::Store;

LayerScratch::LayerScratch(Context& context, const ModelConfig& config, DType storage,
                           std::int64_t block_tokens)
    : context_(&context),
      storage_(storage),
      block_tokens_(block_tokens),
      width_(config.width),
      ffn_(config.ffn),
      widest_gradient_(std::max(config.width, config.q_heads * config.head_dim)) {
  check_argument(block_tokens >= 1, "layer", "expected blocks of at least 1 token, got {}", block_tokens);
  const auto allocate = [&](Buffer& buffer, std::int64_t columns, const char* what) {
    buffer =
        context.arena.allocate(Entry::feed_forward_block, block_tokens * columns * size_of(storage), what);
  };
  allocate(normed_, width_, "normalised block");
  allocate(gate_, ffn_, "gate block");
  allocate(up_, ffn_, "up block");
  allocate(act_, ffn_, "activation block");
}

void LayerScratch::reserve_backward() {
  if (dact_.bytes() > 0) return;
  const auto bytes = [&](std::int64_t columns, DType dtype) {
    return block_tokens_ * columns * size_of(dtype);
  };
  Arena& arena = context_->arena;
  dact_ = arena.allocate(Entry::feed_forward_block, bytes(ffn_, storage_), "activation gradient block");
  dnormed_ =
      arena.allocate(Entry::feed_forward_block, bytes(width_, DType::f32), "normalised gradient block");
  if (storage_ != DType::f32) {
    converted_ = arena.allocate(Entry::feed_forward_block, bytes(widest_gradient_, storage_),
                                "rounded gradient block");
  }
}

ConstTensor LayerScratch::in_storage(const ConstTensor& gradient) const {
  if (gradient.dtype == storage_) return gradient;
  const Tensor rounded = converted_.tensor(storage_, gradient.tokens, gradient.heads, gradient.dim);
  kernels::copy(context_->stream, gradient, rounded);
  return rounded;
}

namespace {

/// Calls body(range) for each block of tokens; the cut depends on the shape alone.
template <class Body>
void for_each_block(std::int64_t tokens, std::int64_t block_tokens, const Body& body) {
  for (std::int64_t begin = 0; begin < tokens; begin += block_tokens)
    body(Range{begin, std::min(tokens, begin + block_tokens)});
}

}  // namespace

// ---- Queries, keys and values ----

void project_forward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                     const Projections& out) {
  Stream& stream = pass.context.stream;
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor normed = pass.scratch.normed(block.size());
    kernels::rms_norm_forward(stream, x_TC.slice(block), pass.weights.input_norm, pass.config.rms_epsilon,
                              normed);
    const auto project = [&](const ConstTensor& weight, const Tensor& into) {
      kernels::linear_forward(stream, normed, weight, into.slice(block).as_matrix(), Store::overwrite);
    };
    project(pass.weights.q, out.q_THD);
    project(pass.weights.k, out.k_TGD);
    project(pass.weights.v, out.v_TGD);
  });
  kernels::rotary(stream, out.q_THD, rotary, kernels::RotaryDirection::forward);
  kernels::rotary(stream, out.k_TGD, rotary, kernels::RotaryDirection::forward);
}

void project_backward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                      const Projections& gradients, const Tensor& dx_TC) {
  Stream& stream = pass.context.stream;
  kernels::rotary(stream, gradients.q_THD, rotary, kernels::RotaryDirection::backward);
  kernels::rotary(stream, gradients.k_TGD, rotary, kernels::RotaryDirection::backward);
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor normed = pass.scratch.normed(block.size());
    const Tensor dnormed = pass.scratch.dnormed(block.size());
    kernels::rms_norm_forward(stream, x_TC.slice(block), pass.weights.input_norm, pass.config.rms_epsilon,
                              normed);
    const auto project = [&](const Tensor& gradient, const ConstTensor& weight, const Tensor& dweight,
                             Store store) {
      const ConstTensor dy = pass.scratch.in_storage(ConstTensor(gradient.slice(block)).as_matrix());
      kernels::linear_backward_weight(stream, dy, normed, dweight);
      kernels::linear_backward_input(stream, dy, weight, dnormed, store);
    };
    project(gradients.q_THD, pass.weights.q, pass.gradients.q, Store::overwrite);
    project(gradients.k_TGD, pass.weights.k, pass.gradients.k, Store::accumulate);
    project(gradients.v_TGD, pass.weights.v, pass.gradients.v, Store::accumulate);
    kernels::rms_norm_backward(stream, x_TC.slice(block), pass.weights.input_norm, pass.config.rms_epsilon,
                               dnormed, dx_TC.slice(block), Store::accumulate, pass.gradients.input_norm);
  });
}

// ---- Attention output ----

void attention_output_forward(const LayerPass& pass, const ConstTensor& x_TC, const ConstTensor& out_THD,
                              const Tensor& mid_TC) {
  Stream& stream = pass.context.stream;
  if (mid_TC.data != x_TC.data) kernels::copy(stream, x_TC, mid_TC);
  kernels::linear_forward(stream, out_THD.as_matrix(), pass.weights.o, mid_TC, Store::accumulate);
}

void attention_output_backward(const LayerPass& pass, const ConstTensor& out_THD, const ConstTensor& dmid_TC,
                               const Tensor& dout_THD) {
  Stream& stream = pass.context.stream;
  for_each_block(dmid_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const ConstTensor dmid = pass.scratch.in_storage(dmid_TC.slice(block));
    kernels::linear_backward_weight(stream, dmid, out_THD.slice(block).as_matrix(), pass.gradients.o);
    kernels::linear_backward_input(stream, dmid, pass.weights.o, dout_THD.slice(block).as_matrix(),
                                   Store::overwrite);
  });
}

// ---- Feed-forward ----

namespace {

/// A block's gate and up products: where they are kept, else in scratch.
struct GateUp {
  Tensor gate, up;
};
GateUp gate_up(const LayerPass& pass, const KeptFeedForward& kept, Range block) {
  if (kept.gate_TF.data != nullptr) return {kept.gate_TF.slice(block), kept.up_TF.slice(block)};
  return {pass.scratch.gate(block.size()), pass.scratch.up(block.size())};
}

void compute_gate_up(const LayerPass& pass, const ConstTensor& normed, const GateUp& into) {
  kernels::linear_forward(pass.context.stream, normed, pass.weights.gate, into.gate, Store::overwrite);
  kernels::linear_forward(pass.context.stream, normed, pass.weights.up, into.up, Store::overwrite);
}

}  // namespace

void feed_forward_forward(const LayerPass& pass, const Tensor& x_TC, const KeptFeedForward& kept) {
  Stream& stream = pass.context.stream;
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor x = x_TC.slice(block);
    const Tensor normed = pass.scratch.normed(block.size()), act = pass.scratch.act(block.size());
    kernels::rms_norm_forward(stream, x, pass.weights.post_norm, pass.config.rms_epsilon, normed);
    const GateUp products = gate_up(pass, kept, block);
    compute_gate_up(pass, normed, products);
    kernels::swiglu_forward(stream, products.gate, products.up, act);
    kernels::linear_forward(stream, act, pass.weights.down, x, Store::accumulate);
  });
}

void feed_forward_backward(const LayerPass& pass, const ConstTensor& mid_TC, const KeptFeedForward& kept,
                           const Tensor& dx_TC) {
  Stream& stream = pass.context.stream;
  for_each_block(mid_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const ConstTensor mid = mid_TC.slice(block);
    const Tensor normed = pass.scratch.normed(block.size()), act = pass.scratch.act(block.size());
    const Tensor dact = pass.scratch.dact(block.size()), dnormed = pass.scratch.dnormed(block.size());
    kernels::rms_norm_forward(stream, mid, pass.weights.post_norm, pass.config.rms_epsilon, normed);
    const GateUp products = gate_up(pass, kept, block);
    if (kept.gate_TF.data == nullptr) compute_gate_up(pass, normed, products);
    kernels::swiglu_forward(stream, products.gate, products.up, act);

    const ConstTensor dy = pass.scratch.in_storage(dx_TC.slice(block));
    kernels::linear_backward_weight(stream, dy, act, pass.gradients.down);
    kernels::linear_backward_input(stream, dy, pass.weights.down, dact, Store::overwrite);
    kernels::swiglu_backward(stream, products.gate, products.up, dact, products.gate, products.up);
    kernels::linear_backward_weight(stream, products.gate, normed, pass.gradients.gate);
    kernels::linear_backward_weight(stream, products.up, normed, pass.gradients.up);
    kernels::linear_backward_input(stream, products.gate, pass.weights.gate, dnormed, Store::overwrite);
    kernels::linear_backward_input(stream, products.up, pass.weights.up, dnormed, Store::accumulate);
    kernels::rms_norm_backward(stream, mid, pass.weights.post_norm, pass.config.rms_epsilon, dnormed,
                               dx_TC.slice(block), Store::accumulate, pass.gradients.post_norm);
  });
}

}  // namespace rondo
