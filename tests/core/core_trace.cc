// The trace of a run: a Chrome trace document that any JSON parser reads.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "rondo/core/context.h"
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
  EXPECT_EQ(names, (std::vector<std::string>{"device 0", "device 2"}));
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

TEST(Traces, OfSeveralProcessesAreOneDocument) {
  const std::vector<ProcessTrace> processes = {
      {.process = 0, .host = "first", .events = {{1, "compute", "a", 1000, 2000}}},
      {.process = 2,
       .host = "a \"host\"",
       .events = {{4, "wait", "b", 3000, 5000}, {5, "wait", "c", -7000, 0}},
       .dropped = 7,
       .clock_error_ns = 12'300}};
  const json document = json::parse(chrome_json(processes));
  const auto events = complete_events(document);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].at("pid"), 2);
  EXPECT_EQ(events[1].at("tid"), 4);
  EXPECT_DOUBLE_EQ(events[2].at("ts"), -7);
  const json last = document.at("traceEvents").back();
  EXPECT_EQ(last.at("name"), "process_name");
  EXPECT_EQ(last.at("args").at("name"), "rondo 2 on a \"host\"");
  EXPECT_EQ(last.at("args").at("dropped"), 7);
  EXPECT_DOUBLE_EQ(last.at("args").at("clock_error_us"), 12.3);
}

TEST(Traces, HaveACounterOfEachDevicesMemory) {
  Trace trace;
  {
    Context context({.device = 3, .trace = &trace});
    const Buffer kept = context.arena.allocate(Entry::attention, 4096, "test");
    { const Buffer other = context.arena.allocate(Entry::data, 5000, "test"); }
  }
  std::vector<json> counters;
  const json document = json::parse(trace.chrome_json());
  for (const json& event : document.at("traceEvents"))
    if (event.at("ph") == "C") counters.push_back(event);
  ASSERT_EQ(counters.size(), 4u);
  const auto attention = {4096, 4096, 4096, 0}, data = {0, 8192, 0, 0};
  for (std::size_t n = 0; n < 4; ++n) {
    EXPECT_EQ(counters[n].at("name"), "memory of device 3");
    EXPECT_EQ(counters[n].at("args"), (json{{"attention", attention.begin()[n]}, {"data", data.begin()[n]}}));
    EXPECT_GE(counters[n].at("ts"), counters[n > 0 ? n - 1 : 0].at("ts"));
  }
  Trace full(2);
  for (int n = 0; n < 5; ++n) full.record_memory({0, Entry::data, n, 8});
  EXPECT_EQ(full.memory().size(), 2u);
  EXPECT_EQ(full.dropped(), 3u);
  full.close();
  full.record_memory({0, Entry::data, 9, 8});
  EXPECT_TRUE(full.memory().empty());
}

TEST(Traces, ThatAreClosedRecordNothing) {
  Trace trace(1);
  DeviceTrace own(&trace, 0);
  trace.record({});
  trace.record({});
  trace.close();
  EXPECT_FALSE(own.enabled());
  trace.record({});
  EXPECT_TRUE(trace.events().empty());
  EXPECT_EQ(trace.dropped(), 0u);
}

TEST(TimeAccounts, TakeSpansWithAndWithoutATrace) {
  Trace trace;
  for (Trace* recorded : {static_cast<Trace*>(nullptr), &trace}) {
    TimeAccount account;
    DeviceTrace own(recorded, 0, &account);
    EXPECT_EQ(own.enabled(), recorded != nullptr);
    for (const char* category : {"wait", "exchange", "compute"}) {
      const DeviceTrace::Span span(own, category, "hop 1");
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    const TimeAccount::Times times = account.take();
    EXPECT_GE(times.wait_ns, 2'000'000);
    EXPECT_GE(times.exchange_ns, 2'000'000);
    EXPECT_EQ(account.take().wait_ns + account.take().exchange_ns, 0);
  }
  EXPECT_EQ(trace.events().size(), 3u);
}

TEST(TimeAccounts, TakeBothPartsOfASpanThatTurns) {
  Trace trace;
  TimeAccount account;
  DeviceTrace own(&trace, 0, &account);
  const auto begin = Trace::Clock::now();
  {
    DeviceTrace::Span span(own, "wait", "hop");
    std::this_thread::sleep_for(std::chrono::milliseconds(4));
    span.turn("exchange", Trace::Clock::now() - std::chrono::milliseconds(2));  // known a little late
  }
  {
    DeviceTrace::Span span(own, "wait", "hop");
    span.turn("exchange", begin - std::chrono::hours(1));  // long before: no wait at all
  }
  const auto events = trace.events();
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0].end_ns, events[1].begin_ns);
  EXPECT_EQ(std::string(events[1].category) + events[1].name, "exchangehop");
  EXPECT_GE(events[1].end_ns - events[1].begin_ns, 2'000'000);
  EXPECT_EQ(events[2].begin_ns, events[2].end_ns);
  const TimeAccount::Times times = account.take();
  EXPECT_EQ(times.wait_ns, events[0].end_ns - events[0].begin_ns);
  EXPECT_EQ(times.exchange_ns, events[1].end_ns - events[1].begin_ns + events[3].end_ns - events[3].begin_ns);
}

TEST(TimeAccounts, AddUp) {
  TimeAccount account;
  for (const auto& [category, ns] : {std::pair("wait", 5), {"exchange", 7}, {"compute", 9}, {"wait", 6}})
    account.add(category, ns);
  const TimeAccount::Times times = account.take();
  EXPECT_EQ(times.wait_ns, 11);
  EXPECT_EQ(times.exchange_ns, 7);
}

}  // namespace
}  // namespace rondo
