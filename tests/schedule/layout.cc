// Which token lives where, and what plans are refused.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "rondo/core/error.h"
#include "rondo/schedule/schedule.h"

namespace rondo {
namespace {

std::vector<std::int64_t> shares(const SequencePlan& plan) {
  std::vector<std::int64_t> tokens;
  for (int r = 0; r < plan.devices; ++r) tokens.push_back(shard_tokens(plan, r));
  return tokens;
}

std::vector<std::int64_t> globals(const SequencePlan& plan, int device) {
  std::vector<std::int64_t> tokens;
  for (const TokenPlace& place : shard_places(plan, device)) tokens.push_back(place.global);
  return tokens;
}

using Tokens = std::vector<std::int64_t>;

TEST(LayoutNames, RoundTrip) {
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag})
    EXPECT_EQ(parse_layout(name_of(layout)), layout);
  try {
    parse_layout("diagonal");
    FAIL();
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "[parse_layout] expected contiguous, striped or zigzag, got 'diagonal'");
  }
}

TEST(Pieces, Contiguous) {
  const SequencePlan plan{.tokens = 11, .devices = 3};
  EXPECT_EQ(make_pieces(plan, 0), (std::vector<Piece>{{.base = 0, .stride = 1, .count = 4, .local = 0}}));
  EXPECT_EQ(make_pieces(plan, 1), (std::vector<Piece>{{.base = 4, .stride = 1, .count = 4, .local = 0}}));
  EXPECT_EQ(make_pieces(plan, 2), (std::vector<Piece>{{.base = 8, .stride = 1, .count = 3, .local = 0}}));
}

TEST(Pieces, Striped) {
  const SequencePlan plan{.tokens = 11, .devices = 3, .layout = Layout::striped};
  EXPECT_EQ(make_pieces(plan, 1), (std::vector<Piece>{{.base = 1, .stride = 3, .count = 4, .local = 0}}));
  EXPECT_EQ(make_pieces(plan, 2), (std::vector<Piece>{{.base = 2, .stride = 3, .count = 3, .local = 0}}));
  EXPECT_EQ(globals(plan, 2), (Tokens{2, 5, 8}));
}

TEST(Pieces, ZigzagHasAnEarlyAndALateChunk) {
  const SequencePlan plan{.tokens = 11, .devices = 3, .layout = Layout::zigzag};
  EXPECT_EQ(globals(plan, 0), (Tokens{0, 1, 9, 10}));
  EXPECT_EQ(globals(plan, 1), (Tokens{2, 3, 7, 8}));
  EXPECT_EQ(globals(plan, 2), (Tokens{4, 5, 6}));
  EXPECT_EQ(make_pieces(plan, 0), (std::vector<Piece>{{.base = 0, .stride = 1, .count = 2, .local = 0},
                                                      {.base = 9, .stride = 1, .count = 2, .local = 2}}));
  EXPECT_EQ(make_pieces(plan, 2).size(), 1u) << "its chunks touch";
}

TEST(Pieces, ChunksOfZigzagDifferByAtMostOneToken) {
  for (int devices = 2; devices <= 9; ++devices)
    for (std::int64_t tokens = 4 * devices; tokens < 8 * devices; ++tokens) {
      std::vector<std::int64_t> chunks;
      for (int r = 0; r + 1 < devices; ++r)
        for (const Piece& piece :
             make_pieces({.tokens = tokens, .devices = devices, .layout = Layout::zigzag}, r))
          chunks.push_back(piece.count);
      EXPECT_LE(*std::ranges::max_element(chunks) - *std::ranges::min_element(chunks), 1);
    }
}

TEST(Pieces, EqualSharesDifferByAtMostOneToken) {
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag})
    for (int devices = 1; devices <= 9; ++devices)
      for (std::int64_t tokens = 0; tokens < 40; ++tokens) {
        const Tokens got = shares({.tokens = tokens, .devices = devices, .layout = layout});
        EXPECT_LE(*std::ranges::max_element(got) - *std::ranges::min_element(got), 1);
      }
}

TEST(Weights, ByLargestRemainder) {
  for (const Layout layout : {Layout::contiguous, Layout::zigzag}) {
    EXPECT_EQ(shares({.tokens = 10, .devices = 3, .layout = layout, .weights = {1, 1, 1}}),
              (Tokens{4, 3, 3}));
    EXPECT_EQ(shares({.tokens = 10, .devices = 3, .layout = layout, .weights = {0.5, 0, 1.5}}),
              (Tokens{3, 0, 7}));
    EXPECT_EQ(shares({.tokens = 7, .devices = 3, .layout = layout, .weights = {0, 1, 0}}), (Tokens{0, 7, 0}));
    EXPECT_EQ(shares({.tokens = 100, .devices = 3, .layout = layout, .weights = {0.1, 0.2, 0.7}}),
              (Tokens{10, 20, 70}));
    EXPECT_EQ(shares({.tokens = 2, .devices = 4, .layout = layout, .weights = {1, 3, 3, 2}}),
              (Tokens{0, 1, 1, 0}));
    EXPECT_EQ(shares({.tokens = 0, .devices = 2, .layout = layout, .weights = {1, 3}}), (Tokens{0, 0}));
  }
  const SequencePlan zigzag{.tokens = 12, .devices = 2, .layout = Layout::zigzag, .weights = {2, 1}};
  EXPECT_EQ(globals(zigzag, 0), (Tokens{0, 1, 2, 3, 8, 9, 10, 11}));
  EXPECT_EQ(globals(zigzag, 1), (Tokens{4, 5, 6, 7}));
}

