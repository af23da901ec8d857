#include "rondo/train/gradient_sum.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "rondo/core/random.h"
#include "tests/support/spawn.h"

namespace rondo {
namespace {

/// With an embedding of more than one piece.
ModelConfig config() {
  return {
      .vocabulary = 3000, .width = 32, .ffn = 48, .layers = 3, .q_heads = 2, .kv_heads = 1, .head_dim = 16};
}

std::vector<float> noise(std::int64_t elements, int device, int round) {
  std::vector<float> values(static_cast<std::size_t>(elements));
  const PhiloxKey key = philox_key(static_cast<std::uint64_t>(round), static_cast<std::uint64_t>(device));
  for (std::size_t n = 0; n < values.size(); ++n) {
    const auto bits = philox4x32({static_cast<std::uint32_t>(n), 0, 0, 0}, key);
    values[n] = (uniform(bits[0]) - 0.5f) * static_cast<float>(1u << (bits[1] % 20));
  }
  return values;
}

/// Whatever the division into processes: the bits of all_reduce_sum, again and again, everywhere or at each
/// element's owner.
TEST(GradientSum, HasTheBitsOfAllReduceSum) {
  const ParameterTable table(config());
  const std::vector<Range> buckets = table.buckets();
  for (const auto& [devices, own] : {std::pair(1, 1), {3, 3}, {2, 1}, {3, 1}, {4, 2}}) {
    test::spawn_divided(devices, own, [&](Context& context, Communicator& communicator) {
      const auto total = static_cast<std::size_t>(table.total());
      std::vector<float> everywhere(total), at_owner(total);
      GradientSum to_all(context, communicator, table, SumsTo::all);
      GradientSum to_owner(context, communicator, table, SumsTo::owner);
      const std::int64_t allocated = context.ledger.peak_total();
      for (int round = 0; round < 3; ++round) {
        const std::vector<float> mine = noise(table.total(), context.device, round);
        everywhere = mine;
        for (std::size_t n = buckets.size(); n-- > 0;)
          to_all.ready({.number = n, .values = everywhere.data() + buckets[n].begin});
        to_all.finish();
        std::vector<float> expected = mine, values = mine, sums = at_owner;
        for (std::size_t n = buckets.size(); n-- > 0;) {
          const Range part = owned_part(buckets[n], communicator.devices(), context.device);
          to_owner.ready({.number = n,
                          .values = values.data() + buckets[n].begin,
                          .own = sums.data() + part.begin,
                          .adds = round == 2});
        }
        to_owner.finish();
        communicator.all_reduce_sum(expected);
        EXPECT_EQ(std::memcmp(everywhere.data(), expected.data(), expected.size() * sizeof(float)), 0)
            << devices << " devices, " << own << " on each process, round " << round;
        for (const Range& bucket : buckets) {
          const Range part = owned_part(bucket, communicator.devices(), context.device);
          for (auto n = static_cast<std::size_t>(part.begin); n < static_cast<std::size_t>(part.end); ++n)
            ASSERT_EQ(sums[n], round == 2 ? at_owner[n] + expected[n] : expected[n]) << n;
        }
        at_owner = sums;
      }
      EXPECT_EQ(context.ledger.peak_total(), allocated);
    });
  }
}

/// Each device's share of a bucket leaves when it is announced, not when all are asked for.
TEST(GradientSum, TravelsBeforeItIsAskedFor) {
  const ParameterTable table(config());
  const std::vector<Range> buckets = table.buckets();
  test::MemoryNetwork network;
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      EXPECT_NO_THROW(run_ring(
          {.timeout = std::chrono::seconds(60),
           .processes = std::make_shared<test::MemoryProcesses>(network, rank, 2)},
          [&](Context& context, Communicator& communicator) {
            std::vector<float> gradients = noise(table.total(), context.device, 0);
            GradientSum sum(context, communicator, table, SumsTo::all);
            const auto ready = [&](std::size_t n) {
              sum.ready({.number = n, .values = gradients.data() + buckets[n].begin});
            };
            for (std::size_t n = buckets.size(); n-- > 1;) ready(n);
            const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(30);
            const auto parts =
                static_cast<std::size_t>(buckets[1].size()) * sizeof(float);  // half of it, twice
            while (network.bytes_taken() < parts && std::chrono::steady_clock::now() < late)
              context.pool.run(
                  1, [](std::int64_t, int) { std::this_thread::sleep_for(std::chrono::microseconds(100)); });
            EXPECT_GE(network.bytes_taken(), parts);
            ready(0);
            sum.finish();
          }));
    });
}

}  // namespace
}  // namespace rondo
