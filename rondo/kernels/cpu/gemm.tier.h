#pragma once
// The one product of all attention kernels: c[r][n] (+)= sum over k of a(r, k) * b[k][n], where a is read one
// word at a time and spread over the lanes, and b and c are rows of vectors. docs/kernels.md has the sums of
// registers and loads behind the block sizes.

#include "rondo/kernels/cpu/element.tier.h"

namespace rondo::kernels::RONDO_TIER {

/// Rows of memory that will be needed soon, brought closer one at a time while products are made: processors
/// drop prefetches that come in bursts, and without them packing waits for memory (docs/kernels.md).
struct Ahead {
  struct Rows {
    const void* begin;
    i64 stride, bytes;
  };
  Rows source[5];
  i64 sources, next, end;  ///< step n is row n / sources of source n % sources, n < 0 a pause

  void step() {
    const i64 n = next < end ? next++ : -1;
    if (n < 0) return;
    const Rows& rows = source[n % sources];
    const char* row = static_cast<const char*>(rows.begin) + n / sources * rows.stride;
    constexpr i64 kLine = 64;
    for (i64 at = 0; at < rows.bytes; at += kLine) __builtin_prefetch(row + at, 0, 2);
  }
};

/// Extents and strides in words; k counts words, each one or two terms of the sum.
template <class Element>
struct Product2D {
  const typename Element::word* a;
  i64 a_row, a_depth;  ///< strides of a's rows and of k
  const typename Element::word* b;
  i64 b_stride;
  float* c;
  i64 c_stride;
  i64 rows, columns, depth;  ///< columns is a multiple of kLanes
  Ahead* ahead;              ///< stepped with every block of the product
};

/// Where a product goes. Its own sums always start from nothing: long sums are made of short ones, which
/// keeps the rounding of c to one step per product.
enum class Into {
  fresh,         ///< c = product
  fresh_maxima,  ///< the same, and the largest of each column so far is kept
  sum,           ///< c += product
  scaled         ///< c = factor * c + product, one factor for each column
};

// Enough independent sums to hide the latency of the multiply-add, few enough to stay in registers.
inline constexpr int kMostColumns = kRegisters >= 32 ? 4 : 2;
inline constexpr int kMostRows = kRegisters >= 32 ? 4 : 6;

template <class Element, int kRows, int kColumns, Into kInto>
[[gnu::noinline]] void product_block(const Product2D<Element>& p, i64 row, i64 column, float* per_column) {
  using Vector = decltype(splat_word(p.a));
  const auto* a = p.a + row * p.a_row;
  const auto* b = p.b + column;
  float* c = p.c + row * p.c_stride + column;
  const i64 a_row = p.a_row, a_depth = p.a_depth, b_stride = p.b_stride, c_stride = p.c_stride;
  vec sum[kRows * kColumns];
  unrolled<kRows * kColumns>([&](auto n) RONDO_UNROLLED { sum[n] = vec{}; });
#pragma GCC unroll 2
  for (i64 k = 0; k < p.depth; ++k) {
    Vector line[kColumns];
    unrolled<kColumns>([&](auto n) RONDO_UNROLLED { line[n] = load(b + k * b_stride + n * kLanes); });
    unrolled<kRows>([&](auto r) RONDO_UNROLLED {
      const Vector one = splat_word(a + r * a_row + k * a_depth);
      unrolled<kColumns>([&](auto n) RONDO_UNROLLED {
        sum[r * kColumns + n] = Element::multiply_add(sum[r * kColumns + n], one, line[n]);
      });
    });
  }
  unrolled<kColumns>([&](auto n) RONDO_UNROLLED {
    float* numbers = per_column + column + n * kLanes;
    vec factor{}, top{};
    if constexpr (kInto == Into::scaled) factor = load(numbers);
    if constexpr (kInto == Into::fresh_maxima) top = load(numbers);
    unrolled<kRows>([&](auto r) RONDO_UNROLLED {
      float* at = c + r * c_stride + n * kLanes;
      vec x = sum[r * kColumns + n];
      if constexpr (kInto == Into::fresh_maxima) top = max(x, top);
      if constexpr (kInto == Into::sum) x += load(at);
      if constexpr (kInto == Into::scaled) x += load(at) * factor;
      store(at, x);
    });
    if constexpr (kInto == Into::fresh_maxima) store(numbers, top);
  });
}

template <class Element, int kRows, int kColumns, Into kInto>
inline void product_rows(const Product2D<Element>& p, i64 row, i64 column, float* per_column) {
  for (; row + kRows <= p.rows; row += kRows) {
    product_block<Element, kRows, kColumns, kInto>(p, row, column, per_column);
    p.ahead->step();
  }
  if constexpr (kRows == 6) {
    product_rows<Element, 4, kColumns, kInto>(p, row, column, per_column);
  } else if constexpr (kRows > 1) {
    product_rows<Element, kRows / 2, kColumns, kInto>(p, row, column, per_column);
  }
}

/// Computes c. `per_column` has one number for each column: the factors of Into::scaled, the maxima of
/// Into::fresh_maxima.
template <Into kInto, class Element>
inline void product(const Product2D<Element>& p, float* per_column = nullptr) {
  i64 column = 0;
  for (; column + kMostColumns * kLanes <= p.columns; column += kMostColumns * kLanes)
    product_rows<Element, kMostRows, kMostColumns, kInto>(p, 0, column, per_column);
  if constexpr (kMostColumns > 2) {
    for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes)
      product_rows<Element, 8, 2, kInto>(p, 0, column, per_column);
  }
  for (; column < p.columns; column += kLanes) product_rows<Element, 8, 1, kInto>(p, 0, column, per_column);
}

}  // namespace rondo::kernels::RONDO_TIER
