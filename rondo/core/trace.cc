#include "rondo/core/trace.h"

#include <fmt/format.h>

#include <array>
#include <iterator>
#include <map>
#include <new>
#include <set>
#include <string_view>
#include <utility>

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

void DeviceTrace::record(const Part& part, std::string name) {
  if (account_ != nullptr)
    account_->add(part.category, std::chrono::nanoseconds(part.end - part.begin).count());
  if (trace_ != nullptr)
    trace_->record(
        {device_, part.category, std::move(name), trace_->at_ns(part.begin), trace_->at_ns(part.end)});
}

void Trace::record(TraceEvent event) {
  if (!open_) return;
  const std::lock_guard lock(mutex_);
  if (events_.size() >= capacity_) {
    ++dropped_;
    return;
  }
  events_.push_back(std::move(event));
}

void Trace::record_memory(const MemoryChange& change) noexcept {
  if (!open_) return;
  const std::lock_guard lock(mutex_);
  if (memory_.size() < capacity_) {
    try {
      return memory_.push_back(change);
    } catch (const std::bad_alloc&) {  // a trace is not worth failing for
    }
  }
  ++dropped_;
}

std::vector<MemoryChange> Trace::memory() const {
  const std::lock_guard lock(mutex_);
  return memory_;
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
  memory_.clear();
  dropped_ = 0;
}

void Trace::close() {
  open_ = false;
  const std::lock_guard lock(mutex_);
  events_ = {};
  memory_ = {};
  dropped_ = 0;
}

std::string Trace::chrome_json() const {
  ProcessTrace own;
  {
    const std::lock_guard lock(mutex_);
    own.events = events_;
    own.memory = memory_;
    own.dropped = dropped_;
  }
  return rondo::chrome_json({&own, 1});
}

namespace {

/// One counter for each device. Each of its events has all series, or viewers would draw the others as 0.
std::string memory_counters(const ProcessTrace& process) {
  constexpr auto kEntries = static_cast<std::size_t>(Entry::count);
  std::map<int, std::array<std::int64_t, kEntries>> held, most;
  for (const MemoryChange& change : process.memory) {
    std::int64_t& peak = most[change.device][static_cast<std::size_t>(change.entry)];
    peak = std::max(peak, change.bytes);
  }
  std::string json;
  for (const MemoryChange& change : process.memory) {
    auto& bytes = held[change.device];
    bytes[static_cast<std::size_t>(change.entry)] = change.bytes;
    fmt::format_to(std::back_inserter(json),
                   R"({{"ph":"C","name":"memory of device {}","pid":{},"tid":{},"ts":{:.3f},"args":{{)",
                   change.device, process.process, change.device, static_cast<double>(change.at_ns) / 1e3);
    const char* comma = "";
    for (std::size_t entry = 0; entry < kEntries; ++entry) {
      if (most[change.device][entry] == 0) continue;
      fmt::format_to(std::back_inserter(json), R"({}"{}":{})", comma, name_of(static_cast<Entry>(entry)),
                     bytes[entry]);
      comma = ",";
    }
    json += "}},\n";
  }
  return json;
}

}  // namespace

std::string chrome_json(std::span<const ProcessTrace> processes) {
  std::string json = "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n";
  const auto put = [&json]<class... Values>(fmt::format_string<Values...> form, Values&&... values) {
    fmt::format_to(std::back_inserter(json), form, std::forward<Values>(values)...);
  };
  for (const ProcessTrace& process : processes) {
    std::set<int> devices;
    for (const TraceEvent& event : process.events) devices.insert(event.device);
    for (const int device : devices)
      put("{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":{0},\"tid\":{1},\"args\":{{\"name\":\"device "
          "{1}\"}}}},\n",
          process.process, device);
    for (const TraceEvent& event : process.events)
      put("{{\"ph\":\"X\",\"name\":\"{}\",\"cat\":\"{}\",\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f}}}"
          ",\n",
          escaped(event.name), escaped(event.category), process.process, event.device,
          static_cast<double>(event.begin_ns) / 1e3,
          static_cast<double>(event.end_ns - event.begin_ns) / 1e3);
    json += memory_counters(process);
  }
  for (const ProcessTrace& process : processes)
    put("{{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":{},\"args\":{{\"name\":\"rondo "
        "{}{}\",\"dropped\":{},"
        "\"clock_error_us\":{:.1f}}}}}{}\n",
        process.process, process.process, process.host.empty() ? "" : escaped(" on " + process.host),
        process.dropped, static_cast<double>(process.clock_error_ns) / 1e3,
        &process == &processes.back() ? "" : ",");
  return json + "]}\n";
}

}  // namespace rondo
