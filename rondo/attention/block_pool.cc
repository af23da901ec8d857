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

KeyValues BlockPool::view_of(void* k_memory, void* v_memory) const {
  return {view(k_memory, shape_.dtype, shape_.tokens, shape_.heads, shape_.qk_dim),
          view(v_memory, shape_.dtype, shape_.tokens, shape_.heads, shape_.v_dim)};
}

KeyValues BlockPool::view_of(void* memory) const {
  return view_of(memory, static_cast<std::byte*>(memory) + k_bytes());
}

std::vector<KeyValues> BlockPool::pairs_in(std::span<const IdleMemory> idle, int most) const {
  std::vector<KeyValues> pairs;
  std::vector<IdleMemory> left(idle.begin(), idle.end());
  const auto place = [&left](std::int64_t bytes) -> void* {
    const auto size = static_cast<std::size_t>(bytes);
    for (IdleMemory& memory : left) {
      if (memory.size() < size) continue;
      void* begin = memory.data();
      memory = memory.subspan(size);
      return begin;
    }
    return nullptr;
  };
  if (shape_.tokens == 0) return pairs;
  while (static_cast<int>(pairs.size()) < most) {
    void* keys = place(k_bytes());
    void* values = keys == nullptr ? nullptr : place(v_bytes());
    if (values == nullptr) break;
    pairs.push_back(view_of(keys, values));
  }
  return pairs;
}

void BlockPool::reserve(int pairs) {
  while (static_cast<int>(buffers_.size()) < pairs) {
    buffers_.push_back(context_->arena.allocate(Entry::exchange, k_bytes() + v_bytes(), what_));
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
