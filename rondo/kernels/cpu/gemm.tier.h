#pragma once
// The one product of all attention kernels: c[r][n] (+)= sum over k of a(r, k) * b[k][n], where a is read one
// element at a time and spread over the lanes, and b and c are rows of vectors.

#include "rondo/kernels/cpu/vec.tier.h"

namespace rondo::kernels::RONDO_TIER {

struct Product2D {
  const float* a;
  i64 a_row, a_depth;  ///< strides of a's rows and of k
  const float* b;
  i64 b_stride;
  float* c;
  i64 c_stride;
  i64 rows, columns, depth;  ///< columns is a multiple of kLanes
};

/// Where a product goes. Its own sums always start from nothing: long sums are made of short ones, which
/// keeps the rounding of c to one step per product.
enum class Into {
  fresh,  ///< c = product
  sum,    ///< c += product
  scaled  ///< c = factor * c + product, one factor for each column
};

// Enough independent sums to hide the latency of the multiply-add, few enough to stay in registers.
inline constexpr int kMostColumns = kRegisters >= 32 ? 4 : 2;

template <int kRows, int kColumns, Into kInto>
inline void product_block(const Product2D& p, i64 row, i64 column, const float* factor) {
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  float* c = p.c + row * p.c_stride + column;
  const i64 a_row = p.a_row, a_depth = p.a_depth, b_stride = p.b_stride, depth = p.depth;
  vec sum[kRows][kColumns] = {};
#pragma GCC unroll 2
  for (i64 k = 0; k < depth; ++k) {
    vec line[kColumns];
    for (int n = 0; n < kColumns; ++n) line[n] = load(b + k * b_stride + n * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const vec one = splat(a[r * a_row + k * a_depth]);
      for (int n = 0; n < kColumns; ++n) sum[r][n] += one * line[n];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kColumns; ++n) {
      float* at = c + r * p.c_stride + n * kLanes;
      if (kInto == Into::sum) sum[r][n] += load(at);
      if (kInto == Into::scaled) sum[r][n] += load(at) * load(factor + column + n * kLanes);
      store(at, sum[r][n]);
    }
  }
}

template <int kRows, int kColumns, Into kInto>
inline void product_rows(const Product2D& p, i64 row, i64 column, const float* factor) {
  for (; row + kRows <= p.rows; row += kRows) product_block<kRows, kColumns, kInto>(p, row, column, factor);
  if constexpr (kRows > 1) product_rows<kRows / 2, kColumns, kInto>(p, row, column, factor);
}

/// Computes c. `factor` has one number for each column and is read for Into::scaled only.
template <Into kInto>
inline void product(const Product2D& p, const float* factor = nullptr) {
  i64 column = 0;
  for (; column + kMostColumns * kLanes <= p.columns; column += kMostColumns * kLanes)
    product_rows<4, kMostColumns, kInto>(p, 0, column, factor);
  if constexpr (kMostColumns > 2) {
    for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes)
      product_rows<8, 2, kInto>(p, 0, column, factor);
  }
  for (; column < p.columns; column += kLanes) product_rows<8, 1, kInto>(p, 0, column, factor);
}

}  // namespace rondo::kernels::RONDO_TIER
