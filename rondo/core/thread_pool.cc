#include "rondo/core/thread_pool.h"

#include <chrono>
#include <utility>

#include "rondo/core/error.h"

namespace rondo {

namespace {

/// A thread that sleeps wakes late, by as much as a small task takes: so threads look for this long before
/// they sleep. They do not give way meanwhile: who does waits, by Linux's fair share, for a whole turn of
/// others.
constexpr auto kLook = std::chrono::microseconds(50);

template <typename Ready>
void look_for(const Ready& ready) {
  const auto until = std::chrono::steady_clock::now() + kLook;
  while (!ready() && std::chrono::steady_clock::now() < until) {
#ifdef __x86_64__
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace

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
  tasks_ = tasks;
  unfinished_ = tasks;
  next_ = 0;
  failure_ = nullptr;
  start_.notify_all();
  take_tasks(0, lock);
  if (unfinished_ != 0) {
    lock.unlock();
    look_for([this] { return unfinished_ == 0; });
    lock.lock();
    done_.wait(lock, [this] { return unfinished_ == 0; });
  }
  task_ = nullptr;
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::take_tasks(int worker, std::unique_lock<std::mutex>& lock) {
  while (has_tasks()) {
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
      next_ = tasks_.load();
    }
    if (--unfinished_ == 0) done_.notify_one();
  }
}

void ThreadPool::work(int worker, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (start_.wait(lock, stop, [this] { return has_tasks(); })) {
    take_tasks(worker, lock);
    lock.unlock();
    look_for([this] { return has_tasks(); });
    lock.lock();
  }
}

}  // namespace rondo
