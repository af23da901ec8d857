#include "rondo/core/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

namespace rondo {

namespace {

/// A JSON string's inside: names are free text of callers.
std::string escaped(std::string_view text) {
  std::string json;
  for (const char c : text) {
    if (c == '"' || c == '\\') json += '\\';
    if (static_cast<unsigned char>(c) < 0x20)
      fmt::format_to(std::back_inserter(json), "\\u{:04x}", static_cast<int>(c));
    else
      json += c;
  }
  return json;
}

}  // namespace

std::int64_t Trace::now_ns() const {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_)
      .count();
}

void Trace::record(TraceEvent event) {
  const std::lock_guard lock(mutex_);
  if (events_.size() >= capacity_) {
    ++dropped_;
    return;
  }
  events_.push_back(std::move(event));
}

std::vector<TraceEvent> Trace::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::size_t Trace::dropped() const {
  const std::lock_guard lock(mutex_);
  return dropped_;
}

void Trace::clear() {
  const std::lock_guard lock(mutex_);
  events_.clear();
  dropped_ = 0;
}

std::string Trace::chrome_json() const {
  const std::lock_guard lock(mutex_);
  std::string json = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  int devices = 0;
  for (const TraceEvent& event : events_) devices = std::max(devices, event.device + 1);
  for (int device = 0; device < devices; ++device) {
    fmt::format_to(std::back_inserter(json),
                   "{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":0,\"tid\":{0},\"args\":{{\"name\":"
                   "\"device {0}\"}}}},\n",
                   device);
  }
  for (const TraceEvent& event : events_) {
    fmt::format_to(std::back_inserter(json),
                   "{{\"ph\":\"X\",\"name\":\"{}\",\"cat\":\"{}\",\"pid\":0,\"tid\":{},\"ts\":{:.3f},\"dur\":"
                   "{:.3f}}},\n",
                   escaped(event.name), escaped(event.category), event.device,
                   static_cast<double>(event.begin_ns) / 1e3,
                   static_cast<double>(event.end_ns - event.begin_ns) / 1e3);
  }
  fmt::format_to(std::back_inserter(json),
                 "{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":0,\"args\":{{\"name\":\"rondo\","
                 "\"dropped\":{}}}}}\n]}}\n",
                 dropped_);
  return json;
}

}  // namespace rondo
