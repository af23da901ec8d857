#pragma once
// Matrix products of any size, cut into tiles by shape alone: neither the order of a sum nor its bits depend
// on the number of threads. Every tile runs the instructions of the stream's tier; where that does not
// multiply bfloat16, factors are widened to float32 when they are packed: slower, never refused.

#include <cstdint>

#include "rondo/core/stream.h"
#include "rondo/core/tensor.h"
#include "rondo/kernels/cpu/product_kernels.h"

namespace rondo::kernels {

/// c[m, n] = a[m, k] · b[k, n], or c += ... The terms of a's rows and the columns of c lie side by side. a
/// and b of one dtype; c float32 or bfloat16. Any extent may be 0: an empty sum is 0.
struct ProductArgs {
  std::int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::f32;
  const void* a = nullptr;
  std::int64_t a_row_stride = 0;
  FactorSource b{};                       ///< its lines are b's columns
  const std::uint32_t* packed = nullptr;  ///< b by pack_columns, or null: b is packed tile by tile
  void* c = nullptr;
  DType c_dtype = DType::f32;
  std::int64_t c_row_stride = 0;
  bool accumulate = false;
};
void product(Stream& stream, const ProductArgs& args);

/// 32-bit words of a packed factor of `lines` columns, and packing it.
std::int64_t packed_words(Isa isa, DType dtype, std::int64_t lines, std::int64_t terms);
void pack_columns(Stream& stream, const FactorSource& source, std::uint32_t* to);

/// c[m, n] += sum over k of a[k, m] * b[k, n], float32: a sum over the rows of both factors.
struct OuterProductArgs {
  std::int64_t m = 0, n = 0, k = 0;
  DType dtype = DType::f32;
  const void *a = nullptr, *b = nullptr;
  std::int64_t a_row_stride = 0, b_row_stride = 0;
  float* c = nullptr;
  std::int64_t c_row_stride = 0;
};
void outer_product(Stream& stream, const OuterProductArgs& args);

// ---- Shared by both ----

/// Words of a sum that are taken at a time: a panel of b (128 KiB) and its tile of a stay in the second-level
/// cache.
inline constexpr std::int64_t kPieceWords = 512;

/// [0, extent) cut into parts of one size and a smaller last one.
struct Cut {
  std::int64_t extent = 0, part = 1;
  std::int64_t parts() const { return (extent + part - 1) / part; }
  Range range(std::int64_t index) const {
    return {index * part, extent < (index + 1) * part ? extent : (index + 1) * part};
  }
};
/// As many parts as parts of `most` would make, of nearly one size, a multiple of `unit`.
inline Cut even_cut(std::int64_t extent, std::int64_t most, std::int64_t unit) {
  const std::int64_t parts = extent <= most ? 1 : (extent + most - 1) / most;
  const std::int64_t part = (extent + parts - 1) / parts;
  return {extent, part <= unit ? unit : (part + unit - 1) / unit * unit};
}

inline std::int64_t words_of(const ProductKernels& kernels, DType dtype, std::int64_t terms) {
  return kernels.pairs && dtype == DType::bf16 ? (terms + 1) / 2 : terms;
}
/// The terms of some words of `source`.
FactorSource terms_of(const ProductKernels& kernels, const FactorSource& source, Range words);
/// Some lines of `source`.
FactorSource lines_of(const FactorSource& source, Range lines);

}  // namespace rondo::kernels
