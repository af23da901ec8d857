#pragma once
// Numbers to compute on, made where they are needed: no copy of a whole sequence has to be held to know one
// row.

#include <cstdint>
#include <vector>

#include "rondo/core/random.h"
#include "rondo/core/tensor.h"
#include "rondo/reference/convert.h"

namespace rondo::bench {

/// Mean 0, deviation 1, nearly normal (the sum of four uniform numbers); depends on stream and index alone.
inline double drawn(std::uint64_t stream, std::int64_t index) {
  const std::uint64_t bits = mix64(mix64(stream) + static_cast<std::uint64_t>(index));
  std::int64_t sum = 0;
  for (int n = 0; n < 4; ++n) sum += static_cast<std::int64_t>((bits >> (16 * n)) & 0xffff);
  return (static_cast<double>(sum) - 131070.0) / 37837.2;
}

/// Elements [first, first + count) of the stream as `dtype` stores them.
inline std::vector<double> drawn_values(std::uint64_t stream, std::int64_t first, std::int64_t count,
                                        DType dtype) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::int64_t n = 0; n < count; ++n) values[static_cast<std::size_t>(n)] = drawn(stream, first + n);
  return reference::rounded(values, dtype);
}

/// Fills a matrix or a tensor with the stream's first elements, row by row.
inline void fill_drawn(const Tensor& tensor, std::uint64_t stream) {
  for (std::int64_t t = 0; t < tensor.tokens; ++t)
    reference::from_doubles(drawn_values(stream, t * tensor.row(), tensor.row(), tensor.dtype),
                            tensor.slice({t, t + 1}));
}

}  // namespace rondo::bench
