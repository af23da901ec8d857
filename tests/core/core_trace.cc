// The trace of a run: a Chrome trace document that any JSON parser reads.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "rondo/core/trace.h"

namespace rondo {
namespace {

using nlohmann::json;

std::vector<json> complete_events(const json& document) {
  std::vector<json> events;
  for (const json& event : document.at("traceEvents"))
    if (event.at("ph") == "X") events.push_back(event);
  return events;
}

TEST(Traces, OfNothingAreValid) {
  const json document = json::parse(Trace().chrome_json());
  EXPECT_TRUE(complete_events(document).empty());
}

TEST(Traces, HaveOneThreadPerDevice) {
  Trace trace;
  trace.record({.device = 2, .category = "compute", .name = "layer 3", .begin_ns = 1500, .end_ns = 4000});
  trace.record({.device = 0, .category = "wait", .name = "hop 1", .begin_ns = 0, .end_ns = 1});
  const json document = json::parse(trace.chrome_json());
  const auto events = complete_events(document);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].at("name"), "layer 3");
  EXPECT_EQ(events[0].at("cat"), "compute");
  EXPECT_EQ(events[0].at("tid"), 2);
  EXPECT_DOUBLE_EQ(events[0].at("ts"), 1.5);
  EXPECT_DOUBLE_EQ(events[0].at("dur"), 2.5);
  std::vector<std::string> names;
  for (const json& event : document.at("traceEvents"))
    if (event.at("name") == "thread_name") names.push_back(event.at("args").at("name"));
  EXPECT_EQ(names, (std::vector<std::string>{"device 0", "device 1", "device 2"}));
}

TEST(Traces, EscapeWhatCallersWrite) {
  Trace trace;
  const std::string name = "a \"quoted\" \\ name\nwith\tcontrol \x01 and ümlaut";
  trace.record({.device = 0, .category = "compute", .name = name, .begin_ns = 0, .end_ns = 1});
  const auto events = complete_events(json::parse(trace.chrome_json()));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].at("name"), name);
}

TEST(Traces, CountWhatTheyDrop) {
  Trace trace(3);
  for (int i = 0; i < 5; ++i) trace.record({.device = 0, .category = "compute", .name = "x"});
  EXPECT_EQ(trace.events().size(), 3u);
  EXPECT_EQ(trace.dropped(), 2u);
  const json document = json::parse(trace.chrome_json());
  EXPECT_EQ(document.at("traceEvents").back().at("args").at("dropped"), 2);
  trace.clear();
  EXPECT_EQ(trace.dropped(), 0u);
  EXPECT_TRUE(trace.events().empty());
}

TEST(Traces, TakeSpansOfManyDevicesAtOnce) {
  Trace trace;
  {
    std::vector<std::jthread> threads;
    for (int device = 0; device < 4; ++device) {
      threads.emplace_back([&trace, device] {
        DeviceTrace own(&trace, device);
        for (int i = 0; i < 100; ++i) const DeviceTrace::Span span(own, "compute", "step");
      });
    }
  }
  const auto events = trace.events();
  ASSERT_EQ(events.size(), 400u);
  for (const TraceEvent& event : events) EXPECT_LE(event.begin_ns, event.end_ns);
}

TEST(Traces, SpansWithoutATraceDoNothing) {
  DeviceTrace none(nullptr, 1);
  EXPECT_FALSE(none.enabled());
  const DeviceTrace::Span span(none, "compute", "step");
}

}  // namespace
}  // namespace rondo
