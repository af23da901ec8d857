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

/// What the sums start from.
enum class Start {
  zero,   ///< nothing
  add,    ///< what stands in c
  scaled  ///< what stands in c, each column multiplied by its factor
};

// Enough independent sums to hide the latency of the multiply-add, few enough to stay in registers.
inline constexpr int kMostColumns = kRegisters >= 32 ? 4 : 2;

template <int kRows, int kColumns, Start kStart>
inline void product_block(const Product2D& p, i64 row, i64 column, const float* factor) {
  const float* a = p.a + row * p.a_row;
  const float* b = p.b + column;
  float* c = p.c + row * p.c_stride + column;
  const i64 a_row = p.a_row, a_depth = p.a_depth, b_stride = p.b_stride, depth = p.depth;
  vec sum[kRows][kColumns];
  for (int r = 0; r < kRows; ++r) {
    for (int n = 0; n < kColumns; ++n) {
      sum[r][n] = kStart == Start::zero ? vec{} : load(c + r * p.c_stride + n * kLanes);
      if (kStart == Start::scaled) sum[r][n] *= load(factor + column + n * kLanes);
    }
  }
#pragma GCC unroll 2
  for (i64 k = 0; k < depth; ++k) {
    vec line[kColumns];
    for (int n = 0; n < kColumns; ++n) line[n] = load(b + k * b_stride + n * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const vec one = splat(a[r * a_row + k * a_depth]);
      for (int n = 0; n < kColumns; ++n) sum[r][n] += one * line[n];
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int n = 0; n < kColumns; ++n) store(c + r * p.c_stride + n * kLanes, sum[r][n]);
}

template <int kRows, int kColumns, Start kStart>
inline void product_rows(const Product2D& p, i64 row, i64 column, const float* factor) {
  for (; row + kRows <= p.rows; row += kRows) product_block<kRows, kColumns, kStart>(p, row, column, factor);
  if constexpr (kRows > 1) product_rows<kRows / 2, kColumns, kStart>(p, row, column, factor);
}

/// Computes c. `factor` has one number for each column and is read for Start::scaled only.
template <Start kStart>
inline void product(const Product2D& p, const float* factor = nullptr) {
  i64 column = 0;
  for (; column + kMostColumns * kLanes <= p.columns; column += kMostColumns * kLanes)
    product_rows<4, kMostColumns, kStart>(p, 0, column, factor);
  if constexpr (kMostColumns > 2) {
    for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes)
      product_rows<8, 2, kStart>(p, 0, column, factor);
  }
  for (; column < p.columns; column += kLanes) product_rows<8, 1, kStart>(p, 0, column, factor);
}

}  // namespace rondo::kernels::RONDO_TIER
