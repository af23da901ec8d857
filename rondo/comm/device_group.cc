#include "rondo/comm/device_group.h"

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "rondo/comm/threads.h"
#include "rondo/core/device_threads.h"

namespace rondo {

namespace {

std::string words_of(const std::exception_ptr& failure) {
  try {
    std::rethrow_exception(failure);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "unknown exception";
  }
}

/// Calls options.on_stuck when the group has failed and the ring has not ended a timeout later.
class Patience {
 public:
  Patience(const RingOptions& options, const ThreadGroup& group) : options_(options) {
    if (options.on_stuck) thread_ = std::jthread([this, &group] { wait(group); });
  }
  ~Patience() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
  }

 private:
  void wait(const ThreadGroup& group) {
    using Clock = std::chrono::steady_clock;
    constexpr std::chrono::milliseconds kLook(1000);
    std::optional<Clock::time_point> failed;
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, std::min(kLook, options_.timeout), [this] { return over_; })) {
      const std::string words = group.failure();
      if (words.empty()) continue;
      failed = failed.value_or(Clock::now());
      if (Clock::now() - *failed >= options_.timeout) return options_.on_stuck(words);
    }
  }

  const RingOptions& options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::jthread thread_;
};

}  // namespace

void run_ring(const RingOptions& options, const std::function<void(Context&, Communicator&)>& fn) {
  ThreadGroup group({options.devices, options.timeout, options.processes, options.overlap});
  const Patience patience(options, group);
  const int first = group.first_device();
  std::vector<std::unique_ptr<Context>> contexts;
  for (int device = 0; device < options.devices; ++device) {
    contexts.push_back(std::make_unique<Context>(ContextOptions{.device = first + device,
                                                                .threads = options.threads,
                                                                .isa = options.isa,
                                                                .memory_limit = options.memory_limit,
                                                                .trace = options.trace}));
    if (options.overlap && options.processes)
      contexts.back()->pool.set_meanwhile(
          {[](void* self) { static_cast<ThreadGroup*>(self)->progress(); }, &group});
  }
  std::vector<std::exception_ptr> failures(contexts.size());
  const auto body = [&](int device) {
    const auto d = static_cast<std::size_t>(device);
    try {
      const auto communicator = group.communicator(first + device, &contexts[d]->trace);
      fn(*contexts[d], *communicator);
      group.end(first + device);
    } catch (...) {
      failures[d] = std::current_exception();
      group.cancel(first + device, words_of(failures[d]));
      throw;
    }
  };
  std::exception_ptr failure;
  try {
    group.meet();
    run_devices(options.devices, body, [&](int device, const std::exception_ptr& thrown) {
      group.cancel(first + device, words_of(thrown));
    });
  } catch (...) {
    failure = std::current_exception();
    // The others may have seen the failure, and ended, while the device that failed was still unwinding.
    const int failed = group.failed_device() - first;
    if (failed >= 0 && failed < options.devices && failures[static_cast<std::size_t>(failed)])
      failure = failures[static_cast<std::size_t>(failed)];
  }
  try {
    group.leave();
  } catch (...) {  // says no more than what this process knows already
    if (!failure) throw;
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace rondo
