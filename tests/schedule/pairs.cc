// Every visible pair is computed exactly once, on every small plan of a grid.

#include <gtest/gtest.h>

#include <array>
#include <set>

#include "tests/schedule/brute_force.h"

namespace rondo::test {
namespace {

std::vector<Mask> masks() {
  std::vector<Mask> all;
  for (const bool causal : {true, false})
    for (const std::int64_t window : {0, 1, 3, 8})
      for (const std::int64_t first_k : {0, 1, 5})
        if (window > 0 || first_k < 5) all.push_back({causal, window, first_k});
  return all;
}

std::vector<std::vector<std::int64_t>> documents(std::int64_t tokens) {
  std::vector<std::vector<std::int64_t>> all{{}};
  for (std::vector<std::int64_t> starts :
       {std::vector<std::int64_t>{0, 1, 2, 9, 10, 29}, std::vector<std::int64_t>{0, 7, 20}}) {
    while (starts.size() > 1 && starts.back() >= tokens) starts.pop_back();
    if (starts.size() > 1) all.push_back(starts);
  }
  return all;
}

class Pairs : public testing::TestWithParam<std::tuple<Layout, int>> {};

TEST_P(Pairs, AreComputedOnce) {
  const auto [layout, devices] = GetParam();
  for (const std::int64_t tokens : {0, 1, 2, 3, 5, 7, 8, 13, 18, 24, 31, 40})
    for (const auto& starts : documents(tokens))
      for (const Mask& mask : masks()) {
        const SequencePlan plan{
            .tokens = tokens, .devices = devices, .layout = layout, .document_starts = starts};
        ASSERT_EQ(find_fault(plan, mask), "");
      }
}

class WeightedPairs : public testing::TestWithParam<std::tuple<Layout, int>> {};

TEST_P(WeightedPairs, AreComputedOnce) {
  const auto [layout, devices] = GetParam();
  SequencePlan plan{.tokens = 29, .devices = devices, .layout = layout, .document_starts = {0, 6, 7}};
  for (int r = 0; r < devices; ++r) plan.weights.push_back(r == 1 ? 0 : 1 + 0.37 * (r * r % 5));
  for (const Mask& mask : masks()) ASSERT_EQ(find_fault(plan, mask), "");
}

std::string name_of_case(const testing::TestParamInfo<std::tuple<Layout, int>>& info) {
  return std::string(name_of(std::get<0>(info.param))) + "_" + std::to_string(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(All, Pairs,
                         testing::Combine(testing::Values(Layout::contiguous, Layout::striped,
                                                          Layout::zigzag),
                                          testing::Range(1, 10)),
                         name_of_case);
INSTANTIATE_TEST_SUITE_P(All, WeightedPairs,
                         testing::Combine(testing::Values(Layout::contiguous, Layout::zigzag),
                                          testing::Range(1, 10)),
                         name_of_case);

TEST(CountPairs, IsInClosedForm) {
  for (std::int64_t rows = 0; rows <= 6; ++rows)
    for (std::int64_t columns = 0; columns <= 6; ++columns)
      for (std::int64_t lo = -9; lo <= 9; ++lo)
        for (std::int64_t hi = -9; hi <= 9; ++hi) {
          const Tile tile{.q = {3, 3 + rows}, .k = {5, 5 + columns}, .band = {lo, hi}};
          std::int64_t pairs = 0;
          for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t j = 0; j < columns; ++j) pairs += tile.band.allows(i, j);
          ASSERT_EQ(count_pairs({tile}), pairs) << rows << "x" << columns << " band " << lo << ", " << hi;
        }
}

TEST(CountPairs, OfAMillionTokens) {
  const std::int64_t n = 1 << 20;
  const Tile causal{.q = {0, n}, .k = {0, n}, .band = {.lo = -Band::unbounded, .hi = 0}};
  EXPECT_EQ(count_pairs({causal}), n * (n + 1) / 2);
  EXPECT_EQ(count_pairs({Tile{.q = {0, n}, .k = {0, n}, .band = {}}}), n * n);
  EXPECT_EQ(count_pairs({causal, Tile{.q = {0, n}, .k = {0, n}, .band = {1, Band::unbounded}}}), n * n);
}

TEST(Tiles, OfStripedShardsAreNearlyTriangles) {
  // Brandon et al. 2023: on striped shards a device sees half of every block, with or without its diagonal.
  const SequencePlan plan{.tokens = 12, .devices = 3, .layout = Layout::striped};
  const Schedule schedule = make_schedule(plan, {.causal = true}, 1);
  ASSERT_EQ(schedule.steps.size(), 3u);
  EXPECT_EQ(schedule.steps[1].kv.owner, 0);
  EXPECT_EQ(schedule.steps[1].tiles,
            (std::vector<Tile>{
                {.q = {0, 4}, .k = {0, 4}, .band = {-Band::unbounded, 0}, .q_position = 1, .stride = 3}}));
  EXPECT_EQ(schedule.steps[2].kv.owner, 2);
  EXPECT_EQ(schedule.steps[2].tiles, (std::vector<Tile>{{.q = {1, 4},
                                                         .k = {0, 3},
                                                         .band = {-Band::unbounded, 0},
                                                         .q_position = 4,
                                                         .k_position = 2,
                                                         .stride = 3}}));
}

TEST(Tiles, OnARangeOfKeysAllowTheSamePairsThere) {
  const Layout layouts[] = {Layout::contiguous, Layout::striped, Layout::zigzag};
  for (const Layout layout : layouts) {
    const SequencePlan plan{.tokens = 61, .devices = 3, .layout = layout, .document_starts = {0, 17}};
    for (const Mask& mask :
         {Mask{.causal = true}, Mask{.causal = true, .window = 9}, Mask{.causal = false}}) {
      for (const Step& step : make_schedule(plan, mask, 1).steps) {
        const auto pairs_of = [](const std::vector<Tile>& tiles, std::int64_t first_key) {
          std::set<std::array<std::int64_t, 4>> pairs;  // query, key, and their positions
          for (const Tile& tile : tiles)
            for (std::int64_t i = 0; i < tile.q.size(); ++i)
              for (std::int64_t j = 0; j < tile.k.size(); ++j)
                if (tile.band.allows(i, j))
                  pairs.insert({tile.q.begin + i, first_key + tile.k.begin + j,
                                tile.q_position + i * tile.stride, tile.k_position + j * tile.stride});
          return pairs;
        };
        std::set<std::array<std::int64_t, 4>> in_parts;
        for (const Range part : {Range{0, 6}, Range{6, 7}, Range{7, 21}})
          in_parts.merge(pairs_of(tiles_on_keys(step.tiles, part), part.begin));
        EXPECT_EQ(in_parts, pairs_of(step.tiles, 0));
      }
    }
  }
}

TEST(Tiles, WorkIsBalancedByStripedAndZigzag) {
  const std::int64_t tokens = 4096;
  const int devices = 8;
  for (const Layout layout : {Layout::striped, Layout::zigzag}) {
    std::int64_t sum = 0;
    for (int r = 0; r < devices; ++r) {
      const std::int64_t pairs =
          count_pairs(make_schedule({.tokens = tokens, .devices = devices, .layout = layout}, {}, r));
      EXPECT_NEAR(static_cast<double>(pairs), tokens * (tokens + 1) / 2.0 / devices, 2.0 * tokens);
      sum += pairs;
    }
    EXPECT_EQ(sum, tokens * (tokens + 1) / 2);
  }
}

}  // namespace
}  // namespace rondo::test
