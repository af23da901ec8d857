// Storage types, tensor views, bands, random numbers, tiers, errors.

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "rondo/core/dtype.h"
#include "rondo/core/isa.h"
#include "rondo/core/random.h"
#include "rondo/core/tensor.h"
#include "rondo/core/tile.h"

namespace rondo {
namespace {

TEST(Bfloat16, EveryValueSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bfloat16 value{static_cast<std::uint16_t>(bits)};
    const float wide = to_float(value);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(to_float(to_bfloat16(wide)))) << bits;
      EXPECT_EQ(std::signbit(to_float(to_bfloat16(wide))), std::signbit(wide)) << bits;
    } else {
      EXPECT_EQ(to_bfloat16(wide).bits, bits);
    }
  }
}

TEST(Bfloat16, RoundsToNearestTiesToEven) {
  const auto rounded = [](std::uint32_t bits) { return to_bfloat16(std::bit_cast<float>(bits)).bits; };
  EXPECT_EQ(rounded(0x3f807fffu), 0x3f80);  // just below the middle
  EXPECT_EQ(rounded(0x3f808000u), 0x3f80);  // the middle, to even: down
  EXPECT_EQ(rounded(0x3f808001u), 0x3f81);  // just above
  EXPECT_EQ(rounded(0x3f818000u), 0x3f82);  // the middle, to even: up
  EXPECT_EQ(rounded(0xbf818000u), 0xbf82);
  EXPECT_EQ(rounded(0x7f7fffffu), 0x7f80);  // largest float32 rounds to infinity
  EXPECT_EQ(rounded(0x00008000u), 0x0000);  // subnormal tie
  EXPECT_EQ(rounded(0x00018000u), 0x0002);
  // NaNs whose payload lies in the lower half alone, or would carry into the sign.
  for (const std::uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu}) {
    EXPECT_TRUE(std::isnan(to_float(bfloat16{rounded(bits)})));
    EXPECT_EQ(rounded(bits) >> 15, bits >> 31);
  }
}

TEST(DTypes, KnowTheirSizesAndNames) {
  EXPECT_EQ(size_of(DType::f32), 4);
  EXPECT_EQ(size_of(DType::bf16), 2);
  EXPECT_STREQ(name_of(DType::f32), "float32");
  EXPECT_STREQ(name_of(DType::bf16), "bfloat16");
  EXPECT_EQ(dtype_of<float>, DType::f32);
  EXPECT_EQ(dtype_of<bfloat16>, DType::bf16);
}

float& element(const Tensor& t, std::int64_t token, std::int64_t head, std::int64_t i) {
  return static_cast<float*>(t.data)[token * t.token_stride + head * t.head_stride + i];
}

TEST(TensorViews, SlicesNameTheSameMemory) {
  std::vector<float> memory(5 * 3 * 2);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<float>(i);
  const Tensor all = view(memory.data(), DType::f32, 5, 3, 2);
  EXPECT_EQ(all.elements(), 30);
  EXPECT_EQ(all.bytes(), 120);
  EXPECT_EQ(all.row(), 6);
  EXPECT_TRUE(all.contiguous());

  const Tensor tokens = all.slice({1, 4});
  EXPECT_EQ(tokens.tokens, 3);
  EXPECT_TRUE(tokens.contiguous());
  EXPECT_EQ(element(tokens, 2, 1, 1), memory[3 * 6 + 1 * 2 + 1]);

  const Tensor heads = tokens.slice_heads({1, 3});
  EXPECT_FALSE(heads.contiguous());
  EXPECT_EQ(element(heads, 1, 0, 1), memory[2 * 6 + 1 * 2 + 1]);
  EXPECT_TRUE(heads.slice({0, 1}).contiguous());
  EXPECT_FALSE(all.slice_heads({1, 2}).contiguous());

  const Tensor empty = all.slice({5, 5});
  EXPECT_EQ(empty.elements(), 0);
  EXPECT_TRUE(empty.contiguous());
}

TEST(TensorViews, MatrixAndHeadsAreTwoViewsOfOneMemory) {
  std::vector<float> memory(4 * 6);
  const Tensor all = view(memory.data(), DType::f32, 4, 3, 2);
  const Tensor matrix = all.slice_heads({1, 3}).as_matrix();
  EXPECT_EQ(matrix.heads, 1);
  EXPECT_EQ(matrix.dim, 4);
  EXPECT_EQ(matrix.token_stride, 6);
  element(matrix, 3, 0, 3) = 7;
  EXPECT_EQ(memory[3 * 6 + 5], 7);
  const Tensor back = matrix.as_heads(2);
  EXPECT_EQ(back.heads, 2);
  EXPECT_EQ(back.dim, 2);
  EXPECT_EQ(element(back, 3, 1, 1), 7);
  const ConstTensor constant = back;
  EXPECT_EQ(constant.data, back.data);
  EXPECT_EQ(constant.head_stride, 2);
}

TEST(TensorViews, HalfWidthElementsHaveHalfTheOffsets) {
  std::vector<bfloat16> memory(6);
  const Tensor all = view(memory.data(), DType::bf16, 3, 1, 2);
  EXPECT_EQ(all.bytes(), 12);
  EXPECT_EQ(all.slice({2, 3}).data, memory.data() + 4);
}

