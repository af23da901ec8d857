#include "rondo/io/llama2c.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>

#include "rondo/core/error.h"
#include "tests/support/data.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

using test::TemporaryFolder;
using test::write_text;
using Extents =
    std::array<std::int32_t, 7>;  // dim, hidden, layers, heads, key/value heads, vocabulary, context

/// A file whose float at index i is i.
std::string file_of(const Extents& extents, std::int64_t floats) {
  std::string file(28 + static_cast<std::size_t>(floats) * 4, 0);
  std::memcpy(file.data(), extents.data(), 28);
  std::vector<float> values(static_cast<std::size_t>(floats));
  std::iota(values.begin(), values.end(), 0.f);
  if (floats > 0) std::memcpy(file.data() + 28, values.data(), values.size() * 4);
  return file;
}

// dim 4, hidden 6, 2 layers, 2 heads, 1 key/value head, vocabulary 3, context 5.
constexpr Extents kSmall{4, 6, 2, 2, 1, 3, 5};
constexpr std::int64_t kSmallFloats = 12 + 8 + 32 + 16 + 16 + 32 + 8 + 48 + 48 + 48 + 4 + 10;

TEST(Llama2cWeights, SpansFollowTheFile) {
  const TemporaryFolder folder;
  write_text(folder / "w", file_of(kSmall, kSmallFloats));
  const Llama2cWeights weights(folder / "w");
  EXPECT_EQ(weights.header.head_dim(), 2);
  EXPECT_TRUE(weights.header.shared_classifier);
  float begin = 0;
  for (const auto& [span, size] :
       std::vector<std::pair<std::span<const float>, std::size_t>>{{weights.embedding, 12},
                                                                   {weights.attention_norm, 8},
                                                                   {weights.wq, 32},
                                                                   {weights.wk, 16},
                                                                   {weights.wv, 16},
                                                                   {weights.wo, 32},
                                                                   {weights.ffn_norm, 8},
                                                                   {weights.w1, 48},
                                                                   {weights.w2, 48},
                                                                   {weights.w3, 48},
                                                                   {weights.final_norm, 4}}) {
    ASSERT_EQ(span.size(), size);
    EXPECT_EQ(span.front(), begin);
    begin += static_cast<float>(size);
  }
  EXPECT_EQ(weights.output.data(), weights.embedding.data());
  EXPECT_EQ(weights.layer(weights.wq, 1).front(), weights.wq[16]);
  EXPECT_EQ(weights.layer(weights.wq, 1).size(), 16u);
  EXPECT_THROW(weights.layer(weights.wq, 2), ArgumentError);
}

TEST(Llama2cWeights, NegativeVocabularyMeansAnOutputOfItsOwn) {
  const TemporaryFolder folder;
  Extents extents = kSmall;
  extents[5] = -3;
  write_text(folder / "w", file_of(extents, kSmallFloats + 12));
  const Llama2cWeights weights(folder / "w");
  EXPECT_FALSE(weights.header.shared_classifier);
  EXPECT_EQ(weights.header.vocabulary, 3);
  ASSERT_EQ(weights.output.size(), 12u);
  EXPECT_EQ(weights.output.front(), static_cast<float>(kSmallFloats));  // behind the rotary tables
  write_text(folder / "w", file_of(extents, kSmallFloats));
  RONDO_EXPECT_ERROR(IoError, Llama2cWeights(folder / "w"), "unshared classifier");
}

TEST(Llama2cWeights, RefusesWrongSizesByName) {
  const TemporaryFolder folder;
  const auto refused = [&](const Extents& extents, std::int64_t floats, const std::string& cause) {
    write_text(folder / "w", file_of(extents, floats));
    RONDO_EXPECT_ERROR(IoError, Llama2cWeights(folder / "w"), (folder / "w").string(), cause);
  };
  refused(kSmall, kSmallFloats - 1, "expected 1156 bytes (dim 4, hidden 6, layers 2");
  refused(kSmall, kSmallFloats + 1, "got 1160");
  for (std::size_t i = 0; i < 7; ++i) {
    Extents extents = kSmall;
    extents[i] = 0;
    refused(extents, kSmallFloats, "expected positive extents");
    extents[i] = i == 5 ? std::numeric_limits<std::int32_t>::min() : -1;
    refused(extents, kSmallFloats, i == 5 ? "expected" : "expected positive extents");
  }
  refused({4, 6, 2, 3, 1, 3, 5}, kSmallFloats, "dim 4 over 3 heads");
  refused({6, 6, 2, 2, 1, 3, 5}, kSmallFloats, "heads of even width");
  refused({12, 6, 2, 6, 4, 3, 5}, kSmallFloats, "divisible by key/value heads, got 6 and 4");
  // Their product does not fit in 64 bits.
  constexpr std::int32_t most = 2147483646;
  refused({most, most, most, 1, 1, most, most}, kSmallFloats, "got 1156");
  write_text(folder / "w", "short");
  RONDO_EXPECT_ERROR(IoError, Llama2cWeights(folder / "w"), "header of 28 bytes, got 5");
}

TEST(Llama2cWeights, ReadsStories260K) {
  RONDO_NEEDS_DATA("tinyllama/stories260K.bin");
  const Llama2cWeights weights(test::data_dir() / "tinyllama" / "stories260K.bin");
  EXPECT_EQ(weights.header.layers, 5);
  EXPECT_EQ(weights.header.dim, 64);
  EXPECT_EQ(weights.header.heads, 8);
  EXPECT_EQ(weights.header.kv_heads, 4);
  EXPECT_EQ(weights.header.vocabulary, 512);
  EXPECT_EQ(weights.header.context, 512);
  EXPECT_TRUE(weights.header.shared_classifier);
  EXPECT_EQ(weights.wk.size(), 5u * 32 * 64);
}

TEST(PermuteRotaryRows, PairsBecomeHalves) {
  // Two heads of four rows, one column; the value names head and row.
  const std::vector<float> w{0, 1, 2, 3, 10, 11, 12, 13};
  EXPECT_EQ(permute_rotary_rows_to_halves(w, 2, 4, 1), (std::vector<float>{0, 2, 1, 3, 10, 12, 11, 13}));
  const std::vector<float> wide{0, 1, 2, 3, 4, 5, 6, 7};  // [4, 2]
  EXPECT_EQ(permute_rotary_rows_to_halves(wide, 1, 4, 2), (std::vector<float>{0, 1, 4, 5, 2, 3, 6, 7}));
  EXPECT_TRUE(permute_rotary_rows_to_halves({}, 0, 4, 2).empty());
  EXPECT_THROW(permute_rotary_rows_to_halves(w, 2, 3, 1), ArgumentError);
  EXPECT_THROW(permute_rotary_rows_to_halves(w, 2, 4, 2), ArgumentError);
}

}  // namespace
}  // namespace rondo
