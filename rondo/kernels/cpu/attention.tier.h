#pragma once
// The attention functions of the tier that is being compiled; cpu/tier_types.h says what they do.

#include "rondo/kernels/cpu/tier_types.h"

namespace rondo::kernels::RONDO_TIER {

std::int64_t attention_forward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries);
void attention_forward(const ForwardTask& task);
std::int64_t attention_backward_scratch(std::int64_t qk_dim, std::int64_t v_dim, std::int64_t queries);
void attention_backward(const BackwardTask& task);
std::int64_t attention_decode_scratch(std::int64_t rows, std::int64_t qk_dim, std::int64_t v_dim);
void attention_decode(const DecodeTask& task);

}  // namespace rondo::kernels::RONDO_TIER
