// The table of hardware: what ships, and what files of users may say.

#include "rondo/plan/hardware.h"

#include <gtest/gtest.h>

#include "rondo/core/error.h"
#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

const std::string kWorks = R"(
[box]
title = "A box"
memory_gib = 2.5
memory_gb_per_s = 50
f32_tflops = 0.25
bf16_tflops = 0.5
attention_efficiency = 0.8
linear_efficiency = 0.9
network = { gb_per_s = 0.125, latency_us = 40 }
)";

std::string message_of(const std::string& text) {
  try {
    parse_hardware(text, "mine.toml");
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

TEST(Hardware, OfAFileIsWhatItSays) {
  const auto all = parse_hardware(kWorks, "mine.toml");
  ASSERT_EQ(all.size(), 1u);
  const Hardware& box = find_hardware(all, "box");
  EXPECT_EQ(box.title, "A box");
  EXPECT_EQ(box.memory, std::int64_t{5} << 29);
  EXPECT_DOUBLE_EQ(box.memory_bytes_per_second, 50e9);
  EXPECT_DOUBLE_EQ(box.peak(DType::f32), 0.25e12);
  EXPECT_DOUBLE_EQ(box.peak(DType::bf16), 0.5e12);
  EXPECT_EQ(box.node_devices, 1);
  EXPECT_DOUBLE_EQ(box.link_from(0, 2).bytes_per_second, 0.125e9);
  EXPECT_DOUBLE_EQ(box.link_from(0, 2).latency, 40e-6);
}

TEST(Hardware, OfHostsHasTwoKindsOfLinks) {
  const auto all =
      parse_hardware(kWorks + "node = { devices = 4, gb_per_s = 10, latency_us = 1 }\n", "mine.toml");
  const Hardware& box = all.front();
  EXPECT_DOUBLE_EQ(box.link_from(2, 8).bytes_per_second, 10e9);
  EXPECT_DOUBLE_EQ(box.link_from(3, 8).bytes_per_second, 0.125e9);
  EXPECT_DOUBLE_EQ(box.link_from(7, 8).bytes_per_second, 0.125e9);  // back to the first host
  EXPECT_DOUBLE_EQ(box.link_from(3, 4).bytes_per_second, 10e9);     // all on one host
  EXPECT_DOUBLE_EQ(box.slowest_link(4).bytes_per_second, 10e9);
  EXPECT_DOUBLE_EQ(box.slowest_link(5).bytes_per_second, 0.125e9);
}

TEST(Hardware, WithAMistakeIsRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> wrong = {
      {kWorks + "memroy = 3\n", "'memroy'"},
      {replaced(kWorks, "latency_us", "latency_ms"), "'latency_ms'"},
      {replaced(kWorks, "memory_gib = 2.5\n", ""), "'memory_gib'"},
      {replaced(kWorks, "0.25", "-1"), "'f32_tflops'"},
      {replaced(kWorks, "0.25", "\"fast\""), "'f32_tflops'"},
      {replaced(kWorks, "0.8", "80"), "'attention_efficiency'"},
      {replaced(kWorks, "[box]", "[here]"), "'here'"},
      {replaced(kWorks, "network =", "web ="), "'web'"},
      {kWorks + "node = { devices = 1.5, gb_per_s = 10 }\n", "'devices'"},
      {kWorks + "node = 3\n", "'node'"},
      {"devices = 3\n", "'devices'"},
      {replaced(kWorks, "= 50", "= = 50"), "line 5"},
  };
  for (const auto& [text, word] : wrong) {
    const std::string message = message_of(text);
    EXPECT_NE(message.find(word), std::string::npos) << word << " is not in: " << message;
    EXPECT_NE(message.find("mine.toml"), std::string::npos) << message;
  }
  EXPECT_THROW(read_hardware("/no/such/file.toml"), IoError);
}

TEST(Hardware, ThatShipsMakesSense) {
  const auto all = built_in_hardware();
  EXPECT_GE(all.size(), 15u);
  for (const Hardware& one : all) {
    SCOPED_TRACE(one.name);
    EXPECT_FALSE(one.title.empty() || one.source.empty());
    EXPECT_GE(one.bf16_flops, one.f32_flops);
    EXPECT_GE(one.node.bytes_per_second, one.network.bytes_per_second);
    EXPECT_LE(one.node.latency, one.network.latency);
    EXPECT_GE(one.memory, std::int64_t{8} << 30);
    EXPECT_GT(one.memory_bytes_per_second, one.node.bytes_per_second);
  }
  EXPECT_THROW(find_hardware(all, "abacus"), ArgumentError);
}

TEST(Hardware, MeasuredIsThatOfTheSlowest) {
  RingFindings found{.processes = {ProcessFacts{}, ProcessFacts{}}, .devices = {}, .hops = {}};
  found.devices = {{.f32_together = 2e11, .bf16_together = 4e11, .read_together = 3e10},
                   {.f32_together = 1e11, .bf16_together = 5e11, .read_together = 2e10}};
  found.hops = {{.latency = 1e-5, .messages = {{1, 1, 1}, {2, 2e9, 1e9}}},
                {.latency = 3e-5, .messages = {{1, 1, 1}, {2, 4e9, 3e9}}}};
  const Hardware here = measured_hardware(found, 1 << 30);
  EXPECT_DOUBLE_EQ(here.f32_flops, 1e11);
  EXPECT_DOUBLE_EQ(here.bf16_flops, 4e11);
  EXPECT_DOUBLE_EQ(here.memory_bytes_per_second, 2e10);
  EXPECT_DOUBLE_EQ(here.network.bytes_per_second, 1e9);
  EXPECT_DOUBLE_EQ(here.network.latency, 3e-5);
  EXPECT_FALSE(here.network.copies_itself);
  found.processes.pop_back();
  EXPECT_TRUE(measured_hardware(found, 1 << 30).network.copies_itself);
}

}  // namespace
}  // namespace rondo
