// The thread pool of a device and devices as threads.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "rondo/core/device_threads.h"
#include "rondo/core/error.h"
#include "rondo/core/thread_pool.h"

namespace rondo {
namespace {

TEST(ThreadPools, RunEachTaskOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const std::int64_t tasks : {0, 1, 2, 3, 100, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      std::atomic<bool> worker_in_range = true;
      pool.run(tasks, [&](std::int64_t index, int worker) {
        ++runs[static_cast<std::size_t>(index)];
        if (worker < 0 || worker >= threads) worker_in_range = false;
      });
      for (const auto& count : runs) ASSERT_EQ(count, 1);
      EXPECT_TRUE(worker_in_range);
    }
  }
}

// Each task waits until all four have begun: only four threads at once can end this, under four worker
// numbers.
TEST(ThreadPools, UseAllTheirThreads) {
  ThreadPool pool(4);
  std::mutex mutex;
  std::condition_variable all_here;
  std::set<int> workers;
  std::set<std::thread::id> threads;
  pool.run(4, [&](std::int64_t, int worker) {
    std::unique_lock lock(mutex);
    workers.insert(worker);
    threads.insert(std::this_thread::get_id());
    all_here.notify_all();
    EXPECT_TRUE(all_here.wait_for(lock, std::chrono::seconds(30), [&] { return workers.size() == 4; }));
  });
  EXPECT_EQ(workers, (std::set<int>{0, 1, 2, 3}));
  EXPECT_TRUE(threads.contains(std::this_thread::get_id()));
}

TEST(ThreadPools, PublishWhatTasksWrote) {
  ThreadPool pool(3);
  std::vector<std::int64_t> values(1000, 0);
  for (int round = 0; round < 50; ++round)
    pool.run(1000, [&](std::int64_t index, int) { values[static_cast<std::size_t>(index)] += index; });
  for (std::int64_t i = 0; i < 1000; ++i) ASSERT_EQ(values[static_cast<std::size_t>(i)], 50 * i);
}

TEST(ThreadPools, RethrowAndBeginNoFurtherTask) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::atomic<int> begun = 0;
    const auto failing = [&](std::int64_t index, int) {
      ++begun;
      if (index == 5) throw std::runtime_error("task five");
      if (index > 5) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    };
    try {
      pool.run(100000, failing);
      FAIL() << "nothing was thrown";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "task five");
    }
    EXPECT_LT(begun, 50000);
    std::atomic<int> runs = 0;
    pool.run(10, [&](std::int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 10);
  }
}

TEST(ThreadPools, NeedAThread) { EXPECT_THROW(ThreadPool(0), ArgumentError); }

TEST(ThreadPools, ComeAndGo) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

TEST(DeviceThreads, RunEachDeviceOnAThreadOfItsOwn) {
  for (int devices = 1; devices <= 9; ++devices) {
    std::mutex mutex;
    std::set<int> seen;
    std::set<std::thread::id> threads;
    std::condition_variable all_here;
    run_devices(
        devices,
        [&](int device) {
          std::unique_lock lock(mutex);
          seen.insert(device);
          threads.insert(std::this_thread::get_id());
          all_here.notify_all();
          EXPECT_TRUE(all_here.wait_for(lock, std::chrono::seconds(30),
                                        [&] { return seen.size() == static_cast<std::size_t>(devices); }));
        },
        [](int, std::exception_ptr) { ADD_FAILURE() << "no device failed"; });
    EXPECT_EQ(threads.size(), static_cast<std::size_t>(devices));
    EXPECT_FALSE(threads.contains(std::this_thread::get_id()));
  }
}

TEST(DeviceThreads, RethrowTheFirstFailureAfterAllEnded) {
  std::mutex mutex;
  std::condition_variable wake;
  bool failed = false;
  int failures = 0, ended = 0;
  const auto body = [&](int device) {
    if (device == 2) throw std::runtime_error("device two");
    std::unique_lock lock(mutex);
    wake.wait(lock, [&] { return failed; });
    ++ended;
    throw std::logic_error("woken");
  };
  const auto on_failure = [&](int device, const std::exception_ptr& failure) {
    EXPECT_EQ(device, 2);
    EXPECT_NE(failure, nullptr);
    const std::lock_guard lock(mutex);
    ++failures;
    failed = true;
    wake.notify_all();
  };
  try {
    run_devices(4, body, on_failure);
    FAIL() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "device two");
  }
  EXPECT_EQ(failures, 1);
  EXPECT_EQ(ended, 3);
}

TEST(DeviceThreads, NeedADevice) {
  EXPECT_THROW(run_devices(
                   0, [](int) {}, [](int, std::exception_ptr) {}),
               ArgumentError);
}

}  // namespace
}  // namespace rondo
