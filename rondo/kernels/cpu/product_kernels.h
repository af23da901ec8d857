#pragma once
// What the matrix products need of an instruction-set tier: one block of outputs, and the packing of factors.
// product.tier.cc is compiled once per tier; product.cc and outer_product.cc cut products into blocks.
//
// Terms of a sum are taken in words of 32 bits: one float32, or where the tier multiplies bfloat16 natively
// a pair of neighbouring terms (the second of the last pair is 0 when their number is odd). A packed factor
// is a row of panels: panel p holds `width` of the factor's lines (rows of a, columns of b) for all words,
// word after word, [words][width]. The last panel is narrower: as many lines as are left, rounded up to
// `unit`.

#include <cstdint>

#include "rondo/core/isa.h"

namespace rondo::kernels {

/// The lines of a factor as they are stored. Terms lie side by side within a line, `stride` elements from
/// line to line; or (across) lines lie side by side, `stride` elements from term to term.
struct FactorSource {
  const void* data = nullptr;
  bool is_bf16 = false, across = false;
  std::int64_t stride = 0, lines = 0, terms = 0;
};

/// c[rows, columns] = from + a · b for some words of the sum.
struct ProductBlock {
  const void* a = nullptr;
  bool a_panels = false;      ///< a: panels of ProductKernels::rows rows with unit 1; else rows of words
  std::int64_t a_stride = 0;  ///< bytes from row to row
  const std::uint32_t* b = nullptr;  ///< panels of ProductKernels::columns columns
  std::int64_t b_panel = 0,
               b_first = 0;  ///< words from panel to panel; their first word that belongs to the block
  std::int64_t rows = 0, columns = 0, words = 0;
  bool pairs = false;           ///< words are pairs of bfloat16
  const float* from = nullptr;  ///< null: sums start from nothing. May be `to`
  std::int64_t from_stride = 0;
  void* to = nullptr;  ///< float32, or bfloat16
  std::int64_t to_stride = 0;
  bool to_bf16 = false, add = false;  ///< add: to += ... instead of to = ...
};

/// y[t][n] = sum of x[t] * w[n] for few rows x: nothing is packed, both are read line by line.
struct DotBlock {
  const void *x = nullptr, *w = nullptr;
  bool is_bf16 = false;
  std::int64_t x_stride = 0, w_stride = 0;  ///< elements
  std::int64_t tokens = 0, rows = 0, terms = 0;
  float* y = nullptr;  ///< [tokens][rows]
};

struct ProductKernels {
  std::int64_t rows, columns;  ///< outputs that are summed together in registers
  std::int64_t unit;           ///< columns are padded with zeros to multiples of it
  bool pairs;                  ///< bfloat16 is multiplied as it is, else widened when it is packed
  void (*multiply)(const ProductBlock& block);
  void (*pack)(const FactorSource& source, std::int64_t width, std::int64_t unit, std::uint32_t* to);
  /// Rows of words, `stride` words from row to row, of a source whose terms lie side by side.
  void (*pack_rows)(const FactorSource& source, std::uint32_t* to, std::int64_t stride);
  void (*dots)(const DotBlock& block);
};

/// Those of the tier, or of the best lower tier that was built.
const ProductKernels& product_kernels(Isa isa);

}  // namespace rondo::kernels
