#pragma once
// What each device did when: an account of its waits that is always kept, and an optional record of events
// and of what its ledger held, written in the Chrome trace format (chrome://tracing, ui.perfetto.dev).

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rondo/core/ledger.h"

namespace rondo {

struct TraceEvent {
  int device = 0;
  const char* category = "";  ///< compute, exchange or wait; a literal
  std::string name;
  std::int64_t begin_ns = 0, end_ns = 0;  ///< since the trace began
};

/// What stood in a device's ledger under an entry from a moment on.
struct MemoryChange {
  int device = 0;
  Entry entry = Entry::data;
  std::int64_t at_ns = 0;  ///< since the trace began
  std::int64_t bytes = 0;
};

/// What one process recorded.
struct ProcessTrace {
  int process = 0;
  std::string host;                       ///< empty: not known
  std::vector<TraceEvent> events;         ///< on the clock of process 0
  std::vector<MemoryChange> memory = {};  ///< each device's in order, on the same clock
  std::size_t dropped = 0;                ///< events and changes that there was no room for
  std::int64_t clock_error_ns = 0;        ///< most by which its clock may be off that of process 0
};

/// A Chrome trace document: a process for each, a thread for each of its devices and a counter of its memory
/// by ledger entry, in bytes; times in microseconds.
std::string chrome_json(std::span<const ProcessTrace> processes);

/// Collects events of all devices of a process, and changes of their ledgers. Holds at most `capacity` of
/// either and counts what it dropped.
class Trace {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Trace(std::size_t capacity = 1 << 20, Clock::time_point start = Clock::now())
      : capacity_(capacity), start_(start) {}
  std::int64_t now_ns() const { return at_ns(Clock::now()); }
  std::int64_t at_ns(Clock::time_point time) const { return std::chrono::nanoseconds(time - start_).count(); }
  void record(TraceEvent event);
  void record_memory(const MemoryChange& change) noexcept;
  std::vector<TraceEvent> events() const;
  std::vector<MemoryChange> memory() const;
  std::size_t dropped() const;
  void clear();
  /// Forgets all and records nothing more.
  void close();
  bool open() const { return open_; }
  /// The events as a Chrome trace document of one process.
  std::string chrome_json() const;

 private:
  mutable std::mutex mutex_;
  const std::size_t capacity_;
  std::size_t dropped_ = 0;
  std::vector<TraceEvent> events_;
  std::vector<MemoryChange> memory_;
  const Clock::time_point start_;
  std::atomic<bool> open_ = true;
};

/// How long a device stood still for others. Used by the thread of that device alone.
class TimeAccount {
 public:
  struct Times {
    std::int64_t wait_ns = 0;      ///< until the other device came
    std::int64_t exchange_ns = 0;  ///< while data were moved
  };
  /// Spans of other categories than wait and exchange are no standstill and are left out.
  void add(std::string_view category, std::int64_t ns) {
    if (category == "wait") times_.wait_ns += ns;
    if (category == "exchange") times_.exchange_ns += ns;
  }
  /// What has gathered since the last call.
  Times take() { return std::exchange(times_, {}); }

 private:
  Times times_;
};

/// One device's end of a trace, and of its account; does nothing where there are neither.
class DeviceTrace {
 public:
  DeviceTrace(Trace* trace, int device, TimeAccount* account = nullptr)
      : trace_(trace), device_(device), account_(account) {}
  /// Whether events are recorded: their names are made only then.
  bool enabled() const { return trace_ != nullptr && trace_->open(); }

  /// Records the time from its construction to its end. Spans of waits and exchanges do not overlap.
  class Span {
   public:
    Span(DeviceTrace& owner, const char* category, std::string name)
        : owner_(owner), category_(category), name_(std::move(name)), begin_(owner.now()) {}
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;
    ~Span() { owner_.record({category_, begin_, owner_.now()}, std::move(name_)); }
    /// Goes on as another category from `at`, or from its beginning where that was later.
    void turn(const char* category, Trace::Clock::time_point at) {
      at = std::max(at, begin_);
      owner_.record({category_, begin_, at}, name_);
      category_ = category;
      begin_ = at;
    }

   private:
    DeviceTrace& owner_;
    const char* category_;
    std::string name_;
    Trace::Clock::time_point begin_;
  };

 private:
  struct Part {
    const char* category;
    Trace::Clock::time_point begin, end;
  };
  Trace::Clock::time_point now() const {
    return trace_ != nullptr || account_ != nullptr ? Trace::Clock::now() : Trace::Clock::time_point();
  }
  void record(const Part& part, std::string name);
  Trace* trace_;
  int device_;
  TimeAccount* account_;
};

}  // namespace rondo
