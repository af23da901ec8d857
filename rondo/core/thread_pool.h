#pragma once
// A small pool of threads of one device. Work is cut into tasks by shape alone, so that results do not depend
// on how many threads run them.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "rondo/core/meanwhile.h"

namespace rondo {

/// Runs numbered tasks on `threads` threads, of which the caller is one. Who has none left looks for more for
/// a moment and then sleeps. One run at a time; not re-entrant.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// What every thread does after each task, and long tasks in between. To be set while nothing runs.
  void set_meanwhile(Meanwhile meanwhile) { meanwhile_ = meanwhile; }
  Meanwhile meanwhile() const { return meanwhile_; }

  /// Calls task(index, worker) once for each index in [0, tasks), worker in [0, threads()); returns when all
  /// are done. After an exception no further task is begun; the first is rethrown here when those at work
  /// have ended.
  void run(std::int64_t tasks, const std::function<void(std::int64_t index, int worker)>& task);

 private:
  void work(int worker, const std::stop_token& stop);
  void take_tasks(int worker, std::unique_lock<std::mutex>& lock);
  bool has_tasks() const { return next_ < tasks_; }  // that nobody has begun

  std::mutex mutex_;
  std::condition_variable_any start_, done_;
  const std::function<void(std::int64_t, int)>* task_ = nullptr;
  // Written under the mutex; looked at without it.
  std::atomic<std::int64_t> tasks_ = 0, next_ = 0, unfinished_ = 0;
  std::exception_ptr failure_;
  Meanwhile meanwhile_;
  std::vector<std::jthread> workers_;  // last member: threads end before what they use
};

}  // namespace rondo
