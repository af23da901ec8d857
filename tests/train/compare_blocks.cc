#include "rondo/train/compare_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

#include "rondo/core/error.h"

namespace rondo {
namespace {

constexpr double kBit = std::numbers::ln2;

TEST(CompareBlocks, DifferenceAndStandardErrorOfEqualBlocksAreThoseOfAMean) {
  // 4 and 8 bits against 2 and 2 in blocks of 4 bytes: differences of 0.5 and 1.5 bits per byte.
  const std::vector<ScoredBlock> first{{4, 4 * kBit}, {4, 8 * kBit}}, second{{4, 2 * kBit}, {4, 2 * kBit}};
  const BlockComparison c = compare_blocks(first, second);
  EXPECT_NEAR(c.first, 1.5, 1e-15);
  EXPECT_NEAR(c.second, 0.5, 1e-15);
  EXPECT_NEAR(c.difference, 1, 1e-15);
  EXPECT_NEAR(c.standard_error, std::sqrt(0.5) / std::sqrt(2), 1e-15);
  EXPECT_EQ(c.blocks, 2);
  EXPECT_EQ(c.bytes, 8);
}

TEST(CompareBlocks, LargerBlocksWeighMore) {
  const std::vector<ScoredBlock> first{{1, 3 * kBit}, {3, 5 * kBit}}, second{{1, 1 * kBit}, {3, 1 * kBit}};
  const BlockComparison c = compare_blocks(first, second);
  EXPECT_NEAR(c.difference, 1.5, 1e-15);
  // Residuals 2 - 1.5 and 4 - 4.5.
  EXPECT_NEAR(c.standard_error, std::sqrt(2 * 0.5) / 4, 1e-15);
}

// The difference's spread over many samples is what its standard error says.
TEST(CompareBlocks, StandardErrorIsTheSpreadOfTheDifference) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  constexpr int kSamples = 2000, kBlocks = 50;
  double sum = 0, squares = 0, claimed = 0;
  for (int sample = 0; sample < kSamples; ++sample) {
    std::vector<ScoredBlock> first, second;
    for (int n = 0; n < kBlocks; ++n) {
      const std::int64_t bytes = n == 0 ? 900 : 1000;
      const double common = 1000 + 300 * normal(random);  // what makes a block hard for both
      first.push_back({bytes, common + 20 * normal(random)});
      second.push_back({bytes, common - 5 + 20 * normal(random)});
    }
    const BlockComparison c = compare_blocks(first, second);
    sum += c.difference, squares += c.difference * c.difference, claimed += c.standard_error;
  }
  const double mean = sum / kSamples, spread = std::sqrt(squares / kSamples - mean * mean);
  EXPECT_NEAR(mean, 0.005 / kBit, 4 * spread / std::sqrt(kSamples));
  EXPECT_NEAR(claimed / kSamples / spread, 1, 4 / std::sqrt(2.0 * kSamples));
}

TEST(CompareBlocks, BlocksWithoutScoredBytesDoNotCount) {
  const std::vector<ScoredBlock> first{{0, 0}, {4, 4}, {4, 7}}, second{{0, 0}, {4, 3}, {4, 5}};
  EXPECT_EQ(compare_blocks(first, second).blocks, 2);
  const BlockComparison c = compare_blocks(first, second), same = compare_blocks(first, first);
  const BlockComparison without = compare_blocks(std::span(first).subspan(1), std::span(second).subspan(1));
  EXPECT_EQ(c.standard_error, without.standard_error);
  EXPECT_EQ(same.difference, 0);
  EXPECT_EQ(same.standard_error, 0);
}

TEST(CompareBlocks, WhatWasNotScoredAlikeIsRefused) {
  const std::vector<ScoredBlock> two{{4, 4}, {4, 7}}, other{{4, 4}, {3, 7}}, one{{4, 4}, {0, 0}};
  EXPECT_THROW(compare_blocks(two, other), ArgumentError);
  EXPECT_THROW(compare_blocks(two, std::span(two).first(1)), ArgumentError);
  EXPECT_THROW(compare_blocks(one, one), ArgumentError);
  EXPECT_THROW(compare_blocks({}, {}), ArgumentError);
}

}  // namespace
}  // namespace rondo
