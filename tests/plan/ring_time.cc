// Clocks of a ring against times that can be counted out by hand, and against the closed form.

#include "rondo/plan/ring_time.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rondo {
namespace {

/// Links alike, so that a hop of kv_bytes takes one second.
Hardware links(double bytes_per_second, double latency = 0) {
  Hardware hardware{.name = "test"};
  hardware.network = {.bytes_per_second = bytes_per_second, .latency = latency};
  hardware.node = hardware.network;
  return hardware;
}

constexpr std::int64_t kShard = 64;

SequencePlan plan(int devices, Layout layout = Layout::zigzag) {
  return {.tokens = kShard * devices, .devices = devices, .layout = layout};
}

/// A pair takes `pair` seconds forward; a shard's keys and values one byte a token.
AttentionPrice price(double pair, double gradient_bytes = 2) {
  return {.forward_per_pair = pair,
          .backward_per_pair = 2 * pair,
          .kv_bytes_per_token = 1,
          .gradient_bytes_per_token = gradient_bytes};
}

double forward_seconds(const RingWork& work, const Hardware& hardware, const AttentionPrice& p) {
  RingClock clock(work, hardware, p);
  clock.forward();
  return clock.now();
}
double backward_seconds(const RingWork& work, const Hardware& hardware, const AttentionPrice& p) {
  RingClock clock(work, hardware, p);
  clock.backward();
  return clock.now();
}

TEST(RingTime, CountsTheSchedulesPairs) {
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag}) {
    const RingWork work({.tokens = 301, .devices = 5, .layout = layout}, {.causal = true});
    EXPECT_EQ(work.pairs_in_all(), 301.0 * 302 / 2);
    EXPECT_EQ(work.last_distance(), 4);
    for (int device = 0; device < 5; ++device) {
      const Schedule schedule =
          make_schedule({.tokens = 301, .devices = 5, .layout = layout}, {.causal = true}, device);
      EXPECT_EQ(work.pairs(device), static_cast<double>(count_pairs(schedule)));
    }
  }
}

TEST(RingTime, WithoutAMaskIsTheSlowerOfWorkAndHop) {
  const double c2 = static_cast<double>(kShard) * kShard;
  for (const int devices : {1, 2, 3, 8}) {
    const RingWork work(plan(devices), {.causal = false});
    const double hops = devices - 1;
    // A step of 1 s, a hop of 0.25 s: everything is hidden.
    EXPECT_NEAR(forward_seconds(work, links(4.0 * kShard), price(1 / c2)), hops + 1, 1e-9);
    // A hop of 3 s and a latency of 0.5 s: nothing but the first step is beside it.
    EXPECT_NEAR(forward_seconds(work, links(kShard / 3.0, 0.5), price(1 / c2)), hops * 3.5 + 1, 1e-9);
  }
}

TEST(RingTime, BackwardHidesAllButTheLastPart) {
  const double c2 = static_cast<double>(kShard) * kShard;
  // 64 keys go home in one part. A step of 2 s, blocks of 0.1 s, gradients of 0.2 s.
  const RingWork work(plan(4), {.causal = false});
  EXPECT_NEAR(backward_seconds(work, links(10.0 * kShard), price(1 / c2)), 4 * 2 + 0.2, 1e-9);
  // Of 4,096 keys the last part is an eighth.
  const std::int64_t c = 4096;
  const RingWork longer({.tokens = 4 * c, .devices = 4, .layout = Layout::zigzag}, {.causal = false});
  const double pair = 1.0 / static_cast<double>(c * c);
  EXPECT_NEAR(backward_seconds(longer, links(10.0 * static_cast<double>(c)), price(pair)), 4 * 2 + 0.2 / 8,
              1e-9);
}

TEST(RingTime, OfSlowLinksIsThatOfWhatTravels) {
  const RingWork work(plan(4), {.causal = false});
  // Blocks of 1 s, gradients of 2 s, no computation to speak of: 3 hops of blocks beside 2 of sums, then
  // home.
  const double seconds = backward_seconds(work, links(kShard), price(1e-12));
  EXPECT_GE(seconds, 3 * 1 + 3 * 2);
  EXPECT_LE(seconds, 3 * 1 + 3 * 2 + 2 + 1e-6);
}

