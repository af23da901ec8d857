#pragma once
// Gathers traces and checks each event's time: all processes of a test run on one host, so that the true time
// is known.

#include "rondo/comm/trace_gathering.h"
#include "tests/comm/comm_support.h"

namespace rondo::test {

/// Called by every device; `own` is the trace of its process.
inline void expect_one_clock(const RingOptions& ring, Communicator& comm, Trace& own) {
  const auto host_ns = [] {
    return std::chrono::nanoseconds(Trace::Clock::now().time_since_epoch()).count();
  };
  TraceGathering gathering(ring, comm, own);
  gathering.begin();
  for (int n = 0; n < 5; ++n) {
    // Events say in their names when they began in truth.
    std::int64_t earliest = host_ns();
    const std::int64_t begin = own.now_ns();
    own.record({comm.device(), n % 2 == 0 ? "compute" : "wait", std::to_string(earliest), begin, begin + n});
    own.record_memory({comm.device(), Entry::exchange, begin, earliest});
    dawdle(static_cast<std::uint64_t>(comm.device()), static_cast<std::uint64_t>(n), 2000);
  }
  const std::int64_t host_less_own = host_ns() - own.now_ns();  // to within the time between two reads
  const std::vector<ProcessTrace> all = gathering.finish(10'000);
  if (comm.device() != 0) {
    EXPECT_TRUE(all.empty());
    return;
  }
  const int processes = comm.devices() / ring.devices;
  ASSERT_EQ(all.size(), static_cast<std::size_t>(processes));
  for (int p = 0; p < processes; ++p) {
    const ProcessTrace& process = all[static_cast<std::size_t>(p)];
    EXPECT_EQ(process.process, p);
    EXPECT_EQ(process.dropped, 0u);
    EXPECT_FALSE(process.host.empty());
    EXPECT_EQ(process.clock_error_ns > 0, p > 0);
    EXPECT_LT(process.clock_error_ns, 1'000'000'000);
    ASSERT_EQ(process.events.size(), 5u * static_cast<std::size_t>(ring.devices));
    for (const TraceEvent& event : process.events) {
      EXPECT_EQ(event.device / ring.devices, p);
      EXPECT_NEAR(static_cast<double>(event.end_ns - event.begin_ns), 2, 2.5);
      const std::int64_t truth = std::stoll(event.name) - host_less_own;
      // A thread may be put aside between two reads of the clock.
      EXPECT_NEAR(static_cast<double>(event.begin_ns - truth), 0,
                  static_cast<double>(process.clock_error_ns) + 20e6);
    }
    ASSERT_EQ(process.memory.size(), 5u * static_cast<std::size_t>(ring.devices));
    for (const MemoryChange& change : process.memory) {
      EXPECT_EQ(change.device / ring.devices, p);
      EXPECT_EQ(change.entry, Entry::exchange);
      EXPECT_NEAR(static_cast<double>(change.at_ns - (change.bytes - host_less_own)), 0,
                  static_cast<double>(process.clock_error_ns) + 20e6);
    }
  }
}

}  // namespace rondo::test
