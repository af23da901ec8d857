// Messages between devices, of one process and of several.

#include <atomic>
#include <utility>
#include <vector>

#include "tests/comm/comm_support.h"

namespace rondo {
namespace {

using test::dawdle;
using test::expect_words;
using test::noise;
using test::spawn;
using test::tensor_of;
using test::words_of;

class MessagesOnRings : public test::RingsOfSizes {};
INSTANTIATE_TEST_SUITE_P(Devices, MessagesOnRings, test::sizes());
class Messages : public test::Rings {};
INSTANTIATE_TEST_SUITE_P(Divided, Messages, test::divisions());

TEST_P(MessagesOnRings, CopyAndAddWhatThePreviousDeviceSent) {
  const int devices = this->devices();
  for (const std::size_t size : {0u, 1u, 7u, 4099u}) {
    spawn([&](Context& context, Communicator& comm) {
      const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
      EXPECT_EQ(context.device, own);
      EXPECT_EQ(comm.devices(), devices);
      const auto mine = noise(size, static_cast<std::uint64_t>(own));
      const auto theirs = noise(size, static_cast<std::uint64_t>(previous));
      std::vector<float> got(size, -1), sum(size, 100), expected(size, 100);
      for (int hop = 0; hop < 3; ++hop) {
        const auto sent = comm.send(next, 2 * hop, tensor_of(mine));
        const auto added = comm.send(next, 2 * hop + 1, tensor_of(mine));
        dawdle(static_cast<std::uint64_t>(own), static_cast<std::uint64_t>(hop));
        const auto received = comm.receive(previous, 2 * hop, tensor_of(got));
        const auto sums = comm.receive_add(previous, 2 * hop + 1, tensor_of(sum));
        comm.wait(*sums, "add");
        comm.wait(*received, "copy");
        comm.wait(*sent, "copy");
        comm.wait(*added, "add");
        for (std::size_t i = 0; i < size; ++i) expected[i] += theirs[i];
        EXPECT_EQ(got, theirs);
        EXPECT_EQ(sum, expected);
      }
    });
  }
}

// The ring loop: what a device received is what it sends next, in two buffers that swap.
TEST_P(MessagesOnRings, CarryEachBlockToEveryDevice) {
  const int devices = this->devices();
  spawn([&](Context&, Communicator& comm) {
    const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
    auto current = noise(1001, static_cast<std::uint64_t>(own));
    std::vector<float> incoming(current.size());
    for (int hop = 1; hop < devices; ++hop) {
      const auto received = comm.receive(previous, hop, tensor_of(incoming));
      const auto sent = comm.send(next, hop, tensor_of(current));
      dawdle(static_cast<std::uint64_t>(own), static_cast<std::uint64_t>(hop));
      comm.wait(*received, "hop");
      comm.wait(*sent, "hop");
      std::swap(current, incoming);
      EXPECT_EQ(current, noise(1001, static_cast<std::uint64_t>((own + devices - hop) % devices)));
    }
  });
}

// The same in views: blocks stay where they are, each device passes on the view that it got.
TEST_P(MessagesOnRings, PassViewsOn) {
  const int devices = this->devices();
  spawn([&](Context&, Communicator& comm) {
    const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
    ConstTensor none;
    const int process = own / GetParam().second;
    EXPECT_EQ(comm.can_share(), GetParam().second == devices);
    for (int peer = 0; peer < devices; ++peer)
      EXPECT_EQ(comm.can_share(peer), peer / GetParam().second == process);
    if (!comm.can_share(previous)) {
      EXPECT_THROW((void)comm.receive_view(previous, 1, &none), ArgumentError);
    }
    if (!comm.can_share()) return;
    const auto mine = noise(501, static_cast<std::uint64_t>(own));
    std::vector<ConstTensor> views(static_cast<std::size_t>(devices));
    views[0] = tensor_of(mine);
    std::vector<RequestPtr> received, sent;
    for (int hop = 1; hop < devices; ++hop) {
      const auto h = static_cast<std::size_t>(hop);
      received.push_back(comm.receive_view(previous, hop, &views[h]));
      sent.push_back(comm.send(next, hop, views[h - 1]));
      comm.wait(*received.back(), "view");
      const auto expected = noise(501, static_cast<std::uint64_t>((own + devices - hop) % devices));
      const auto* seen = static_cast<const float*>(views[h].data);
      EXPECT_EQ(views[h].bytes(), 501 * 4);
      EXPECT_EQ(std::vector<float>(seen, seen + 501), expected);
    }
    for (auto request = received.rbegin(); request != received.rend(); ++request) {
      const auto index = static_cast<std::size_t>(received.rend() - request) - 1;
      // What was passed on is released only when the next device has released it.
      if (index + 1 < sent.size()) comm.wait(*sent[index + 1], "forwarded view");
      comm.release(**request);
    }
    if (!sent.empty()) comm.wait(*sent[0], "own view");
  });
}

// Between neighbours of one process, and copies from one process to the next.
TEST_P(MessagesOnRings, PassViewsOnAsFarAsTheProcessGoes) {
  const int devices = this->devices(), last_hop = 3;
  spawn([&](Context&, Communicator& comm) {
    if (comm.can_share()) return;
    const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
    std::vector<float> current = noise(501, static_cast<std::uint64_t>(own)), copied(501);
    ConstTensor block = tensor_of(std::as_const(current)), arrived;
    for (int hop = 1; hop <= last_hop; ++hop) {
      const bool views = comm.can_share(previous);
      const auto received =
          views ? comm.receive_view(previous, hop, &arrived) : comm.receive(previous, hop, tensor_of(copied));
      const auto sent = comm.send(next, hop, block);
      comm.wait(*received, "block");
      if (!views) arrived = tensor_of(std::as_const(copied));
      const auto* seen = static_cast<const float*>(arrived.data);
      const std::vector<float> taken(seen, seen + 501);
      EXPECT_EQ(taken, noise(501, static_cast<std::uint64_t>((own + 10 * devices - hop) % devices)));
      if (views) comm.release(*received);
      comm.wait(*sent, "block");
      current = taken;
      block = tensor_of(std::as_const(current));
    }
  });
}

TEST_P(Messages, ArriveByTagInAnyOrder) {
  spawn(2, [&](Context&, Communicator& comm) {
    std::vector<std::vector<float>> values(20, std::vector<float>(3));
    std::vector<RequestPtr> requests;
    for (int i = 0; i < 20; ++i) {
      const int tag = comm.device() == 0 ? i : 19 - i;
      auto& place = values[static_cast<std::size_t>(tag)];
      if (comm.device() == 0) std::fill(place.begin(), place.end(), static_cast<float>(tag));
      requests.push_back(comm.device() == 0 ? comm.send(1, tag, tensor_of(place))
                                            : comm.receive(0, tag, tensor_of(place)));
    }
    for (auto& request : requests) comm.wait(*request, "tags");
    for (int tag = 0; tag < 20; ++tag)
      EXPECT_EQ(values[static_cast<std::size_t>(tag)], std::vector<float>(3, static_cast<float>(tag)));
  });
}

// Larger than the pieces in which messages travel between processes, and no multiple of them.
TEST_P(Messages, OfAnySizeArriveWhole) {
  constexpr std::size_t kSize = 700'001;
  spawn(2, [&](Context&, Communicator& comm) {
    const int peer = 1 - comm.device();
    const auto mine = noise(kSize, static_cast<std::uint64_t>(comm.device()));
    const auto theirs = noise(kSize, static_cast<std::uint64_t>(peer));
    std::vector<float> got(kSize), sum(kSize, 1), expected(kSize, 1);
    for (std::size_t i = 0; i < kSize; ++i) expected[i] += theirs[i];
    const auto sent = comm.send(peer, 1, tensor_of(mine)), added = comm.send(peer, 2, tensor_of(mine));
    const auto received = comm.receive(peer, 1, tensor_of(got));
    const auto sums = comm.receive_add(peer, 2, tensor_of(sum));
    for (const auto* request : {&sums, &received, &sent, &added}) comm.wait(**request, "pieces");
    EXPECT_TRUE(got == theirs);
    EXPECT_TRUE(sum == expected);
  });
}

// A device computes the terms that others are added to while those travel.
TEST_P(Messages, AreAddedOnceBeforeTheyWereWaitedFor) {
  spawn(2, [&](Context&, Communicator& comm) {
    std::vector<float> values(100, 1), other(100);
    if (comm.device() == 0) {
      const auto sent = comm.send(1, 1, tensor_of(values)), more = comm.send(1, 2, tensor_of(values));
      comm.wait(*more, "later");
      comm.wait(*sent, "sum");
      return;
    }
    const auto sum = comm.receive_add(0, 1, tensor_of(values));
    const auto received = comm.receive(0, 2, tensor_of(other));
    comm.wait(*received, "later");
    comm.wait(*sum, "sum");
    EXPECT_EQ(values, std::vector<float>(100, 2));
  });
}

TEST_P(Messages, CarryBfloat16) {
  spawn(2, [&](Context&, Communicator& comm) {
    std::vector<bfloat16> values(6);
    const Tensor tensor = view(values.data(), DType::bf16, 3, 2, 1);
    if (comm.device() == 0)
      for (auto& value : values) value = to_bfloat16(3.5f);
    const auto request = comm.device() == 0 ? comm.send(1, 1, tensor) : comm.receive(0, 1, tensor);
    comm.wait(*request, "bfloat16");
    for (const auto& value : values) EXPECT_EQ(to_float(value), 3.5f);
  });
}

TEST(MessagesToOneself, NeedBothEnds) {
  spawn(1, [&](Context&, Communicator& comm) {
    std::vector<float> a{1, 2}, b(2);
    const auto sent = comm.send(0, 1, tensor_of(a));
    expect_words(words_of<ArgumentError>([&] { comm.wait(*sent, "hop 0"); }),
                 {"device 0", "itself", "hop 0"});
    const auto received = comm.receive(0, 1, tensor_of(b));
    comm.wait(*sent, "send first");
    EXPECT_EQ(a, b);
    comm.wait(*received, "then receive");
    ConstTensor seen;
    const auto shared = comm.send(0, 2, tensor_of(a));
    const auto viewed = comm.receive_view(0, 2, &seen);
    comm.wait(*viewed, "view");
    EXPECT_EQ(seen.data, a.data());
    comm.release(*viewed);
    comm.wait(*shared, "view");
  });
}

// The sender's wait may end only after release: the flag is set in between, without any other synchronisation
// that could make the order right.
TEST(Views, KeepTheSenderWaitingUntilReleased) {
  for (const bool by_destructor : {false, true}) {
    std::atomic<bool> released = false;
    spawn(2, [&](Context&, Communicator& comm) {
      std::vector<float> block(100, 5);
      if (comm.device() == 0) {
        const auto sent = comm.send(1, 7, tensor_of(block));
        comm.wait(*sent, "view");
        EXPECT_TRUE(released);
        std::fill(block.begin(), block.end(), -1.0f);
      } else {
        ConstTensor seen;
        auto viewed = comm.receive_view(0, 7, &seen);
        comm.wait(*viewed, "view");
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        for (int i = 0; i < 100; ++i) EXPECT_EQ(static_cast<const float*>(seen.data)[i], 5);
        released = true;
        if (by_destructor)
          viewed.reset();
        else
          comm.release(*viewed);
      }
    });
  }
}

TEST(MessagesToOneself, AreRefusedWhenMalformed) {
  spawn(1, [&](Context&, Communicator& comm) {
    std::vector<float> memory(12);
    const Tensor tensor = tensor_of(memory);
    ConstTensor seen;
    EXPECT_THROW((void)comm.send(1, 0, tensor), ArgumentError);
    EXPECT_THROW((void)comm.receive(-1, 0, tensor), ArgumentError);
    EXPECT_THROW((void)comm.receive_view(3, 0, &seen), ArgumentError);
    EXPECT_THROW((void)comm.receive_view(0, 0, nullptr), ArgumentError);
    const Tensor gaps = view(memory.data(), DType::f32, 4, 3, 1).slice_heads({0, 2});
    expect_words(words_of<ArgumentError>([&] { (void)comm.send(0, 0, gaps); }), {"[send]", "contiguous"});
    const Tensor half = view(memory.data(), DType::bf16, 4, 1, 1);
    expect_words(words_of<ArgumentError>([&] { (void)comm.receive_add(0, 0, half); }),
                 {"[receive_add]", "float32", "bfloat16"});
  });
}

TEST(MessagesToOneself, AreWaitedForOnceAndReleasedAsViews) {
  spawn(1, [&](Context&, Communicator& comm) {
    std::vector<float> a(3), b(3);
    const auto sent = comm.send(0, 5, tensor_of(a));
    expect_words(words_of<ArgumentError>([&] { (void)comm.send(0, 5, tensor_of(a)); }), {"tag 5", "twice"});
    const auto received = comm.receive(0, 5, tensor_of(b));
    EXPECT_THROW((void)comm.receive(0, 5, tensor_of(b)), ArgumentError);
    EXPECT_THROW(comm.release(*received), ArgumentError);
    comm.wait(*received, "a");
    // Matched and done, but its sender has not waited: the tag is still taken, whatever the timing.
    EXPECT_THROW((void)comm.send(0, 5, tensor_of(a)), ArgumentError);
    comm.wait(*sent, "a");
    EXPECT_THROW(comm.wait(*sent, "a"), ArgumentError);
    const auto again = comm.send(0, 5, tensor_of(a));
    const auto back = comm.receive(0, 5, tensor_of(b));
    comm.wait(*back, "b");
    comm.wait(*again, "b");
  });
}

TEST_P(Messages, InTracesTellWaitingFromCopying) {
  Trace trace;
  spawn(2,
        [&](Context&, Communicator& comm) {
          std::vector<float> values(100);
          if (comm.device() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(15));
          const auto request =
              comm.device() == 0 ? comm.send(1, 1, tensor_of(values)) : comm.receive(0, 1, tensor_of(values));
          comm.wait(*request, "layer 3, hop 2");
          comm.barrier();
        },
        {.timeout = std::chrono::seconds(60), .trace = &trace});
  int waits = 0, exchanges = 0, barriers = 0;
  std::int64_t wait_end = 0, exchange_begin = 0;  // of the receiver
  for (const TraceEvent& event : trace.events()) {
    if (event.name == "barrier") ++barriers;
    if (event.name != "layer 3, hop 2") continue;
    const bool waiting = std::string(event.category) == "wait";
    (waiting ? waits : exchanges) += 1;
    if (event.device == 1) (waiting ? wait_end : exchange_begin) = waiting ? event.end_ns : event.begin_ns;
  }
  EXPECT_LE(wait_end, exchange_begin);  // how long either takes is the machine's affair
  EXPECT_GT(wait_end, 0);
  EXPECT_EQ(waits, 2);
  EXPECT_GE(exchanges, 1);  // between processes both ends see data move
  EXPECT_LE(exchanges, 2);
  EXPECT_EQ(barriers, 2);
}

TEST_P(Messages, InAccountsTellWaitingFromMovingData) {
  using Clock = std::chrono::steady_clock;
  const auto ns = [](Clock::duration time) { return std::chrono::nanoseconds(time).count(); };
  std::atomic<Clock::time_point> posted{};
  spawn(2, [&](Context& context, Communicator& comm) {
    std::vector<float> values(1'000'000);
    comm.barrier();
    context.times.take();
    if (comm.device() == 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(40));
      posted = Clock::now();
      comm.wait(*comm.send(1, 1, tensor_of(values)), "hop");
      return;
    }
    const auto request = comm.receive(0, 1, tensor_of(values));
    const auto begin = Clock::now();
    comm.wait(*request, "hop");
    const auto end = Clock::now();
    const TimeAccount::Times times = context.times.take();
    EXPECT_GT(times.exchange_ns, 20'000);  // 4 MB, at no more than 200 GB/s
    EXPECT_LE(times.exchange_ns, ns(end - posted.load()));
    EXPECT_LE(times.wait_ns + times.exchange_ns, ns(end - begin));
    EXPECT_GE(times.wait_ns,
              ns(posted.load() - begin) - 15'000'000);  // a thread may be put aside before it waits
  });
}

}  // namespace
}  // namespace rondo
