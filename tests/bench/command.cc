// `rondo bench` as users call it, at sizes that take no time.

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>

#include "rondo/core/isa.h"
#include "tests/apps/command.h"

namespace rondo::test {
namespace {

using Words = std::vector<std::string>;

const Words& tiny(const std::string& benchmark) {
  static const std::map<std::string, Words> kArguments = {
      {"attention", {"--ctx", "48", "--head-dim", "8"}},
      {"linear", {"--m", "7", "--n", "9", "--k", "8"}},
      {"step",
       {"--ctx", "12", "--layers", "1", "--width", "8", "--heads", "2", "--head-dim", "4", "--ffn", "16"}},
      {"ring", {"--ctx", "48", "--head-dim", "8", "--devices", "2", "--cpus", "1"}},
      {"decode", {"--cache", "8K", "--head-dim", "8", "--heads", "2"}},
      {"exchange", {"--block-bytes", "2K"}},
  };
  return kArguments.at(benchmark);
}

/// One short run.
const Words kQuick = {"--runs", "1", "--least-seconds", "0", "--peak-seconds", "0.002"};
const Words kBenchmarks = {"attention", "linear", "step", "ring", "decode", "exchange"};

std::vector<nlohmann::json> json_rows(const CommandResult& result) {
  std::vector<nlohmann::json> rows;
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

TEST(BenchCommand, EveryBenchmarkPrintsJson) {
  for (const std::string& name : kBenchmarks) {
    const CommandResult result = rondo(Words{"bench", name, "--format", "json"} + kQuick + tiny(name));
    ASSERT_EQ(result.status, 0) << name << ": " << result.err;
    EXPECT_EQ(result.err, "");
    const auto rows = json_rows(result);
    EXPECT_FALSE(rows.empty());
    for (const auto& row : rows) {
      for (const char* key : {"bench", "pass", "dtype", "head_dim", "heads", "kv_heads", "ctx", "mask",
                              "layout", "devices", "threads", "isa", "seconds_median", "seconds_min", "runs",
                              "gflops", "peak_gflops", "fraction_of_peak", "max_rel_error"})
        EXPECT_TRUE(row.contains(key)) << name << ": " << key;
      EXPECT_EQ(row["bench"], name);
      EXPECT_EQ(row["runs"], 1);
      EXPECT_GT(row["seconds_median"], 0);
      EXPECT_GE(row["max_rel_error"], 0);
    }
  }
}

TEST(BenchCommand, EveryBenchmarkPrintsATable) {
  for (const std::string& name : kBenchmarks) {
    const CommandResult result = rondo(Words{"bench", name} + kQuick + tiny(name));
    ASSERT_EQ(result.status, 0) << name << ": " << result.err;
    std::istringstream lines(result.out);
    std::string head, rule;
    std::getline(lines, head);
    std::getline(lines, rule);
    EXPECT_TRUE(std::regex_match(rule, std::regex("(\\|-+:)+\\|"))) << rule;
    const auto bars = std::count(head.begin(), head.end(), '|');
    int rows = 0;
    for (std::string line; std::getline(lines, line); ++rows)
      EXPECT_EQ(std::count(line.begin(), line.end(), '|'), bars) << line;
    EXPECT_GE(rows, 1);
  }
}

TEST(BenchCommand, EveryCombinationIsARow) {
  const Words lists = {"--ctx", "8,9", "--mask", "causal,window:3", "--dtype", "f32,bf16", "--head-dim", "4"};
  const auto rows = json_rows(rondo(Words{"bench", "attention", "--format", "json"} + kQuick + lists));
  ASSERT_EQ(rows.size(), 8u);
  std::set<std::string> different;
  for (const auto& row : rows) different.insert(row["ctx"].dump() + row["mask"].dump() + row["dtype"].dump());
  EXPECT_EQ(different.size(), 8u);
}

TEST(BenchCommand, TheInstructionSetIsThatAskedFor) {
  const Words command = Words{"bench", "attention", "--format", "json"} + kQuick + tiny("attention");
  EXPECT_EQ(json_rows(rondo(command)).at(0)["isa"], name_of(default_isa()));
  EXPECT_EQ(json_rows(rondo(command + Words{"--isa", "portable"})).at(0)["isa"], "portable");
  EXPECT_EQ(json_rows(rondo(command, "", {{"RONDO_ISA", "portable"}})).at(0)["isa"], "portable");
}

void expect_refused(const Words& arguments, const Words& named) {
  const CommandResult result = rondo(Words{"bench"} + arguments);
  EXPECT_EQ(result.status, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_TRUE(result.err.starts_with("rondo: ")) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const std::string& part : named)
    EXPECT_NE(result.err.find(part), std::string::npos) << "no '" << part << "' in: " << result.err;
}

TEST(BenchCommand, WhatMakesNoSenseIsRefusedBeforeAnythingRuns) {
  expect_refused({}, {"rondo bench --help"});
  expect_refused({"atention"}, {"atention", "did you mean attention?"});
  expect_refused({"attention", "--cxt", "4"}, {"bench attention", "--cxt", "did you mean --ctx?"});
  expect_refused({"attention", "4"}, {"bench attention", "'4'"});
  expect_refused({"attention", "--ctx", "8,0"}, {"--ctx", "'0'"});
  expect_refused({"attention", "--ctx", "8,,9"}, {"--ctx", "'8,,9'"});
  expect_refused({"attention", "--head-dim", "3"}, {"--head-dim", "4 to 256", "'3'"});
  expect_refused({"attention", "--heads", "4,6", "--kv-heads", "2,4"}, {"--kv-heads", "6 and 4"});
  expect_refused({"attention", "--mask", "window:0"}, {"--mask", "'window:0'"});
  expect_refused({"attention", "--pass", "both,none"}, {"--pass", "'none'"});
  expect_refused({"attention", "--dtype", "f16"}, {"--dtype", "'f16'"});
  expect_refused({"attention", "--isa", "mmx"}, {"isa", "'mmx'"});
  expect_refused({"attention", "--runs", "0"}, {"--runs", "'0'"});
  expect_refused({"attention", "--format", "xml"}, {"--format", "json", "'xml'"});
  expect_refused({"attention", "--threads", "0"}, {"--threads", "'0'"});
  expect_refused({"attention", "--exchange", "post"}, {"post"});
  expect_refused({"linear", "--pass", "sideways"}, {"--pass", "dx", "'sideways'"});
  expect_refused({"linear", "--weights", "folded"}, {"--weights", "packed", "'folded'"});
  expect_refused({"linear", "--m", "0"}, {"--m", "'0'"});
  expect_refused({"step", "--mask", "none"}, {"--mask", "causal", "'none'"});
  expect_refused({"step", "--head-dim", "9"}, {"head_dim", "9"});
  expect_refused({"step", "--remat", "all"}, {"all"});
  expect_refused({"step", "--heads", "8", "--kv-heads", "3"}, {"--kv-heads", "8 and 3"});
  expect_refused({"decode", "--cache", "5Q"}, {"--cache", "5Q"});
  expect_refused({"decode", "--sequences", "0"}, {"--sequences", "'0'"});
  expect_refused({"exchange", "--block-bytes", "1M,"}, {"--block-bytes", "'1M,'"});
  expect_refused({"exchange", "--block-bytes", "0"}, {"--block-bytes", "'0'"});
  expect_refused({"exchange", "--devices", "1"}, {"--devices", "'1'"});
  expect_refused({"ring", "--layout", "zagzig"}, {"--layout", "'zagzig'"});
  expect_refused({"ring", "--cpus", "1024"}, {"--cpus", "1024"});
}

}  // namespace
}  // namespace rondo::test
