#include "rondo/core/thread_pool.h"

#include <utility>

#include "rondo/core/error.h"

namespace rondo {

ThreadPool::ThreadPool(int threads) {
  check_argument(threads >= 1, "thread pool", "expected at least 1 thread, got {}", threads);
  for (int worker = 1; worker < threads; ++worker)
    workers_.emplace_back([this, worker](const std::stop_token& stop) { work(worker, stop); });
}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run(std::int64_t tasks, const std::function<void(std::int64_t, int)>& task) {
  if (workers_.empty() || tasks <= 1) {
    for (std::int64_t index = 0; index < tasks; ++index) {
      task(index, 0);
      meanwhile_();
    }
    return;
  }
  std::unique_lock lock(mutex_);
  RONDO_ASSERT(task_ == nullptr);
  task_ = &task;
  tasks_ = unfinished_ = tasks;
  next_ = 0;
  failure_ = nullptr;
  start_.notify_all();
  take_tasks(0, lock);
  done_.wait(lock, [this] { return unfinished_ == 0; });
  task_ = nullptr;
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::take_tasks(int worker, std::unique_lock<std::mutex>& lock) {
  while (task_ != nullptr && next_ < tasks_) {
    const std::int64_t index = next_++;
    const auto& task = *task_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      task(index, worker);
      meanwhile_();
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      if (!failure_) failure_ = std::move(failure);
      unfinished_ -= tasks_ - next_;  // tasks that nobody has begun are dropped
      next_ = tasks_;
    }
    if (--unfinished_ == 0) done_.notify_one();
  }
}

void ThreadPool::work(int worker, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (start_.wait(lock, stop, [this] { return task_ != nullptr && next_ < tasks_; }))
    take_tasks(worker, lock);
}

}  // namespace rondo
