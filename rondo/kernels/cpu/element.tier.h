#pragma once
// The two kinds of factors that the attention kernels multiply, in words of 32 bits: a float32, or a pair of
// bfloat16 whose dot product is one instruction. Layouts, loops and strides are the same for both; a kind
// says how many numbers a word holds, how words are multiplied, and how they are packed.

#include "rondo/kernels/cpu/vec.tier.h"

namespace rondo::kernels::RONDO_TIER {

inline const void* row_of(const HeadView& x, i64 token) {
  const i64 bytes = token * x.token_stride * (x.is_bf16 ? 2 : 4);
  return static_cast<const char*>(x.data) + bytes;
}

/// Words are float32; bfloat16 is widened when it is packed.
struct Singles {
  using word = float;
  static constexpr i64 kPerWord = 1;
  static constexpr Precision kPrecision = Precision::single;

  static vec multiply_add(vec sum, vec a, vec b) { return sum + a * b; }
  static word negated(word x) { return -x; }

  /// out[n][0...stride) = row token + n, zeros behind it.
  static void pack_rows(const HeadView& x, i64 token, i64 count, i64 stride, word* out) {
    for (i64 n = 0; n < count; ++n, out += stride) {
      widen(row_of(x, token + n), x.is_bf16, x.dim, out);
      for (i64 d = x.dim; d < stride; ++d) out[d] = 0;
    }
  }
  /// The rows as the factor of a sum over tokens: here as they are.
  static void pack_over_tokens(const HeadView& x, i64 token, i64 count, i64 stride, word* out) {
    pack_rows(x, token, count, stride, out);
  }
};

#if defined(__AVX512BF16__)

/// Words are pairs of bfloat16: of neighbours in a row, or of one element in rows 2n and 2n + 1.
struct Pairs {
  using word = u32;
  static constexpr i64 kPerWord = 2;
  static constexpr Precision kPrecision = Precision::half;

  static vec multiply_add(vec sum, uvec a, uvec b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
  static word negated(word x) { return x ^ 0x80008000u; }

  /// out[n][0...stride) = the words of row token + n, zeros behind it.
  static void pack_rows(const HeadView& x, i64 token, i64 count, i64 stride, word* out) {
    for (i64 n = 0; n < count; ++n, out += stride) {
      __builtin_memcpy(out, row_of(x, token + n), static_cast<unsigned long>(x.dim) * 2);
      auto* halves = reinterpret_cast<Half*>(out);
      for (i64 d = x.dim; d < 2 * stride; ++d) halves[d] = 0;
    }
  }
  /// out[n][d] = element d of rows token + 2n and token + 2n + 1 (zeros behind the last row).
  static void pack_over_tokens(const HeadView& x, i64 token, i64 count, i64 stride, word* out) {
    for (i64 n = 0; n < count; n += 2, out += stride) {
      const auto* low = static_cast<const Half*>(row_of(x, token + n));
      if (n + 1 < count) {
        const auto* high = static_cast<const Half*>(row_of(x, token + n + 1));
        for (i64 d = 0; d < x.dim; ++d) out[d] = low[d] | static_cast<u32>(high[d]) << 16;
      } else {
        for (i64 d = 0; d < x.dim; ++d) out[d] = low[d];
      }
      for (i64 d = x.dim; d < stride; ++d) out[d] = 0;
    }
  }

  /// Lane by lane the pair (first, second), rounded to nearest even.
  static uvec paired(vec first, vec second) {
    // The conversion leaves first in the lower and second in the upper half of the register.
    const auto halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    alignas(64) static constexpr Half kInterleave[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                         21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                         11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return reinterpret_cast<uvec>(_mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), halves));
  }
  /// Neighbouring lanes as pairs: half as many words as lanes.
  static void store_neighbours(word* out, vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh((__m512)x));
  }
  /// sum + both halves of each word.
  static vec add_pairs(vec sum, uvec pairs) { return multiply_add(sum, pairs, splat(u32{0x3f803f80})); }

 private:
  typedef std::uint16_t Half __attribute__((may_alias));
};

#endif

/// Calls body with the kind of factors that x is best multiplied as.
template <class Body>
inline void with_element([[maybe_unused]] const HeadView& x, const Body& body) {
#if defined(__AVX512BF16__)
  if (x.is_bf16) return body(Pairs{});
#endif
  body(Singles{});
}

/// The first element of words, spread over the lanes.
inline vec splat_word(const float* x) { return splat(*x); }
inline uvec splat_word(const u32* x) { return splat(*x); }

template <class Element>
constexpr i64 words_of(i64 numbers) {
  return (numbers + Element::kPerWord - 1) / Element::kPerWord;
}

}  // namespace rondo::kernels::RONDO_TIER
