// Traces of several processes on one clock, with clocks that were set wrong on purpose.

#include <cmath>

#include "rondo/comm/trace_gathering.h"
#include "tests/comm/traces_on_one_clock.h"

namespace rondo {
namespace {

using std::chrono::nanoseconds;

TEST(Clocks, AreLinesThroughTwoReadings) {
  // The other clock is an hour ahead at first and gains 100 us in 10 s.
  const std::int64_t hour = 3'600'000'000'000, second = 1'000'000'000;
  const ClockReading first{.here_ns = 5 * second, .ahead_ns = hour};
  const ClockReading last{.here_ns = 15 * second, .ahead_ns = hour + 100'000};
  EXPECT_EQ(on_own_clock(first.here_ns + first.ahead_ns, first, last), first.here_ns);
  EXPECT_EQ(on_own_clock(last.here_ns + last.ahead_ns, first, last), last.here_ns);
  EXPECT_NEAR(static_cast<double>(on_own_clock(10 * second + hour + 50'000, first, last)), 10e9, 1);
  EXPECT_EQ(on_own_clock(hour + 7, first, first), 7);  // one reading: the offset alone
}

TEST(TracesOfProcesses, MeetOnTheClockOfTheFirst) {
  for (const auto& [devices, own] : {std::pair(2, 1), {3, 1}, {4, 2}, {2, 2}}) {
    std::vector<std::unique_ptr<Trace>> traces;
    for (int process = 0; process < devices / own; ++process)
      traces.push_back(
          std::make_unique<Trace>(1000, Trace::Clock::now() - std::chrono::hours(process * process)));
    const RingOptions ring{.devices = own, .timeout = std::chrono::seconds(60)};
    test::spawn_divided(
        devices, own,
        [&, own = own](Context&, Communicator& comm) {
          const int process = comm.device() / own;
          RingOptions mine = ring;
          test::MemoryNetwork unused;
          if (own < comm.devices())
            mine.processes = std::make_shared<test::MemoryProcesses>(unused, process, comm.devices() / own);
          test::expect_one_clock(mine, comm, *traces[static_cast<std::size_t>(process)]);
        },
        ring);
  }
}

TEST(TracesOfProcesses, LeaveOutTheLatestAndCount) {
  std::vector<std::unique_ptr<Trace>> traces;
  for (int process = 0; process < 2; ++process) traces.push_back(std::make_unique<Trace>(5));
  test::spawn_divided(2, 1, [&](Context&, Communicator& comm) {
    const int rank = comm.device();
    test::MemoryNetwork unused;
    const RingOptions ring{.processes = std::make_shared<test::MemoryProcesses>(unused, rank, 2)};
    Trace& own = *traces[static_cast<std::size_t>(rank)];
    TraceGathering gathering(ring, comm, own);
    gathering.begin();
    for (int n = 0; n < 3 + 4 * rank; ++n)
      own.record(
          {rank, n == 0 ? "strange" : "compute", std::string(static_cast<std::size_t>(300 * n), 'x'), n, n});
    const auto all = gathering.finish(8);
    EXPECT_FALSE(own.open());
    if (rank > 0) return;
    ASSERT_EQ(all.size(), 2u);
    EXPECT_EQ(all[0].events.size(), 3u);
    EXPECT_EQ(all[0].dropped, 0u);
    EXPECT_EQ(all[1].process, 1);
    ASSERT_EQ(all[1].events.size(), 4u);  // its half of 8
    EXPECT_EQ(all[1].dropped, 3u);        // 2 by the trace, 1 on the way
    EXPECT_EQ(std::string(all[1].events[0].category), "other");
    EXPECT_EQ(std::string(all[1].events[1].category), "compute");
    EXPECT_EQ(all[1].events[1].name.size(), 200u);
  });
}

}  // namespace
}  // namespace rondo
