#include "rondo/model/layer.h"

#include <algorithm>
#include <array>

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
  allocate();
}

void LayerScratch::reserve_backward() {
  backward_ = true;
  allocate();
}

void LayerScratch::resize(std::int64_t block_tokens, Products products) {
  block_tokens_ = std::max(block_tokens_, block_tokens);
  products_ = products;
  allocate();
}

void LayerScratch::allocate() {
  const auto grow = [&](Buffer& buffer, std::int64_t columns, DType dtype, const char* what) {
    const std::int64_t bytes = block_tokens_ * columns * size_of(dtype);
    if (buffer.bytes() >= bytes) return;
    buffer = Buffer();
    buffer = context_->arena.allocate(Entry::feed_forward_block, bytes, what);
  };
  grow(normed_, width_, storage_, "normalised block");
  if (products_ == Products::here) {
    grow(gate_, ffn_, storage_, "gate block");
    grow(up_, ffn_, storage_, "up block");
  } else {
    gate_ = Buffer(), up_ = Buffer();
  }
  grow(act_, ffn_, storage_, "activation block");
  if (!backward_) return;
  grow(dact_, ffn_, storage_, "activation gradient block");
  grow(dnormed_, width_, DType::f32, "normalised gradient block");
  if (storage_ != DType::f32) grow(converted_, widest_gradient_, storage_, "rounded gradient block");
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

constexpr auto kForward = kernels::WeightUse::forward, kBackward = kernels::WeightUse::backward_input;
using Request = PackedWeights::Request;

/// The weights of a function that works on `tokens` tokens.
void make_ready(const LayerPass& pass, std::int64_t tokens, std::span<const Request> requests,
                std::span<ReadyWeight> weights) {
  if (pass.packed != nullptr) return pass.packed->prepare(requests, tokens, weights);
  for (std::size_t n = 0; n < requests.size(); ++n) weights[n] = {.w_NK = requests[n].w_NK};
}
template <std::size_t count>
std::array<ReadyWeight, count> ready(const LayerPass& pass, std::int64_t tokens,
                                     const std::array<Request, count>& requests) {
  std::array<ReadyWeight, count> weights;
  make_ready(pass, tokens, requests, weights);
  return weights;
}

}  // namespace

// ---- Queries, keys and values ----

void project_forward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                     const Projections& out) {
  Stream& stream = pass.context.stream;
  const LayerParameters<ConstTensor>& w = pass.weights;
  const auto [q, k, v] =
      ready<3>(pass, x_TC.tokens, {Request{w.q, kForward}, {w.k, kForward}, {w.v, kForward}});
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor normed = pass.scratch.normed(block.size());
    kernels::rms_norm_forward(stream, x_TC.slice(block), w.input_norm, pass.config.rms_epsilon, normed);
    forward_product(stream, normed, q, out.q_THD.slice(block).as_matrix(), Store::overwrite);
    forward_product(stream, normed, k, out.k_TGD.slice(block).as_matrix(), Store::overwrite);
    forward_product(stream, normed, v, out.v_TGD.slice(block).as_matrix(), Store::overwrite);
  });
  kernels::rotary(stream, out.q_THD, rotary, kernels::RotaryDirection::forward);
  kernels::rotary(stream, out.k_TGD, rotary, kernels::RotaryDirection::forward);
}

void project_backward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                      const Projections& gradients, const Tensor& dx_TC) {
  Stream& stream = pass.context.stream;
  kernels::rotary(stream, gradients.q_THD, rotary, kernels::RotaryDirection::backward);
  kernels::rotary(stream, gradients.k_TGD, rotary, kernels::RotaryDirection::backward);
  const LayerParameters<ConstTensor>& w = pass.weights;
  const auto [q, k, v] =
      ready<3>(pass, x_TC.tokens, {Request{w.q, kBackward}, {w.k, kBackward}, {w.v, kBackward}});
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor normed = pass.scratch.normed(block.size());
    const Tensor dnormed = pass.scratch.dnormed(block.size());
    kernels::rms_norm_forward(stream, x_TC.slice(block), pass.weights.input_norm, pass.config.rms_epsilon,
                              normed);
    const auto project = [&](const Tensor& gradient, const ReadyWeight& weight, const Tensor& dweight,
                             Store store) {
      const ConstTensor dy = pass.scratch.in_storage(ConstTensor(gradient.slice(block)).as_matrix());
      kernels::linear_backward_weight(stream, dy, normed, dweight);
      backward_product(stream, dy, weight, dnormed, store);
    };
    project(gradients.q_THD, q, pass.gradients.q, Store::overwrite);
    project(gradients.k_TGD, k, pass.gradients.k, Store::accumulate);
    project(gradients.v_TGD, v, pass.gradients.v, Store::accumulate);
    kernels::rms_norm_backward(stream, x_TC.slice(block), pass.weights.input_norm, pass.config.rms_epsilon,
                               dnormed, dx_TC.slice(block), Store::accumulate, pass.gradients.input_norm);
  });
}

