// Messages between processes while devices compute.

#include <vector>

#include "tests/comm/comm_support.h"

namespace rondo {
namespace {

using test::MemoryNetwork;
using test::MemoryProcesses;
using test::tensor_of;

/// Runs fn on two processes of one device.
void on_two_processes(bool overlap, MemoryNetwork& network,
                      const std::function<void(Context&, Communicator&)>& fn) {
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      EXPECT_NO_THROW(run_ring({.devices = 1,
                                .timeout = std::chrono::seconds(60),
                                .overlap = overlap,
                                .processes = std::make_shared<MemoryProcesses>(network, rank, 2)},
                               fn));
    });
}

constexpr std::size_t kElements = 1 << 20, kBytes = kElements * sizeof(float);

/// Computes for a while, as long as `more` asks for.
void compute(Context& context, const std::function<bool()>& more) {
  while (more())
    context.pool.run(4,
                     [](std::int64_t, int) { std::this_thread::sleep_for(std::chrono::microseconds(100)); });
}

TEST(Overlap, MessagesTravelWhileDevicesCompute) {
  MemoryNetwork network;
  on_two_processes(true, network, [&](Context& context, Communicator& comm) {
    const std::vector<float> own(kElements, static_cast<float>(comm.device()));
    std::vector<float> other(kElements, -1);
    const auto sent = comm.send(1 - comm.device(), 1, tensor_of(own));
    const auto received = comm.receive(1 - comm.device(), 1, tensor_of(other));
    const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    compute(context,
            [&] { return network.bytes_taken() < 2 * kBytes && std::chrono::steady_clock::now() < late; });
    EXPECT_GE(network.bytes_taken(), 2 * kBytes);
    comm.wait(*received, "receive");
    comm.wait(*sent, "send");
    EXPECT_EQ(other, std::vector<float>(kElements, static_cast<float>(1 - comm.device())));
  });
}

TEST(Overlap, CanBeSwitchedOff) {
  MemoryNetwork network;
  on_two_processes(false, network, [&](Context& context, Communicator& comm) {
    const std::vector<float> own(kElements, static_cast<float>(comm.device()));
    std::vector<float> other(kElements, -1);
    const auto sent = comm.send(1 - comm.device(), 1, tensor_of(own));
    const auto received = comm.receive(1 - comm.device(), 1, tensor_of(other));
    int rounds = 0;
    compute(context, [&] { return ++rounds <= 20; });
    EXPECT_LT(network.bytes_taken(), kBytes);
    comm.barrier();  // waiting for anything sets messages out, or this could wait for ever
    comm.wait(*received, "receive");
    comm.wait(*sent, "send");
    EXPECT_EQ(other, std::vector<float>(kElements, static_cast<float>(1 - comm.device())));
  });
}

}  // namespace
}  // namespace rondo
