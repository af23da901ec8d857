#pragma once
// Products of few rows: both factors are read as they lie.

#include "rondo/kernels/cpu/words.tier.h"

namespace rondo::kernels::RONDO_TIER {

namespace {

/// Elements as the vectors that are multiplied: a float32, or a pair, in each lane.
template <class Element, bool kWidens>
struct DotLines {
  using Vector = decltype(splat_word(static_cast<const typename Element::word*>(nullptr)));
  static constexpr i64 kTerms = kLanes * Element::kPerWord;
  static constexpr i64 kSize = kWidens || Element::kPerWord == 2 ? 2 : 4;

  static Vector line(const char* x) {
    if constexpr (kWidens)
      return widened(reinterpret_cast<const Half*>(x));
    else
      return reinterpret_cast<Vector>(load_register(x));
  }
  /// The last terms, fewer than kTerms.
  static Vector rest(const char* x, i64 terms) {
    char whole[kTerms * kSize] = {};
    __builtin_memcpy(whole, x, static_cast<unsigned long>(terms * kSize));
    return line(whole);
  }
};

/// Sums of kTokens rows of x by kWeights rows of w, a vector each.
template <class Element, bool kWidens, int kTokens, int kWeights>
[[gnu::noinline]] void dot_block(const DotBlock& d, i64 token, i64 row) {
  using Lines = DotLines<Element, kWidens>;
  const i64 x_stride = d.x_stride * Lines::kSize, w_stride = d.w_stride * Lines::kSize;
  const char *x = at(d.x, token * x_stride), *w = at(d.w, row * w_stride);
  vec sum[kTokens * kWeights];
  unrolled<kTokens * kWeights>([&](auto n) RONDO_UNROLLED { sum[n] = vec{}; });
  const auto step = [&](const auto& read) RONDO_UNROLLED {
    typename Lines::Vector line[kTokens];
    unrolled<kTokens>([&](auto t) RONDO_UNROLLED { line[t] = read(x + t * x_stride); });
    unrolled<kWeights>([&](auto n) RONDO_UNROLLED {
      const auto weight = read(w + n * w_stride);
      unrolled<kTokens>([&](auto t) RONDO_UNROLLED {
        sum[n * kTokens + t] = Element::multiply_add(sum[n * kTokens + t], weight, line[t]);
      });
    });
    x += kLanes * 4 / (kWidens ? 2 : 1), w += kLanes * 4 / (kWidens ? 2 : 1);
  };
  i64 k = 0;
  for (; k + Lines::kTerms <= d.terms; k += Lines::kTerms)
    step([](const char* from) RONDO_UNROLLED { return Lines::line(from); });
  if (k < d.terms) step([&](const char* from) RONDO_UNROLLED { return Lines::rest(from, d.terms - k); });
  for (i64 t = 0; t < kTokens; ++t)
    for (i64 n = 0; n < kWeights; ++n) {
      float lanes[kLanes];
      store(lanes, sum[n * kTokens + t]);
      for (i64 half = kLanes / 2; half > 0; half /= 2)
        for (i64 lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
      d.y[(token + t) * d.rows + row + n] = lanes[0];
    }
}

template <class Element, bool kWidens, int kWeights>
void dot_weights(const DotBlock& d, i64 row) {
  i64 token = 0;
  for (; token + 4 <= d.tokens; token += 4) dot_block<Element, kWidens, 4, kWeights>(d, token, row);
  if (token + 2 <= d.tokens) dot_block<Element, kWidens, 2, kWeights>(d, token, row), token += 2;
  if (token < d.tokens) dot_block<Element, kWidens, 1, kWeights>(d, token, row);
}

template <class Element, bool kWidens>
void dot_rows(const DotBlock& d) {
  constexpr int kWeights = kRegisters >= 32 ? 4 : 2;
  i64 row = 0;
  for (; row + kWeights <= d.rows; row += kWeights) dot_weights<Element, kWidens, kWeights>(d, row);
  for (; row < d.rows; ++row) dot_weights<Element, kWidens, 1>(d, row);
}

void dots(const DotBlock& d) {
  if (!d.is_bf16) return dot_rows<Singles, false>(d);
  if constexpr (kNative)
    dot_rows<Native, false>(d);
  else
    dot_rows<Singles, true>(d);
}

}  // namespace

}  // namespace rondo::kernels::RONDO_TIER
