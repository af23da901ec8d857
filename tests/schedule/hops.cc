// How far blocks travel, in cases where the answer is known; and how long a schedule takes to make.

#include <gtest/gtest.h>

#include <chrono>

#include "rondo/schedule/schedule.h"

namespace rondo {
namespace {

constexpr Layout kLayouts[] = {Layout::contiguous, Layout::striped, Layout::zigzag};

void expect_reach(const Schedule& schedule, int owner, int down, int up) {
  const Schedule::Reach& reach = schedule.reach[static_cast<std::size_t>(owner)];
  EXPECT_EQ(reach.down, down) << "block " << owner;
  EXPECT_EQ(reach.up, up) << "block " << owner;
}

TEST(Hops, OneDeviceMakesNone) {
  for (const Layout layout : kLayouts) {
    const Schedule schedule = make_schedule({.tokens = 10, .devices = 1, .layout = layout}, {}, 0);
    EXPECT_TRUE(schedule.hops.empty());
    ASSERT_EQ(schedule.steps.size(), 1u);
    EXPECT_EQ(count_pairs(schedule), 55);
    EXPECT_EQ(schedule.steps[0].tiles.size(), 1u);
  }
}

TEST(Hops, WithoutMaskEveryBlockGoesRoundTheRing) {
  for (const Layout layout : kLayouts)
    for (int devices = 2; devices <= 9; ++devices) {
      const SequencePlan plan{.tokens = 4 * devices + 1, .devices = devices, .layout = layout};
      for (int r = 0; r < devices; ++r) {
        const Schedule schedule = make_schedule(plan, {.causal = false}, r);
        ASSERT_EQ(schedule.hops.size(), static_cast<std::size_t>(devices - 1));
        for (const Hop& hop : schedule.hops) EXPECT_EQ(hop.direction, Direction::down);
        for (int owner = 0; owner < devices; ++owner) expect_reach(schedule, owner, devices - 1, 0);
        for (const Step& step : schedule.steps)
          for (const Tile& tile : step.tiles) EXPECT_EQ(tile.band, Band{});
      }
    }
}

TEST(Hops, BalancedCausalLayoutsNeedTheFullRing) {
  for (const Layout layout : {Layout::striped, Layout::zigzag})
    for (int devices = 2; devices <= 9; ++devices) {
      const Schedule schedule =
          make_schedule({.tokens = 4 * devices, .devices = devices, .layout = layout}, {}, 0);
      for (int owner = 0; owner < devices; ++owner) expect_reach(schedule, owner, devices - 1, 0);
    }
}

TEST(Hops, CausalContiguousBlocksGoOnlyToLaterDevices) {
  const int devices = 6;
  const SequencePlan plan{.tokens = 33, .devices = devices};
  int sent = 0;
  for (int r = 0; r < devices; ++r) {
    const Schedule schedule = make_schedule(plan, {}, r);
    for (int owner = 0; owner < devices; ++owner) expect_reach(schedule, owner, devices - 1 - owner, 0);
    for (const Hop& hop : schedule.hops) sent += hop.send_block >= 0;
    EXPECT_EQ(schedule.steps.size(), static_cast<std::size_t>(r + 1));
  }
  EXPECT_EQ(sent, devices * (devices - 1) / 2);
}

TEST(Hops, ContiguousWindowIsAHaloOfNeighbours) {
  const int devices = 5;
  const SequencePlan plan{.tokens = 40, .devices = devices};
  // A window of one shard and a token: the first query of a shard sees all of the shard before, and no more.
  for (const std::int64_t window : {2, 8, 9})
    for (int owner = 0; owner < devices; ++owner)
      expect_reach(make_schedule(plan, {.window = window}, 0), owner, owner + 1 < devices, 0);
  expect_reach(make_schedule(plan, {.window = 10}, 0), 0, 2, 0);
  expect_reach(make_schedule(plan, {.window = 1}, 0), 0, 0, 0);
  const Schedule both = make_schedule(plan, {.causal = false, .window = 4}, 2);
  for (int owner = 0; owner < devices; ++owner) expect_reach(both, owner, owner + 1 < devices, owner > 0);
  EXPECT_EQ(both.hops.size(), 2u);
}

TEST(Hops, ZigzagWindowUsesBothDirections) {
  const int devices = 5;
  const SequencePlan plan{.tokens = 80, .devices = devices, .layout = Layout::zigzag};
  const Schedule schedule = make_schedule(plan, {.window = 6}, 0);
  for (int owner = 0; owner < devices; ++owner) expect_reach(schedule, owner, owner + 1 < devices, owner > 0);
}

TEST(Hops, StripedWindowShorterThanTheRingStopsEarly) {
  const Schedule schedule =
      make_schedule({.tokens = 80, .devices = 8, .layout = Layout::striped}, {.window = 4}, 0);
  for (int owner = 0; owner < 8; ++owner) expect_reach(schedule, owner, 3, 0);
}

TEST(Hops, DocumentsInsideShardsNeedNoHops) {
  const SequencePlan contiguous{.tokens = 40, .devices = 4, .document_starts = {0, 10, 17, 20, 30}};
  const SequencePlan zigzag{
      .tokens = 40, .devices = 4, .layout = Layout::zigzag, .document_starts = {0, 5, 10, 15, 25, 30, 35}};
  for (const SequencePlan& plan : {contiguous, zigzag})
    for (const bool causal : {true, false})
      for (int r = 0; r < 4; ++r) EXPECT_TRUE(make_schedule(plan, {.causal = causal}, r).hops.empty());
}

TEST(GlobalBlock, IsOnlyThereWhenAWindowHidesAPairThatFirstTokensShow) {
  const SequencePlan plan{.tokens = 30, .devices = 3, .document_starts = {0, 20}};
  EXPECT_EQ(make_schedule(plan, {.window = 4, .first_k = 2}, 0).global_tokens,
            (std::vector<std::int64_t>{0, 1, 20, 21}));
  EXPECT_EQ(make_schedule(plan, {.window = 10, .first_k = 2}, 0).global_tokens,
            (std::vector<std::int64_t>{0, 1}))
      << "the second document fits into the window";
  EXPECT_TRUE(make_schedule(plan, {.window = 20, .first_k = 2}, 0).global_tokens.empty());
  EXPECT_TRUE(make_schedule(plan, {.window = 0, .first_k = 2}, 0).global_tokens.empty());
  EXPECT_TRUE(make_schedule(plan, {.window = 15, .first_k = 5}, 0).global_tokens.empty())
      << "everything is visible";
  // Device 0 needs none of it, and yet takes part.
  const Schedule schedule = make_schedule(plan, {.window = 12, .first_k = 2}, 0);
  ASSERT_EQ(schedule.steps.size(), 2u);
  EXPECT_TRUE(schedule.steps[1].kv.is_global());
  EXPECT_TRUE(schedule.steps[1].tiles.empty());
}

std::int64_t milliseconds(const SequencePlan& plan, const Mask& mask) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_GT(count_pairs(make_schedule(plan, mask, plan.devices / 2)), 0);
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - start)
      .count();
}

// Limits leave room for sanitizers and busy machines: a schedule that is quadratic in tokens or documents
// takes minutes.
TEST(Cost, ALongSequenceOnManyDevicesIsCheap) {
  for (const Layout layout : kLayouts) {
    const std::int64_t took = milliseconds({.tokens = 1 << 20, .devices = 64, .layout = layout}, {});
    RecordProperty(name_of(layout), std::to_string(took));
    EXPECT_LT(took, 500);
  }
}

TEST(Cost, ManyDocumentsAreNotQuadratic) {
  for (const Layout layout : kLayouts)
    for (const std::int64_t length : {10, 250}) {
      SequencePlan plan{.tokens = 1 << 19, .devices = 64, .layout = layout};
      for (std::int64_t start = 0; start < plan.tokens; start += length)
        plan.document_starts.push_back(start);
      const std::int64_t took = milliseconds(plan, {.window = 100, .first_k = 2});
      RecordProperty(std::string(name_of(layout)) + std::to_string(length), std::to_string(took));
      EXPECT_LT(took, 5000);
    }
}

}  // namespace
}  // namespace rondo
