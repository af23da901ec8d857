// Devices that fail, fall silent or do not fit together: everybody learns of it and nobody hangs.

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "rondo/comm/threads.h"
#include "tests/comm/comm_support.h"

namespace rondo {
namespace {

using namespace std::chrono_literals;
using test::dawdle;
using test::expect_words;
using test::spawn;
using test::tensor_of;
using test::words_of;

/// What each device's wait or call threw, by device.
class Words {
 public:
  explicit Words(int devices) : words_(static_cast<std::size_t>(devices)) {}
  /// Runs `work`, keeps what it threw and throws it on.
  void keep(int device, const std::function<void()>& work) {
    try {
      work();
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      words_[static_cast<std::size_t>(device)] = error.what();
      throw;
    }
  }
  const std::string& of(int device) const { return words_[static_cast<std::size_t>(device)]; }

 private:
  std::mutex mutex_;
  std::vector<std::string> words_;
};

class Mismatches : public test::Rings {};
class Timeouts : public test::Rings {};
class Failures : public test::Rings {};
INSTANTIATE_TEST_SUITE_P(Divided, Mismatches, test::divisions());
INSTANTIATE_TEST_SUITE_P(Divided, Timeouts, test::divisions());
INSTANTIATE_TEST_SUITE_P(Divided, Failures, test::divisions());

TEST_P(Mismatches, OfSizeAndTypeAreErrorsOnBothEnds) {
  for (const bool sender_late : {false, true}) {
    for (const bool type : {false, true}) {
      spawn(2, [&](Context&, Communicator& comm) {
        std::vector<float> memory(8);
        const Tensor four = tensor_of(memory).slice({0, 4});
        const Tensor other = type ? view(memory.data(), DType::bf16, 8, 1, 1) : tensor_of(memory);
        if ((comm.device() == 0) == sender_late) std::this_thread::sleep_for(5ms);
        const auto request = comm.device() == 0 ? comm.send(1, 17, four) : comm.receive(0, 17, other);
        expect_words(words_of<ArgumentError>([&] { comm.wait(*request, "layer 3, hop 2"); }),
                     {"device 0", "device 1", "tag 17", "got 16 bytes of float32", "layer 3, hop 2",
                      type ? "expected 16 bytes of bfloat16" : "expected 32 bytes of float32"});
        comm.barrier();  // the group is as it was
      });
    }
  }
}

TEST_P(Mismatches, OfTagsTellWhatThePeerPosted) {
  Words words(2);
  std::atomic<bool> over = false;
  const auto run = [&] {
    spawn(2,
          [&](Context&, Communicator& comm) {
            std::vector<float> memory(8);
            const auto request = comm.device() == 0 ? comm.send(1, 17, tensor_of(memory))
                                                    : comm.receive(0, 18, tensor_of(memory));
            comm.barrier();
            const auto late = std::chrono::steady_clock::now() + 30s;  // should the barrier fail on device 0
            while (comm.device() == 1 && !over && std::chrono::steady_clock::now() < late)
              std::this_thread::sleep_for(1ms);
            words.keep(comm.device(), [&] {
              try {
                comm.wait(*request, "hop 2");
              } catch (const CommunicationError&) {
                over = true;
                throw;
              }
            });
          },
          {.timeout = 200ms});
  };
  expect_words(words_of<CommunicationError>(run),
               {"device 0 waited 0.2 s for device 1 (hop 2)", "a receive of tag 18"});
  expect_words(words.of(1), {"device 1 failed: it exchanges nothing since", "after barrier",
                             "device 0 waited 0.2 s for device 1 (hop 2)"});
}

TEST_P(Timeouts, NameThePeerAndWakeEverybody) {
  constexpr int devices = 4;
  Words words(devices);
  std::atomic<bool> waiting = false, over = false;
  const auto until = [](const std::atomic<bool>& flag) {
    while (!flag) std::this_thread::sleep_for(1ms);
  };
  const auto run = [&] {
    spawn(devices,
          [&](Context&, Communicator& comm) {
            std::vector<float> memory(8);
            if (comm.device() == 2) {  // silent, then late
              until(over);
              words.keep(2, [&] { comm.barrier(); });
            } else if (comm.device() == 3) {
              const auto request = comm.receive(2, 1, tensor_of(memory));
              waiting = true;
              words.keep(3, [&] {
                try {
                  comm.wait(*request, "layer 3, hop 2");
                } catch (const CommunicationError&) {
                  over = true;
                  throw;
                }
              });
            } else {  // later than device 3, so that it is the first to lose patience
              until(waiting);
              std::this_thread::sleep_for(100ms);
              words.keep(comm.device(), [&] { comm.barrier(); });
            }
          },
          {.timeout = 150ms});
  };
  expect_words(words_of<CommunicationError>(run), {"device 3 waited 0.15 s for device 2 (layer 3, hop 2)"});
  for (const int device : {0, 1, 2})
    expect_words(words.of(device), {"device 2 failed: it exchanges nothing",
                                    "device 3 waited 0.15 s for device 2 (layer 3, hop 2)"});
}

TEST_P(Timeouts, OfABarrierNameWhoIsMissing) {
  const auto run = [&] {
    spawn(3,
          [](Context&, Communicator& comm) {
            if (comm.device() == 1) std::this_thread::sleep_for(100ms);
            comm.barrier();
          },
          {.timeout = 40ms});
  };
  expect_words(words_of<CommunicationError>(run), {"waited 0.04 s for device 1 (barrier)"});
}

TEST_P(Timeouts, DoNotDelayDevicesThatEnded) {
  const auto run = [&] {
    spawn(2, [](Context&, Communicator& comm) {
      if (comm.device() == 0) comm.barrier();
    });
  };
  expect_words(words_of<CommunicationError>(run),
               {"device 0 waited for device 1, which has ended (barrier)"});
}

TEST_P(Failures, WakeEverybodyAndAreRethrown) {
  for (int devices = 2; devices <= 9; ++devices) {
    for (int failing = 0; failing < devices; failing += 3) {
      std::atomic<int> woken = 0;
      const auto run = [&] {
        spawn(devices, [&](Context&, Communicator& comm) {
          const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
          std::vector<float> out(100), in(100);
          try {
            comm.barrier();  // a process that had not begun would not begin any more
            dawdle(static_cast<std::uint64_t>(own), static_cast<std::uint64_t>(devices));
            const auto sent = comm.send(next, 1, tensor_of(out));
            if (own == failing) throw std::domain_error("the lamp went out");
            const auto received = comm.receive(previous, 1, tensor_of(in));
            comm.wait(*received, "hop");
            comm.wait(*sent, "hop");
            comm.barrier();
          } catch (const CommunicationError& error) {
            expect_words(error.what(), {"device " + std::to_string(failing) + " failed"});
            ++woken;
            throw;
          }
        });
      };
      EXPECT_EQ(words_of<std::domain_error>(run), "the lamp went out");
      EXPECT_EQ(woken, devices - 1);
    }
  }
}

TEST_P(Failures, ThatAreNoExceptionsOfTheLibraryAreRethrownToo) {
  EXPECT_THROW(spawn(3,
                     [](Context&, Communicator& comm) {
                       if (comm.device() == 1) throw 42;
                       comm.barrier();
                     }),
               int);
}

TEST_P(Failures, OfMemoryReachTheCaller) {
  const auto run = [&] {
    spawn(2,
          [](Context& context, Communicator& comm) {
            if (comm.device() == 1) (void)context.arena.allocate(Entry::attention, 8192, "queries");
            comm.barrier();
          },
          {.memory_limit = 4096, .timeout = 60s});
  };
  expect_words(words_of<MemoryLimitError>(run), {"device 1", "queries"});
}

TEST_P(Failures, InsideCollectivesLetNobodyReadFreedMemory) {
  for (int round = 0; round < 30; ++round) {
    const auto run = [&] {
      spawn(4, [&](Context&, Communicator& comm) {
        for (int step = 0; step < 4; ++step) {
          dawdle(static_cast<std::uint64_t>(comm.device()), static_cast<std::uint64_t>(4 * round + step),
                 200);
          if (comm.device() == round % 4 && step == 3) throw std::runtime_error("stop");
          std::vector<float> values(20000, 1);  // freed when this device unwinds
          comm.all_reduce_sum(std::span(values));
          EXPECT_EQ(values, std::vector<float>(20000, 4));
        }
      });
    };
    EXPECT_EQ(words_of<std::runtime_error>(run), "stop");
  }
}

// A device is cancelled from outside while the others are anywhere inside the collective.
TEST(ThreadGroups, CancelledFromOutsideLetNobodyReadFreedMemory) {
  for (int round = 0; round < 30; ++round) {
    ThreadGroup group({.devices = 4, .timeout = 60s});
    std::vector<std::jthread> threads;
    for (int device = 0; device < 4; ++device) {
      threads.emplace_back([&, device] {
        const auto comm = group.communicator(device);
        try {
          for (;;) {
            std::vector<float> values(5000, 1);
            comm->all_reduce_sum(std::span(values));
            if (values != std::vector<float>(5000, 4)) ADD_FAILURE() << "wrong sum";
          }
        } catch (const CommunicationError& error) {
          expect_words(error.what(), {"device 2 failed: by hand"});
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::microseconds(300 + 40 * round));
    group.cancel(2, "by hand");
  }
}

// Device 0 throws while device 1 reads a view of its block: the block must live until device 1 lets go.
TEST(ViewFailures, WaitForReadersOfAView) {
  std::atomic<bool> freed = false, reading = false;
  struct Block {
    explicit Block(std::atomic<bool>& gone) : freed(gone) {}
    ~Block() { freed = true; }
    std::atomic<bool>& freed;
    std::vector<float> values = std::vector<float>(1000, 3);
  };
  const auto run = [&] {
    spawn(2, [&](Context&, Communicator& comm) {
      if (comm.device() == 0) {
        Block block(freed);
        const auto sent = comm.send(1, 1, tensor_of(block.values));
        while (!reading) std::this_thread::sleep_for(1ms);
        throw std::runtime_error("device 0");
      }
      ConstTensor seen;
      const auto viewed = comm.receive_view(0, 1, &seen);
      comm.wait(*viewed, "view");
      reading = true;
      std::this_thread::sleep_for(30ms);
      EXPECT_FALSE(freed);
      for (int i = 0; i < 1000; ++i) EXPECT_EQ(static_cast<const float*>(seen.data)[i], 3);
      comm.barrier();  // throws; unwinding lets go of the view
    });
  };
  EXPECT_EQ(words_of<std::runtime_error>(run), "device 0");
  EXPECT_TRUE(freed);
}

// All devices hold a view of the previous one's block when one throws: nobody may wait for the other for
// ever.
TEST(ViewFailures, UnwindWhenEverybodyHoldsAView) {
  for (int devices = 2; devices <= 5; ++devices) {
    const auto run = [&] {
      spawn(devices, [&](Context&, Communicator& comm) {
        const int own = comm.device(), next = (own + 1) % devices, previous = (own + devices - 1) % devices;
        auto block = std::make_unique<std::vector<float>>(1000, static_cast<float>(own));
        ConstTensor seen;
        const auto viewed = comm.receive_view(previous, 1, &seen);
        const auto sent = comm.send(next, 1, tensor_of(*block));  // destroyed before the view is released
        comm.wait(*viewed, "view");
        if (own == 1) throw std::runtime_error("device 1");
        dawdle(static_cast<std::uint64_t>(own), 9, 2000);
        for (int i = 0; i < 1000; ++i)
          EXPECT_EQ(static_cast<const float*>(seen.data)[i], static_cast<float>(previous));
        comm.wait(*sent, "view");
      });
    };
    EXPECT_EQ(words_of<std::runtime_error>(run), "device 1");
  }
}

// Device 0's block is read by device 2, to whom device 1 passed its view on; then 0 and 1 fail.
TEST(ViewFailures, WaitForReadersOfAViewThatWasPassedOn) {
  std::atomic<bool> reading = false, freed = false;
  const auto run = [&] {
    spawn(3, [&](Context&, Communicator& comm) {
      ConstTensor seen;
      if (comm.device() == 0) {
        const std::unique_ptr<std::vector<float>, std::function<void(std::vector<float>*)>> block(
            new std::vector<float>(1000, 3), [&](std::vector<float>* gone) {
              freed = true;
              delete gone;
            });
        const auto sent = comm.send(1, 1, tensor_of(*block));
        while (!reading) std::this_thread::sleep_for(1ms);
        throw std::runtime_error("device 0");
      }
      const auto viewed = comm.receive_view(comm.device() - 1, 1, &seen);
      comm.wait(*viewed, "view");
      if (comm.device() == 1) {
        const auto passed = comm.send(2, 1, seen);
        comm.wait(*passed, "passed on");  // throws: device 2 does not release before the failure
        ADD_FAILURE() << "device 1 was not told";
      }
      reading = true;
      std::this_thread::sleep_for(30ms);
      EXPECT_FALSE(freed);
      for (int i = 0; i < 1000; ++i) EXPECT_EQ(static_cast<const float*>(seen.data)[i], 3);
      comm.barrier();
    });
  };
  EXPECT_EQ(words_of<std::runtime_error>(run), "device 0");
}

// Device 0's block is sent to another process from where device 1 has a view of it, when device 0 fails.
TEST(ViewFailures, WaitForViewsThatTravelToAnotherProcess) {
  for (int round = 0; round < 20; ++round) {
    const auto run = [&] {
      test::spawn_divided(4, 2, [&](Context&, Communicator& comm) {
        std::vector<float> block(comm.device() % 2 == 0 ? 1'000'000 : 1, 3);  // freed to the system at once
        ConstTensor seen;
        if (comm.device() == 0) {
          const auto sent = comm.send(1, 1, tensor_of(block));
          std::this_thread::sleep_for(std::chrono::microseconds(300 + 100 * round));
          throw std::runtime_error("device 0");
        }
        if (comm.device() == 1) {
          const auto viewed = comm.receive_view(0, 1, &seen);
          comm.wait(*viewed, "view");
          const auto again = comm.send(2, 2, seen), passed = comm.send(2, 1, seen);
          comm.wait(*passed, "passed on");
          comm.barrier();
        }
        if (comm.device() == 2) {
          const auto received = comm.receive(1, 1, tensor_of(block));
          comm.wait(*received, "block");
        }
        comm.barrier();
      });
    };
    EXPECT_EQ(words_of<std::runtime_error>(run), "device 0");
  }
}

TEST_P(Failures, DuringCopiesLetNobodyReadFreedMemory) {
  for (int round = 0; round < 30; ++round) {
    const auto run = [&] {
      spawn(2, [&](Context&, Communicator& comm) {
        std::vector<float> block(100000, 3);
        if (comm.device() == 0) {
          const auto sent = comm.send(1, 1, tensor_of(block));
          dawdle(7, static_cast<std::uint64_t>(round), 200);
          throw std::runtime_error("device 0");
        }
        const auto received = comm.receive(0, 1, tensor_of(block));
        comm.wait(*received, "copy");
        comm.barrier();
      });
    };
    EXPECT_EQ(words_of<std::runtime_error>(run), "device 0");
  }
}

TEST_P(Failures, OfRequestsThatNobodyWaitsFor) {
  const auto run = [&] {
    spawn(2, [](Context&, Communicator& comm) {
      std::vector<float> block(10);
      if (comm.device() == 0) (void)comm.send(1, 1, tensor_of(block));
      const auto received = comm.receive(1 - comm.device(), 1, tensor_of(block));
      comm.wait(*received, "copy");
    });
  };
  expect_words(words_of<CommunicationError>(run), {"device 0 failed", "left messages"});
}

TEST(ThreadGroups, CheckTheirArguments) {
  EXPECT_THROW(ThreadGroup({.devices = 0, .timeout = 1s}), ArgumentError);
  EXPECT_THROW(ThreadGroup({.devices = 1, .timeout = 0s}), ArgumentError);
  EXPECT_THROW((void)ThreadGroup({.devices = 2, .timeout = 1s}).communicator(2), ArgumentError);
  EXPECT_THROW(spawn(0, [](Context&, Communicator&) {}), ArgumentError);
  EXPECT_THROW(spawn(1, [](Context&, Communicator&) {}, {.threads = 0}), ArgumentError);
  spawn(1, [](Context&, Communicator& comm) { comm.barrier(); },
        {.timeout = std::chrono::milliseconds::max()});
}

TEST(ThreadGroups, KeepTheFirstFailure) {
  ThreadGroup group({.devices = 3, .timeout = 60s});
  EXPECT_EQ(group.failed_device(), -1);
  group.cancel(1, "first");
  group.cancel(2, "second");
  EXPECT_EQ(group.failed_device(), 1);
  const auto comm = group.communicator(0);
  std::vector<float> values(1);
  for (const std::function<void()>& call : std::vector<std::function<void()>>{
           [&] { comm->barrier(); }, [&] { (void)comm->send(1, 1, tensor_of(values)); },
           [&] { (void)comm->receive(1, 1, tensor_of(values)); },
           [&] { comm->all_reduce_sum(std::span(values)); }})
    expect_words(words_of<CommunicationError>(call), {"device 1 failed: first"});
}

}  // namespace
}  // namespace rondo
