#include "bench/team.h"

#include "rondo/core/device_threads.h"
#include "rondo/core/error.h"

namespace rondo::bench {

Team::Team(const RingOptions& options)
    : threads_per_device_(options.threads), group_({.devices = options.devices, .timeout = options.timeout}) {
  for (int device = 0; device < options.devices; ++device)
    contexts_.push_back(std::make_unique<Context>(ContextOptions{.device = device,
                                                                 .threads = options.threads,
                                                                 .isa = options.isa,
                                                                 .memory_limit = options.memory_limit}));
  devices_ = std::jthread([this] {
    // What devices throw is collected in serve(); what is left is a thread that could not be started.
    const auto not_started = [this](int, std::exception_ptr failure) {
      const std::lock_guard lock(mutex_);
      failure_ = std::move(failure);
      ended_ = true;
      started_.notify_all();
      done_.notify_all();
    };
    try {
      run_devices(
          devices(), [this](int device) { serve(device); }, not_started);
    } catch (...) {  // kept in failure_
    }
  });
}

Team::~Team() {
  const std::lock_guard lock(mutex_);
  ended_ = true;
  started_.notify_all();
}

void Team::run(const Job& job) {
  std::unique_lock lock(mutex_);
  check_argument(!ended_ && !failure_, "bench",
                 "expected a team whose devices all live, got one that failed");
  job_ = &job;
  working_ = devices();
  ++round_;
  started_.notify_all();
  done_.wait(lock, [this] { return working_ == 0 || ended_; });
  if (failure_) std::rethrow_exception(failure_);
}

void Team::serve(int device) {
  const auto communicator = group_.communicator(device);
  Context& context = *contexts_[static_cast<std::size_t>(device)];
  for (std::int64_t round = 1;; ++round) {
    std::unique_lock lock(mutex_);
    started_.wait(lock, [&] { return round_ >= round || ended_; });
    if (ended_) return;
    const Job& job = *job_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      job(context, *communicator);
    } catch (const std::exception& error) {
      failure = std::current_exception();
      group_.cancel(device, error.what());
    }
    lock.lock();
    // The first to fail is the cause; the others then fail because it did.
    if (failure && (!failure_ || group_.failed_device() == device)) failure_ = failure;
    if (--working_ == 0) done_.notify_all();
  }
}

}  // namespace rondo::bench
