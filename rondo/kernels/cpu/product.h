#pragma once
// Matrix products of any size, cut into tiles by shape alone.

#include <cstdint>

#include "rondo/core/stream.h"
#include "rondo/core/tensor.h"

namespace rondo::kernels {

/// A matrix of which either the rows or the columns lie side by side: one of the strides is 1.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t row_stride = 0, column_stride = 0;
};

/// c[m, n] = a[m, k] · b[k, n], or c += ... a and b of one dtype; c float32 or of that dtype, its columns
/// side by side. Any extent may be 0: an empty sum is 0.
struct ProductArgs {
  std::int64_t m = 0, n = 0, k = 0;
  Operand a, b;
  void* c = nullptr;
  DType c_dtype = DType::f32;
  std::int64_t c_row_stride = 0;
  bool accumulate = false;
};

/// Every tile is one single-threaded oneDNN call, so that neither the order of a sum nor its bits depend on
/// the number of threads. oneDNN chooses its own instructions, whatever the tier of the stream. Where it
/// cannot multiply bfloat16 on this processor, tiles are widened to float32 piece by piece in scratch:
/// slower, never refused.
void product(Stream& stream, const ProductArgs& args);

}  // namespace rondo::kernels