TEST(TensorViewsDeathTest, RangesOutsideAreBrokenInvariants) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::vector<float> memory(6);
  const Tensor all = view(memory.data(), DType::f32, 3, 1, 2);
  EXPECT_DEATH(all.slice({0, 4}), "broken invariant");
  EXPECT_DEATH(all.slice({2, 1}), "broken invariant");
  EXPECT_DEATH(all.slice_heads({-1, 1}), "broken invariant");
  EXPECT_DEATH(all.as_heads(3), "broken invariant");
}

TEST(Bands, AllowBothEnds) {
  constexpr Band band{-2, 1};
  EXPECT_TRUE(band.allows(5, 3));
  EXPECT_TRUE(band.allows(5, 6));
  EXPECT_FALSE(band.allows(5, 2));
  EXPECT_FALSE(band.allows(5, 7));
  EXPECT_TRUE(Band{}.allows(0, std::int64_t{1} << 40));
  EXPECT_TRUE(Band{}.allows(std::int64_t{1} << 40, 0));
  EXPECT_TRUE((Range{3, 3}.empty()));
  EXPECT_EQ((Range{3, 7}.size()), 4);
}

// Known answers published with Random123 (kat_vectors, philox 4x32 10).
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t ones = 0xffffffffu;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, KeysTellSeedsStepsAndLayersApart) {
  std::set<PhiloxKey> keys;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (std::uint64_t step = 0; step < 10; ++step)
      for (std::uint64_t layer = 0; layer < 10; ++layer) keys.insert(dropout_key(seed, step, layer));
  EXPECT_EQ(keys.size(), 1000u);
}

TEST(Philox, DropoutDependsOnEveryCoordinate) {
  const PhiloxKey key = dropout_key(1, 2, 3);
  const std::set<std::uint32_t> bits{
      dropout_bits(key, 0, 0, 0, 0), dropout_bits(key, 1, 0, 0, 0),
      dropout_bits(key, 0, 1, 0, 0), dropout_bits(key, 0, 0, 1, 0),
      dropout_bits(key, 0, 0, 0, 1), dropout_bits(dropout_key(1, 2, 4), 0, 0, 0, 0)};
  EXPECT_EQ(bits.size(), 6u);
}

// Binomial(20000, 0.1) has a standard deviation of 42: six of them are 255.
TEST(Philox, DropsTheAskedShare) {
  const PhiloxKey key = dropout_key(5, 6, 7);
  const auto limit = static_cast<std::uint32_t>(0.1 * 0x1p32);
  int dropped = 0;
  for (std::uint32_t q = 0; q < 100; ++q)
    for (std::uint32_t k = 0; k < 200; ++k) dropped += dropout_bits(key, 0, 0, q, k) < limit ? 1 : 0;
  EXPECT_NEAR(dropped, 2000, 255);
}

TEST(Philox, UniformStaysBelowOne) {
  EXPECT_EQ(uniform(0), 0.0f);
  EXPECT_EQ(uniform(0xffffffffu), 1.0f - 0x1p-24f);
  EXPECT_EQ(uniform(0x80000000u), 0.5f);
}

TEST(Isas, AreParsedByName) {
  EXPECT_EQ(parse_isa(""), default_isa());
  EXPECT_EQ(parse_isa("portable"), Isa::portable);
  EXPECT_STREQ(name_of(Isa::avx512), "avx512");
  EXPECT_STREQ(name_of(Isa::avx512_bf16), "avx512_bf16");
  EXPECT_THROW(parse_isa("AVX2"), ArgumentError);
  EXPECT_THROW(parse_isa("sse"), ArgumentError);
  for (const Isa isa : kEveryIsa) {
    if (isa <= detected_isa())
      EXPECT_EQ(parse_isa(name_of(isa)), isa);
    else
      EXPECT_THROW(parse_isa(name_of(isa)), ArgumentError);
  }
}

TEST(Isas, AreTheFastestUnlessAskedFor) {
  const auto fastest = [](Isa supports, bool is_intel, bool has_fp16) {
    return fastest_isa({.supports = supports, .is_intel = is_intel, .has_fp16 = has_fp16});
  };
  EXPECT_EQ(fastest(Isa::avx512_bf16, false, false), Isa::avx512_bf16);  // Zen 4, Zen 5
  EXPECT_EQ(fastest(Isa::avx512_bf16, false, true), Isa::avx512_bf16);
  EXPECT_EQ(fastest(Isa::avx512_bf16, true, false), Isa::avx512_bf16);  // Cooper Lake
  EXPECT_EQ(fastest(Isa::avx512_bf16, true, true), Isa::avx512);        // Sapphire Rapids
  EXPECT_EQ(fastest(Isa::avx2, true, true), Isa::avx2);
  EXPECT_LE(default_isa(), detected_isa());
}

TEST(Errors, NameTheOperation) {
  try {
    check_argument(1 + 1 == 3, "sum", "expected {}, got {}", 3, 2);
    FAIL() << "nothing was thrown";
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "[sum] expected 3, got 2");
  }
  EXPECT_NO_THROW(check_argument(true, "sum", "expected {}", 1));
}

}  // namespace
}  // namespace rondo
