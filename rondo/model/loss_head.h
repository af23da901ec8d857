#pragma once
// The end of the model: final norm, output matrix and cross-entropy, token block by token block, so that [T,
// V] logits never exist. Forward and backward in one pass: a block's logits become their own gradient.
//
// Legend: T tokens, C width, V vocabulary.

#include <cstdint>
#include <span>

#include "rondo/core/context.h"
#include "rondo/model/config.h"
#include "rondo/model/packed_weights.h"
#include "rondo/model/parameters.h"

namespace rondo {

class LossHead {
 public:
  /// Blocks hold at most `block_tokens` tokens, fewer when their logits would pass 16 MiB.
  /// `packed` outlives it.
  LossHead(Context& context, const ModelConfig& config, PackedWeights& packed, DType storage,
           std::int64_t block_tokens);
  void reserve_backward();

  struct Weights {
    ConstTensor final_norm, lm_head;  ///< storage
  };
  struct Gradients {
    Tensor final_norm, lm_head;  ///< float32, added to
  };

  /// losses[t] in nats, 0 where labels[t] is kIgnoreLabel.
  void forward(const Weights& weights, const ConstTensor& x_TC, std::span<const std::int32_t> labels,
               std::span<float> losses);
  struct Training {
    std::span<const std::int32_t> labels;
    float gradient_scale = 1;  ///< 1 / number of scored tokens of the whole step, over all devices
    Tensor dx_TC;              ///< float32, overwritten
  };
  /// Returns the sum of the losses in nats; gradients are those of gradient_scale * sum.
  double forward_backward(const Weights& weights, const Gradients& gradients, const ConstTensor& x_TC,
                          const Training& training);
  /// logits_TV (float32) of few tokens: the last ones of a prompt.
  void logits(const Weights& weights, const ConstTensor& x_TC, const Tensor& logits_TV);

 private:
  Tensor block_logits(const ConstTensor& final_norm, const ReadyWeight& lm_head, const ConstTensor& x_BC,
                      const Tensor& normed);
  Context* context_;
  PackedWeights* packed_;
  DType storage_;
  float epsilon_;
  std::int64_t block_tokens_, width_, vocabulary_;
  Buffer normed_, logits_, dlogits_, dnormed_, losses_;
};

}  // namespace rondo
