#pragma once
// How the element-wise kernels cut their work: by shape alone.

#include <algorithm>
#include <cstdint>

#include "rondo/core/stream.h"
#include "rondo/core/tensor.h"

namespace rondo::kernels {

/// Elements of a task: some ten microseconds of memory traffic, far above the cost of handing it out.
inline constexpr std::int64_t kTaskElements = 32768;

/// Calls body(Range of rows, worker) for blocks of whole rows that make up [0, rows).
template <class Body>
void for_row_blocks(Stream& stream, std::int64_t rows, std::int64_t row_elements, const Body& body) {
  const std::int64_t block =
      std::max<std::int64_t>(1, kTaskElements / std::max<std::int64_t>(1, row_elements));
  stream.pool().run((rows + block - 1) / block, [&](std::int64_t index, int worker) {
    body(Range{index * block, std::min(rows, (index + 1) * block)}, worker);
  });
}

/// The row of one head of one token.
template <class Pointer>
Pointer row_of(const BasicTensor<Pointer>& x, std::int64_t token, std::int64_t head = 0) {
  return x.slice({token, token + 1}).slice_heads({head, head + 1}).data;
}

/// The row of one token of a matrix whose elements are T.
template <class T, class Pointer>
auto row_as(const BasicTensor<Pointer>& x, std::int64_t token) {
  return static_cast<std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const T, T>*>(
      row_of(x, token));
}

}  // namespace rondo::kernels
