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

// More than all pieces of a window at once, both ways, to be taken and to be added.
TEST(HostWindows, AreReadInPlace) {
  constexpr std::size_t kMany = 3 * HostWindow::kBytes / sizeof(float) / 2 + 5;
  MemoryNetwork network(true);
  on_two_processes(true, network, [&](Context&, Communicator& comm) {
    const auto device = static_cast<float>(comm.device());
    std::vector<float> own(kMany), taken(kMany, -1), sum(kMany, 3);
    for (std::size_t n = 0; n < kMany; ++n) own[n] = device + static_cast<float>(n % 1000);
    const int other = 1 - comm.device();
    const auto sent = comm.send(other, 1, tensor_of(own)), sent_again = comm.send(other, 2, tensor_of(own));
    const auto received = comm.receive(other, 1, tensor_of(taken));
    const auto added = comm.receive_add(other, 2, tensor_of(sum));
    for (Request* transfer : {received.get(), added.get(), sent.get(), sent_again.get()})
      comm.wait(*transfer, "a test");
    bool right = true;
    for (std::size_t n = 0; n < kMany; ++n) {
      const float expected = 1 - device + static_cast<float>(n % 1000);
      right = right && taken[n] == expected && sum[n] == expected + 3;
    }
    EXPECT_TRUE(right);
  });
  EXPECT_LT(network.bytes_taken(), kBytes / 4);  // notes and numbers alone
  for (const int process : {0, 1})               // all are back
    for (int n = 0; n < HostWindow::kPieces; ++n) EXPECT_EQ(network.window_of(process).claim(), n);
}

TEST(HostWindows, GiveOutEachPieceOnceUntilItWasRead) {
  MemoryNetwork network(true);
  const HostWindow window = network.window_of(0);
  for (int n = 0; n < HostWindow::kPieces; ++n) EXPECT_EQ(window.claim(), n);
  EXPECT_EQ(window.claim(), -1);
  EXPECT_FALSE(window.is_filled(7));
  window.fill(7);
  EXPECT_TRUE(window.is_filled(7));
  EXPECT_FALSE(window.is_filled(-1) || window.is_filled(HostWindow::kPieces));
  EXPECT_FALSE(window.take_back(7));
  window.release(7);
  EXPECT_EQ(window.claim(), -1);
  EXPECT_TRUE(window.take_back(7));
  EXPECT_FALSE(window.take_back(7));
  EXPECT_EQ(window.claim(), 7);
  EXPECT_EQ(window.piece(1) - window.piece(0), static_cast<std::ptrdiff_t>(HostWindow::kPieceBytes));
  EXPECT_FALSE(MemoryNetwork().window_of(0));
}

}  // namespace
}  // namespace rondo
