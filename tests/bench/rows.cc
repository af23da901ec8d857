// Rows as tables and JSON, and the statistics behind them.

#include "bench/row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "bench/measure.h"
#include "bench/verify.h"
#include "rondo/core/error.h"

namespace rondo::bench {
namespace {

Row example() {
  return {.bench = "attention",
          .pass = "forward",
          .dtype = "f32",
          .head_dim = 64,
          .heads = 8,
          .kv_heads = 2,
          .ctx = 4096,
          .mask = "window:128",
          .layout = "zigzag",
          .devices = 2,
          .threads = 3,
          .isa = "avx512",
          .seconds_median = 0.0123456,
          .seconds_min = 0.01,
          .runs = 5,
          .cpu_share = 0.75,
          .gflops = 217.25,
          .peak_gflops = 240.0,
          .fraction_of_peak = 0.905,
          .max_rel_error = 3.2e-7,
          .more = {{"ratio", 0.98, 3}}};
}

TEST(Json, HasEveryFieldOfTheIssue) {
  const auto json = nlohmann::json::parse(json_line(example()));
  for (const char* key : {"bench",
                          "pass",
                          "dtype",
                          "head_dim",
                          "heads",
                          "kv_heads",
                          "ctx",
                          "mask",
                          "layout",
                          "devices",
                          "threads",
                          "isa",
                          "seconds_median",
                          "seconds_min",
                          "runs",
                          "gflops",
                          "peak_gflops",
                          "fraction_of_peak",
                          "max_rel_error",
                          "ratio"})
    EXPECT_TRUE(json.contains(key) && !json[key].is_null()) << key;
  EXPECT_EQ(json["ctx"], 4096);
  EXPECT_EQ(json["mask"], "window:128");
  EXPECT_EQ(json["seconds_median"], 0.0123456);
  EXPECT_EQ(json_line(example()).find('\n'), std::string::npos);
}

TEST(Json, WhatDoesNotApplyIsNull) {
  Row row = example();
  row.head_dim = {};
  row.gflops = std::numeric_limits<double>::quiet_NaN();
  const auto json = nlohmann::json::parse(json_line(row));
  EXPECT_TRUE(json.contains("head_dim") && json["head_dim"].is_null());
  EXPECT_TRUE(json.contains("gflops") && json["gflops"].is_null());
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

TEST(Table, HasARuleAndAsManyCellsInEveryLine) {
  Row row = example();
  row.kv_heads = {};
  const auto lines = lines_of(table_head(row) + table_row(row) + table_row(row));
  ASSERT_EQ(lines.size(), 4u);
  const auto bars = std::count(lines[0].begin(), lines[0].end(), '|');
  EXPECT_EQ(bars, 21);  // 20 common columns less an empty one, one more of its own, and the end
  for (const std::string& line : lines) {
    EXPECT_EQ(std::count(line.begin(), line.end(), '|'), bars) << line;
    EXPECT_EQ(line.size(), lines[0].size()) << line;
  }
  EXPECT_EQ(lines[1].find_first_not_of("|-:"), std::string::npos) << lines[1];
  EXPECT_EQ(lines[0].find("kv_heads"), std::string::npos);
  for (const char* cell : {" 0.01235 ", " 217.2 ", " 0.905 ", " 3.2e-07 ", " window:128 ", " 0.980 "})
    EXPECT_NE(lines[2].find(cell), std::string::npos) << cell << " in " << lines[2];
}

TEST(Statistics, MedianAndShares) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 3, 2}), 2.5);
  EXPECT_EQ(least({3, 1, 2}), 1);
  const Runs a{.seconds = {1, 2, 4}, .peaks = {10, 10, 5}, .processors = {}},
      b{.seconds = {2, 1, 2}, .peaks = {10, 10, 10}, .processors = {}};
  EXPECT_EQ(median_share(a, 10), 0.5);  // 1, 0.5, 0.5
  EXPECT_EQ(median_ratio(a, b), 2);     // 0.5, 2, 2
}

TEST(Measure, WarmsUpAlternatesAndMeasuresThePeakAround) {
  std::vector<int> order;
  double peak = 0;
  const Work first = [&](int) { order.push_back(1); }, second = [&](int) { order.push_back(2); };
  const auto runs = measure({.runs = 3, .least_seconds = 0}, {first, second}, [&] { return peak += 2; });
  EXPECT_EQ(order, (std::vector<int>{1, 2, 1, 2, 2, 1, 1, 2}));
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].seconds.size(), 3u);
  EXPECT_EQ(runs[0].peaks, (std::vector<double>{3, 9, 11}));
  EXPECT_EQ(runs[1].peaks, (std::vector<double>{5, 7, 13}));
  EXPECT_THROW(measure({.runs = 0}, {first}, [] { return 1.0; }), ArgumentError);
}

TEST(Measure, SaysHowManyProcessorsWereAtWork) {
  const auto wait = [](int) { std::this_thread::sleep_for(std::chrono::milliseconds(10)); };
  const Runs runs = measure({.runs = 2, .least_seconds = 0}, {wait}, [] { return 1.0; }).front();
  ASSERT_EQ(runs.processors.size(), 2u);
  EXPECT_LT(median(runs.processors), 0.5);
  const Row row =
      with_times({.devices = 1, .threads = 1}, {.seconds = {1}, .peaks = {1}, .processors = {0.9}});
  EXPECT_EQ(std::get<double>(row.cpu_share), 0.9);
}

TEST(Measure, ShortWorkFillsARun) {
  int most = 0;
  measure({.runs = 1, .least_seconds = 0.001}, {[&](int repeats) { most = std::max(most, repeats); }},
          [] { return 1.0; });
  EXPECT_GT(most, 100);
}

TEST(Verify, ErrorsAreRelativeToTheLargestValue) {
  Comparison comparison;
  comparison.add({1, 2}, {1, 2.5});
  comparison.add({-10}, {-10});
  EXPECT_EQ(comparison.relative(), 0.05);
  comparison.add({std::numeric_limits<double>::quiet_NaN()}, {1});
  EXPECT_EQ(comparison.relative(), std::numeric_limits<double>::infinity());
  EXPECT_NO_THROW(require_small(1e-6, DType::f32, "x"));
  EXPECT_THROW(require_small(1e-3, DType::f32, "x"), std::runtime_error);
  EXPECT_THROW(require_small(0.1, DType::bf16, "x"), std::runtime_error);
  EXPECT_THROW(require_small(std::numeric_limits<double>::infinity(), DType::f32, "x"), std::runtime_error);
  EXPECT_THROW(require_small(std::numeric_limits<double>::quiet_NaN(), DType::f32, "x"), std::runtime_error);
}

TEST(Verify, SamplesAreSpreadAndHaveBothEnds) {
  EXPECT_EQ(sampled(5, 100), (std::vector<std::int64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(sampled(1, 0), (std::vector<std::int64_t>{0}));
  EXPECT_EQ(sampled(9, 0), (std::vector<std::int64_t>{0, 8}));
  for (const std::int64_t size : {10, 97, 1000}) {
    const auto chosen = sampled(size, 7);
    ASSERT_EQ(chosen.size(), 7u);
    EXPECT_EQ(chosen.front(), 0);
    EXPECT_EQ(chosen.back(), size - 1);
    EXPECT_TRUE(std::adjacent_find(chosen.begin(), chosen.end(), std::greater_equal<>()) == chosen.end());
  }
}

}  // namespace
}  // namespace rondo::bench
