#include "rondo/attention/block_pool.h"

#include <algorithm>

namespace rondo {

void BlockPool::resize(const Shape& shape) {
  const bool fits = shape.tokens <= shape_.tokens && shape.heads == shape_.heads &&
                    shape.qk_dim == shape_.qk_dim && shape.v_dim == shape_.v_dim &&
                    shape.dtype == shape_.dtype;
  if (fits) return;
  free_.clear();
  buffers_.clear();
  shape_ = shape;
}

std::int64_t BlockPool::pair_bytes() const {
  return shape_.tokens * shape_.heads * (shape_.qk_dim + shape_.v_dim) * size_of(shape_.dtype);
}

KeyValues BlockPool::view_of(void* memory) const {
  const std::int64_t k_bytes = shape_.tokens * shape_.heads * shape_.qk_dim * size_of(shape_.dtype);
  return {
      view(memory, shape_.dtype, shape_.tokens, shape_.heads, shape_.qk_dim),
      view(static_cast<char*>(memory) + k_bytes, shape_.dtype, shape_.tokens, shape_.heads, shape_.v_dim)};
}

int BlockPool::pairs_in(const Buffer& memory, int most) const {
  if (pair_bytes() == 0) return 0;  // a sequence without tokens
  return static_cast<int>(std::min<std::int64_t>(memory.bytes() / pair_bytes(), most));
}

void BlockPool::give(const Buffer& memory, int pairs) {
  for (int pair = 0; pair < pairs; ++pair) give(view_of(memory.as<char>() + pair * pair_bytes()));
}

void BlockPool::reserve(int pairs) {
  while (static_cast<int>(buffers_.size()) < pairs) {
    buffers_.push_back(context_->arena.allocate(Entry::exchange, pair_bytes(), what_));
    free_.push_back(view_of(buffers_.back().data()));
  }
}

KeyValues BlockPool::take() {
  if (free_.empty()) reserve(static_cast<int>(buffers_.size()) + 1);
  const KeyValues pair = free_.back();
  free_.pop_back();
  return pair;
}

void BlockPool::end_loan() {
  free_.clear();
  for (const Buffer& buffer : buffers_) free_.push_back(view_of(buffer.data()));
}

}  // namespace rondo
