// Blocks of matrix products, compiled once per tier. docs/kernels.md, "Linear layers", has the sums behind
// the block sizes.

#include "rondo/kernels/cpu/dots.tier.h"
#include "rondo/kernels/cpu/packing.tier.h"

namespace rondo::kernels::RONDO_TIER {

namespace {

/// Adds what the block says to a vector of sums and stores it.
[[gnu::always_inline]] inline void store_sums(const ProductBlock& p, i64 row, i64 column, vec sum) {
  if (p.from != nullptr) sum += load(p.from + row * p.from_stride + column);
  if (!p.to_bf16) {
    float* to = static_cast<float*>(p.to) + row * p.to_stride + column;
    return store(to, p.add ? sum + load(to) : sum);
  }
  auto* to = static_cast<Half*>(p.to) + row * p.to_stride + column;
  store_narrowed(to, p.add ? sum + widened(to) : sum);
}

/// The same for the first `count` lanes: by way of vectors that lie elsewhere.
[[gnu::noinline]] void store_part(const ProductBlock& p, i64 row, i64 column, i64 count, const float* sums) {
  float from[kLanes] = {}, to[kLanes] = {};
  char* target = static_cast<char*>(p.to) + (row * p.to_stride + column) * (p.to_bf16 ? 2 : 4);
  const auto bytes = static_cast<unsigned long>(count) * (p.to_bf16 ? 2 : 4);
  if (p.from != nullptr)
    __builtin_memcpy(from, p.from + row * p.from_stride + column, static_cast<unsigned long>(count) * 4);
  __builtin_memcpy(to, target, bytes);
  const ProductBlock part{
      .from = p.from != nullptr ? from : nullptr, .to = to, .to_bf16 = p.to_bf16, .add = p.add};
  store_sums(part, 0, 0, load(sums));
  __builtin_memcpy(target, to, bytes);
}

/// One block of sums in registers: kHigh rows from `row`, kWide vectors from `column`. Meanwhile brings what
/// comes next closer.
template <class Element, int kHigh, int kWide, bool kPanels>
[[gnu::noinline]] void sum_block(const ProductBlock& p, const u32* b, i64 row, i64 column, const char* next) {
  using Vector = decltype(splat_word(static_cast<const typename Element::word*>(nullptr)));
  const i64 words = p.words, a_row = kPanels ? 4 : p.a_stride, a_word = kPanels ? 4 * kHigh : 4;
  const char* a = at(p.a, kPanels ? row * words * 4 : row * a_row);
  vec sum[kHigh * kWide];
  unrolled<kHigh * kWide>([&](auto n) RONDO_UNROLLED { sum[n] = vec{}; });
  const auto step = [&]() RONDO_UNROLLED {
    Vector line[kWide];
    unrolled<kWide>([&](auto n) RONDO_UNROLLED { line[n] = reinterpret_cast<Vector>(load(b + n * kLanes)); });
    unrolled<kHigh>([&](auto r) RONDO_UNROLLED {
      const u32 word = *reinterpret_cast<const Word*>(a + r * a_row);
      const auto one = splat(__builtin_bit_cast(typename Element::word, word));
      unrolled<kWide>([&](auto n) RONDO_UNROLLED {
        sum[r * kWide + n] = Element::multiply_add(sum[r * kWide + n], one, line[n]);
      });
    });
    a += a_word, b += kWide * kLanes;
  };
  // Where sums go comes closer a row at a time: processors drop prefetches that come in bursts.
  const i64 size = p.to_bf16 ? 2 : 4;
  const char* ahead = at(p.to, (row * p.to_stride + column) * size);
  i64 rows_ahead = kHigh;
  i64 k = 0;
  for (; k + 4 <= words; k += 4, next += kLine) {
    __builtin_prefetch(next, 0, 2);
    if (rows_ahead > 0) {
      for (i64 n = 0; n < kWide; ++n) __builtin_prefetch(ahead + n * kLanes * size);
      --rows_ahead, ahead += p.to_stride * size;
    }
#pragma GCC unroll 2
    for (int n = 0; n < 4; ++n) step();
  }
  for (; k < words; ++k) step();

  const i64 whole = (p.columns - column) / kLanes;
  if (whole >= kWide) {
    unrolled<kHigh>([&](auto r) RONDO_UNROLLED {
      unrolled<kWide>(
          [&](auto n) RONDO_UNROLLED { store_sums(p, row + r, column + n * kLanes, sum[r * kWide + n]); });
    });
    return;
  }
  float left[kHigh][kWide * kLanes];
  unrolled<kHigh * kWide>([&](auto n) RONDO_UNROLLED { store(&left[0][0] + n * kLanes, sum[n]); });
  for (i64 r = 0; r < kHigh; ++r)
    for (i64 n = column; n < p.columns; n += kLanes)
      store_part(p, row + r, n, least(kLanes, p.columns - n), &left[r][n - column]);
}

/// The last rows, fewer than kHigh + 1.
template <class Element, int kHigh, int kWide, bool kPanels>
void sum_last_rows(const ProductBlock& p, const u32* b, i64 row, i64 column, const char* next) {
  if constexpr (kHigh > 0) {
    if (p.rows - row == kHigh) return sum_block<Element, kHigh, kWide, kPanels>(p, b, row, column, next);
    sum_last_rows<Element, kHigh - 1, kWide, kPanels>(p, b, row, column, next);
  }
}

/// All rows of one panel of b.
template <class Element, int kWide, bool kPanels>
void sum_panel(const ProductBlock& p, const u32* b, i64 column) {
  const char* next = at(b, p.b_panel * 4);
  i64 row = 0;
  for (; row + kRows <= p.rows; row += kRows, next += p.words / 4 * kLine)
    sum_block<Element, kRows, kWide, kPanels>(p, b, row, column, next);
  sum_last_rows<Element, kRows - 1, kWide, kPanels>(p, b, row, column, next);
}

template <class Element, bool kPanels>
void sum_panels(const ProductBlock& p) {
  const u32* b = p.b;
  for (i64 column = 0; column < p.columns; column += kColumns, b += p.b_panel) {
    const i64 wide = least(kVectors, (p.columns - column + kLanes - 1) / kLanes);
    const u32* first = b + p.b_first * wide * kLanes;
    if (wide == kVectors) {
      sum_panel<Element, kVectors, kPanels>(p, first, column);
    } else if (wide == 1) {
      sum_panel<Element, 1, kPanels>(p, first, column);
    } else if constexpr (kVectors > 2) {
      wide == 2 ? sum_panel<Element, 2, kPanels>(p, first, column)
                : sum_panel<Element, 3, kPanels>(p, first, column);
    }
  }
}

void multiply(const ProductBlock& p) {
  if constexpr (kNative) {
    if (p.pairs) return p.a_panels ? sum_panels<Native, true>(p) : sum_panels<Native, false>(p);
  }
  p.a_panels ? sum_panels<Singles, true>(p) : sum_panels<Singles, false>(p);
}

}  // namespace

extern const ProductKernels kProductKernels;
const ProductKernels kProductKernels = {.rows = kRows,
                                        .columns = kColumns,
                                        .unit = kLanes,
                                        .pairs = kNative,
                                        .multiply = multiply,
                                        .pack = pack,
                                        .pack_rows = pack_rows,
                                        .dots = dots};

}  // namespace rondo::kernels::RONDO_TIER
