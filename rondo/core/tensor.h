#pragma once
// Tensor views: [tokens, heads, dim] without a batch dimension; a matrix [rows, columns] has one head.
// Views are values and own nothing; owners are rondo::Buffer (arena.h) or the caller's memory.

#include <cstdint>
#include <type_traits>

#include "rondo/core/dtype.h"
#include "rondo/core/error.h"

namespace rondo {

/// Half-open range of indices.
struct Range {
  std::int64_t begin = 0, end = 0;
  constexpr std::int64_t size() const { return end - begin; }
  constexpr bool empty() const { return end <= begin; }
  friend constexpr bool operator==(const Range&, const Range&) = default;
};

/// View of [tokens, heads, dim] elements; strides count elements, the innermost dimension is contiguous.
/// `Pointer` is void* (Tensor) or const void* (ConstTensor).
template <class Pointer>
struct BasicTensor {
  Pointer data = nullptr;
  DType dtype = DType::f32;
  std::int64_t tokens = 0, heads = 1, dim = 0;
  std::int64_t token_stride = 0, head_stride = 0;

  std::int64_t elements() const { return tokens * heads * dim; }
  std::int64_t bytes() const { return elements() * size_of(dtype); }
  /// Elements of one token.
  std::int64_t row() const { return heads * dim; }
  bool contiguous() const {
    return (heads == 1 || head_stride == dim) && (tokens <= 1 || token_stride == heads * dim);
  }

  /// The tokens `range` of this view.
  BasicTensor slice(Range range) const {
    RONDO_ASSERT(range.begin >= 0 && range.begin <= range.end && range.end <= tokens);
    BasicTensor part = *this;
    part.data = offset(range.begin * token_stride);
    part.tokens = range.size();
    return part;
  }
  /// The heads `range` of this view.
  BasicTensor slice_heads(Range range) const {
    RONDO_ASSERT(range.begin >= 0 && range.begin <= range.end && range.end <= heads);
    BasicTensor part = *this;
    part.data = offset(range.begin * head_stride);
    part.heads = range.size();
    return part;
  }
  /// The same memory as [tokens, 1, heads * dim]; needs heads to lie side by side.
  BasicTensor as_matrix() const {
    RONDO_ASSERT(heads == 1 || head_stride == dim);
    return {data, dtype, tokens, 1, heads * dim, token_stride, heads * dim};
  }
  /// A matrix [tokens, heads * dim] seen as [tokens, heads, dim].
  BasicTensor as_heads(std::int64_t new_heads) const {
    RONDO_ASSERT(heads == 1 && new_heads > 0 && dim % new_heads == 0);
    return {data, dtype, tokens, new_heads, dim / new_heads, token_stride, dim / new_heads};
  }

  operator BasicTensor<const void*>() const {  // NOLINT: a mutable view is a constant one
    return {data, dtype, tokens, heads, dim, token_stride, head_stride};
  }

 private:
  Pointer offset(std::int64_t count) const {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
    return static_cast<Byte*>(data) + count * size_of(dtype);
  }
};

using Tensor = BasicTensor<void*>;
using ConstTensor = BasicTensor<const void*>;

/// A contiguous view over memory that the caller owns.
inline Tensor view(void* data, DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t dim) {
  return {data, dtype, tokens, heads, dim, heads * dim, dim};
}
inline ConstTensor view(const void* data, DType dtype, std::int64_t tokens, std::int64_t heads,
                        std::int64_t dim) {
  return {data, dtype, tokens, heads, dim, heads * dim, dim};
}

}  // namespace rondo
