#pragma once
// What the parts of product.tier.cc share: words of factors, and bfloat16 in vectors.

#include "rondo/kernels/cpu/element.tier.h"
#include "rondo/kernels/cpu/product_kernels.h"

namespace rondo::kernels::RONDO_TIER {

namespace {

// Rows by vectors of sums: 24 of 32 registers, or 12 of 16, leave room for a row of b and an element of a.
constexpr int kRows = 6, kVectors = kRegisters >= 32 ? 4 : 2;
constexpr int kColumns = kVectors * kLanes;
constexpr i64 kLine = 64;

typedef u32 Word __attribute__((aligned(1), may_alias));
typedef std::uint16_t Half __attribute__((may_alias));
typedef std::uint16_t halves __attribute__((vector_size(kLanes * 2)));
typedef std::uint16_t halves_memory __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

const char* at(const void* data, i64 bytes) { return static_cast<const char*>(data) + bytes; }
i64 least(i64 a, i64 b) { return a < b ? a : b; }
i64 rounded_up(i64 n, i64 unit) { return (n + unit - 1) / unit * unit; }

u32 widened(Half x) { return static_cast<u32>(x) << 16; }
vec widened(const Half* x) {
  const halves narrow = *reinterpret_cast<const halves_memory*>(x);
  return reinterpret_cast<vec>(__builtin_convertvector(narrow, uvec) << 16);
}

#if defined(__AVX512BF16__)
using Native = Pairs;
void store_narrowed(Half* to, vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh((__m512)x));
}
#else
using Native = Singles;
void store_narrowed(Half* to, vec x) {
  const uvec bits = reinterpret_cast<uvec>(x), odd = (bits >> 16) & 1;
  const uvec rounded = x == x ? bits + 0x7fffu + odd : bits | 0x400000u;
  *reinterpret_cast<halves_memory*>(to) = __builtin_convertvector(rounded >> 16, halves);
}
#endif
constexpr bool kNative = Native::kPerWord == 2;

}  // namespace

}  // namespace rondo::kernels::RONDO_TIER
