#pragma once
// One decoder layer (RMSNorm, attention, RMSNorm, SwiGLU feed-forward, both added to the residual stream),
// forward and backward, token block by token block: neither [T, F] nor a second [T, C] of normalised inputs
// ever exists (Blockwise Parallel Transformer, arXiv 2305.19370). Attention itself is the caller's: a ring in
// training, a cache in decoding.
//
// Legend: T this device's tokens, B tokens of a block, C width, F feed-forward width, H query heads, G
// key/value heads, D head size. "storage" is the dtype of activations and compute weights; gradients of the
// residual stream are float32.

#include <cstdint>

#include "rondo/attention/block_pool.h"
#include "rondo/core/context.h"
#include "rondo/kernels/kernels.h"
#include "rondo/model/config.h"
#include "rondo/model/packed_weights.h"
#include "rondo/model/parameters.h"

namespace rondo {

/// Scratch of one token block, shared by all layers of a device (Entry::feed_forward_block).
class LayerScratch {
 public:
  LayerScratch(Context& context, const ModelConfig& config, DType storage, std::int64_t block_tokens);

  /// Makes room for the backward functions too.
  void reserve_backward();
  /// Whether gate and up products have their memory here, or are always kept (KeptFeedForward).
  enum class Products { here, elsewhere };
  /// Blocks of at least so many tokens from now on.
  void resize(std::int64_t block_tokens, Products products);
  std::int64_t block_tokens() const { return block_tokens_; }
  DType storage() const { return storage_; }

  Tensor normed(std::int64_t tokens) const { return part(normed_, storage_, tokens, width_); }
  Tensor gate(std::int64_t tokens) const { return part(gate_, storage_, tokens, ffn_); }
  Tensor up(std::int64_t tokens) const { return part(up_, storage_, tokens, ffn_); }
  Tensor act(std::int64_t tokens) const { return part(act_, storage_, tokens, ffn_); }
  Tensor dact(std::int64_t tokens) const { return part(dact_, storage_, tokens, ffn_); }
  Tensor dnormed(std::int64_t tokens) const { return part(dnormed_, DType::f32, tokens, width_); }
  /// `gradient` itself where storage is float32, else its copy in storage.
  ConstTensor in_storage(const ConstTensor& gradient) const;

 private:
  static Tensor part(const Buffer& buffer, DType dtype, std::int64_t tokens, std::int64_t columns) {
    return buffer.tensor(dtype, tokens, 1, columns);
  }
  void allocate();

  Context* context_;
  DType storage_;
  Products products_ = Products::here;
  bool backward_ = false;
  std::int64_t block_tokens_, width_, ffn_, widest_gradient_;
  Buffer normed_, gate_, up_, act_, dact_, dnormed_, converted_;
};

/// What the functions of a layer work with.
struct LayerPass {
  Context& context;
  const ModelConfig& config;
  const LayerScratch& scratch;
  LayerParameters<ConstTensor> weights;  ///< storage
  LayerParameters<Tensor> gradients;     ///< float32, added to; backward functions only
  PackedWeights* packed = nullptr;       ///< null: products read the weights as they lie
};

/// Queries, keys and values of a layer's input; rotary applied to q and k.
struct Projections {
  Tensor q_THD, k_TGD, v_TGD;
};
void project_forward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                     const Projections& out);
/// dx_TC (float32) += the gradient through q, k and v. Turns dq and dk (float32) back in place.
void project_backward(const LayerPass& pass, const ConstTensor& x_TC, const kernels::Rotary& rotary,
                      const Projections& gradients, const Tensor& dx_TC);

/// mid = x + out · Wo^T. mid may be x.
void attention_output_forward(const LayerPass& pass, const ConstTensor& x_TC, const ConstTensor& out_THD,
                              const Tensor& mid_TC);
/// dout (storage) = dmid · Wo; the residual's share of dmid is dx already.
void attention_output_backward(const LayerPass& pass, const ConstTensor& out_THD, const ConstTensor& dmid_TC,
                               const Tensor& dout_THD);

/// Gate and up products that were kept from forward ([T, F], storage), or null data where they are
/// recomputed.
struct KeptFeedForward {
  Tensor gate_TF, up_TF;
};
/// x += feed-forward(x), in place; fills `kept` where it has memory.
void feed_forward_forward(const LayerPass& pass, const Tensor& x_TC, const KeptFeedForward& kept);
/// mid_TC is the layer's residual stream before the feed-forward. dx_TC (float32) holds the gradient after it
/// and gets the gradient before it.
void feed_forward_backward(const LayerPass& pass, const ConstTensor& mid_TC, const KeptFeedForward& kept,
                           const Tensor& dx_TC);

}  // namespace rondo
