#pragma once
// What attention kernels check of their arguments, and tiles and heads as the tiers read them.

#include <cstdint>
#include <span>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/kernels/cpu/tier_types.h"
#include "rondo/kernels/kernels.h"

namespace rondo::kernels {

/// `x` is [tokens, heads, dim] and has memory unless it is empty.
void check_attention_tensor(const char* operation, const char* name, const ConstTensor& x,
                            std::int64_t tokens, std::int64_t heads, std::int64_t dim);
/// Shapes and dtypes of queries, keys and values fit together, and head sizes are ones that the tiers have.
void check_attention_inputs(const char* operation, const ConstTensor& q_THD, const ConstTensor& k_SGD,
                            const ConstTensor& v_SGE);
void check_attention_params(const char* operation, const AttentionParams& params);
/// What a backward pass reads and adds to fits the queries, keys and values: `args` has q_THD, k_SGD, v_SGE,
/// dout_THE, dq_THD, dk_SGD and dv_SGE.
template <class Backward>
void check_attention_gradients(const char* operation, const Backward& args) {
  const ConstTensor &q = args.q_THD, &k = args.k_SGD, &v = args.v_SGE;
  check_attention_inputs(operation, q, k, v);
  check_attention_tensor(operation, "dout", args.dout_THE, q.tokens, q.heads, v.dim);
  check_argument(args.dout_THE.dtype == q.dtype, operation, "expected dout of q's dtype {}, got {}",
                 name_of(q.dtype), name_of(args.dout_THE.dtype));
  check_attention_tensor(operation, "dq", args.dq_THD, q.tokens, q.heads, q.dim);
  check_attention_tensor(operation, "dk", args.dk_SGD, k.tokens, k.heads, k.dim);
  check_attention_tensor(operation, "dv", args.dv_SGE, v.tokens, v.heads, v.dim);
  for (const Tensor& gradient : {args.dq_THD, args.dk_SGD, args.dv_SGE})
    check_argument(gradient.dtype == DType::f32, operation, "expected gradients of float32, got {}",
                   name_of(gradient.dtype));
}

/// The tiles that hold anything; throws where one reaches beyond the queries or keys. A few words for each
/// tile: not entered in the ledger.
std::vector<TileBox> attention_boxes(const char* operation, std::span<const Tile> tiles,
                                     std::int64_t q_tokens, std::int64_t k_tokens);

ScoreRule attention_rule(const std::vector<TileBox>& boxes, const AttentionParams& params);
HeadView head_view(const ConstTensor& x, std::int64_t head);

}  // namespace rondo::kernels
