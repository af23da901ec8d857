// Collectives of devices of one process and of several.

#include <atomic>
#include <bit>
#include <limits>
#include <vector>

#include "tests/comm/comm_support.h"

namespace rondo {
namespace {

using test::dawdle;
using test::expect_words;
using test::noise;
using test::words_of;

class CollectivesOnRings : public test::RingsOfSizes {
 protected:
  template <class T>
  void check_all_reduce(std::size_t size) const;
};
INSTANTIATE_TEST_SUITE_P(Devices, CollectivesOnRings, test::sizes());

class Collectives : public test::Rings {
 protected:
  void expect_error_on_all(int devices, const std::function<void(Communicator&)>& call,
                           const std::vector<std::string>& words) const;
};
INSTANTIATE_TEST_SUITE_P(Divided, Collectives, test::divisions());

TEST_P(CollectivesOnRings, BarrierLetsNobodyPassEarly) {
  const int devices = this->devices();
  std::atomic<int> arrivals = 0;
  spawn([&](Context&, Communicator& comm) {
    for (int round = 1; round <= 10; ++round) {
      dawdle(static_cast<std::uint64_t>(comm.device()), static_cast<std::uint64_t>(round), 100);
      ++arrivals;
      comm.barrier();
      EXPECT_GE(arrivals, round * devices);
      comm.barrier();
      EXPECT_LE(arrivals, (round + 1) * devices);
    }
  });
}

template <class T>
std::vector<T> noise_of(std::size_t size, int device) {
  const auto values = noise(size, static_cast<std::uint64_t>(device));
  std::vector<T> wide(values.begin(), values.end());
  for (T& value : wide) value *= static_cast<T>(1.1);
  return wide;
}

template <class T>
void CollectivesOnRings::check_all_reduce(std::size_t size) const {
  auto expected = noise_of<T>(size, 0);
  for (int d = 1; d < devices(); ++d) {
    const auto term = noise_of<T>(size, d);
    for (std::size_t i = 0; i < size; ++i) expected[i] += term[i];
  }
  spawn([&](Context&, Communicator& comm) {
    for (int round = 0; round < 3; ++round) {
      auto values = noise_of<T>(size, comm.device());
      dawdle(static_cast<std::uint64_t>(comm.device()), static_cast<std::uint64_t>(round));
      comm.all_reduce_sum(std::span(values));
      // Equal as numbers is equal as bits here: no sum is a zero or a NaN.
      EXPECT_EQ(values, expected);
    }
  });
}

TEST_P(CollectivesOnRings, SumInDeviceOrder) {
  for (const std::size_t size : {0u, 1u, 2u, 5u, 9u, 64u, 65u, 4096u, 40009u}) {
    check_all_reduce<float>(size);
    check_all_reduce<double>(size);
  }
}

// Otherwise the test above could not tell device order from another.
TEST(Noise, DependsOnTheOrderOfSums) {
  const auto a = noise(4096, 0), b = noise(4096, 1), c = noise(4096, 2);
  int different = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    different += (a[i] + b[i]) + c[i] != a[i] + (b[i] + c[i]) ? 1 : 0;
  EXPECT_GT(different, 400);
}

TEST_P(Collectives, SumKeepsSignsOfZeroAndSpecialValues) {
  spawn(3, [&](Context&, Communicator& comm) {
    const float infinity = std::numeric_limits<float>::infinity();
    std::vector<float> values{-0.0f, infinity, comm.device() == 1 ? -infinity : infinity};
    comm.all_reduce_sum(std::span(values));
    EXPECT_EQ(std::bit_cast<std::uint32_t>(values[0]), 0x80000000u);
    EXPECT_EQ(values[1], infinity);
    EXPECT_TRUE(values[2] != values[2]);
  });
}

TEST_P(CollectivesOnRings, GatherEachDevicesPart) {
  const int devices = this->devices();
  for (const std::size_t size : {0u, 1u, 13u, 256u, 257u, 5000u}) {
    spawn([&](Context&, Communicator& comm) {
      const auto d = static_cast<std::size_t>(comm.device());
      std::vector<std::byte> own(size, static_cast<std::byte>(comm.device() + 1));
      std::vector<std::byte> all(size * static_cast<std::size_t>(devices)), expected;
      for (int other = 0; other < devices; ++other)
        expected.insert(expected.end(), size, static_cast<std::byte>(other + 1));
      comm.all_gather(own, all);
      EXPECT_EQ(all, expected);
      // In place: the own part lies where it goes to.
      std::vector<std::byte> in_place(all.size());
      const auto part = std::span(in_place).subspan(d * size, size);
      std::copy(own.begin(), own.end(), part.begin());
      comm.all_gather(part, in_place);
      EXPECT_EQ(in_place, expected);
    });
  }
}

TEST_P(CollectivesOnRings, BroadcastFromAnyRoot) {
  const int devices = this->devices();
  spawn([&](Context&, Communicator& comm) {
    for (int root = 0; root < devices; ++root) {
      for (const std::size_t size : {0u, 1u, 3001u}) {
        std::vector<std::byte> data(size, static_cast<std::byte>(comm.device() * 10));
        dawdle(static_cast<std::uint64_t>(comm.device()), static_cast<std::uint64_t>(root), 50);
        comm.broadcast(root, data);
        EXPECT_EQ(data, std::vector<std::byte>(size, static_cast<std::byte>(root * 10)));
      }
    }
  });
}

TEST_P(Collectives, MixWithMessages) {
  spawn(3, [&](Context&, Communicator& comm) {
    const int next = (comm.device() + 1) % 3, previous = (comm.device() + 2) % 3;
    std::vector<float> out(10, static_cast<float>(comm.device())), in(10), sum(10, 1);
    const auto sent = comm.send(next, 1, test::tensor_of(out));
    const auto received = comm.receive(previous, 1, test::tensor_of(in));
    comm.all_reduce_sum(std::span(sum));
    comm.wait(*received, "hop");
    comm.wait(*sent, "hop");
    EXPECT_EQ(sum, std::vector<float>(10, 3));
    EXPECT_EQ(in, std::vector<float>(10, static_cast<float>(previous)));
  });
}

/// Every device must see the error; afterwards the group still works.
void Collectives::expect_error_on_all(int devices, const std::function<void(Communicator&)>& call,
                                      const std::vector<std::string>& words) const {
  std::atomic<int> errors = 0;
  spawn(devices, [&](Context&, Communicator& comm) {
    expect_words(words_of<ArgumentError>([&] { call(comm); }), words);
    ++errors;
    comm.barrier();
  });
  EXPECT_EQ(errors, devices);
}

TEST_P(Collectives, ThatDoNotFitAreErrorsOnAllDevices) {
  expect_error_on_all(4,
                      [](Communicator& comm) {
                        std::vector<float> values(comm.device() == 2 ? 3 : 4);
                        comm.all_reduce_sum(std::span(values));
                      },
                      {"all_reduce_sum", "16 bytes", "12 bytes", "device 2"});
  expect_error_on_all(3,
                      [](Communicator& comm) {
                        std::vector<float> narrow(4);
                        std::vector<double> wide(2);
                        if (comm.device() == 1)
                          comm.all_reduce_sum(std::span(wide));
                        else
                          comm.all_reduce_sum(std::span(narrow));
                      },
                      {"of float", "of double", "device 1"});
  expect_error_on_all(3,
                      [](Communicator& comm) {
                        std::vector<std::byte> own(5), all(comm.device() == 1 ? 14 : 15);
                        comm.all_gather(own, all);
                      },
                      {"all_gather", "device 1"});
  expect_error_on_all(3,
                      [](Communicator& comm) {
                        std::vector<std::byte> data(5);
                        comm.broadcast(comm.device() == 0 ? 0 : 1, data);
                      },
                      {"broadcast", "root 0", "root 1"});
  expect_error_on_all(2,
                      [](Communicator& comm) {
                        std::vector<std::byte> data(5);
                        comm.broadcast(2, data);
                      },
                      {"broadcast", "root"});
  expect_error_on_all(2,
                      [](Communicator& comm) {
                        std::vector<float> values(1);
                        if (comm.device() == 0)
                          comm.barrier();
                        else
                          comm.all_reduce_sum(std::span(values));
                      },
                      {"barrier", "all_reduce_sum"});
}

}  // namespace
}  // namespace rondo