TEST(RingTime, OfContiguousShardsIsThatOfTheLastDevice) {
  const double pair = 1.0 / (static_cast<double>(kShard) * kShard);
  const RingWork even(plan(8), {.causal = true}), uneven(plan(8, Layout::contiguous), {.causal = true});
  const Hardware fast = links(1e9);
  const double balanced = forward_seconds(even, fast, price(pair));
  const double last = forward_seconds(uneven, fast, price(pair));
  EXPECT_NEAR(balanced, 8 * 0.5, 0.1);
  EXPECT_NEAR(last, 7 + 0.5, 0.1);
}

TEST(RingTime, AWindowShortensTheWay) {
  const RingWork window({.tokens = 64 * 16, .devices = 16, .layout = Layout::contiguous},
                        {.causal = true, .window = 64});
  EXPECT_EQ(window.last_distance(), 1);
  const RingWork all({.tokens = 64 * 16, .devices = 16, .layout = Layout::contiguous}, {.causal = true});
  const Hardware slow = links(kShard);
  EXPECT_LT(forward_seconds(window, slow, price(1e-9)), 1.001);
  EXPECT_NEAR(forward_seconds(all, slow, price(1e-9)), 15, 0.1);
  EXPECT_LT(backward_seconds(window, slow, price(1e-9)), 4.001);
}

TEST(RingTime, OfOneSlowLinkIsWhatTheRingWaitsFor) {
  Hardware hosts = links(kShard / 4.0);
  hosts.node = {.bytes_per_second = 100.0 * kShard};
  hosts.node_devices = 4;
  const double pair = 1.0 / (static_cast<double>(kShard) * kShard);
  const RingWork work(plan(8), {.causal = false});
  EXPECT_NEAR(forward_seconds(work, hosts, price(pair)), 7 * 4 + 1, 1e-9);
  const RingWork one_host(plan(4), {.causal = false});
  EXPECT_NEAR(forward_seconds(one_host, hosts, price(pair)), 4, 1e-9);
}

TEST(RingTime, DevicesThatCopyByThemselvesHideNothing) {
  Hardware here = links(kShard / 2.0);
  here.node.copies_itself = here.network.copies_itself = true;
  const double pair = 1.0 / (static_cast<double>(kShard) * kShard);
  const RingWork work(plan(4), {.causal = false});
  RingClock clock(work, here, price(pair));
  clock.forward();
  EXPECT_NEAR(clock.now(), 4 + 3 * 2, 1e-9);
  EXPECT_NEAR(clock.computed(), 4 + 3 * 2, 1e-9);
}

/// The closed form is the clocks' time of balanced rings, whatever is the slower.
TEST(RingTime, InClosedFormIsThatOfTheClocks) {
  for (const int devices : {2, 3, 8, 33})
    for (const double hop : {0.01, 0.3, 0.9, 1.1, 4.0})
      for (const double latency : {0.0, 0.05}) {
        const RingWork work({.tokens = 1024 * devices, .devices = devices, .layout = Layout::zigzag},
                            {.causal = true});
        const double pair = 2.0 / (1024.0 * 1024.0);  // a step of about 1 s
        const Hardware hardware = links(1024 / hop, latency);
        const AttentionTime even = even_ring_time(
            {.tokens = 1024, .pairs = work.pairs_in_all() / devices, .distance = devices - 1.0},
            hardware.network, price(pair));
        const double forward = forward_seconds(work, hardware, price(pair));
        const double backward = backward_seconds(work, hardware, price(pair));
        EXPECT_NEAR(even.forward / forward, 1, 0.03) << devices << " devices, " << hop << ", " << latency;
        // The last keys of a causal block have the fewest queries: what that leaves open weighs most with
        // two.
        EXPECT_NEAR(even.backward / backward, 1, devices == 2 ? 0.2 : 0.1)
            << devices << " devices, " << hop << ", " << latency;
      }
}

}  // namespace
}  // namespace rondo
