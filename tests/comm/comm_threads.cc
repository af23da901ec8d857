// Messages and collectives between devices that are threads.

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/spawn.h"

namespace rondo {
namespace {

using test::spawn;

Tensor tensor_of(std::vector<float>& values) {
  return view(values.data(), DType::f32, static_cast<std::int64_t>(values.size()), 1, 1);
}

TEST(CommThreads, PassesValuesRoundTheRing) {
  for (int devices = 1; devices <= 9; ++devices) {
    for (const std::size_t size : {0u, 1u, 7u, 4099u}) {
      spawn(devices, [&](Context& context, Communicator& comm) {
        const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
        EXPECT_EQ(context.device, own);
        std::vector<float> mine(size, static_cast<float>(own)), got(size, -1), sum(size, 100);
        for (int hop = 0; hop < 3; ++hop) {
          const auto sent = comm.send(next, 2 * hop, tensor_of(mine));
          const auto added = comm.send(next, 2 * hop + 1, tensor_of(mine));
          const auto received = comm.receive(previous, 2 * hop, tensor_of(got));
          const auto sums = comm.receive_add(previous, 2 * hop + 1, tensor_of(sum));
          comm.wait(*received, "copy");
          comm.wait(*sums, "add");
          comm.wait(*sent, "copy");
          comm.wait(*added, "add");
          EXPECT_EQ(got, std::vector<float>(size, static_cast<float>(previous)));
          EXPECT_EQ(sum, std::vector<float>(size, static_cast<float>(100 + (hop + 1) * previous)));
        }
        comm.all_reduce_sum(std::span(mine));
        EXPECT_EQ(mine, std::vector<float>(size, static_cast<float>(devices * (devices - 1) / 2)));
      });
    }
  }
}

}  // namespace
}  // namespace rondo