// ---- Attention output ----

void attention_output_forward(const LayerPass& pass, const ConstTensor& x_TC, const ConstTensor& out_THD,
                              const Tensor& mid_TC) {
  Stream& stream = pass.context.stream;
  if (mid_TC.data != x_TC.data) kernels::copy(stream, x_TC, mid_TC);
  const auto [o] = ready<1>(pass, x_TC.tokens, {Request{pass.weights.o, kForward}});
  forward_product(stream, out_THD.as_matrix(), o, mid_TC, Store::accumulate);
}

void attention_output_backward(const LayerPass& pass, const ConstTensor& out_THD, const ConstTensor& dmid_TC,
                               const Tensor& dout_THD) {
  Stream& stream = pass.context.stream;
  const auto [o] = ready<1>(pass, dmid_TC.tokens, {Request{pass.weights.o, kBackward}});
  for_each_block(dmid_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const ConstTensor dmid = pass.scratch.in_storage(dmid_TC.slice(block));
    kernels::linear_backward_weight(stream, dmid, out_THD.slice(block).as_matrix(), pass.gradients.o);
    backward_product(stream, dmid, o, dout_THD.slice(block).as_matrix(), Store::overwrite);
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

}  // namespace

void feed_forward_forward(const LayerPass& pass, const Tensor& x_TC, const KeptFeedForward& kept) {
  Stream& stream = pass.context.stream;
  const LayerParameters<ConstTensor>& w = pass.weights;
  const auto [gate, up, down] =
      ready<3>(pass, x_TC.tokens, {Request{w.gate, kForward}, {w.up, kForward}, {w.down, kForward}});
  for_each_block(x_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const Tensor x = x_TC.slice(block);
    const Tensor normed = pass.scratch.normed(block.size()), act = pass.scratch.act(block.size());
    kernels::rms_norm_forward(stream, x, pass.weights.post_norm, pass.config.rms_epsilon, normed);
    const GateUp products = gate_up(pass, kept, block);
    forward_product(stream, normed, gate, products.gate, Store::overwrite);
    forward_product(stream, normed, up, products.up, Store::overwrite);
    kernels::swiglu_forward(stream, products.gate, products.up, act);
    forward_product(stream, act, down, x, Store::accumulate);
  });
}

void feed_forward_backward(const LayerPass& pass, const ConstTensor& mid_TC, const KeptFeedForward& kept,
                           const Tensor& dx_TC) {
  Stream& stream = pass.context.stream;
  const LayerParameters<ConstTensor>& w = pass.weights;
  const LayerParameters<Tensor>& dw = pass.gradients;
  const bool recomputes = kept.gate_TF.data == nullptr;
  const std::array<Request, 5> requests{
      {{w.gate, kBackward}, {w.up, kBackward}, {w.down, kBackward}, {w.gate, kForward}, {w.up, kForward}}};
  std::array<ReadyWeight, 5> weights;
  make_ready(pass, mid_TC.tokens, std::span(requests).first(recomputes ? 5 : 3), weights);
  const auto& [gate, up, down, gate_forward, up_forward] = weights;
  for_each_block(mid_TC.tokens, pass.scratch.block_tokens(), [&](Range block) {
    const ConstTensor mid = mid_TC.slice(block);
    const Tensor normed = pass.scratch.normed(block.size()), act = pass.scratch.act(block.size());
    const Tensor dact = pass.scratch.dact(block.size()), dnormed = pass.scratch.dnormed(block.size());
    kernels::rms_norm_forward(stream, mid, w.post_norm, pass.config.rms_epsilon, normed);
    const GateUp products = gate_up(pass, kept, block);
    if (recomputes) {
      forward_product(stream, normed, gate_forward, products.gate, Store::overwrite);
      forward_product(stream, normed, up_forward, products.up, Store::overwrite);
    }
    const ConstTensor dy = pass.scratch.in_storage(dx_TC.slice(block));
    backward_product(stream, dy, down, dact, Store::overwrite);
    kernels::swiglu_backward(stream, products.gate, products.up, dact, {products.gate, products.up, act});
    kernels::linear_backward_weight(stream, dy, act, dw.down);
    kernels::linear_backward_weight(stream, products.gate, normed, dw.gate);
    kernels::linear_backward_weight(stream, products.up, normed, dw.up);
    backward_product(stream, products.gate, gate, dnormed, Store::overwrite);
    backward_product(stream, products.up, up, dnormed, Store::accumulate);
    kernels::rms_norm_backward(stream, mid, w.post_norm, pass.config.rms_epsilon, dnormed, dx_TC.slice(block),
                               Store::accumulate, dw.post_norm);
  });
}

}  // namespace rondo
