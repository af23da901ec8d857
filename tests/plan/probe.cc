// A ring that measures itself: every device gets the same findings, and in little time.

#include "rondo/plan/probe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <mutex>

#include "rondo/core/error.h"
#include "tests/support/spawn.h"

namespace rondo {
namespace {

TEST(Probe, FindsTheSameOnAllDevices) {
  for (const auto& [devices, own] : {std::pair(1, 1), {2, 2}, {2, 1}, {4, 2}}) {
    std::mutex mutex;
    std::vector<RingFindings> all(static_cast<std::size_t>(devices));
    test::spawn_divided(devices, own, [&, own = own](Context& context, Communicator& comm) {
      const int process = context.device / own;
      ProcessFacts facts{.host = {.host = "host" + std::to_string(process), .processor = "p", .host_cpus = 3},
                         .version = "1",
                         .build = 5,
                         .instruction_set = "portable",
                         .devices = own,
                         .threads = 2};
      facts.host.cpus.set(1000 + static_cast<std::size_t>(process));
      facts.host.quota_cpus = 1.25;
      RingFindings found =
          probe_ring(context, comm, facts, {.seconds = 0.05, .message_bytes = {4096, 65536, 1 << 20}});
      const std::lock_guard lock(mutex);
      all[static_cast<std::size_t>(context.device)] = std::move(found);
    });
    const RingFindings& first = all[0];
    ASSERT_EQ(first.processes.size(), static_cast<std::size_t>(devices / own));
    const ProcessFacts& last = first.processes.back();
    EXPECT_EQ(last.host.host, "host" + std::to_string(devices / own - 1));
    EXPECT_EQ(format_cpu_list(last.host.cpus), std::to_string(999 + devices / own));
    EXPECT_EQ(last.host.quota_cpus, 1.25);
    EXPECT_EQ(last.instruction_set, "portable");
    EXPECT_EQ(last.threads, 2);
    ASSERT_EQ(first.devices.size(), static_cast<std::size_t>(devices));
    for (const DeviceRates& rates : first.devices)
      for (const double rate :
           {rates.f32_alone, rates.f32_together, rates.bf16_alone, rates.bf16_together, rates.read_together})
        EXPECT_GT(rate, 1e6);
    ASSERT_EQ(first.hops.size(), devices == 1 ? 0u : static_cast<std::size_t>(devices));
    for (const HopRates& hop : first.hops) {
      EXPECT_GT(hop.latency, 0);
      ASSERT_GE(hop.messages.size(), 1u);
      EXPECT_EQ(hop.messages[0].bytes, 4096);
      for (const MessageRate& rate : hop.messages) EXPECT_TRUE(rate.alone > 1e3 && rate.together > 1e3);
    }
    for (const RingFindings& other : all) {
      ASSERT_EQ(other.hops.size(), first.hops.size());
      for (std::size_t d = 0; d < first.devices.size(); ++d)
        EXPECT_EQ(other.devices[d].f32_alone, first.devices[d].f32_alone);
      for (std::size_t h = 0; h < first.hops.size(); ++h)
        EXPECT_EQ(other.hops[h].largest().together, first.hops[h].largest().together);
    }
  }
}

TEST(Probe, RefusesWhatItCannotMeasure) {
  test::spawn(1, [](Context& context, Communicator& comm) {
    EXPECT_THROW(probe_ring(context, comm, {}, {.seconds = 0}), ArgumentError);
    EXPECT_THROW(probe_ring(context, comm, {}, {.message_bytes = {}}), ArgumentError);
    EXPECT_THROW(probe_ring(context, comm, {}, {.message_bytes = {6}}), ArgumentError);
  });
}

}  // namespace
}  // namespace rondo
