#pragma once
// What attention kernels check of their arguments, and tiles and heads as the tiers read them.

#include <cstdint>
#include <span>
#include <vector>

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

/// The tiles that hold anything; throws where one reaches beyond the queries or keys. A few words for each
/// tile: not entered in the ledger.
std::vector<TileBox> attention_boxes(const char* operation, std::span<const Tile> tiles,
                                     std::int64_t q_tokens, std::int64_t k_tokens);

ScoreRule attention_rule(const std::vector<TileBox>& boxes, const AttentionParams& params);
HeadView head_view(const ConstTensor& x, std::int64_t head);

}  // namespace rondo::kernels
