#pragma once
// Buffers for the blocks that travel: a pair of tensors [tokens, key/value heads, dim], reused from hop to
// hop.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "rondo/core/context.h"

namespace rondo {

/// Keys and values of one block, or their gradients.
struct KeyValues {
  Tensor k_SGD, v_SGE;
};

/// Memory that its owner does not use for a while.
using IdleMemory = std::span<std::byte>;

/// Lends pairs of tensors of one capacity. What comes back is lent again, so that a ring of any length needs
/// two.
class BlockPool {
 public:
  struct Shape {
    std::int64_t tokens = 0, heads = 0, qk_dim = 0, v_dim = 0;
    DType dtype = DType::f32;
  };

  BlockPool(Context& context, const char* what) : context_(&context), what_(what) {}

  /// Sets the capacity of each pair; buffers of an earlier, smaller capacity are freed. Nothing may be lent
  /// out.
  void resize(const Shape& shape);
  /// A pair of full capacity; grows the pool (Entry::exchange) when all are lent out.
  KeyValues take();
  /// Gives a pair back, or donates the caller's own memory of at least this capacity for as long as the pool
  /// is used.
  void give(const KeyValues& pair) { free_.push_back(pair); }
  /// Pairs of full capacity that fit into idle memory, at most `most`: keys and values each where there is
  /// room first.
  std::vector<KeyValues> pairs_in(std::span<const IdleMemory> idle, int most) const;
  /// Forgets donated memory: everything that take() may return is the pool's own again.
  void end_loan();
  /// Makes sure that `pairs` can be lent out without growing.
  void reserve(int pairs);

 private:
  std::int64_t k_bytes() const {
    return shape_.tokens * shape_.heads * shape_.qk_dim * size_of(shape_.dtype);
  }
  std::int64_t v_bytes() const { return shape_.tokens * shape_.heads * shape_.v_dim * size_of(shape_.dtype); }
  KeyValues view_of(void* k_memory, void* v_memory) const;
  /// A pair as it lies in memory: all keys, then all values.
  KeyValues view_of(void* memory) const;
  Context* context_;
  const char* what_;
  Shape shape_;
  std::vector<Buffer> buffers_;
  std::vector<KeyValues> free_;
};

/// The first `tokens` tokens of a pair.
inline KeyValues first_tokens(const KeyValues& pair, std::int64_t tokens) {
  return {pair.k_SGD.slice({0, tokens}), pair.v_SGE.slice({0, tokens})};
}

}  // namespace rondo
