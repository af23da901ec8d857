#pragma once
// Devices that stay alive between timed runs: a ring that waits for the next job instead of ending.

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "rondo/comm/device_group.h"
#include "rondo/comm/threads.h"

namespace rondo::bench {

class Team {
 public:
  explicit Team(const RingOptions& options);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  using Job = std::function<void(Context&, Communicator&)>;
  /// Runs the job on every device at once and returns when all are done. The first exception is rethrown;
  /// the team can run nothing more after it.
  void run(const Job& job);

  int devices() const { return static_cast<int>(contexts_.size()); }
  Context& context(int device) { return *contexts_[static_cast<std::size_t>(device)]; }
  /// Threads of all devices.
  int threads() const { return devices() * threads_per_device_; }

 private:
  void serve(int device);

  int threads_per_device_;
  ThreadGroup group_;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::mutex mutex_;
  std::condition_variable started_, done_;
  const Job* job_ = nullptr;
  std::int64_t round_ = 0;
  int working_ = 0;
  bool ended_ = false;
  std::exception_ptr failure_;
  std::jthread devices_;  // last member: the devices end before what they use
};

}  // namespace rondo::bench
