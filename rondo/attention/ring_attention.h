#pragma once
// Exact attention over a sequence that is cut over a ring of devices: forward and backward.
//
// Legend: T this device's tokens, H query heads, G key/value heads, D query and key size, E value size.

#include <cstdint>
#include <string_view>
#include <vector>

#include "rondo/attention/global_block.h"
#include "rondo/attention/ring_loop.h"
#include "rondo/kernels/kernels.h"

namespace rondo {

struct AttentionShape {
  std::int64_t q_heads = 1, kv_heads = 1, qk_dim = 0, v_dim = 0;
  DType dtype = DType::f32;  ///< of queries, keys, values and outputs
};

/// One device's part of a ring. All devices make the same calls in the same order.
class RingAttention {
 public:
  /// The context and the communicator must outlive it. Throws ArgumentError for impossible shapes.
  RingAttention(Context& context, Communicator& communicator, const AttentionShape& shape, Exchange exchange);

  /// Plans the calls that follow. Allocates only when a shard is larger than any before.
  void prepare(const SequencePlan& plan, const Mask& mask);
  /// For measurements: until the next prepare() everything travels as planned and nothing is computed on it.
  void forget_tiles();
  const Schedule& schedule() const { return schedule_; }
  std::int64_t tokens() const { return shard_tokens_[static_cast<std::size_t>(communicator_->device())]; }
  /// Tokens of the largest shard: what `lent` and `spare` memory must hold.
  std::int64_t max_shard_tokens() const { return max_shard_tokens_; }

  struct Forward {
    ConstTensor q_THD, k_TGD, v_TGE;
    Tensor out_THE;
    float* lse_HT = nullptr;  ///< [H, T], natural logarithm; needed for backward
    kernels::AttentionParams params;
    /// Optional, each saves a buffer: memory for max_shard_tokens() keys and values that the call may use as
    /// it likes; the memory of k and v, with room for as many, which may be overwritten. One is enough.
    KeyValues lent, spare;
    std::string_view label = "attention";  ///< for error messages and traces, e.g. "layer 3"
  };
  /// out = softmax(scale * q k^T, masked) v over the whole sequence. Exact: float32 state over all hops.
  void forward(const Forward& args);

  struct Backward {
    ConstTensor q_THD, k_TGD, v_TGE, out_THE, dout_THE;
    const float* lse_HT = nullptr;
    kernels::AttentionParams params;
    Tensor dq_THD, dk_TGD, dv_TGE;  ///< float32, overwritten
    /// Optional: the memory of k and v, with room for max_shard_tokens(), which may be overwritten (saves a
    /// buffer).
    KeyValues spare;
    /// Optional: memory that the call may use as it likes, for gradients that travel. That of out_THE may be
    /// among it.
    std::vector<IdleMemory> idle;
    std::string_view label = "attention";
  };
  /// Gradients by recomputation from the global lse; dK and dV travel in float32, one step behind the
  /// compute.
  void backward(const Backward& args);

  /// What this device received since construction.
  struct Counters {
    std::int64_t kv_hops = 0, gradient_hops = 0;
  };
  const Counters& counters() const { return counters_; }

 private:
  void check(const Forward& args) const;
  void check(const Backward& args) const;
  ConstKeyValues contiguous(const ConstTensor& k_TGD, const ConstTensor& v_TGE);
  void grow(Buffer& buffer, std::int64_t elements, const char* what);
  /// What only backward needs, at its first call: evaluation and generation never hold it.
  void reserve_backward(std::size_t pairs_in_idle_memory);
  int last_distance() const;
  /// Pairs of travelling keys and values that a full ring needs of the pool.
  int pairs_that_arrive() const;
  /// The travelling gradients' pairs that need no memory of their own, as they fit into the state's and
  /// `idle`.
  std::vector<KeyValues> idle_gradient_pairs(const std::vector<IdleMemory>& idle) const;
  RingLoop loop(std::string_view label);

  Context* context_;
  Communicator* communicator_;
  AttentionShape shape_;
  Exchange exchange_;
  Schedule schedule_;
  std::vector<std::int64_t> shard_tokens_;
  std::int64_t max_shard_tokens_ = 0, calls_ = 0;
  BlockPool kv_pool_, gradient_pool_;
  GlobalBlock global_;
  Buffer state_, delta_, packed_;
  Counters counters_;
};

}  // namespace rondo
