#include "rondo/attention/block_pool.h"

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

KeyValues BlockPool::view_of(const Buffer& buffer) const {
  const std::int64_t k_bytes = shape_.tokens * shape_.heads * shape_.qk_dim * size_of(shape_.dtype);
  return {view(buffer.data(), shape_.dtype, shape_.tokens, shape_.heads, shape_.qk_dim),
          view(buffer.as<char>() + k_bytes, shape_.dtype, shape_.tokens, shape_.heads, shape_.v_dim)};
}

void BlockPool::reserve(int pairs) {
  const std::int64_t row_bytes = shape_.heads * (shape_.qk_dim + shape_.v_dim) * size_of(shape_.dtype);
  while (static_cast<int>(buffers_.size()) < pairs) {
    buffers_.push_back(context_->arena.allocate(Entry::exchange, shape_.tokens * row_bytes, what_));
    free_.push_back(view_of(buffers_.back()));
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
  for (const Buffer& buffer : buffers_) free_.push_back(view_of(buffer));
}

}  // namespace rondo
