#pragma once
// What kernels check of their arguments, in one wording.

#include <cstdint>

#include "rondo/core/error.h"
#include "rondo/core/tensor.h"

namespace rondo::kernels {

/// Rows of one tensor must not overlap and must have memory behind them.
template <class Pointer>
void check_memory(const char* operation, const char* name, const BasicTensor<Pointer>& x) {
  check_argument(x.tokens >= 0 && x.heads >= 0 && x.dim >= 0, operation,
                 "expected {} without negative extents, got [{}, {}, {}]", name, x.tokens, x.heads, x.dim);
  if (x.elements() == 0) return;
  check_argument(x.data != nullptr, operation, "expected memory for {}, got null", name);
  check_argument(x.heads == 1 || x.head_stride >= x.dim, operation,
                 "expected a head stride of {} of at least {}, got {}", name, x.dim, x.head_stride);
  check_argument(x.tokens == 1 || x.token_stride >= x.dim, operation,
                 "expected a token stride of {} of at least {}, got {}", name, x.dim, x.token_stride);
}

/// A matrix: one head, of the given extents.
template <class Pointer>
void check_matrix(const char* operation, const char* name, const BasicTensor<Pointer>& x, std::int64_t rows,
                  std::int64_t columns) {
  check_argument(x.heads == 1 && x.tokens == rows && x.dim == columns, operation,
                 "expected {} of shape [{}, 1, {}], got [{}, {}, {}]", name, rows, columns, x.tokens, x.heads,
                 x.dim);
  check_memory(operation, name, x);
}

template <class Pointer>
void check_dtype(const char* operation, const char* name, const BasicTensor<Pointer>& x, DType dtype) {
  check_argument(x.dtype == dtype, operation, "expected {} in {}, got {}", name, name_of(dtype),
                 name_of(x.dtype));
}

/// float32 or `storage`.
template <class Pointer>
void check_float_or(const char* operation, const char* name, const BasicTensor<Pointer>& x, DType storage) {
  check_argument(x.dtype == DType::f32 || x.dtype == storage, operation,
                 "expected {} in float32 or {}, got {}", name, name_of(storage), name_of(x.dtype));
}

}  // namespace rondo::kernels