TEST(Weights, TinyAndHugeSumsKeepEveryToken) {
  const std::int64_t tokens = (std::int64_t{1} << 48) - 1;
  for (const double scale : {1e-300, 1.0, 1e300}) {
    const Tokens got =
        shares({.tokens = tokens, .devices = 3, .weights = {0.1 * scale, 0.3 * scale, 0.7 * scale}});
    EXPECT_EQ(got[0] + got[1] + got[2], tokens);
  }
}

TEST(Places, PositionsRestartInEachDocument) {
  const SequencePlan plan{.tokens = 9, .devices = 2, .layout = Layout::striped, .document_starts = {0, 3, 4}};
  const auto places = shard_places(plan, 1);  // tokens 1, 3, 5, 7
  ASSERT_EQ(places.size(), 4u);
  const Tokens position{1, 0, 1, 3}, document{0, 1, 2, 2};
  for (std::size_t n = 0; n < 4; ++n) {
    EXPECT_EQ(places[n].position, position[n]);
    EXPECT_EQ(places[n].document, document[n]);
  }
}

void expect_refused(const SequencePlan& plan, const Mask& mask, int device, const std::string& words) {
  try {
    make_schedule(plan, mask, device);
    ADD_FAILURE() << "accepted, expected: " << words;
  } catch (const ArgumentError& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
  }
}

TEST(Plan, ContradictionsAreRefusedByName) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  expect_refused({.tokens = 4, .devices = 0}, {}, 0, "[make_schedule] expected devices >= 1, got 0");
  expect_refused({.tokens = -1}, {}, 0, "expected tokens in 0...");
  expect_refused({.tokens = std::numeric_limits<std::int64_t>::max()}, {}, 0, "expected tokens in 0...");
  expect_refused({.tokens = 4, .devices = 2}, {}, 2, "expected a device in 0...1, got 2");
  expect_refused({.tokens = 4, .devices = 2}, {}, -1, "expected a device in 0...1, got -1");
  expect_refused({.tokens = 4}, {.window = -1}, 0, "expected window >= 0 (0: none), got -1");
  expect_refused({.tokens = 4}, {.first_k = -2}, 0, "expected first_k >= 0, got -2");
  expect_refused({.tokens = 4, .document_starts = {1}}, {}, 0,
                 "expected the first document to start at 0, got 1");
  expect_refused({.tokens = 4, .document_starts = {0, 2, 2}}, {}, 0, "strictly ascending, got 2 after 2");
  expect_refused({.tokens = 4, .document_starts = {0, 4}}, {}, 0, "below 4 tokens, got 4");
  expect_refused({.tokens = 0, .document_starts = {0, 1}}, {}, 0, "below 0 tokens, got 1");
  expect_refused({.tokens = 4, .devices = 2, .weights = {1}}, {}, 0,
                 "one weight for each of 2 devices, got 1");
  expect_refused({.tokens = 4, .devices = 2, .weights = {1, -1}}, {}, 0, "finite weights >= 0, got -1");
  expect_refused({.tokens = 4, .devices = 2, .weights = {1, nan}}, {}, 0, "finite weights >= 0, got nan");
  expect_refused({.tokens = 4, .devices = 2, .weights = {0, 0}}, {}, 0, "sum > 0, got sum 0");
  expect_refused({.tokens = 4, .devices = 2, .weights = {1e308, 1e308}}, {}, 0, "finite sum > 0");
  expect_refused({.tokens = 4, .devices = 2, .layout = Layout::striped, .weights = {1, 1}}, {}, 0,
                 "contiguous or zigzag only");
}

TEST(Plan, EdgesAreAccepted) {
  EXPECT_TRUE(make_schedule({.tokens = 0, .devices = 3, .document_starts = {0}}, {}, 2).hops.empty());
  EXPECT_EQ(make_schedule({.tokens = 3},
                          {.window = std::numeric_limits<std::int64_t>::max(),
                           .first_k = std::numeric_limits<std::int64_t>::max()},
                          0)
                .steps.size(),
            1u);
}

}  // namespace
}  // namespace rondo
