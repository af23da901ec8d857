#pragma once
// Attention of a few new tokens over a cache whose keys and values are spread over the devices. Not a ring:
// every device attends to its own part and the results are merged in one reduction (Tree Attention, arXiv
// 2408.04093, section 4).

#include <cstdint>
#include <span>

#include "rondo/attention/ring_attention.h"

namespace rondo {

class DecodeAttention {
 public:
  DecodeAttention(Context& context, Communicator& communicator, const AttentionShape& shape,
                  std::int64_t most_tokens);

  /// New tokens of one sequence, or of several: then each tile takes the queries of one sequence to its keys.
  struct Args {
    ConstTensor q_THD;            ///< the same on every device
    ConstTensor k_SGD, v_SGE;     ///< this device's part of the cache
    std::span<const Tile> tiles;  ///< what of it the queries see; may be empty
    kernels::AttentionParams params;
    Tensor out_THE;  ///< the same bits on every device
  };
  /// Collective.
  void operator()(const Args& args);

 private:
  Context* context_;
  Communicator* communicator_;
  AttentionShape shape_;
  std::int64_t most_tokens_;
  Buffer own_, all_, parts_;
};

}  // namespace rondo
