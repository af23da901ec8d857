#include "rondo/model/loss_head.h"

#include <algorithm>
#include <array>

#include "rondo/kernels/kernels.h"

namespace rondo {

using kernels::Store;
using kernels::WeightUse;

namespace {
constexpr std::int64_t kMostLogitBytes = 16 << 20;
}

LossHead::LossHead(Context& context, const ModelConfig& config, PackedWeights& packed, DType storage,
                   std::int64_t block_tokens)
    : context_(&context),
      packed_(&packed),
      storage_(storage),
      epsilon_(config.rms_epsilon),
      block_tokens_(std::clamp<std::int64_t>(kMostLogitBytes / (config.vocabulary * 4), 1, block_tokens)),
      width_(config.width),
      vocabulary_(config.vocabulary) {
  normed_ = context.arena.allocate(Entry::loss_block, block_tokens_ * width_ * size_of(storage),
                                   "normalised block");
  logits_ = context.arena.allocate(Entry::loss_block, block_tokens_ * vocabulary_ * 4, "logits block");
  losses_ = context.arena.allocate(Entry::loss_block, block_tokens_ * 4, "losses block");
}

void LossHead::reserve_backward() {
  if (dnormed_.bytes() > 0) return;
  dnormed_ =
      context_->arena.allocate(Entry::loss_block, block_tokens_ * width_ * 4, "normalised gradient block");
  if (storage_ != DType::f32) {
    dlogits_ = context_->arena.allocate(Entry::loss_block, block_tokens_ * vocabulary_ * size_of(storage_),
                                        "rounded gradient of logits");
  }
}

Tensor LossHead::block_logits(const ConstTensor& final_norm, const ReadyWeight& lm_head,
                              const ConstTensor& x_BC, const Tensor& normed) {
  kernels::rms_norm_forward(context_->stream, x_BC, final_norm, epsilon_, normed);
  const Tensor logits = logits_.tensor(DType::f32, x_BC.tokens, 1, vocabulary_);
  forward_product(context_->stream, normed, lm_head, logits, Store::overwrite);
  return logits;
}

void LossHead::forward(const Weights& weights, const ConstTensor& x_TC, std::span<const std::int32_t> labels,
                       std::span<float> losses) {
  const std::array<PackedWeights::Request, 1> requests{{{weights.lm_head, WeightUse::forward}}};
  std::array<ReadyWeight, 1> lm_head;
  packed_->prepare(requests, x_TC.tokens, lm_head);
  for (std::int64_t begin = 0; begin < x_TC.tokens; begin += block_tokens_) {
    const Range block{begin, std::min(x_TC.tokens, begin + block_tokens_)};
    const auto first = static_cast<std::size_t>(begin), count = static_cast<std::size_t>(block.size());
    const Tensor normed = normed_.tensor(storage_, block.size(), 1, width_);
    const Tensor logits = block_logits(weights.final_norm, lm_head[0], x_TC.slice(block), normed);
    kernels::cross_entropy(context_->stream, logits, labels.subspan(first, count), 0,
                           losses.subspan(first, count));
  }
}

double LossHead::forward_backward(const Weights& weights, const Gradients& gradients, const ConstTensor& x_TC,
                                  const Training& training) {
  Stream& stream = context_->stream;
  const std::array<PackedWeights::Request, 2> requests{
      {{weights.lm_head, WeightUse::forward}, {weights.lm_head, WeightUse::backward_input}}};
  std::array<ReadyWeight, 2> lm_head;
  packed_->prepare(requests, x_TC.tokens, lm_head);
  double sum = 0;
  for (std::int64_t begin = 0; begin < x_TC.tokens; begin += block_tokens_) {
    const Range block{begin, std::min(x_TC.tokens, begin + block_tokens_)};
    const auto count = static_cast<std::size_t>(block.size());
    const Tensor normed = normed_.tensor(storage_, block.size(), 1, width_);
    const Tensor logits = block_logits(weights.final_norm, lm_head[0], x_TC.slice(block), normed);
    const std::span<float> losses(losses_.as<float>(), count);
    kernels::cross_entropy(stream, logits, training.labels.subspan(static_cast<std::size_t>(begin), count),
                           training.gradient_scale, losses);
    for (const float loss : losses) sum += loss;

    ConstTensor dlogits = logits;
    if (storage_ != DType::f32) {
      const Tensor rounded = dlogits_.tensor(storage_, block.size(), 1, vocabulary_);
      kernels::copy(stream, logits, rounded);
      dlogits = rounded;
    }
    const Tensor dnormed = dnormed_.tensor(DType::f32, block.size(), 1, width_);
    kernels::linear_backward_weight(stream, dlogits, normed, gradients.lm_head);
    backward_product(stream, dlogits, lm_head[1], dnormed, Store::overwrite);
    kernels::rms_norm_backward(stream, x_TC.slice(block), weights.final_norm, epsilon_, dnormed,
                               training.dx_TC.slice(block), Store::overwrite, gradients.final_norm);
  }
  return sum;
}

void LossHead::logits(const Weights& weights, const ConstTensor& x_TC, const Tensor& logits_TV) {
  for (std::int64_t begin = 0; begin < x_TC.tokens; begin += block_tokens_) {
    const Range block{begin, std::min(x_TC.tokens, begin + block_tokens_)};
    const Tensor normed = normed_.tensor(storage_, block.size(), 1, width_);
    kernels::rms_norm_forward(context_->stream, x_TC.slice(block), weights.final_norm, epsilon_, normed);
    kernels::linear_forward(context_->stream, normed, weights.lm_head, logits_TV.slice(block),
                            Store::overwrite);
  }
}

}  // namespace rondo
