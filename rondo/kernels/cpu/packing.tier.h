#pragma once
// Packing the factors of matrix products (product_kernels.h has the forms).

#include "rondo/kernels/cpu/words.tier.h"

namespace rondo::kernels::RONDO_TIER {

namespace {

bool native_pairs(const FactorSource& s) { return kNative && s.is_bf16; }
i64 words_of(const FactorSource& s) { return native_pairs(s) ? (s.terms + 1) / 2 : s.terms; }

/// Words [first, first + count) of a line whose terms lie side by side; 0 beyond its end.
void line_words(const FactorSource& s, i64 line, i64 first, i64 count, u32* to) {
  const i64 per_word = native_pairs(s) ? 2 : 1, size = s.is_bf16 ? 2 : 4;
  const char* from = at(s.data, (line * s.stride + first * per_word) * size);
  const i64 terms = least(s.terms - first * per_word, count * per_word);
  if (!s.is_bf16 || native_pairs(s)) {
    for (i64 n = terms / per_word; n < count; ++n) to[n] = 0;
    __builtin_memcpy(to, from, static_cast<unsigned long>(terms * size));
    return;
  }
  const auto* narrow = reinterpret_cast<const Half*>(from);
  for (i64 n = 0; n < count; ++n) to[n] = n < terms ? widened(narrow[n]) : 0;
}

void pack_rows(const FactorSource& s, u32* to, i64 stride) {
  for (i64 line = 0; line < s.lines; ++line) line_words(s, line, 0, words_of(s), to + line * stride);
}

/// A panel from lines whose terms lie side by side: squares of words, turned.
void pack_panel_along(const FactorSource& s, i64 first, i64 lines, i64 width, u32* to) {
  const i64 words = words_of(s), size = s.is_bf16 ? 2 : 4;
  const bool in_words = (!s.is_bf16 || native_pairs(s)) && s.stride * size % 4 == 0;
  for (i64 line = 0; line < width; line += kLanes)
    for (i64 word = 0; word < words; word += kLanes) {
      const bool whole = line + kLanes <= lines && (word + kLanes) * 4 <= s.terms * size;
      u32 square[kLanes * kLanes], turned[kLanes * kLanes];
      const u32* from = square;
      i64 stride = kLanes;
      if (in_words && whole) {
        from = reinterpret_cast<const u32*>(at(s.data, (first + line) * s.stride * size + word * 4));
        stride = s.stride * size / 4;
      } else {
        for (i64 n = 0; n < kLanes; ++n)
          if (line + n < lines)
            line_words(s, first + line + n, word, kLanes, square + n * kLanes);
          else
            store(square + n * kLanes, uvec{});
      }
      if (width - line >= kLanes && words - word >= kLanes) {
        transpose_square(from, stride, to + word * width + line, width);
        continue;
      }
      transpose_square(from, stride, turned, kLanes);
      for (i64 k = 0; k < least(kLanes, words - word); ++k)
        for (i64 n = 0; n < least(kLanes, width - line); ++n)
          to[(word + k) * width + line + n] = turned[k * kLanes + n];
    }
}

/// Words of `count` lines that lie side by side; 0 for the rest of `width`.
void words_across(const FactorSource& s, i64 word, i64 first, i64 count, i64 width, u32* to) {
  const char* from = at(s.data, (word * (native_pairs(s) ? 2 : 1) * s.stride + first) * (s.is_bf16 ? 2 : 4));
  i64 n = 0;
  if (!s.is_bf16) {
    const auto* words = reinterpret_cast<const u32*>(from);
    for (; n + kLanes <= count; n += kLanes) store(to + n, load(words + n));
    for (; n < count; ++n) to[n] = words[n];
  } else {
    const auto* low = reinterpret_cast<const Half*>(from);
    if (!native_pairs(s)) {
      for (; n + kLanes <= count; n += kLanes) store(to + n, reinterpret_cast<uvec>(widened(low + n)));
      for (; n < count; ++n) to[n] = widened(low[n]);
    } else if (2 * word + 1 < s.terms) {
      const Half* high = low + s.stride;
      for (; n + kLanes <= count; n += kLanes)
        store(to + n,
              reinterpret_cast<uvec>(widened(low + n)) >> 16 | reinterpret_cast<uvec>(widened(high + n)));
      for (; n < count; ++n) to[n] = low[n] | widened(high[n]);
    } else {
      for (; n < count; ++n) to[n] = low[n];
    }
  }
  for (; n < width; ++n) to[n] = 0;
}

/// Prefetches what lies behind a row of the panels at work, for the next ones: rows are too far apart for the
/// processor to see it coming.
template <i64 kTerms>
[[gnu::always_inline]] inline void bring_closer(const FactorSource& s, const char* from, i64 bytes) {
  const i64 row = s.stride * (s.is_bf16 ? 2 : 4);
  for (i64 term = 0; term < kTerms; ++term, from += row)
    for (i64 n = 0; n < bytes; n += kLine) __builtin_prefetch(from + n, 0, 2);
}

/// A panel from lines that lie side by side.
void pack_panel_across(const FactorSource& s, i64 first, i64 lines, i64 width, u32* to) {
  const i64 words = words_of(s), size = s.is_bf16 ? 2 : 4;
  for (i64 word = 0; word < words; ++word) {
    const i64 term = native_pairs(s) ? 2 * word : word;
    const char* behind = at(s.data, (term * s.stride + first + lines) * size);
    native_pairs(s) ? bring_closer<2>(s, behind, lines * size) : bring_closer<1>(s, behind, lines * size);
    words_across(s, word, first, lines, width, to + word * width);
  }
}

// Panels of kRows lines that are filled together: few enough streams of stores for the first-level cache.
constexpr i64 kGroup = 8;

typedef u32 Eight __attribute__((vector_size(32)));
typedef u32 EightMemory __attribute__((vector_size(32), aligned(4), may_alias));
typedef std::uint16_t EightHalves __attribute__((vector_size(16)));
typedef std::uint16_t EightHalvesMemory __attribute__((vector_size(16), aligned(2), may_alias));

Eight eight_halves(const char* x) {
  const EightHalves narrow = *reinterpret_cast<const EightHalvesMemory*>(x);
  return __builtin_convertvector(narrow, Eight);
}

/// One word of eight lines that lie side by side.
template <bool kIsBf16>
[[gnu::always_inline]] inline Eight eight_across(const FactorSource& s, const char* from, bool has_second) {
  if constexpr (!kIsBf16) return *reinterpret_cast<const EightMemory*>(from);
  const Eight first = eight_halves(from);
  if constexpr (!kNative) return first << 16;
  return has_second ? first | eight_halves(from + s.stride * 2) << 16 : first;
}

/// Panels of kRows lines from lines that lie side by side. Words are stored eight lines at a time: those too
/// many are overwritten by the next word, the last word is stored exactly.
template <bool kIsBf16>
void pack_narrow_panels(const FactorSource& s, u32* to) {
  constexpr i64 kSize = kIsBf16 ? 2 : 4, kTerms = kIsBf16 && kNative ? 2 : 1;
  const i64 words = words_of(s), whole = s.lines < 8 ? 0 : (s.lines - 8) / kRows + 1;
  for (i64 first = 0; first < whole; first += kGroup) {
    const i64 panels = least(kGroup, whole - first);
    for (i64 word = 0; word < words; ++word) {
      const char* from = at(s.data, (word * kTerms * s.stride + first * kRows) * kSize);
      u32* panel = to + (first * words + word) * kRows;
      const bool has_second = kTerms * word + 1 < s.terms, last = word + 1 == words;
      bring_closer<kTerms>(s, from + kGroup * kRows * kSize, kGroup * kRows * kSize);
      for (i64 n = 0; n < panels; ++n, from += kRows * kSize, panel += kRows * words) {
        const Eight eight = eight_across<kIsBf16>(s, from, has_second);
        if (last)
          __builtin_memcpy(panel, &eight, kRows * 4);
        else
          *reinterpret_cast<EightMemory*>(panel) = eight;
      }
    }
  }
  for (i64 line = whole * kRows; line < s.lines; line += kRows) {
    const i64 lines = least(kRows, s.lines - line);
    for (i64 word = 0; word < words; ++word)
      words_across(s, word, line, lines, lines, to + line * words + word * lines);
  }
}

void pack(const FactorSource& s, i64 width, i64 unit, u32* to) {
  const i64 words = words_of(s);
  if (s.across && width == kRows && unit == 1)
    return s.is_bf16 ? pack_narrow_panels<true>(s, to) : pack_narrow_panels<false>(s, to);
  for (i64 first = 0; first < s.lines; first += width) {
    const i64 lines = least(width, s.lines - first), padded = rounded_up(lines, unit);
    if (!s.across)
      pack_panel_along(s, first, lines, padded, to);
    else
      pack_panel_across(s, first, lines, padded, to);
    to += padded * words;
  }
}

}  // namespace

}  // namespace rondo::kernels::RONDO_TIER
