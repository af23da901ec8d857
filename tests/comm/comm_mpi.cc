// The contract of communicators over processes that mpirun started. Every case of it is tested without MPI in
// the other files; here it is MPI that has to do what is expected of it.

#include "rondo/core/error.h"
#include "tests/comm/comm_support.h"
#include "tests/support/launched.h"

namespace rondo {
namespace {

using test::dawdle;
using test::expect_words;
using test::noise;
using test::tensor_of;
using test::words_of;

// GoogleTest owns it.
const auto* const launched =
    static_cast<test::Launched*>(testing::AddGlobalTestEnvironment(new test::Launched));

TEST(Mpi, DevicesOfAllProcessesFormOneRing) {
  const RingOptions ring = launched->ring();
  EXPECT_EQ(ring.processes->on_this_host(), ring.processes->size());
  run_ring(ring, [&](Context& context, Communicator& comm) {
    EXPECT_EQ(comm.devices(), ring.devices * ring.processes->size());
    EXPECT_EQ(comm.device() / ring.devices, ring.processes->rank());
    EXPECT_EQ(comm.device(), context.device);
    EXPECT_FALSE(comm.can_share());
    for (int peer = 0; peer < comm.devices(); ++peer)
      EXPECT_EQ(comm.can_share(peer), peer / ring.devices == ring.processes->rank());
  });
}

TEST(Mpi, MessagesOfAnySize) {
  for (const std::size_t size : {0u, 1u, 1000u, 200'001u, 700'001u}) {
    run_ring(launched->ring(), [&](Context&, Communicator& comm) {
      const int devices = comm.devices(), own = comm.device();
      const int next = (own + 1) % devices, previous = (own + devices - 1) % devices;
      const auto mine = noise(size, static_cast<std::uint64_t>(own));
      const auto theirs = noise(size, static_cast<std::uint64_t>(previous));
      std::vector<float> got(size), sum(size, 1), expected(size, 1);
      for (int hop = 0; hop < 3; ++hop) {
        const auto added = comm.send(next, 1, tensor_of(mine)), sent = comm.send(next, 2, tensor_of(mine));
        dawdle(static_cast<std::uint64_t>(own), static_cast<std::uint64_t>(hop));
        const auto received = comm.receive(previous, 2, tensor_of(got));
        const auto sums = comm.receive_add(previous, 1, tensor_of(sum));
        for (const auto* request : {&received, &sums, &sent, &added}) comm.wait(**request, "hop");
        for (std::size_t i = 0; i < size; ++i) expected[i] += theirs[i];
      }
      EXPECT_TRUE(got == theirs);
      EXPECT_TRUE(sum == expected);
    });
  }
}

TEST(Mpi, Collectives) {
  run_ring(launched->ring(), [](Context&, Communicator& comm) {
    for (const std::size_t size : {1u, 64u, 65u, 40'009u}) {
      std::vector<double> sum(size);
      std::vector<float> narrow(size);
      for (int d = 0; d < comm.devices(); ++d) {
        const auto term = noise(size, static_cast<std::uint64_t>(d));
        for (std::size_t i = 0; i < size; ++i) sum[i] += term[i] * 1.1, narrow[i] += term[i];
      }
      auto values = noise(size, static_cast<std::uint64_t>(comm.device()));
      std::vector<double> wide(values.begin(), values.end());
      for (double& value : wide) value *= 1.1;
      comm.all_reduce_sum(std::span(values));
      comm.all_reduce_sum(std::span(wide));
      EXPECT_TRUE(values == narrow);
      EXPECT_TRUE(wide == sum);
      std::vector<std::byte> own(size, std::byte(comm.device())), expected;
      std::vector<std::byte> all(size * static_cast<std::size_t>(comm.devices()));
      for (int d = 0; d < comm.devices(); ++d) expected.insert(expected.end(), size, std::byte(d));
      comm.all_gather(own, all);
      EXPECT_TRUE(all == expected);
      comm.broadcast(comm.devices() - 1, own);
      EXPECT_TRUE(own == std::vector<std::byte>(size, std::byte(comm.devices() - 1)));
    }
    std::vector<float> values(comm.device() == 1 ? 3 : 4);
    expect_words(words_of<ArgumentError>([&] { comm.all_reduce_sum(std::span(values)); }),
                 {"16 bytes", "12 bytes", "device 1"});
  });
}

// After a ring that failed there are no others: each of these is a launch of its own.
TEST(MpiFailures, OfADeviceAreNamedOnAll) {
  const auto run = [] {
    run_ring(launched->ring(), [](Context&, Communicator& comm) {
      std::vector<float> values(700'000);
      const int devices = comm.devices();
      const auto sent = comm.send((comm.device() + 1) % devices, 1, tensor_of(values));
      if (comm.device() == 1) throw CommunicationError("the lamp went out");
      std::vector<float> into(700'000);
      const auto received = comm.receive((comm.device() + devices - 1) % devices, 1, tensor_of(into));
      comm.wait(*received, "hop");
      comm.wait(*sent, "hop");
      comm.barrier();
    });
  };
  const auto begin = std::chrono::steady_clock::now();
  expect_words(words_of<CommunicationError>(run), {"the lamp went out"});
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_THROW(run_ring(launched->ring(), [](Context&, Communicator&) {}), CommunicationError);
}

TEST(MpiFailures, OfSilentDevicesAreNamedOnAll) {
  const auto run = [] {
    run_ring(launched->ring(std::chrono::milliseconds(400)), [](Context&, Communicator& comm) {
      if (comm.device() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(1200));
      comm.barrier();
    });
  };
  expect_words(words_of<CommunicationError>(run), {"waited 0.4 s for device 1 (barrier)"});
}

}  // namespace
}  // namespace rondo
