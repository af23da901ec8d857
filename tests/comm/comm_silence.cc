// Devices that hang, and devices that are not where the others are: who is to blame is named by all.

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "rondo/comm/agreement.h"
#include "tests/comm/comm_support.h"

namespace rondo {
namespace {

using namespace std::chrono_literals;
using test::expect_words;
using test::spawn;
using test::tensor_of;
using test::words_of;

class Hangs : public test::Rings {};
class Steps : public test::Rings {};
INSTANTIATE_TEST_SUITE_P(Divided, Hangs, test::divisions());
INSTANTIATE_TEST_SUITE_P(Divided, Steps, test::divisions());

/// A device that hangs until the test lets it go.
class Gate {
 public:
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, 200s, [this] { return open_; }));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
};

// Device 2 hangs, 3 waits for it, 0 for 3 and 1 for 0: none of them names its neighbour.
TEST_P(Hangs, AreFoundAtTheEndOfTheChainOfWaits) {
  std::mutex mutex;
  std::vector<std::string> words;
  Gate gate;
  const auto run = [&] {
    spawn(4,
          [&](Context&, Communicator& comm) {
            std::vector<float> in(8);
            const int own = comm.device();
            comm.begin_step(12);
            comm.barrier();
            if (own == 2) return gate.wait();
            try {
              const auto received = comm.receive((own + 3) % 4, 1, tensor_of(in));
              comm.wait(*received, "layer 3, hop 2");
              const auto sent = comm.send((own + 1) % 4, 1, tensor_of(in));
              comm.wait(*sent, "layer 3, hop 2");
            } catch (const CommunicationError& error) {
              const std::lock_guard lock(mutex);
              words.emplace_back(error.what());
              if (words.size() == 3) gate.open();
              throw;
            }
          },
          {.timeout = 600ms});
  };
  (void)words_of<CommunicationError>(run);
  ASSERT_EQ(words.size(), 3u);
  for (const std::string& line : words)
    expect_words(line, {"device 2 failed: it exchanges nothing since ", " after step 12, barrier",
                        "waited 0.6 s for device "});
}

TEST_P(Hangs, LeaveWaitsInACircleToWhoGivesUpFirst) {
  const auto run = [&] {
    spawn(2,
          [&](Context&, Communicator& comm) {
            std::vector<float> values(8);
            const auto received = comm.receive(1 - comm.device(), comm.device(), tensor_of(values));
            comm.wait(*received, "hop 1");
          },
          {.timeout = 200ms});
  };
  expect_words(words_of<CommunicationError>(run),
               {"waited 0.2 s for device", "(hop 1); it waits with a receive of tag"});
}

TEST_P(Hangs, MayBeLeft) {
  Gate gate;
  std::atomic<int> calls = 0;
  const auto run = [&] {
    spawn(2,
          [&](Context&, Communicator& comm) {
            if (comm.device() == 1) return gate.wait();
            comm.barrier();
          },
          {.timeout = 150ms, .on_stuck = [&](const std::string& words) {
             ++calls;
             expect_words(words, {"device 1 failed: it exchanges nothing since ", "device 0 waited 0.15 s"});
             gate.open();
           }});
  };
  (void)words_of<CommunicationError>(run);
  EXPECT_EQ(calls, 1);
}

TEST_P(Steps, MustBeTheSameOnBothEnds) {
  spawn(2, [&](Context&, Communicator& comm) {
    std::vector<float> values(8);
    comm.begin_step(12 + comm.device());
    const auto request =
        comm.device() == 0 ? comm.send(1, 17, tensor_of(values)) : comm.receive(0, 17, tensor_of(values));
    expect_words(words_of<ArgumentError>([&] { comm.wait(*request, "hop 2"); }),
                 {"same step", "tag 17", "step 12 on device 0", "step 13 on device 1", "hop 2"});
    expect_words(words_of<ArgumentError>([&] { comm.barrier(); }),
                 {"[barrier]", "same step", "step 12 on device 0", "step 13 on device 1"});
    comm.begin_step(14);
    comm.barrier();
  });
}

/// What each of several processes throws when it agrees on its facts.
std::vector<std::string> agree_in_memory(const std::vector<std::vector<Fact>>& facts) {
  test::MemoryNetwork network;
  std::vector<std::string> words(facts.size());
  std::vector<std::jthread> threads;
  for (std::size_t rank = 0; rank < facts.size(); ++rank)
    threads.emplace_back([&, rank] {
      const RingOptions ring{.timeout = 20s,
                             .processes = std::make_shared<test::MemoryProcesses>(
                                 network, static_cast<int>(rank), static_cast<int>(facts.size()))};
      try {
        agree(ring, facts[rank]);
      } catch (const ArgumentError& error) {
        words[rank] = error.what();
      }
    });
  threads.clear();
  return words;
}

TEST(Agreement, NamesTheFirstFactThatDiffersOnAll) {
  std::vector<std::vector<Fact>> facts(
      3, {{"--layers", "2"}, {"--lr", "0.1"}, {"text", std::string(5000, 'a')}});
  for (const std::string& words : agree_in_memory(facts)) EXPECT_EQ(words, "");
  facts[2][2].value.back() = 'b';
  for (const std::string& words : agree_in_memory(facts))
    expect_words(words, {"same text", "aaa...", "process 2"});
  facts[1][1].value = "0.2";
  for (const std::string& words : agree_in_memory(facts))
    EXPECT_EQ(
        words,
        "[start] expected the same --lr on all processes, got '0.1' on process 0 and '0.2' on process 1");
  facts[2].resize(1);
  for (const std::string& words : agree_in_memory(facts)) expect_words(words, {"--lr", "process 1"});
}

}  // namespace
}  // namespace rondo
