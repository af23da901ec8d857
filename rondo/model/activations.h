#pragma once
// The tensors of one device's pass, sized by its share of the tokens. docs/memory.md lists them.

#include <vector>

#include "rondo/attention/block_pool.h"
#include "rondo/model/layer.h"
#include "rondo/model/transformer.h"

namespace rondo {

/// Tokens change from sequence to sequence, capacities only grow.
struct Transformer::Activations {
  Activations(Context& context, const ModelConfig& config, const TransformerOptions& options)
      : context_(context), config_(config), options_(options) {}

  /// `capacity` is the tokens that memory must hold in which blocks of other devices travel: those of the
  /// largest shard.
  void resize(std::int64_t tokens, std::int64_t capacity, bool training);
  /// Memory for what is told and said of each token alone.
  void resize_tokens(std::int64_t tokens);

  /// Input of layer l; of layer `layers`: the last layer's output. Without training all are one tensor.
  Tensor x(std::int64_t layer) const;
  /// The residual stream between attention and feed-forward.
  Tensor mid(std::int64_t layer) const;
  Projections projections(std::int64_t layer) const;
  /// Without training it takes the queries' place, as nothing reads them once it is complete.
  Tensor out(std::int64_t layer) const;
  /// Null without training.
  float* lse(std::int64_t layer) const;
  // Of AttentionForm::vanilla alone, float32: [H, T, T], their gradient, and a head of bfloat16 widened.
  float* probabilities(std::int64_t layer) const { return p_[slot(layer, keeps_all())].as<float>(); }
  float* dscores() const { return dscores_.as<float>(); }
  float* widened() const { return widened_.as<float>(); }
  KeptFeedForward kept_feed_forward(std::int64_t layer) const;
  Tensor dx() const { return dx_.tensor(DType::f32, tokens_, 1, config_.width); }
  Tensor dout() const { return heads(dout_, options_.dtype, config_.q_heads, tokens_); }
  Projections gradients() const;
  /// The gradients' key/value memory, lent to the forward ring while it is not in use.
  KeyValues lent() const;
  /// What nobody reads any more when the layer's attention goes backward, its output but for delta: other
  /// devices' gradients travel in it.
  std::vector<IdleMemory> idle(std::int64_t layer) const;
  /// The layer's own keys and values in full capacity.
  KeyValues key_value_memory(std::int64_t layer) const;
  std::int64_t tokens() const { return tokens_; }
  /// Whether the results of all of a layer's products have memory of their own.
  bool keeps_all() const { return training_ && options_.remat == Remat::none; }
  std::span<TokenPlace> places() const {
    return {places_.as<TokenPlace>(), static_cast<std::size_t>(tokens_)};
  }
  TokenMemory token_memory() const {
    const auto count = static_cast<std::size_t>(tokens_);
    return {
        {ids_.as<std::int32_t>(), count}, {labels_.as<std::int32_t>(), count}, {losses_.as<float>(), count}};
  }
  Buffer cos, sin;

 private:
  void grow(Buffer& buffer, Entry entry, std::int64_t bytes, const char* what);
  Tensor heads(const Buffer& buffer, DType dtype, std::int64_t count, std::int64_t tokens) const {
    return buffer.tensor(dtype, tokens, count, config_.head_dim);
  }
  bool keeps_attention() const { return training_ && options_.remat != Remat::layer; }
  std::size_t slot(std::int64_t layer, bool kept) const { return kept ? static_cast<std::size_t>(layer) : 0; }

  Context& context_;
  const ModelConfig& config_;
  TransformerOptions options_;
  bool training_ = false;
  std::int64_t tokens_ = 0, capacity_ = 0;
  std::vector<Buffer> x_, q_, k_, v_, out_, lse_, p_, mid_, gate_, up_;
  Buffer dx_, dout_, dq_, dk_, dv_, dscores_, widened_;
  Buffer places_, ids_, labels_, losses_;
};

}  // namespace rondo
