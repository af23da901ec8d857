#pragma once
// Optional record of what each device did when, written in the Chrome trace format (chrome://tracing,
// ui.perfetto.dev).

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace rondo {

struct TraceEvent {
  int device = 0;
  const char* category = "";  ///< compute, exchange or wait; a literal
  std::string name;
  std::int64_t begin_ns = 0, end_ns = 0;  ///< since the trace began
};

/// Collects events of all devices of a process. Holds at most `capacity` events and counts what it dropped.
class Trace {
 public:
  explicit Trace(std::size_t capacity = 1 << 20) : capacity_(capacity) {}
  std::int64_t now_ns() const;
  void record(TraceEvent event);
  std::vector<TraceEvent> events() const;
  std::size_t dropped() const;
  void clear();
  /// The events as a Chrome trace document: one thread of process 0 per device, times in microseconds.
  std::string chrome_json() const;

 private:
  mutable std::mutex mutex_;
  std::size_t capacity_, dropped_ = 0;
  std::vector<TraceEvent> events_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// One device's end of a trace; does nothing when there is none.
class DeviceTrace {
 public:
  DeviceTrace(Trace* trace, int device) : trace_(trace), device_(device) {}
  bool enabled() const { return trace_ != nullptr; }

  /// Records the time from its construction to its end.
  class Span {
   public:
    Span(DeviceTrace& owner, const char* category, std::string name)
        : owner_(owner), category_(category), name_(std::move(name)), begin_(owner.now()) {}
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;
    ~Span() {
      if (owner_.trace_ != nullptr)
        owner_.trace_->record({owner_.device_, category_, std::move(name_), begin_, owner_.now()});
    }

   private:
    DeviceTrace& owner_;
    const char* category_;
    std::string name_;
    std::int64_t begin_;
  };

 private:
  std::int64_t now() const { return trace_ != nullptr ? trace_->now_ns() : 0; }
  Trace* trace_;
  int device_;
};

}  // namespace rondo
